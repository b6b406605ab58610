"""Tokenising on all cores: a process for each, which is told a part of a source at a time.

A process of its own has a Python of its own, so that reading, cutting and looking words up use all cores as well. Each
is a fresh one, not a fork, which is unsafe beside threads; it starts in a third of a second, since it needs no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Literal

from nano_llada.core.errors import UserError
from nano_llada.data.bad_rows import BadRows, Unread, Where
from nano_llada.data.documents import Encoding, Notes
from nano_llada.data.read import Source
from nano_llada.data.tokenizer import Tokenizer

PROGRAM = "from nano_llada.data.worker import work; work()"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Made:
    """The folder of a part, and what reading it found."""

    folder: Path
    bad_rows: BadRows
    notes: Notes


class Workers:
    """Some processes that tokenise parts of sources. A context manager: they end with it, also with this process."""

    def __init__(self, count: int, tokenizer: Tokenizer, encoding: Encoding, policy: Literal["stop", "skip"]) -> None:
        self._order = {"tokenizer": tokenizer.to_json(), "encoding": vars(encoding), "policy": policy}
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="tokenising")
        self._free: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        self._all: list[subprocess.Popen[str]] = []
        self._count = count

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, whatever they are doing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._all:
            process.kill()
        for process in self._all:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def write(self, sources: Sequence[Source], folders: Sequence[Path]) -> Iterator[Made]:
        """Tokenise each source into its folder; gives them in order. UserError for the first that cannot be read."""
        waiting = [self.submit(source, folder) for source, folder in zip(sources, folders, strict=True)]
        for future in waiting:
            yield future.result()

    def submit(self, source: Source, folder: Path) -> Future[Made]:
        """Tokenise a source into a folder as soon as a process is free."""
        if len(self._all) < self._count:
            self._start()
        return self._threads.submit(self._ask, source, folder)

    def _start(self) -> None:
        # one thread: there is a process for each core
        environment = {**os.environ, "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        # a signal for this process, such as Ctrl-C in a terminal, is not for those: they end with it
        process = subprocess.Popen(  # nosec B603
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,
        )
        self._all.append(process)
        with contextlib.suppress(OSError):  # it has ended: said when it is asked
            _send(process, self._order)
        self._free.put(process)

    def _ask(self, source: Source, folder: Path) -> Made:
        process = self._free.get()
        try:
            with contextlib.suppress(OSError):
                _send(process, {"source": asdict(source), "folder": str(folder)})
            assert process.stdout is not None
            answer = process.stdout.readline()
        finally:
            self._free.put(process)
        if not answer:
            raise UserError(
                f"a process that tokenised {source.name} ended (exit status {process.wait()}): is there enough memory?"
            )
        return _made(folder, json.loads(answer))


def _send(process: subprocess.Popen[str], order: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()


def _made(folder: Path, answer: Mapping[str, Any]) -> Made:
    if "error" in answer:
        raise UserError(answer["error"])
    bad, unread = BadRows("skip"), Unread()
    bad.count = answer["bad"]
    for kind, (seen, places, reason) in answer["kinds"].items():
        bad.kinds[kind] = (seen, [Where(*place) for place in places], reason)
    unread.add_counts(answer["unread"])
    return Made(folder, bad, Notes(unread, answer["marked"]))
