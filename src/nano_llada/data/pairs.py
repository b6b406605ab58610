"""Batches of preference pairs: a chosen and a rejected answer to the same prompt always stand in rows side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from nano_llada.config.data import DataConfig
from nano_llada.core.batch import TokenBatch, Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.data.loader import Batches, shuffled
from nano_llada.data.packing import Ints
from nano_llada.data.store import TokenStore


def usable_pairs(store: TokenStore, sequence_length: int) -> Ints:
    """Numbers of the pairs of a preference store with both answers begun within `sequence_length` tokens, ascending.

    Pair p is documents 2p (chosen) and 2p + 1 (rejected) of the store.
    """
    begun = store.first_scored.reshape(-1, 2) < sequence_length
    return np.flatnonzero(begun.all(axis=1))


def equal_pairs(store: TokenStore, pairs: Ints, sequence_length: int) -> Ints:
    """Those of some pairs whose answers are the same within `sequence_length` tokens: nothing tells them apart."""
    long = (store.lengths.reshape(-1, 2)[pairs] >= sequence_length).all(axis=1)  # shorter ones differ before their ends
    return np.asarray([pair for pair in pairs[long] if _same_start(store, int(pair), sequence_length)], dtype=np.int64)


def _same_start(store: TokenStore, pair: int, length: int) -> bool:
    chosen, rejected = (int(store.starts[2 * pair + side]) for side in (0, 1))
    return np.array_equal(store.slice(chosen, chosen + length)[0], store.slice(rejected, rejected + length)[0])


class PairBatches(Batches):
    """Batches of pairs of a preference store, with rows 2i and 2i + 1 the chosen and the rejected answer of a pair.

    Like `Batches` a function of the step, with the pairs reshuffled every epoch by the seed, or in the order given
    (None). Rows and `rows_per_epoch` count answers, two a pair; document numbers are those of the store.

    Raises:
        UserError: if `rows` is not a positive even number, or there is no pair.
    """

    def __init__(
        self,
        store: TokenStore,
        config: DataConfig,
        vocab: Vocabulary,
        *,
        rows: int,
        seed: int | None,
        pairs: Sequence[int] | Ints,
    ) -> None:
        if rows < 2 or rows % 2:
            raise UserError(f"a batch of {rows} rows does not hold whole pairs; give an even batch_size")
        if not len(pairs):
            raise UserError("there is no pair of answers to learn from; give more data or a larger sequence_length")
        numbers = np.asarray(pairs, dtype=np.int64)
        super().__init__(store, config, vocab, rows=rows, seed=seed, documents=_answers(numbers))

    def once(self, limit: int | None = None) -> Iterator[TokenBatch]:
        """Epoch 0 in order, in batches; the last may be smaller. A limit (in rows) is rounded up to whole pairs."""
        return super().once(None if limit is None else limit + limit % 2)

    def _order(self, epoch: int) -> Ints:
        return _answers(shuffled(self._documents[::2] // 2, self._seed, epoch))


def _answers(pairs: Ints) -> Ints:
    """Documents of pairs, chosen first."""
    return (2 * pairs[:, None] + np.arange(2)).ravel()
