"""The batches of a run: its files tokenised, what is held out, and what a row is too short for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nano_llada.config import RunConfig
from nano_llada.core.errors import UserError
from nano_llada.data.config import DataConfig
from nano_llada.data.loader import Batches, hold_out
from nano_llada.data.packing import Ints
from nano_llada.data.read import BadRows, resolve
from nano_llada.data.store import Encoding, TokenStore, open_store
from nano_llada.data.tokenizer import Tokenizer


def load_data(config: RunConfig, tokenizer: Tokenizer) -> tuple[Batches, Batches | None]:
    """Training batches, and validation batches where there are any."""
    data, train = config.data, config.train
    if not data.data:
        raise UserError("no training data: give files with --data, or try `nano-llada demo`")
    store = open_token_store(config, data.data, tokenizer)
    usable = _usable(store, data)
    learnt, held_out = hold_out(len(usable), data.validation_share)

    def rows_of(some: TokenStore, documents: Sequence[int] | Ints, seed: int | None) -> Batches:
        return Batches(some, data, tokenizer.vocab, rows=train.batch_size, seed=seed, documents=documents)

    if data.validation:
        other = open_token_store(config, data.validation, tokenizer)
        kept = _usable(other, data)
        return rows_of(store, usable, train.seed), rows_of(other, kept[hold_out(len(kept), 1)[1]], None)
    batches = rows_of(store, usable[learnt], train.seed)
    try:
        return batches, rows_of(store, usable[held_out], None)
    except UserError:
        return batches, None  # too little data to hold anything out


def _usable(store: TokenStore, data: DataConfig) -> Ints:
    """Documents with something to learn from within a row, and a word on those that are cut or left out.

    Raises:
        UserError: if none is left.
    """
    if data.format == "text" and data.packing:
        return np.arange(len(store))  # nothing is cut: a document goes on in the next row
    length, count = data.sequence_length, len(store)
    filled = store.lengths + np.maximum(0, (data.eos_fill or 0) - store.scored_counts)
    usable = np.flatnonzero(store.first_scored < length)
    long = int((filled[usable] > length).sum())
    if long:
        print(f"{long:,} of {count:,} documents are longer than sequence_length {length} and are cut there")
    if len(usable) < count:
        print(f"{count - len(usable):,} of {count:,} documents have nothing to learn before sequence_length {length}")
    if not len(usable):
        raise UserError(f"no answer begins before sequence_length {length}; raise it, or give shorter prompts")
    return usable


def open_token_store(config: RunConfig, sources: tuple[str, ...], tokenizer: Tokenizer) -> TokenStore:
    """Tokenise (or find in the cache) some sources, and say what was skipped."""
    data = config.data
    bad = BadRows(data.on_bad_row)
    encoding = Encoding(data.format, data.text_field, data.turns)
    store = open_store(resolve(sources), tokenizer, encoding, cache=data.cache, bad_rows=bad)
    if store.meta["skipped"]:
        print(f"skipped rows in {', '.join(sources)}: {store.meta['skipped']}")
    return store
