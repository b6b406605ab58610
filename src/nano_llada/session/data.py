"""The batches of a run: its files tokenised, what is held out, and what no row has room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import numpy as np

from nano_llada.config.data import DataConfig
from nano_llada.config.record import read_record
from nano_llada.config.run import RunConfig
from nano_llada.core.batch import Objective
from nano_llada.core.device import choose_machine
from nano_llada.core.errors import UserError
from nano_llada.core.progress import Progress
from nano_llada.core.text import printable
from nano_llada.data.loader import Batches, hold_out, hold_out_by_count
from nano_llada.data.mixture import MixedBatches, MixedOnce, weighted
from nano_llada.data.packing import Ints
from nano_llada.data.pairs import PairBatches, equal_pairs, usable_pairs
from nano_llada.data.read import BadRows, Source, ending_of, resolve
from nano_llada.data.store import Encoding, TokenStore, open_store
from nano_llada.data.stream import Parts, Share, StreamBatches
from nano_llada.data.tokenizer import BUNDLED_TOKENIZER, Tokenizer
from nano_llada.model.transformer import Transformer
from nano_llada.objectives.policy import PolicyLoss
from nano_llada.session.questions import read_questions
from nano_llada.session.rollout import RolloutBatches
from nano_llada.training import parallel
from nano_llada.verify.reward import VERIFIER, load_reward

Training: TypeAlias = Batches | StreamBatches | MixedBatches
Validation: TypeAlias = Batches | MixedOnce


def load_batches(
    config: RunConfig,
    objective: Objective,
    model: Transformer,
    tokenizer: Tokenizer,
    usable: Callable[[], Transformer] | None = None,
) -> tuple[Training | RolloutBatches, Validation | None]:
    """Training batches, and validation batches where there are any, for whatever the objective learns from.

    Args:
        usable: gives the model as one that can write, where several processes hold parts of it; default: `model`.
    """
    if config.objective.draws_answers:
        return load_rollouts(config, cast(PolicyLoss, objective), usable or (lambda: model), model, tokenizer), None
    return load_data(config, tokenizer)


BUNDLED_SIZE = 1761  # tokens of the bundled tokenizer
BUNDLED_RATE = 2.1  # bytes a token: the small world has 2.6 and more, ordinary English 1.9, Chinese 1.6


def with_first_rules(plain: dict[str, Any]) -> dict[str, Any]:
    """A saved config with the rules of version 0.1.0 where it does not say which rule it was made by."""
    data = plain.get("data")
    if isinstance(data, dict):
        return plain | {"data": {"held_out": "by_count"} | data}
    return plain


def as_it_began(config: RunConfig) -> RunConfig:
    """The config of a run that is resumed, with the rule for what is held out that it began with.

    Raises:
        UserError: if its saved config cannot be read.
    """
    saved = config.folder / "config.json"
    if not saved.is_file():
        return config
    rule = read_record(RunConfig, saved, change=with_first_rules).data.held_out
    return replace(config, data=replace(config.data, held_out=rule))


def load_data(config: RunConfig, tokenizer: Tokenizer) -> tuple[Training, Validation | None]:
    """Training batches, and validation batches where there are any."""
    if not config.data.data:
        raise UserError("no training data: give files with --data, or try `nano-llada demo`")
    load = _load_stream if config.data.stream else _load_store
    mixed = weighted(config.data.data)
    if not mixed:
        return load(config, config.data.data, tokenizer)
    if config.data.format == "preference":
        raise UserError("data with weights is for pretraining and SFT; give preferences without")
    found = {one.name: load(config, (one.source,), tokenizer) for one in mixed}
    weights = {one.name: one.weight for one in mixed}
    rows, seed = config.train.batch_size, config.train.seed
    count = None if config.data.stream else sum(batches.rows_per_epoch for batches, _ in found.values())
    sources = {name: batches for name, (batches, _) in found.items()}
    batches = MixedBatches(sources, weights, config.data, tokenizer.vocab, rows=rows, seed=seed, rows_per_epoch=count)
    if config.data.validation:
        return batches, next(iter(found.values()))[1]
    kept = {name: validation for name, (_, validation) in found.items() if validation is not None}
    return batches, MixedOnce(list(kept.values()), [weights[name] for name in kept]) if kept else None


def _load_stream(
    config: RunConfig, sources: Sequence[str], tokenizer: Tokenizer
) -> tuple[StreamBatches, Batches | None]:
    data, train = config.data, config.train
    share = Share(parallel.rank(), parallel.size())
    found = Parts(resolve(sources), tokenizer, _encoding(data), data, share)
    held = 0.0 if data.validation else data.validation_share
    batches = StreamBatches(found, data, tokenizer.vocab, rows=train.batch_size, seed=train.seed, share=held)
    if data.validation:
        return batches, _given_validation(config, tokenizer)
    validation = batches.validation() if held else None
    if held and validation is None:
        print("nothing is held out, so losses are of training data alone: too little of the first parts; --validation")
    return batches, validation


def _given_validation(config: RunConfig, tokenizer: Tokenizer) -> Batches:
    data = config.data
    store = open_token_store(config, data.validation, tokenizer)
    kept = _usable(store, data)
    return _rows(config, tokenizer, store, kept[hold_out_by_count(len(kept), 1)[1]], None, data)


def _rows(
    config: RunConfig, tokenizer: Tokenizer, store: TokenStore, numbers: Ints, seed: int | None, data: DataConfig
) -> Batches:
    if data.format == "preference":
        return PairBatches(store, data, tokenizer.vocab, rows=config.train.batch_size, seed=seed, pairs=numbers)
    return Batches(store, data, tokenizer.vocab, rows=config.train.batch_size, seed=seed, documents=numbers)


def _load_store(config: RunConfig, sources: Sequence[str], tokenizer: Tokenizer) -> tuple[Batches, Batches | None]:
    data, train = config.data, config.train
    store = open_token_store(config, tuple(sources), tokenizer)
    usable = _usable(store, data)
    if data.validation:
        return _rows(config, tokenizer, store, usable, train.seed, data), _given_validation(config, tokenizer)
    learnt, held_out = split(store, usable, data)
    batches = _rows(config, tokenizer, store, learnt, train.seed, data)
    if not data.validation_share:
        return batches, None
    fill = int(store.lengths[held_out].sum()) >= data.sequence_length
    try:  # a few short documents do not fill a row of packed text, and then are a row each
        loose = data if fill or not data.document_mask or not len(held_out) else replace(data, packing=False)
        return batches, _rows(config, tokenizer, store, held_out, None, loose)
    except UserError as error:
        print(f"nothing is held out, so losses are of training data alone: {error}; or give --validation")
        return batches, None


def _encoding(data: DataConfig) -> Encoding:
    return Encoding(data.format, data.text_field, data.turns, data.txt_split, data.marks)


def split(store: TokenStore, usable: Ints, data: DataConfig) -> tuple[Ints, Ints]:
    """Documents (or pairs) to train on and held out. All documents of a conversation are on the same side."""
    if data.held_out == "by_count":
        learnt, held_out = hold_out_by_count(len(usable), data.validation_share)
        return usable[learnt], usable[held_out]
    rows = store.rows[::2][usable] if data.format == "preference" else store.rows[usable]
    row_of = np.cumsum(np.diff(rows, prepend=rows[:1]) != 0)  # rows ascend
    chosen = hold_out(int(row_of.max()) + 1, data.validation_share)[1]
    rank = np.full(int(row_of.max()) + 1, -1)
    rank[chosen] = np.arange(len(chosen))
    place = rank[row_of]
    held_out = np.flatnonzero(place >= 0)
    return usable[place < 0], usable[held_out[np.argsort(place[held_out], kind="stable")]]


def _usable(store: TokenStore, data: DataConfig) -> Ints:
    """Documents (or pairs) with something to learn from within a row, and a word on those that are cut or left out.

    Raises:
        UserError: if none is left.
    """
    if data.format == "text" and data.packing:
        return np.arange(len(store))  # nothing is cut: a document continues in the next row
    length, pairs = data.sequence_length, data.format == "preference"
    unit, count = ("pairs", len(store) // 2) if pairs else ("documents", len(store))
    usable = usable_pairs(store, length) if pairs else np.flatnonzero(store.first_scored < length)
    equal = equal_pairs(store, usable, length) if pairs else np.empty(0, dtype=np.int64)
    filled = store.lengths + np.maximum(0, (data.eos_fill or 0) - store.scored_counts)
    if cut := int((filled.reshape(count, -1).max(1)[usable] > length).sum()):
        print(f"{cut:,} of {count:,} {unit} are longer than sequence_length {length} and are cut there")
    if len(usable) < count:
        print(f"{count - len(usable):,} of {count:,} {unit} have nothing to learn before sequence_length {length}")
    if len(equal):
        print(f"{len(equal):,} of {count:,} pairs have the same answer up to sequence_length {length}: left out")
    if not len(usable):
        raise UserError(f"no answer begins before sequence_length {length}; raise it, or give shorter prompts")
    if len(equal) == len(usable):
        raise UserError(f"all pairs have the same answer up to sequence_length {length}; raise it")
    return np.setdiff1d(usable, equal)


def load_rollouts(
    config: RunConfig,
    objective: PolicyLoss,
    usable: Callable[[], Transformer],
    model: Transformer,
    tokenizer: Tokenizer,
) -> RolloutBatches:
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
    if weighted(data.data):
        raise UserError("data with weights is for pretraining and SFT; give questions without")
    reward, longest = load_reward(rollouts.reward), min(room, data.sequence_length)
    questions = read_questions(resolve(data.data), tokenizer, bad, longest, verified=rollouts.reward == VERIFIER)
    if bad.count:
        print(bad.summary())
    return RolloutBatches(
        usable,
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
    """Tokenise (or find in the cache) some sources, and say what was skipped or looks wrong."""
    data = config.data
    bad, resolved = BadRows(data.on_bad_row), resolve(sources)
    encoding = _encoding(data)
    progress = Progress("tokenising", "documents", lambda: documents_in(resolved, data))
    store = open_store(resolved, tokenizer, encoding, cache=data.cache, bad_rows=bad, progress=progress)
    named = printable(", ".join(sources))
    if store.meta["skipped"]:
        print(f"skipped rows in {named}: {store.meta['skipped']}")
    for note in [*store.notes, *warnings(store, resolved, encoding), *tokenizer_warning(store, tokenizer)]:
        print(f"note on {named}: {note}")
    return store


def warnings(store: TokenStore, sources: Sequence[Source], encoding: Encoding) -> list[str]:
    """What is odd about a store's documents, a sentence each."""
    found = []
    texts = [
        source.name for source in sources if not source.name.startswith("hf:") and ending_of(source.name)[0] == ".txt"
    ]
    advice = "; --txt-split paragraph or line makes more of it" if texts and encoding.txt_split == "file" else ""
    if texts and encoding.txt_split == "file" and len(store) == len(sources) == len(texts):
        found.append(f"each .txt file is read as one document ({len(store):,} in all){advice}")
    share = int(store.lengths.max()) / int(store.starts[-1])
    if encoding.format == "text" and len(store) > 1 and share > 0.5:
        found.append(f"one of {len(store):,} documents holds {share:.0%} of all tokens{advice}")
    return found


def tokenizer_warning(store: TokenStore, tokenizer: Tokenizer) -> list[str]:
    """A sentence if the bundled tokenizer, which is made for the small world, needs many tokens for a text."""
    if tokenizer.vocab.size != BUNDLED_SIZE or tokenizer.hash != Tokenizer.load(BUNDLED_TOKENIZER).hash:
        return []
    tokens = int(store.scored_counts.sum()) - len(store)  # without those that end a document
    rate = int(store.text_bytes.sum()) / max(1, tokens)
    if rate >= BUNDLED_RATE or tokens < 1000:
        return []
    return [
        f"the bundled tokenizer ({BUNDLED_SIZE:,} tokens, made for the small world) takes a token for every {rate:.1f} "
        "bytes of this text; --tokenizer story is for stories and ordinary text, and one trained on yours (nano-llada "
        "tokenizer train --data FILES --out FOLDER, then --tokenizer FOLDER), or that of another model, needs fewer"
    ]
