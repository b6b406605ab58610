"""Rows of the cache: who occupies which, within a budget of tokens, and which finished prefixes are kept.

Active requests occupy the rows from 0 on without a gap, so that a pass reads a slice of the cache. Prefixes of finished
requests are kept in the last rows, the newest lowest, as long as nothing else needs the room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nano_llada.decode.forward import Backend
from nano_llada.decode.rows import Row


@dataclass
class Prefix:
    """Tokens whose keys and values are in a row of the cache, computed in attention blocks of `grain` tokens."""

    tokens: tuple[int, ...]
    grain: int
    row: int


class Slots:
    """The cache of an engine.

    Args:
        backend: owns the cache.
        rows: the most active requests.
        budget: the most tokens, rows times capacity; None: as many as the rows need.
        keep: whether prefixes of finished requests are kept.
    """

    def __init__(self, backend: Backend, rows: int, budget: int | None, *, keep: bool) -> None:
        self._backend, self._rows, self._budget, self._keep = backend, rows, budget, keep
        self._kept: list[Prefix] = []  # in the rows from the last down, ordered by when they were used
        self._active = 0

    def fits(self, size: int) -> bool:
        """Whether a row of `size` tokens would fit into an empty cache."""
        return self._budget is None or size <= self._budget

    def admit(self, row: Row, others: Sequence[int], waiting: Sequence[int]) -> bool:
        """Give a request the next row; false if there is no room. What is known of its prompt is held from then on.

        Args:
            others: sizes of the active requests.
            waiting: sizes of the requests that wait behind this one.
        """
        size = max([row.size, *others])
        if self._count(size) <= self._active:
            return False
        if size > self._backend.capacity or self._active == self._backend.rows:
            foreseen, rows = max([size, *waiting]), min(self._rows, self._active + 1 + len(waiting))
            self._resize(foreseen if self._count(foreseen) >= rows else size)
        row.held = self._reuse(row)
        self._active += 1
        return True

    def release(self, number: int, row: Row) -> None:
        """Free a request's row; the last active one moves there. Its prefix may be kept."""
        last = self._active - 1
        kept = self._backend.rows - 1 - len(self._kept)  # the highest free row, or this request's own
        self._active = last
        grain = row.grain
        if self._keep and grain is not None and row.held >= grain:
            self._kept.append(Prefix(tuple(row.tokens[: row.held]), grain, kept))
            if kept != last:
                self._backend.copy(number, kept, row.held)
            elif number != last:
                self._backend.swap(number, last)
                return
        if number != last:
            self._backend.copy(last, number, self._backend.capacity)

    def _count(self, size: int) -> int:
        """Rows of `size` tokens that the budget has room for."""
        return self._rows if self._budget is None else min(self._rows, self._budget // size)

    def _resize(self, capacity: int) -> None:
        """Make rows of another capacity; newer prefixes are kept where they fit."""
        rows = self._count(capacity)
        fitting = [prefix for prefix in self._kept if len(prefix.tokens) <= capacity]
        self._kept = fitting[max(len(fitting) - rows + self._active, 0) :]
        moves = [(number, number) for number in range(self._active)]
        for i, prefix in enumerate(self._kept):
            moves.append((prefix.row, rows - 1 - i))
            prefix.row = rows - 1 - i
        self._backend.resize(rows, capacity, moves)

    def _reuse(self, row: Row) -> int:
        """Prepare the next row: with the longest kept prefix of the request's prompt; gives its length."""
        best = max(self._kept, key=lambda prefix: _shared(row, prefix), default=None)
        length = _shared(row, best) if best else 0
        if best and length:
            self._kept.remove(best)
            self._kept.append(best)
        if self._active + len(self._kept) == self._backend.rows:
            self._evict()
        if best and length and best.row != self._active:
            self._backend.copy(best.row, self._active, length)
        return length

    def _evict(self) -> None:
        """Drop the prefix unused for longest; the one in the next request's row moves to its row."""
        oldest = self._kept.pop(0)
        if oldest.row != self._active:
            (lowest,) = (prefix for prefix in self._kept if prefix.row == self._active)
            self._backend.copy(lowest.row, oldest.row, len(lowest.tokens))
            lowest.row = oldest.row


def _shared(row: Row, prefix: Prefix) -> int:
    """How many tokens of a row's prompt a prefix covers."""
    if row.grain != prefix.grain:
        return 0
    count = 0
    for mine, theirs in zip(row.tokens[: row.known], prefix.tokens, strict=False):
        if mine != theirs:
            break
        count += 1
    return count // prefix.grain * prefix.grain
