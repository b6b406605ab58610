"""Regular expressions from data, matched with a time limit."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading

from nano_llada.core.errors import UserError
from nano_llada.core.text import printable

SECONDS = 2.0  # for one text; a pattern that takes longer takes exponential time
LONGEST = 10_000  # characters of a pattern
# `re` can be interrupted only by ending its process
_WORKER = """
import json, re, sys
for line in sys.stdin:
    pattern, text = json.loads(line)
    print(int(re.search(pattern, text) is not None), flush=True)
"""


def check_pattern(pattern: str) -> None:
    """Raises ValueError for text that is not a regular expression, or a very long one."""
    if len(pattern) > LONGEST:
        raise ValueError(f"the regular expression has {len(pattern):,} characters, at most {LONGEST:,} are allowed")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error


class Matcher:
    """Searches texts in a process of its own, which is ended when it takes too long."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._worker: subprocess.Popen[str] | None = None

    def found(self, pattern: str, text: str) -> bool:
        """Whether the pattern occurs in the text.

        Raises:
            UserError: if that takes longer than the limit.
        """
        worker = self._started()
        assert worker.stdin is not None
        assert worker.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            worker.kill()

        timer = threading.Timer(self.seconds, stop)
        timer.start()
        try:
            worker.stdin.write(json.dumps([pattern, text]) + "\n")
            worker.stdin.flush()
            said = worker.stdout.readline()
        except BrokenPipeError:
            said = ""
        finally:
            timer.cancel()
        if said:
            return said.strip() == "1"
        self.close()
        why = f"took more than {self.seconds:g} s" if late.is_set() else "could not be searched for"
        raise UserError(f"the regular expression {printable(pattern)!r} {why} in {printable(text[:60])!r}")

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.communicate()
            self._worker = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the end of the program everything may be gone
            self.close()

    def _started(self) -> subprocess.Popen[str]:
        if self._worker is None:
            self._worker = subprocess.Popen(  # nosec B603
                [sys.executable, "-I", "-c", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        return self._worker
