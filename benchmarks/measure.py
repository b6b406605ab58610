"""Timing two ways of doing the same thing by turns, so that whatever else the machine does hits both."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Timing:
    """Seconds of each repetition."""

    ours: list[float]
    theirs: list[float]

    def ratio(self) -> tuple[float, float, float]:
        """Median of theirs/ours over pairs, and its lowest and highest."""
        ratios = sorted(b / a for a, b in zip(self.ours, self.theirs, strict=True))
        return statistics.median(ratios), ratios[0], ratios[-1]


def by_turns(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeat: int,
    warm: int = 1,
    before: Callable[[], object] | None = None,
) -> Timing:
    """Run both alternately, after `warm` unmeasured runs of each; `before` is called ahead of each pair, untimed."""
    for _ in range(warm):
        ours()
        theirs()
    timing = Timing([], [])
    for _ in range(repeat):
        if before is not None:
            before()
        for work, seconds in ((ours, timing.ours), (theirs, timing.theirs)):
            begin = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begin)
    return timing


def spread(name: str, values: list[float]) -> dict[str, float]:
    """`name`: the median; `name_low` and `name_high`: the lowest and highest."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return {name: round(middle, 3), f"{name}_low": round(low, 3), f"{name}_high": round(high, 3)}


def record(path: Path | None, row: dict[str, object]) -> None:
    """Print a row, and append it to a results file."""
    line = json.dumps(row)
    print(line)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
