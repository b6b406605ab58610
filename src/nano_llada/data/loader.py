"""Batches as a function of the step: a run that resumes at step n asks for batch n."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from nano_llada.config.data import DataConfig
from nano_llada.core.batch import TokenBatch, Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.data.packing import ContinuousPlan, Ints, Piece, WholePlan
from nano_llada.data.store import Documents


@dataclass(frozen=True)
class RowParts:
    """The documents of a row, or their parts in it, before they are put side by side."""

    tokens: list[Ints]
    scored: list[np.ndarray]

    def __len__(self) -> int:
        return sum(map(len, self.tokens))


class Located:
    """What a run saves, and logs, about its place in its data: nothing, where a batch is a function of its step."""

    def position(self, step: int) -> Any:
        """Plain values from which the batch of a step is found again without reading all that comes before it."""
        return None

    def position_of_row(self, index: int) -> Any:
        """The same for a row of the endless sequence."""
        return None

    def continue_from(self, position: Any) -> None:
        """Use what `position` gave; other places are found as well, but by reading from the beginning."""

    def close(self) -> None:
        """End what works beside the run."""

    def shares(self, step: int) -> Mapping[str, float]:
        """By source, its share of a batch's tokens; {} unless sources are mixed. The batch was made before."""
        return {}


def hold_out(count: int, share: float) -> tuple[Ints, Ints]:
    """Of `count` documents those to train on, in file order, and those held out, in a fixed random order.

    The documents are cut into stretches of 1/share; one of each is held out, drawn by the number of the stretch alone
    (of the first stretch the second document, so that a few documents are enough). Whether a document is held out
    therefore depends on its number, never on how many follow. At least one is held out of two or more, unless the share
    is 0. A limit on the validation rows takes a sample of all files, not the first rows of the first one.
    """
    chosen = _places(count, share) if share > 0 and count > 1 else np.empty(0, dtype=np.int64)
    kept = np.ones(count, dtype=bool)
    kept[chosen] = False
    drawn = np.array([derive_seed(0, "held out", int(number)) for number in chosen], dtype=np.uint64)
    return np.flatnonzero(kept), chosen[np.argsort(drawn, kind="stable")]


def _places(count: int, share: float) -> Ints:
    """One place of each stretch that lies below `count`."""
    found, start, stretch = [], 0, 0
    while start < count:
        end = max(start + 1, math.ceil((stretch + 1) / share))
        width = end - start
        offset = min(1, width - 1) if stretch == 0 else derive_seed(0, "hold out", stretch) % width
        if start + offset < count:
            found.append(start + offset)
        start, stretch = end, stretch + 1
    if len(found) == count:  # something is left to learn
        found = found[1:]
    return np.asarray(found, dtype=np.int64)


def hold_out_by_count(count: int, share: float) -> tuple[Ints, Ints]:
    """The same by a rule that depends on the count: that of version 0.1.0, and the order of validation files.

    A share of 1 holds out all.
    """
    rng = np.random.Generator(np.random.Philox(derive_seed(0, "hold out", count)))
    order = rng.permutation(count)
    cut = min(count - 1, math.ceil(count * share)) if share < 1 else count
    return np.sort(order[cut:]), order[:cut]


def shuffled(numbers: Ints, seed: int | None, epoch: int) -> Ints:
    """The order of some numbers in an epoch: a permutation decided by (seed, epoch), or as they are without a seed."""
    if seed is None:
        return numbers
    rng = np.random.Generator(np.random.Philox(derive_seed(seed, "order", epoch)))
    return rng.permutation(numbers)


class Batches(Located):
    """Rows of some documents of a store, without end: reshuffled every epoch by the seed, or in the given order (None).

    Raises:
        UserError: if the documents do not fill one row.
    """

    def __init__(
        self,
        store: Documents,
        config: DataConfig,
        vocab: Vocabulary,
        *,
        rows: int,
        seed: int | None,
        documents: Sequence[int] | Ints,
    ) -> None:
        self._store, self._config, self._vocab = store, config, vocab
        self._documents = np.asarray(documents, dtype=np.int64)
        self.rows, self._seed = rows, seed
        self._lengths = self._filled_lengths()
        self._plan = lru_cache(maxsize=2)(self._make_plan)
        self.rows_per_epoch = len(self._plan(0))
        if not len(self._documents) or not self.rows_per_epoch:
            raise UserError(
                f"{len(self._documents)} documents do not fill one row of {config.sequence_length} tokens; "
                "give more data or a smaller sequence_length"
            )

    def _filled_lengths(self) -> Ints:
        """Length of every document of the store, filled with <|endoftext|> where the config says so."""
        lengths = self._store.lengths
        if self._config.format != "text":
            lengths = lengths + np.maximum(0, (self._config.eos_fill or 0) - self._store.scored_counts)
            lengths = lengths + self._config.eos_after
            lengths = -(-lengths // self._config.fill_multiple) * self._config.fill_multiple
        return lengths

    def _order(self, epoch: int) -> Ints:
        """The documents as an epoch goes through them."""
        return shuffled(self._documents, self._seed, epoch)

    def _make_plan(self, epoch: int) -> ContinuousPlan | WholePlan:
        order, length = self._order(epoch), self._config.sequence_length
        if self._config.format == "text" and self._config.packing:
            return ContinuousPlan(self._lengths, order, length)
        return WholePlan(self._lengths, order, length, packing=self._config.packing)

    def batch(self, step: int) -> TokenBatch:
        """Global batch of an optimizer step: rows step*rows ... of the endless sequence of epochs."""
        first = step * self.rows
        return self.collate([self.row_parts(index) for index in range(first, first + self.rows)])

    def once(self, limit: int | None = None) -> Iterator[TokenBatch]:
        """Epoch 0 in order, in batches; the last may be smaller."""
        total = self.rows_per_epoch if limit is None else min(limit, self.rows_per_epoch)
        for first in range(0, total, self.rows):
            yield self.collate([self.row_parts(index) for index in range(first, min(first + self.rows, total))])

    def document_names(self, step: int) -> list[list[int]]:
        """Numbers of the documents in each row of a batch, to find the text on which a run failed."""
        first = step * self.rows
        return [[piece.document for piece in self._pieces(index)] for index in range(first, first + self.rows)]

    def _pieces(self, index: int) -> list[Piece]:
        epoch, row = self._locate(index)
        return self._plan(epoch).row(row)

    def _locate(self, index: int) -> tuple[int, int]:
        # best-fit plans may differ by a row between epochs; counting with epoch 0 keeps every index defined
        epoch, row = divmod(index, self.rows_per_epoch)
        return epoch, row % len(self._plan(epoch))

    def row_parts(self, index: int) -> RowParts:
        """A row of the endless sequence of epochs."""
        return self._parts(self._pieces(index))

    def collate(self, parts: Sequence[RowParts]) -> TokenBatch:
        """Rows as one batch."""
        return collate(parts, self._config, self._vocab)

    def _parts(self, pieces: Sequence[Piece]) -> RowParts:
        tokens, scored = [], []
        for piece in pieces:
            begin, end = int(self._store.starts[piece.document]), int(self._store.starts[piece.document + 1])
            first = begin + piece.start
            last = min(first + piece.length, end)
            some, flags = self._store.slice(first, last)
            missing = piece.length - (last - first)  # the fill, which is part of the answer
            tokens.append(np.pad(some, (0, missing), constant_values=self._vocab.eos))
            scored.append(np.pad(flags, (0, missing), constant_values=True))
        return RowParts(tokens, scored)


def collate(parts: Sequence[RowParts], config: DataConfig, vocab: Vocabulary) -> TokenBatch:
    """Rows as one batch, filled as the config says."""
    if config.format != "text" and config.eos_fill is None:
        parts = _fill_to_longest(parts, vocab.eos)
    width = max(map(len, parts)) if not config.packing else config.sequence_length
    shape = (len(parts), min(width, config.sequence_length))
    tokens = torch.full(shape, vocab.eos, dtype=torch.int64)
    scored = torch.zeros(shape, dtype=torch.bool)
    doc_ids, positions = torch.full(shape, -1, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    for i, part in enumerate(parts):
        left = 0
        for name, (piece, flags) in enumerate(zip(part.tokens, part.scored, strict=True)):
            right = min(left + len(piece), shape[1])
            tokens[i, left:right] = torch.from_numpy(piece[: right - left])
            scored[i, left:right] = torch.from_numpy(flags[: right - left])
            apart = config.document_mask
            doc_ids[i, left:right] = name if apart else 0
            positions[i, left:right] = torch.arange(right - left) if apart else torch.arange(left, right)
            left = right
    return TokenBatch(tokens, scored, doc_ids, positions, torch.arange(len(parts)))


def _fill_to_longest(parts: Sequence[RowParts], eos: int) -> list[RowParts]:
    answers = [int(part.scored[0].sum()) for part in parts]
    filled = []
    for part, answer in zip(parts, answers, strict=True):
        extra = max(answers) - answer
        tokens = np.pad(part.tokens[0], (0, extra), constant_values=eos)
        filled.append(RowParts([tokens], [np.pad(part.scored[0], (0, extra), constant_values=True)]))
    return filled
