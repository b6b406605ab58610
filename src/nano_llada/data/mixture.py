"""Several sources in given shares: which source a row is from is a function of the seed and the row's number."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nano_llada.config.data import DataConfig
from nano_llada.core.batch import TokenBatch, Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.data.loader import Batches, Located, RowParts, collate

CYCLE = 1000  # rows in which every share is met exactly, up to one row
_WEIGHTED = re.compile(r"(.+)=(\d+(?:\.\d*)?|\.\d+)")


@dataclass(frozen=True)
class Weighted:
    """A source as the user named it, and how much of the training rows are to be from it."""

    name: str  # in metrics and reports
    source: str
    weight: float


def weighted(sources: Sequence[str]) -> list[Weighted]:
    """Sources with weights (``wiki.jsonl=0.7``), named by their files; [] if none has a weight.

    Raises:
        UserError: if only some of them have one, or one is zero.
    """
    found = [(source, _WEIGHTED.fullmatch(source)) for source in sources if not Path(source).exists()]
    matches = [match for _, match in found if match is not None]
    if not matches:
        return []
    if len(matches) < len(sources):
        bare = next(source for source in sources if _WEIGHTED.fullmatch(source) is None or Path(source).exists())
        raise UserError(f"{bare} has no weight and other data has: give every one a weight, such as {bare}=0.5")
    short = [re.sub(r"\.\w+(\.(gz|zst))?$", "", Path(match[1]).name) or match[1] for match in matches]
    names = short if len(set(short)) == len(short) else [match[1] for match in matches]
    made = [Weighted(name, m[1], float(m[2])) for name, m in zip(names, matches, strict=True)]
    if zero := [one.source for one in made if not one.weight]:
        raise UserError(f"{zero[0]} has the weight 0: leave it out, or give it more")
    return made


def without_weights(sources: Sequence[str]) -> list[str]:
    """The same sources as they are read."""
    return [one.source for one in weighted(sources)] or list(sources)


class Rows(Protocol):
    """Rows without end, by their numbers."""

    def row_parts(self, index: int) -> RowParts: ...
    def position_of_row(self, index: int) -> Any: ...
    def continue_from(self, position: Any) -> None: ...
    def close(self) -> None: ...


class MixedBatches(Located):
    """Rows of several sources in their shares.

    Of every CYCLE rows, each source has its share, rounded; in which order is decided by (seed, number of the cycle).
    Row n of a source is the n-th that is taken of it, so that its own order does not depend on the others.
    """

    def __init__(
        self,
        sources: Mapping[str, Rows],
        weights: Mapping[str, float],
        config: DataConfig,
        vocab: Vocabulary,
        *,
        rows: int,
        seed: int,
        rows_per_epoch: int | None,
    ) -> None:
        self._sources, self._config, self._vocab = dict(sources), config, vocab
        self.rows, self._seed, self._epoch = rows, seed, rows_per_epoch
        self._counts = _rounded([weights[name] for name in self._sources])
        self._cycle = lru_cache(maxsize=4)(self._make_cycle)
        self._shares: tuple[int, dict[str, float]] = (-1, {})

    @property
    def rows_per_epoch(self) -> int:
        """As many rows as all sources have. Raises UserError where streams are mixed, whose length is not known."""
        if self._epoch is None:
            raise UserError("how long a stream is is not known before it was read: give --steps")
        return self._epoch

    def batch(self, step: int) -> TokenBatch:
        """Global batch of an optimizer step."""
        names, taken = list(self._sources), dict.fromkeys(self._sources, 0)
        parts = []
        for index in range(step * self.rows, (step + 1) * self.rows):
            source, row = self.place(index)
            part = self._sources[names[source]].row_parts(row)
            taken[names[source]] += min(len(part), self._config.sequence_length)
            parts.append(part)
        self._shares = (step, {name: count / max(1, sum(taken.values())) for name, count in taken.items()})
        return collate(parts, self._config, self._vocab)

    def place(self, index: int) -> tuple[int, int]:
        """The source of a row, and which of its rows it is."""
        cycle, place = divmod(index, CYCLE)
        order, before = self._cycle(cycle)
        source = int(order[place])
        return source, cycle * int(self._counts[source]) + int(before[place])

    def _make_cycle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """Sources of the rows of a cycle, and how many rows of the same source come before each in it."""
        rng = np.random.Generator(np.random.Philox(derive_seed(self._seed, "mixture", cycle)))
        order = rng.permutation(np.repeat(np.arange(len(self._counts)), self._counts))
        before = np.zeros(CYCLE, dtype=np.int64)
        for source, count in enumerate(self._counts):
            before[order == source] = np.arange(count)
        return order, before

    def document_names(self, step: int) -> list[list[int]]:
        """Documents of several sources have no common numbers."""
        return [[] for _ in range(self.rows)]

    def shares(self, step: int) -> Mapping[str, float]:
        """By source, its share of the tokens of the batch that was made last, if it is of this step."""
        return self._shares[1] if self._shares[0] == step else {}

    def position(self, step: int) -> dict[str, Any]:
        """That of every source."""
        cycle, place = divmod(step * self.rows, CYCLE)
        order = self._cycle(cycle)[0][:place]
        done = [cycle * int(count) + int((order == i).sum()) for i, count in enumerate(self._counts)]
        return {
            name: source.position_of_row(row) for (name, source), row in zip(self._sources.items(), done, strict=True)
        }

    def continue_from(self, position: Any) -> None:
        """Begin there."""
        for name, source in self._sources.items():
            if position and position.get(name) is not None:
                source.continue_from(position[name])

    def close(self) -> None:
        """End what works beside the run."""
        for source in self._sources.values():
            source.close()


def _rounded(weights: Sequence[float]) -> np.ndarray:
    """Numbers in proportion to weights that make CYCLE, each at least 1: the largest remainders are rounded up."""
    exact = np.asarray(weights) / sum(weights) * CYCLE
    counts = np.maximum(1, np.floor(exact)).astype(np.int64)
    while counts.sum() != CYCLE:
        if counts.sum() < CYCLE:
            counts[np.argmax(exact - counts)] += 1
        else:
            counts[np.argmax(counts - exact)] -= 1
    return counts


class MixedOnce:
    """Validation rows of several sources, in their shares."""

    def __init__(self, sources: Sequence[Batches], weights: Sequence[float]) -> None:
        self._sources, self._weights = sources, weights

    def once(self, limit: int | None = None) -> Iterator[TokenBatch]:
        """Rows of each source in turn; with a limit, so many in all, or one more for each source."""
        for source, weight in zip(self._sources, self._weights, strict=True):
            yield from source.once(None if limit is None else max(1, round(limit * weight / sum(self._weights))))
