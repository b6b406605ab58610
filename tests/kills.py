"""Kill a small run at every file operation, resume it, and compare it with a run that was left alone.

    python tests/kills.py [--first N] [--every N] [--twice | --full]

Each run is a forked process that kills itself with SIGKILL before its n-th operation on a file: opening, writing (half
of what is written then arrives), flushing, renaming, deleting, making folders. Afterwards nothing may be unreadable;
after resuming nothing may be stale or left over, and weights, training state, metrics and samples must be equal.
`--twice` kills the resumed run as well. `--full` kills nothing: from the n-th operation on the disk is full, until the
run is resumed; it then has to end with an error in words. `tests/test_kills.py` does some of the points.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nano_llada.checkpoint import files, manager
from nano_llada.checkpoint.files import load_checkpoint, step_folders
from nano_llada.config.run import RunConfig
from nano_llada.core import device
from nano_llada.core.errors import UserError
from nano_llada.session.outcome import read_outcome
from nano_llada.session.run import complete
from tiny import Place, make_place, read_lines, tiny_run

OPTIONS: dict[str, Any] = {
    "steps": 6,
    "save_every": 2,
    "eval_every": 2,
    "keep_last": 1,
    "keep_best": 2,
    "merge_best": 2,
    "learning_rate": 0.01,
    "sample_every": 3,
    "sample_prompts": ("Tom",),
}
DELETING = ("os.remove", "os.rmdir")
CHANGING = ("os.rename", "os.mkdir", "os.truncate", "os.chmod", *DELETING)
MISTAKE = 2  # exit status of a child that ends with a UserError


class Killer:
    """Counts operations on files below a folder, and kills this process in the n-th, or has the disk full; 0: never."""

    def __init__(self, root: Path, point: int, *, full: bool) -> None:
        self.root, self.point, self.full, self.count = str(root), point, full, 0

    def __call__(self, tear: Callable[[], None] = lambda: None) -> None:
        self.count += 1
        if not self.point or self.count < self.point:
            return
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        tear()
        os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Watch this process from now on."""
        sys.addaudithook(self._audit)
        fsync, opened = os.fsync, io.open

        def flush(handle: int) -> None:
            self()
            fsync(handle)

        def open_torn(name: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            file = opened(name, mode, *args, **kwargs)
            if any(letter in mode for letter in "wa") and str(name).startswith(self.root):
                file.write = self._torn_write(file)
            return file

        os.fsync, io.open = flush, open_torn  # type: ignore[assignment]
        for module in (files, manager):
            module.save_file = self._torn_save(module.save_file)  # type: ignore[attr-defined]

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            name, _, flags = args
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) and str(name).startswith(self.root):
                self()
        elif event in (CHANGING[: -len(DELETING)] if self.full else CHANGING) and (
            str(args[0]).startswith(self.root) or args[-1] not in (None, -1)
        ):
            self()  # the second of these: by shutil.rmtree, which names what it deletes relative to an open folder

    def _torn_write(self, file: Any) -> Callable[[Any], int]:
        write = file.write

        def torn(data: Any) -> int:
            self(lambda: (write(data[: len(data) // 2]), file.flush()))  # type: ignore[arg-type, return-value]
            return int(write(data))

        return torn

    def _torn_save(self, save: Callable[..., None]) -> Callable[..., None]:
        def torn(tensors: Any, path: Path) -> None:
            if not self.full:
                save(tensors, path)
            self(lambda: os.truncate(path, os.path.getsize(path) // 2))
            if self.full:
                save(tensors, path)

        return torn


def in_child(work: Callable[[], Any]) -> int:
    """Run something in a forked process; gives its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            with open(os.devnull, "w", encoding="utf-8") as quiet, contextlib.redirect_stdout(quiet):
                work()
            os._exit(0)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(MISTAKE)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@dataclass
class Sweep:
    """A place for runs, the run that was left alone, and what went wrong with the others."""

    root: Path
    options: dict[str, Any] = field(default_factory=lambda: dict(OPTIONS))
    found: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        device.matmul_rate = lambda machine: 1e11  # type: ignore[assignment]  # takes longer than these runs
        self.place = make_place(self.root / "place")
        self.counted = self.root / "count"
        self.whole = self.config("whole")
        with contextlib.redirect_stdout(io.StringIO()):
            assert complete([self.whole])  # here, so that the children find everything imported
        counted = self.config("counted")
        assert in_child(lambda: self._watched(counted, 0)) == 0
        assert not list(self._differences(counted))  # another process computes the same
        shutil.rmtree(counted.runs.parent)
        self.points = int(self.counted.read_text(encoding="utf-8"))

    def config(self, name: str) -> RunConfig:
        """A run with a cache of its own, so that building that is interrupted too."""
        home = Place(self.place.root)
        folder = self.root / name
        return tiny_run(home, name="run", runs=folder / "runs", cache=folder / "cache", **self.options)

    def _watched(self, config: RunConfig, point: int, *, full: bool = False) -> None:
        killer = Killer(config.runs.parent, point, full=full)
        killer.install()
        complete([config])
        killer.point = 0
        self.counted.write_text(str(killer.count), encoding="utf-8")

    def kill(self, point: int, *, twice: bool = False) -> None:
        """Kill a run in its n-th operation, look at what is there, resume it, and compare."""
        config = self.config(f"killed-{point}")
        where = f"killed in operation {point}"
        status = in_child(lambda: self._watched(config, point))
        if status != -signal.SIGKILL:
            self.found.append(f"{where}: not killed, but {status}")
        self._readable(config.folder, where)
        if twice:
            second = random.Random(point).randint(1, self.points)
            where = f"{where}, then in {second}"
            in_child(lambda: self._watched(config, second))  # may be done before that
            self._readable(config.folder, where)
        if in_child(lambda: complete([config])) != 0:
            self.found.append(f"{where}: it cannot be resumed")
        else:
            self.found += [f"{where}: {problem}" for problem in self._differences(config)]
        shutil.rmtree(config.runs.parent)

    def fill(self, point: int) -> None:
        """Have the disk full from a run's n-th operation on; then make room, resume it, and compare."""
        config = self.config(f"full-{point}")
        where = f"full from operation {point} on"
        status = in_child(lambda: self._watched(config, point, full=True))
        if status not in (0, MISTAKE):
            self.found.append(f"{where}: no error in words, but {status}")
        self._readable(config.folder, where)
        if in_child(lambda: complete([config])) != 0:
            self.found.append(f"{where}: it cannot be resumed")
        else:
            self.found += [f"{where}: {problem}" for problem in self._differences(config)]
        shutil.rmtree(config.runs.parent)

    def _readable(self, run: Path, where: str) -> None:
        try:
            if step_folders(run):
                for prefer in ("best", "last"):
                    load_checkpoint(run, prefer=prefer)  # type: ignore[arg-type]
            for path in run.glob("*.json"):
                json.loads(path.read_text(encoding="utf-8"))
            read_outcome(run)
        except Exception as error:
            self.found.append(f"{where}: unreadable: {error}")

    def _differences(self, config: RunConfig) -> Iterator[str]:
        here, there = config.runs.parent, self.whole.runs.parent
        names = [{str(path.relative_to(base)) for path in base.rglob("*")} for base in (here, there)]
        if names[0] != names[1]:
            yield f"left over or missing: {sorted(names[0] ^ names[1])}"
            return
        for path in sorted(config.folder.rglob("*.safetensors")):
            one, other = load_file(path), load_file(self.whole.folder / path.relative_to(config.folder))
            if one.keys() != other.keys() or not all(torch.equal(one[name], other[name]) for name in one):
                yield f"{path.relative_to(here)} differs"
        for name in ("best.json", "outcome.json", "inputs.json", "samples.jsonl"):
            if (config.folder / name).read_text("utf-8") != (self.whole.folder / name).read_text("utf-8"):
                yield f"{name} differs"
        if figures(config.folder) != figures(self.whole.folder):
            yield "metrics.jsonl differs"


def figures(run: Path) -> list[tuple[Any, ...]]:
    """What metrics.jsonl says about learning, not about time."""
    names = ("step", "loss", "validation_loss", "learning_rate", "grad_norm", "tokens")
    return [tuple(row.get(name) for name in names) for row in read_lines(run / "metrics.jsonl")]


def main() -> int:
    """Sweep over all points; gives 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1, help="the first operation, to share the work between processes")
    parser.add_argument("--every", type=int, default=1, help="only every N-th operation")
    parser.add_argument("--twice", action="store_true", help="kill the resumed run as well")
    parser.add_argument("--full", action="store_true", help="fill the disk instead of killing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(Path(folder))
        points = range(options.first, sweep.points + 1, options.every)
        for point in points:
            if options.full:
                sweep.fill(point)
            else:
                sweep.kill(point, twice=options.twice)
        print(f"{len(points)} of {sweep.points} operations, {len(sweep.found)} problems")
        print("\n".join(sweep.found))
    return 1 if sweep.found else 0


if __name__ == "__main__":
    sys.exit(main())
