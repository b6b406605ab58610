"""How far long work is, how fast it goes and how long it still takes, as lines on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

QUIET_SECONDS = 10.0  # between two lines


def duration(seconds: float) -> str:
    """A time span as people say it: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def left(done: float, total: float, seconds: float) -> str:
    """How long the rest of the work takes at the rate so far; nothing before there is a rate."""
    if done <= 0 or seconds <= 0:
        return ""
    return f"about {duration(max(0.0, total - done) * seconds / done)} left"


class Progress:
    """Tells how far some work is, at most every ten seconds; short work says nothing.

    Args:
        what: the work, in a word or two.
        unit: what is counted, in the plural.
        total: gives how many there are, or None if that is not known; called when the first line is written.
    """

    def __init__(self, what: str, unit: str, total: Callable[[], float | None] = lambda: None) -> None:
        self._what, self._unit, self._count = what, unit, total
        self._begin = self._last = time.monotonic()
        self._total: float | None = None

    def __call__(self, done: float) -> None:
        """Report that `done` units are done."""
        now = time.monotonic()
        if now - self._last < QUIET_SECONDS:
            return
        if self._last == self._begin:
            self._total = self._count()
        self._last = now
        seconds = now - self._begin
        of = "" if self._total is None else f" of about {max(done, self._total):,.0f}"
        rest = "" if self._total is None else f", {left(done, self._total, seconds)}"
        rate = f"{done / seconds:,.0f} {self._unit}/s"
        print(f"{self._what}: {done:,.0f}{of} {self._unit}, {rate}{rest}", file=sys.stderr, flush=True)
