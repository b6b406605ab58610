"""Batches: a function of the step and nothing else, with every document in every epoch and answers filled as told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from nano_llada.config.data import DataConfig
from nano_llada.core.batch import TokenBatch
from nano_llada.core.errors import UserError
from nano_llada.data import packing
from nano_llada.data.loader import Batches, hold_out, hold_out_by_count
from nano_llada.data.read import BadRows, resolve
from nano_llada.data.store import Encoding, TokenStore, open_store
from nano_llada.data.tokenizer import train_characters

FIRST = 1000  # a token of these stores is FIRST and its place in the whole store, so each is known by sight
NAMES = ("tokens", "scored", "doc_ids", "positions", "rows")


class Documents:
    """A store in memory: documents of these lengths, with this many scored tokens at their ends (default: all)."""

    def __init__(self, lengths: Sequence[int], scored: Sequence[int] | None = None) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.scored_counts = self.lengths if scored is None else np.asarray(scored, dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.read: list[tuple[int, int]] = []
        flags = (np.arange(size) >= size - n for size, n in zip(self.lengths, self.scored_counts, strict=True))
        self._scored = np.concatenate(list(flags))

    def slice(self, start: int, stop: int):
        self.read.append((start, stop))
        return np.arange(start, stop) + FIRST, self._scored[start:stop]


@pytest.fixture
def make(vocab):
    """Batches of a store: options are those of DataConfig, and rows, seed and documents."""

    def make_batches(store, *, rows: int = 3, seed: int | None = 0, documents=None, **options) -> Batches:
        config = DataConfig(**({"sequence_length": 16} | options))
        documents = range(len(store.lengths)) if documents is None else documents
        return Batches(store, config, vocab, rows=rows, seed=seed, documents=documents)

    return make_batches


def lengths(count: int = 40, largest: int = 14, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).integers(2, largest, count)


def chat(count: int = 40, seed: int = 0) -> Documents:
    sizes = lengths(count, seed=seed)
    return Documents(sizes, (sizes + 1) // 2)


def same(one: TokenBatch, other: TokenBatch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in NAMES)


def seen(batches: Batches, epoch: int) -> list[int]:
    """Documents of the rows of an epoch, in order; needs batches of one row."""
    first = epoch * batches.rows_per_epoch
    return [name for row in range(first, first + batches.rows_per_epoch) for name in batches.document_names(row)[0]]


def drawn(batch: TokenBatch, store: Documents, eos: int) -> list[str]:
    """Each row as a text: letters are documents, large ones scored; . is eos in a document, a gap is padding."""
    owner = np.repeat(np.arange(len(store.lengths)), store.lengths)
    rows = []
    for tokens, scored, names in zip(batch.tokens.tolist(), batch.scored.tolist(), batch.doc_ids.tolist(), strict=True):
        text = ""
        for token, learnt, name in zip(tokens, scored, names, strict=True):
            letter = "." if token == eos else chr(ord("a") + owner[token - FIRST])
            assert learnt or letter != "." or name < 0  # a fill is part of the answer
            text += " " if name < 0 else letter.upper() if learnt else letter
        rows.append(text)
    return rows


KINDS = {
    "text": (Documents(lengths()), {}),
    "text-rows": (Documents(lengths()), {"packing": False}),
    "chat": (chat(), {"format": "chat"}),
    "chat-filled": (chat(), {"format": "chat", "eos_fill": 9}),
    "chat-longest": (chat(), {"format": "chat", "packing": False, "eos_fill": None}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_a_function_of_the_step(make, kind):
    store, options = KINDS[kind]
    batches = make(store, **options)
    steps = 3 * batches.rows_per_epoch // batches.rows + 2
    wanted = [batches.batch(step) for step in range(steps)]
    fresh = make(store, **options)
    for step in np.random.Generator(np.random.Philox(3)).permutation(steps).tolist():
        assert same(fresh.batch(step), wanted[step])
    resumed = make(store, **options)  # to go on after n steps is to ask for batch n
    assert all(same(resumed.batch(step), wanted[step]) for step in range(steps - 3, steps))
    assert not same(make(store, seed=1, **options).batch(0), wanted[0])
    assert not any(same(one, other) for one, other in pairwise(wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_is_well_formed(make, vocab, kind):
    store, options = KINDS[kind]
    batches = make(store, **options)
    for step in range(batches.rows_per_epoch // 3 + 2):
        batch = batches.batch(step)
        rows, width = batch.tokens.shape
        assert rows == 3
        assert width == 16 if options.get("packing", True) else width <= 16
        assert batch.rows.tolist() == [0, 1, 2]
        assert (batch.tokens.dtype, batch.scored.dtype) == (torch.int64, torch.bool)
        padding = batch.doc_ids == -1
        assert (batch.tokens[padding] == vocab.eos).all()
        assert not batch.scored[padding].any()
        for doc_ids, positions in zip(batch.doc_ids.tolist(), batch.positions.tolist(), strict=True):
            count = max(doc_ids) + 1
            found = [[p for d, p in zip(doc_ids, positions, strict=True) if d == name] for name in range(count)]
            assert found == [list(range(len(own))) for own in found]  # from 0 in each document
            order = [d for d in doc_ids if d >= 0]
            assert order == sorted(order) == doc_ids[: len(order)]  # one after the other, padding behind them


@pytest.mark.parametrize("kind", ["text-rows", "chat", "chat-filled", "chat-longest"])
def test_every_epoch_has_every_document_in_another_order(make, kind):
    store, options = KINDS[kind]
    batches = make(store, rows=1, **options)
    epochs = [seen(batches, epoch) for epoch in range(3)]
    assert all(sorted(names) == list(range(40)) for names in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_continuous_epochs_have_every_token_once_but_the_tail(make):
    store = Documents(lengths())
    batches = make(store, rows=1)
    total = int(store.lengths.sum())
    assert batches.rows_per_epoch == total // 16
    for epoch in range(3):
        steps = range(epoch * batches.rows_per_epoch, (epoch + 1) * batches.rows_per_epoch)
        tokens = torch.cat([batches.batch(step).tokens.flatten() for step in steps])
        assert len(tokens.unique()) == len(tokens) == total // 16 * 16
        assert FIRST <= int(tokens.min()) <= int(tokens.max()) < FIRST + total


def test_epochs_follow_each_other_within_a_batch(make):
    store = Documents([4] * 10)
    names = [make(store, packing=False, rows=4).document_names(step) for step in range(5)]
    flat = [name for rows in names for row in rows for name in row]
    assert len(flat) == 20
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))


def test_only_the_documents_that_were_given(make):
    store = Documents([4] * 10)
    assert sorted(seen(make(store, rows=1, packing=False, documents=range(3, 7)), 1)) == [3, 4, 5, 6]
    held_out = make(store, seed=None, documents=range(6, 10), packing=False)
    assert [row for batch in range(1) for row in held_out.document_names(batch)] == [[6], [7], [8]]


def test_held_out_documents_are_a_fixed_sample_of_all():
    learnt, held_out = hold_out(1000, 0.1)
    assert len(held_out) == 100
    assert sorted([*learnt, *held_out]) == list(range(1000))
    assert learnt.tolist() == sorted(learnt)
    assert 30 < sum(document < 500 for document in held_out) < 70  # from both halves, so from both files of two
    assert 3 < sum(document < 500 for document in held_out[:20]) < 17  # and so are the first few
    assert held_out.tolist() == hold_out(1000, 0.1)[1].tolist()
    assert sorted(hold_out_by_count(7, 1)[1]) == list(range(7))
    assert [len(some) for some in hold_out(1, 0.5)] == [1, 0]  # something is left to learn
    assert [len(some) for some in hold_out(300, 0)] == [300, 0]


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 1 / 3, 0.5, 0.7, 0.95])
def test_more_documents_move_none_between_training_and_held_out(share):
    before, sizes = hold_out(2, share), []
    for count in range(3, 300, 11):
        learnt, held_out = hold_out(count, share)
        assert np.array_equal(np.sort(np.concatenate([learnt, held_out])), np.arange(count))
        assert set(before[0]) <= set(learnt)
        assert set(before[1]) <= set(held_out)
        before = learnt, held_out
        sizes.append(len(held_out) - count * share)
    assert min(len(some) for some in hold_out(2, share)) == 1
    assert max(map(abs, sizes)) <= 1  # the share is kept to within a document


def test_the_rule_of_the_first_version_stays_what_it_was():
    """Runs that were begun with it are resumed with it; the order of validation files is by it, too."""
    learnt, held_out = hold_out_by_count(20, 0.2)
    assert held_out.tolist() == [7, 18, 6, 17]
    assert learnt.tolist() == sorted(set(range(20)) - set(held_out.tolist()))


def test_without_a_document_mask_a_row_is_one_text(make):
    store = Documents([5, 11, 9, 3, 20])
    apart, joined = (next(make(store, seed=None, rows=2, document_mask=on).once()) for on in (True, False))
    assert torch.equal(apart.tokens, joined.tokens)
    assert int(apart.doc_ids.max()) == 2
    assert joined.doc_ids.tolist() == [[0] * 16] * 2
    assert joined.positions.tolist() == [list(range(16))] * 2


def test_epochs_whose_plans_differ_in_rows_keep_every_step_defined(make, monkeypatch):
    monkeypatch.setattr(packing, "POOL", 5)
    batches = make(KINDS["chat"][0], rows=1, format="chat")
    epochs = [seen(batches, epoch) for epoch in range(6)]
    assert len(set(map(len, epochs))) > 1
    assert all(len(set(names)) > 30 for names in epochs)  # at most the documents of some rows are left out
    assert sorted(epochs[0]) == list(range(40))


def test_names_are_those_of_the_rows(make):
    store = Documents(lengths())
    for options in ({}, {"format": "chat"}, {"packing": False}):
        batches = make(store, **options)
        for step in (0, 2, 17):
            batch, names = batches.batch(step), batches.document_names(step)
            owner = np.repeat(np.arange(40), store.lengths)
            for tokens, own, row in zip(batch.tokens, batch.doc_ids, names, strict=True):
                kept = own >= 0
                assert [row[name] for name in own[kept].tolist()] == owner[tokens[kept].numpy() - FIRST].tolist()


def test_once_goes_through_in_order(make):
    store = Documents([5, 11, 9, 3, 20])
    batches = make(store, rows=2, seed=None)
    found = list(batches.once())
    assert [len(batch.tokens) for batch in found] == [2, 1]
    assert torch.cat([batch.tokens for batch in found]).flatten().tolist() == list(range(FIRST, FIRST + 48))
    assert [batch.rows.tolist() for batch in found] == [[0, 1], [0]]
    assert found[1].positions[0].tolist() == list(range(16))  # a piece that goes on starts afresh
    assert [len(batch.tokens) for batch in batches.once(limit=1)] == [1]
    assert [len(batch.tokens) for batch in batches.once(limit=99)] == [2, 1]
    assert same(next(batches.once()), next(batches.once()))
    alone = make(store, rows=2, seed=None, packing=False)
    assert [drawn(batch, store, 1) for batch in alone.once()] == [
        ["AAAAA      ", "BBBBBBBBBBB"],
        ["CCCCCCCCC", "DDD      "],
        ["EEEEEEEEEEEEEEEE"],  # as long as a row; the rest is cut
    ]


FILLS = [
    (0, ["aaAAcCCCCC", "BB"]),
    (1, ["aaAAcCCCCC", "BB"]),
    (3, ["aaAA.", "BB.cCCCCC"]),
    (4, ["aaAA..BB..", "cCCCCC"]),
    (5, ["aaAA...", "BB...", "cCCCCC"]),
    (7, ["aaAA.....", "BB.....", "cCCCCC.."]),
]


@pytest.mark.parametrize(("fill", "rows"), FILLS)
def test_answers_are_filled_up_to_a_length_and_not_beyond(make, fill, rows):
    store = Documents([4, 2, 6], [2, 2, 5])
    batches = make(store, seed=None, rows=4, format="chat", eos_fill=fill, sequence_length=10)
    (batch,) = batches.once()
    assert [row.rstrip() for row in drawn(batch, store, 1)] == rows


def test_a_fill_goes_on_with_the_document_and_ends_with_the_row(make):
    store = Documents([4, 9], [2, 3])
    batches = make(store, seed=None, rows=2, format="chat", eos_fill=6, sequence_length=10, packing=False)
    (batch,) = batches.once()
    assert drawn(batch, store, 1) == ["aaAA....  ", "bbbbbbBBB."]
    assert batch.positions[0].tolist() == [*range(8), 0, 0]
    assert batch.doc_ids[0].tolist() == [0] * 8 + [-1] * 2


def test_answers_are_filled_to_the_longest_of_the_batch(make):
    store = Documents([4, 2, 6, 5, 3], [2, 2, 5, 1, 3])
    options = {"format": "chat", "packing": False, "eos_fill": None, "seed": None}
    wide = [drawn(batch, store, 1) for batch in make(store, **options).once()]
    assert wide == [["aaAA...", "BB...  ", "cCCCCC "], ["ddddD..", "EEE    "]]
    narrow = [drawn(batch, store, 1) for batch in make(store, sequence_length=5, **options).once()]
    assert narrow == [["aaAA.", "BB.. ", "cCCCC"], ["ddddD", "EEE  "]]


def test_too_little_data_is_refused(make):
    message = "2 documents do not fill one row of 16 tokens; give more data or a smaller sequence_length"
    with pytest.raises(UserError) as caught:
        make(Documents([7, 8]))
    assert str(caught.value) == message
    assert make(Documents([8, 8])).rows_per_epoch == 1
    assert make(Documents([1]), packing=False).rows_per_epoch == 1
    for options in ({}, {"packing": False}, {"format": "chat"}):
        with pytest.raises(UserError, match=r"^0 documents do not fill one row"):
            make(Documents([7, 8]), documents=range(2, 2), **options)


def test_only_what_a_batch_needs_is_read(make):
    store = Documents([1000] * 1000)
    batches = make(store, rows=4)
    assert store.read == []
    batches.batch(12_345)
    assert sum(stop - start for start, stop in store.read) == 4 * 16


def test_data_larger_than_the_memory(make, tmp_path):
    count, size = 1000, 40_000_000  # 40 thousand million tokens; the files are holes
    for name, width in (("tokens.bin", 2), ("scored.bin", 1)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(count * size * width)
    np.save(tmp_path / "starts.npy", np.arange(count + 1, dtype=np.int64) * size)
    np.save(tmp_path / "text_bytes.npy", np.ones(count, dtype=np.int64))
    np.save(tmp_path / "scored_counts.npy", np.full(count, size))
    np.save(tmp_path / "first_scored.npy", np.zeros(count, dtype=np.int64))
    np.save(tmp_path / "rows.npy", np.arange(count, dtype=np.int64))
    (tmp_path / "meta.json").write_text(json.dumps({"dtype": "uint16", "tokens": count * size}), encoding="utf-8")
    store = TokenStore(tmp_path)
    batches = make(store, sequence_length=256)
    assert batches.rows_per_epoch == count * size // 256
    batch = batches.batch(batches.rows_per_epoch // 3 - 1)
    assert batch.tokens.shape == (3, 256)
    assert int(batch.tokens.max()) == 0


def test_text_on_disk_comes_back_from_batches(make, tmp_path, vocab):
    texts = [f"第{i}句：one two {i}。" for i in range(30)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    tokenizer = train_characters(texts)
    sources, bad = resolve([str(tmp_path / "a.jsonl")]), BadRows("stop")
    store = open_store(sources, tokenizer, Encoding("text"), cache=Path(tmp_path / "cache"), bad_rows=bad)
    config = DataConfig(sequence_length=32, packing=False)
    batches = Batches(store, config, tokenizer.vocab, rows=8, seed=0, documents=range(30))
    found = set()
    for step in range(4):
        for row in batches.batch(step).tokens.tolist():
            found.add(tokenizer.decode(row, specials=False))
    assert found == set(texts)
