"""Batches of preference pairs: two answers side by side in every batch of every epoch, cut and filled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from nano_llada.config.data import DataConfig
from nano_llada.core.errors import UserError
from nano_llada.data.pairs import PairBatches, usable_pairs
from nano_llada.data.read import BadRows, resolve
from nano_llada.data.store import Encoding, open_store
from nano_llada.data.tokenizer import train_characters
from test_loader import Documents, drawn, same


class Pairs(Documents):
    """A preference store in memory: for each pair the lengths of its prompt, its chosen and its rejected answer."""

    def __init__(self, *sizes: tuple[int, int, int]) -> None:
        answers = [size for _, chosen, rejected in sizes for size in (chosen, rejected)]
        prompts = [prompt for prompt, _, _ in sizes for _ in range(2)]
        super().__init__([sum(both) for both in zip(prompts, answers, strict=True)], answers)
        self.first_scored = np.asarray(prompts)


FEW = Pairs((2, 3, 1), (1, 2, 4), (3, 1, 2))
MANY = Pairs(*np.random.Generator(np.random.Philox(0)).integers(1, 7, (21, 3)).tolist())


@pytest.fixture
def make(vocab):
    """Batches of a store of pairs: options are those of DataConfig, and rows, seed and pairs."""

    def make_batches(
        store: Pairs, *, rows: int = 4, seed: int | None = 0, pairs: Sequence[int] | None = None, **options
    ) -> PairBatches:
        config = DataConfig(**({"format": "preference", "packing": False, "sequence_length": 16} | options))
        chosen = range(len(store.lengths) // 2) if pairs is None else pairs
        return PairBatches(store, config, vocab, rows=rows, seed=seed, pairs=chosen)

    return make_batches


def pairs_of(batches: PairBatches, steps: Sequence[int]) -> list[int]:
    """Numbers of the pairs of some batches, in order; complains about an answer that stands without its other half."""
    found = []
    for step in steps:
        names = batches.document_names(step)
        for chosen, rejected in zip(names[::2], names[1::2], strict=True):
            assert rejected == [chosen[0] + 1]
            assert chosen[0] % 2 == 0
            found.append(chosen[0] // 2)
    return found


PICTURES = [
    ({}, ["aaAAA", "bbB  "], ["cCC  ", "dDDDD"], ["eeeE ", "fffFF"]),
    ({"eos_fill": 2}, ["aaAAA", "bbB. "], ["cCC  ", "dDDDD"], ["eeeE.", "fffFF"]),
    ({"eos_fill": 3}, ["aaAAA ", "bbB.. "], ["cCC.  ", "dDDDD "], ["eeeE..", "fffFF."]),
    ({"eos_fill": None}, ["aaAAA. ", "bbB... "], ["cCC..  ", "dDDDD  "], ["eeeE...", "fffFF.."]),
    ({"sequence_length": 4}, ["aaAA", "bbB "], ["cCC ", "dDDD"], ["eeeE", "fffF"]),
    ({"sequence_length": 4, "eos_fill": 3}, ["aaAA", "bbB."], ["cCC.", "dDDD"], ["eeeE", "fffF"]),
    ({"sequence_length": 5, "eos_fill": None}, ["aaAAA", "bbB.."], ["cCC..", "dDDDD"], ["eeeE.", "fffFF"]),
]


@pytest.mark.parametrize(("options", "first", "second", "third"), PICTURES)
def test_pictures(make, options, first, second, third):
    (batch,) = make(FEW, rows=6, seed=None, **options).once()
    assert drawn(batch, FEW, 1) == [*first, *second, *third]
    assert batch.rows.tolist() == list(range(6))
    widths = (batch.doc_ids == 0).sum(1).tolist()
    assert [row[:width] for row, width in zip(batch.positions.tolist(), widths, strict=True)] == [
        list(range(width)) for width in widths
    ]
    assert sorted(batch.doc_ids.unique().tolist()) in ([-1, 0], [0])


def test_a_batch_is_as_wide_as_its_own_longest_answer(make):
    wide, narrow = make(FEW, rows=4, seed=None).once()
    assert drawn(wide, FEW, 1) == ["aaAAA", "bbB  ", "cCC  ", "dDDDD"]
    assert drawn(narrow, FEW, 1) == ["eeeE ", "fffFF"]
    assert narrow.rows.tolist() == [0, 1]
    alone = make(FEW, rows=2, seed=None, eos_fill=None, pairs=[2, 0])
    assert [drawn(batch, FEW, 1) for batch in alone.once()] == [["eeeE.", "fffFF"], ["aaAAA", "bbB.."]]


def test_pairs_stay_together_and_every_epoch_has_all_in_another_order(make):
    for rows in (2, 4, 10):
        batches = make(MANY, rows=rows)
        assert (batches.rows, batches.rows_per_epoch) == (rows, 42)
        order = pairs_of(batches, range(3 * 21))
        epochs = [order[21 * epoch : 21 * epoch + 21] for epoch in range(3)]
        assert all(sorted(epoch) == list(range(21)) for epoch in epochs)  # also where a batch begins in the one before
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_tokens_are_those_of_the_named_documents(make):
    batches = make(MANY, rows=6)
    for step in (0, 3, 40):
        for picture, (name,) in zip(drawn(batches.batch(step), MANY, 1), batches.document_names(step), strict=True):
            letter, prompt = chr(ord("a") + name), int(MANY.first_scored[name])
            answer = letter.upper() * int(MANY.scored_counts[name])
            assert picture.rstrip() == letter * prompt + answer


@pytest.mark.parametrize("fill", [0, 5, None])
def test_a_batch_is_a_function_of_the_step(make, fill):
    batches = make(MANY, eos_fill=fill)
    wanted = [batches.batch(step) for step in range(25)]
    fresh = make(MANY, eos_fill=fill)
    for step in np.random.Generator(np.random.Philox(3)).permutation(25).tolist():
        assert same(fresh.batch(step), wanted[step])
    resumed = make(MANY, eos_fill=fill)  # to go on after 17 steps is to ask for batch 17
    assert all(same(resumed.batch(step), wanted[step]) for step in range(17, 25))
    assert not same(make(MANY, eos_fill=fill, seed=1).batch(0), wanted[0])
    assert not any(same(one, other) for one, other in pairwise(wanted))


def test_without_a_seed_the_order_is_the_one_given(make):
    batches = make(MANY, rows=4, seed=None, pairs=[5, 3, 20])
    assert pairs_of(batches, range(3)) == [5, 3, 20, 5, 3, 20]  # over the ends of epochs
    assert sorted(pairs_of(make(MANY, rows=2, pairs=[5, 3, 20]), range(3))) == [3, 5, 20]


def test_once_gives_whole_pairs(make):
    batches = make(MANY, rows=4, seed=None)
    sizes = {limit: [len(batch.tokens) for batch in batches.once(limit)] for limit in (0, 1, 2, 5, 6, None)}
    assert sizes == {0: [], 1: [2], 2: [2], 5: [4, 2], 6: [4, 2], None: [4] * 10 + [2]}
    assert same(next(batches.once()), batches.batch(0))


def test_pairs_whose_answers_begin_too_late_are_left_out():
    store = Pairs((4, 1, 9), (5, 1, 1), (3, 9, 1), (6, 2, 2))
    assert usable_pairs(store, 5).tolist() == [0, 2]
    assert usable_pairs(store, 6).tolist() == [0, 1, 2]
    assert usable_pairs(store, 4).tolist() == [2]
    assert usable_pairs(store, 3).tolist() == []
    store.first_scored[1] = 8  # one of the two is enough
    assert usable_pairs(store, 6).tolist() == [1, 2]


def test_what_is_refused(make):
    for rows in (0, 1, 3, -2):
        with pytest.raises(UserError) as caught:
            make(FEW, rows=rows)
        assert str(caught.value) == f"a batch of {rows} rows does not hold whole pairs; give an even batch_size"
    with pytest.raises(UserError, match=r"^no pair of answers to learn from; give more data or a larger"):
        make(FEW, pairs=[])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "format 'preference' keeps each answer in a row of its own; turn packing off"),
        ({"packing": False, "turns": "each"}, "turns 'each' has no effect with format 'preference'"),
        ({"packing": False, "turns": "last"}, "turns 'last' has no effect with format 'preference'"),
        ({"packing": False, "eos_fill": 256}, "eos_fill 256 leaves no room for a prompt in sequence_length 256"),
    ],
)
def test_the_config_refuses_what_has_no_effect(options, reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        DataConfig(format="preference", **options)
    assert DataConfig(format="preference", packing=False, eos_fill=None).eos_fill is None


def test_files_come_back_from_batches(tmp_path):
    rows = [{"prompt": f"{i}?", "chosen": f"yes {i}", "rejected": "no" * (i + 1)} for i in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = train_characters(["user assistant 0123456789? yes no"])
    sources, bad = resolve([str(tmp_path / "a.jsonl")]), BadRows("stop")
    store = open_store(sources, tokenizer, Encoding("preference"), cache=tmp_path / "cache", bad_rows=bad)
    config = DataConfig(format="preference", packing=False, sequence_length=64, eos_fill=12)
    usable = usable_pairs(store, config.sequence_length)
    batches = PairBatches(store, config, tokenizer.vocab, rows=6, seed=0, pairs=usable)
    found = set()
    for step in range(3):
        batch = batches.batch(step)
        asked = ~batch.scored & (batch.doc_ids == 0)
        prompts = [tokenizer.decode(row[where].tolist()) for row, where in zip(batch.tokens, asked, strict=True)]
        assert prompts[::2] == prompts[1::2]
        questions = [prompt.split("\n")[1].removesuffix("<|im_end|>") for prompt in prompts]
        answers = [
            tokenizer.decode(row[where].tolist(), specials=False)
            for row, where in zip(batch.tokens, batch.scored, strict=True)
        ]
        found |= set(zip(questions[::2], answers[::2], answers[1::2], strict=True))
    assert found == {(row["prompt"], row["chosen"], row["rejected"]) for row in rows}
