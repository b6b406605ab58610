"""Kill a small run again and again, at random times, and compare what it comes to with a run that was left alone.

    python tests/soak.py --one 200 --two 40 --out FILE.json

A run is trained by one or two forked processes, one of which gets SIGKILL at a random time; what is left is resumed and
killed again, until the run is finished; then the next run begins. In the end weights, training state, metrics and files
have to be those of a run that was left alone, and no process may have to be waited for. `tests/test_soak.py` is short.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint  # here, so that the forked processes find it imported
import torch.distributed.fsdp
from safetensors.torch import load_file

from kills import figures
from nano_llada.checkpoint.files import load_checkpoint, step_folders
from nano_llada.config.run import RunConfig
from nano_llada.core import device
from nano_llada.core.errors import UserError
from nano_llada.session.run import complete
from nano_llada.training import parallel
from tiny import Place, make_place, tiny_run

OPTIONS: dict[str, Any] = {"steps": 16, "save_every": 2, "eval_every": 4, "keep_last": 2, "learning_rate": 0.01}
PATIENCE = 120.0  # seconds that a process may take to end after another one was killed; others may use the cores


@dataclass
class Soak:
    """Runs of one or several processes, and what went wrong."""

    root: Path
    processes: int
    seed: int = 0
    kills: int = 0
    runs: int = 0
    found: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        device.matmul_rate = lambda machine: 1e11  # type: ignore[assignment]
        parallel.MEETING = timedelta(seconds=5)  # a kill may come before they have met; PyTorch tries up to three times
        self._random = random.Random(self.seed)
        self._place = make_place(self.root / "place")
        self._whole = self._config("whole")
        begin = time.monotonic()
        statuses = self._train(self._whole, None)
        self._takes = time.monotonic() - begin
        if statuses != [0] * self.processes:
            self.found.append(f"the run that was left alone ended with {statuses}")

    def _config(self, name: str) -> RunConfig:
        options = OPTIONS | ({"parallel": "fsdp" if self.runs % 2 else "ddp"} if self.processes > 1 else {})
        return tiny_run(Place(self._place.root), name="run", runs=self.root / name, **options)

    def until(self, kills: int, after_each: Callable[[Soak], None] = lambda soak: None) -> None:
        """Kill runs until there were so many kills, and have the last one finish; tells of each that is compared."""
        while self.kills < kills:
            self.runs += 1
            config = self._config(f"killed-{self.runs}")
            for _ in range(1000):
                after = self._random.uniform(0, self._takes) if self.kills < kills else None
                statuses = self._train(config, after)
                self._readable(config)
                if -signal.SIGKILL in statuses and {*statuses} <= {-signal.SIGKILL, LOST, 0}:
                    self.kills += 1
                elif statuses == [0] * self.processes:
                    break
                else:
                    self.found.append(f"run {self.runs} after {self.kills} kills: ended with {statuses}")
                    return
            self._compare(config)
            shutil.rmtree(config.runs)
            after_each(self)

    def _train(self, config: RunConfig, kill_after: float | None) -> list[int]:
        """Exit statuses of a group that trains a run, or goes on with it; one is killed after some seconds."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [self._fork(config, rank, port) for rank in range(self.processes)]
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(children), signal.SIGKILL)
        return [self._wait(child) for child in children]

    def _wait(self, child: int) -> int:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        self.found.append(f"run {self.runs} after {self.kills} kills: a process did not end")
        os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _fork(self, config: RunConfig, rank: int, port: int) -> int:
        if child := os.fork():
            return child
        status = 1
        try:
            if self.processes > 1:
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(self.processes), LOCAL_RANK=str(rank))
            with open(os.devnull, "w", encoding="utf-8") as quiet, contextlib.redirect_stdout(quiet):
                status = 0 if complete([config]) else 3
        except UserError:
            status = LOST if self.processes > 1 else 2  # told what happened: another one was killed
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
        return 0

    def _readable(self, config: RunConfig) -> None:
        try:
            for folder in step_folders(config.folder):
                load_checkpoint(folder)
        except Exception as error:
            self.found.append(f"run {self.runs} after {self.kills} kills: unreadable: {error}")

    def _compare(self, config: RunConfig) -> None:
        here, there, where = config.folder, self._whole.folder, f"run {self.runs} after {self.kills} kills"
        if self.processes > 1:  # the whole run is of DDP; divided training state is in other files
            names = [{p.name for p in run.iterdir()} for run in (here, there)]
        else:
            names = [{str(p.relative_to(run)) for p in run.rglob("*")} for run in (here, there)]
        if names[0] != names[1]:
            self.found.append(f"{where}: left over or missing: {sorted(names[0] ^ names[1])}")
            return
        for path in sorted(there.rglob("model.safetensors")):
            one, other = load_file(path), load_file(here / path.relative_to(there))
            if not all(torch.allclose(one[n], other[n], atol=ALLOWED[self.processes > 1], rtol=0) for n in one):
                self.found.append(f"{where}: {path.relative_to(there)} differs")
        lines = [[row[:1] for row in figures(run)] for run in (here, there)]
        if lines[0] != lines[1]:
            self.found.append(f"{where}: metrics.jsonl lost or doubled a line")


LOST = 4  # exit status of a process that another one left
ALLOWED = {False: 0.0, True: 1e-4}  # FSDP sums in another order than the DDP run that was left alone


def soak(processes: int, kills: int, after_each: Callable[[Soak], None] = lambda soak: None) -> Soak:
    """Kill so many times."""
    with tempfile.TemporaryDirectory() as folder:
        made = Soak(Path(folder), processes)
        made.until(kills, after_each)
        return made


def main() -> int:
    """Soak; gives 1 if anything was found. What is done is written after every run, so that ending early keeps it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=int, default=200, help="kills of runs of one process")
    parser.add_argument("--two", type=int, default=40, help="kills of runs of two processes")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: dict[int, dict[str, Any]] = {}

    def note(done: Soak) -> None:
        rows[done.processes] = {
            "processes": done.processes,
            "kills": done.kills,
            "runs": done.runs,
            "problems": done.found,
        }
        if options.out:
            options.out.write_text(json.dumps(list(rows.values()), indent=2) + "\n", encoding="utf-8")

    for processes, kills in ((1, options.one), (2, options.two)):
        note(soak(processes, kills, note))
        print(json.dumps(rows[processes]), flush=True)
    return 1 if any(row["problems"] for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
