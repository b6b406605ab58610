"""Few cases that hold every pair of values of any two options: most mistakes need no more than two options to meet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

Pair = tuple[int, Any, int, Any]


def pairs_of(case: Sequence[Any]) -> set[Pair]:
    """Every two options of a case, with their values."""
    return {(i, case[i], j, case[j]) for i, j in combinations(range(len(case)), 2)}


def pairwise(*options: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Cases, each a value of every option, which together hold all pairs: always the case with the most new ones."""
    every = list(product(*options))
    missing = set[Pair]().union(*map(pairs_of, every))
    chosen = []
    while missing:
        best = max(every, key=lambda case: len(pairs_of(case) & missing))
        chosen.append(best)
        missing -= pairs_of(best)
    return chosen
