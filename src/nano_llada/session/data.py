"""The batches of a run: its files tokenised, what is held out, and what no row has room for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from nano_llada.config.data import DataConfig
from nano_llada.config.run import RunConfig
from nano_llada.core.batch import Objective
from nano_llada.core.device import choose_machine
from nano_llada.core.errors import UserError
from nano_llada.core.progress import Progress
from nano_llada.data.loader import Batches, hold_out
from nano_llada.data.packing import Ints
from nano_llada.data.pairs import PairBatches, usable_pairs
from nano_llada.data.read import BadRows, Source, resolve
from nano_llada.data.store import Encoding, TokenStore, open_store
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.model.transformer import Transformer
from nano_llada.objectives.policy import PolicyLoss
from nano_llada.session.questions import read_questions
from nano_llada.session.reward import VERIFIER, load_reward
from nano_llada.session.rollout import RolloutBatches


def load_batches(
    config: RunConfig, objective: Objective, model: Transformer, tokenizer: Tokenizer
) -> tuple[Batches | RolloutBatches, Batches | None]:
    """Training batches, and validation batches where there are any, for whatever the objective learns from."""
    if config.objective.draws_answers:
        return load_rollouts(config, cast(PolicyLoss, objective), model, tokenizer), None
    return load_data(config, tokenizer)


def load_data(config: RunConfig, tokenizer: Tokenizer) -> tuple[Batches, Batches | None]:
    """Training batches, and validation batches where there are any."""
    data, train = config.data, config.train
    if not data.data:
        raise UserError("no training data: give files with --data, or try `nano-llada demo`")
    store = open_token_store(config, data.data, tokenizer)
    usable = _usable(store, data)
    learnt, held_out = hold_out(len(usable), data.validation_share)

    def rows_of(some: TokenStore, numbers: Ints, seed: int | None) -> Batches:
        if data.format == "preference":
            return PairBatches(some, data, tokenizer.vocab, rows=train.batch_size, seed=seed, pairs=numbers)
        return Batches(some, data, tokenizer.vocab, rows=train.batch_size, seed=seed, documents=numbers)

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
    """Documents (or pairs) with something to learn from within a row, and a word on those that are cut or left out.

    Raises:
        UserError: if none is left.
    """
    if data.format == "text" and data.packing:
        return np.arange(len(store))  # nothing is cut: a document goes on in the next row
    length, pairs = data.sequence_length, data.format == "preference"
    unit, count = ("pairs", len(store) // 2) if pairs else ("documents", len(store))
    usable = usable_pairs(store, length) if pairs else np.flatnonzero(store.first_scored < length)
    filled = store.lengths + np.maximum(0, (data.eos_fill or 0) - store.scored_counts)
    if cut := int((filled.reshape(count, -1).max(1)[usable] > length).sum()):
        print(f"{cut:,} of {count:,} {unit} are longer than sequence_length {length} and are cut there")
    if len(usable) < count:
        print(f"{count - len(usable):,} of {count:,} {unit} have nothing to learn before sequence_length {length}")
    if not len(usable):
        raise UserError(f"no answer begins before sequence_length {length}; raise it, or give shorter prompts")
    return usable


def load_rollouts(config: RunConfig, objective: PolicyLoss, model: Transformer, tokenizer: Tokenizer) -> RolloutBatches:
    """Batches that the model draws itself.

    Raises:
        UserError: if there are no questions with room for an answer, or no reward.
    """
    data, rollouts, bad = config.data, objective.config.rollouts, BadRows(config.data.on_bad_row)
    if not data.data:
        raise UserError("no questions: give files of conversations with --data")
    room = model.config.max_length - rollouts.max_new_tokens
    if room < 1:
        raise UserError(
            f"max_new_tokens {rollouts.max_new_tokens} leaves no room for a question: the model's max_length is "
            f"{model.config.max_length}"
        )
    reward, longest = load_reward(rollouts.reward), min(room, data.sequence_length)
    questions = read_questions(resolve(data.data), tokenizer, bad, longest, verified=rollouts.reward == VERIFIER)
    if bad.count:
        print(bad.summary())
    return RolloutBatches(
        model,
        tokenizer,
        objective,
        questions,
        reward,
        rows=config.train.batch_size,
        seed=config.train.seed,
        folder=config.folder,
        machine=choose_machine(config.train.device, config.train.precision),
    )


def documents_in(sources: Sequence[Source], data: DataConfig) -> int | None:
    """About how many documents some sources have: the lines of plain JSON lines; None for others, and for `each` turn,
    which makes several documents of a conversation.
    """
    if data.turns == "each" or not all(source.name.lower().endswith(".jsonl") for source in sources):
        return None
    lines = 0
    for source in sources:
        with open(source.name, "rb") as file:
            lines += sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    return lines * (2 if data.format == "preference" else 1)


def open_token_store(config: RunConfig, sources: tuple[str, ...], tokenizer: Tokenizer) -> TokenStore:
    """Tokenise (or find in the cache) some sources, and say what was skipped."""
    data = config.data
    bad = BadRows(data.on_bad_row)
    encoding = Encoding(data.format, data.text_field, data.turns)
    found = resolve(sources)
    progress = Progress("tokenising", "documents", lambda: documents_in(found, data))
    store = open_store(found, tokenizer, encoding, cache=data.cache, bad_rows=bad, progress=progress)
    if store.meta["skipped"]:
        print(f"skipped rows in {', '.join(sources)}: {store.meta['skipped']}")
    return store
