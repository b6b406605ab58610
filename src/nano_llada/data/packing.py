"""Which documents share a row. The plan of an epoch is a function of its seed, so any row can be computed directly."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

POOL = 4096  # documents considered together for a tight fit; rows of different pools never mix

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """A part of one document: the document, its first token in this row, and the number of tokens."""

    document: int
    start: int
    length: int


class ContinuousPlan:
    """Documents one after the other, cut into rows of exactly `length` tokens; an incomplete last row is dropped."""

    def __init__(self, lengths: Ints, order: Ints, length: int) -> None:
        self._order, self._length = order, length
        self._ends = np.cumsum(lengths[order])

    def __len__(self) -> int:
        return int(self._ends[-1]) // self._length if len(self._ends) else 0

    def row(self, index: int) -> list[Piece]:
        """The pieces of one row, in order. A document cut at the row's start is a document of its own there."""
        left, right = index * self._length, (index + 1) * self._length
        pieces, place = [], int(np.searchsorted(self._ends, left, side="right"))
        while left < right:
            begin = int(self._ends[place - 1]) if place else 0
            stop = min(int(self._ends[place]), right)
            pieces.append(Piece(int(self._order[place]), left - begin, stop - left))
            left, place = stop, place + 1
        return pieces


class WholePlan:
    """Documents are kept whole: best fit within a pool, or one per row. Longer ones are cut at `length`."""

    def __init__(self, lengths: Ints, order: Ints, length: int, *, packing: bool) -> None:
        self._lengths = np.minimum(lengths, length)
        if not packing:
            self._rows = [[int(document)] for document in order]
            return
        self._rows = []
        for first in range(0, len(order), POOL):
            pool = order[first : first + POOL]
            self._rows += best_fit([int(self._lengths[document]) for document in pool], pool.tolist(), length)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> list[Piece]:
        """The documents of one row, in order."""
        return [Piece(document, 0, int(self._lengths[document])) for document in self._rows[index]]


def best_fit(lengths: Sequence[int], names: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of at most `capacity`, each document, longest first, into the fullest row with room for it.

    Rows come out in the order of their first name in `names`, so an order that was shuffled stays shuffled.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (room left, row), ascending
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        spot = bisect_left(room, (lengths[place], -1))
        if spot < len(room):
            left, row = room.pop(spot)
        else:
            left, row = capacity, len(rows)
            rows.append([])
        rows[row].append(place)
        insort(room, (left - lengths[place], row))
    rows = sorted((sorted(row) for row in rows), key=lambda row: row[0])
    return [[names[place] for place in row] for row in rows]
