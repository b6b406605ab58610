"""A command line in a process of its own, without the seconds that importing torch takes: forked from this one.

The child has its own standard streams (real files, with a real encoding), environment, folder and signals, computes on
one thread, and ends without running what this process registered for its end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import pytest
import torch

from nano_llada.cli.main import main

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Forked:
    """A child that runs `work`, whose result is its exit status.

    Attributes:
        stdin: bytes written here arrive at the child's standard input.
        stdout: what the child prints, as it arrives.
    """

    def __init__(
        self,
        work: Callable[[], int | None],
        *,
        encoding: str = "utf-8",
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        read, write = os.pipe()
        heard, said = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            for end in (write, heard):
                os.close(end)
            for number, target in enumerate((read, said, self._errors.fileno())):
                os.dup2(target, number)
            _child(work, encoding, dict(environment or {}), cwd)
        for end in (read, said):
            os.close(end)
        self.stdin: IO[bytes] = os.fdopen(write, "wb", buffering=0)
        self.stdout: IO[bytes] = os.fdopen(heard, "rb")

    def poll(self) -> int | None:
        """The exit status (negative: a signal), or None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def send_signal(self, number: int) -> None:
        """Send the child a signal."""
        os.kill(self.pid, number)

    def finish(self, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Send the rest of its input (less than a pipe holds) and wait for its end."""
        with contextlib.suppress(BrokenPipeError):  # it has ended without reading
            self.stdin.write(data)
        self.stdin.close()
        with self.stdout:
            printed = self.stdout.read()
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with self._errors:
            self._errors.seek(0)
            return subprocess.CompletedProcess((), self._status, printed, self._errors.read())


def _child(work: Callable[[], int | None], encoding: str, environment: dict[str, str], cwd: Path | None) -> NoReturn:
    status = 1
    try:
        sys.settrace(None)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(environment)
        if cwd is not None:
            os.chdir(cwd)
        sys.stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
        torch.set_num_threads(1)  # threads of the parent's do not exist here
        status = work() or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def start(words: Sequence[Any], **how: Any) -> Forked:
    """Start `nano-llada WORDS` in a child."""
    return Forked(lambda: main([str(word) for word in words]), **how)


def piped(*words: object, data: bytes = b"", **how: Any) -> subprocess.CompletedProcess[bytes]:
    """`nano-llada WORDS` with this standard input: exit status and output in bytes."""
    return start(words, **how).finish(data)
