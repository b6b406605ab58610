"""Infilling: where spans are cut, what a model sees of the rest, and planted writers with scores known beforehand."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Autoregressive, Block, Diffusion
from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import Tokenizer, train_characters
from nano_llada.evaluation.figures import figures
from nano_llada.evaluation.items import Passage
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites.infilling import Infilling
from planted import wrote

LETTERS = "abcdefghijklmnopqrstuvwxyz"  # passages go round it, so that a letter says what comes next
WAYS = {
    "ar": Autoregressive(temperature=1.0, seed=5),
    "diffusion": Diffusion(temperature=1.0, threshold=0.2),
    "block": Block(temperature=1.0, block_size=4, threshold=0.2),
}
SURE = {"ar": Autoregressive(), "diffusion": Diffusion(steps=2), "block": Block(block_size=8, cached=False)}


def passage(number: int, length: int = 90) -> Passage:
    text = "".join(LETTERS[(7 * number + i) % 26] for i in range(length))
    return Passage(text, "en", "letters", str(number))


PASSAGES = [passage(number) for number in range(12)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_characters([LETTERS])


@pytest.fixture(scope="module")
def subject(make_model, tokenizer) -> Subject:
    model = make_model(seed=3, peak=4.0, vocab_size=tokenizer.vocab.size, max_length=224)
    return Subject("m", Checkpoint(model, tokenizer, ModelCard("diffusion"), Path()), WAYS["diffusion"], "way")


class Planted:
    """Writes for each request, in one pass, what `answer` says; remembers requests and decoding."""

    def __init__(self, tokenizer, answer):
        self.ends, self.answer, self.requests, self.decodings = tokenizer.vocab.ends, answer, [], []

    def stream(self, requests, stop=None):
        self.requests += requests
        answers = [self.answer(request) for request in requests]
        yield [wrote(i, range(len(a)), a, last=True) for i, a in enumerate(answers)]


@pytest.fixture
def plant(monkeypatch, tokenizer):
    def put(answer):
        sampler = Planted(tokenizer, answer)

        def make(model, vocab, decoding):
            sampler.decodings.append(decoding)
            return sampler

        monkeypatch.setattr("nano_llada.evaluation.suite.make_sampler", make)
        return sampler

    return put


def score(records):
    return {(f.task, f.metric): f.value for f in figures(records, lambda _: Infilling.metrics)}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_model_sees_of_a_passage(subject, tokenizer, plant, way):
    sampler = plant(lambda request: tokenizer.encode("a" * request.max_new_tokens))
    suite = Infilling(PASSAGES, spans=(2, 5), context=20)
    records = list(suite.run(replace(subject, decoding=WAYS[way])))
    assert [record.task for record in records] == ["span 2"] * 12 + ["span 5"] * 12
    assert [decoding.min_new_tokens for decoding in sampler.decodings] == [2, 5]
    assert all(replace(d, min_new_tokens=0) == WAYS[way] for d in sampler.decodings)
    for request, record in zip(sampler.requests, records, strict=True):
        seen = record.detail
        assert request.max_new_tokens == record.values["tokens"]
        assert request.prompt == (tokenizer.vocab.eos, *tokenizer.encode(seen["left"]))
        assert request.fill == (way == "diffusion")
        assert tokenizer.decode(request.suffix) == (seen["right"] if way == "diffusion" else "")
        assert seen["sees"] == ("both" if way == "diffusion" else "left")
    assert len({request.seed for request in sampler.requests}) == 24
    for record in records:
        name, cut_by = record.item.split("@")
        assert cut_by == tokenizer.hash[:6]  # another tokenizer cuts other spans
        detail, text = record.detail, PASSAGES[int(name.removeprefix("letters/"))].text
        place, size = detail["place"], int(record.values["tokens"])
        assert detail["expected"] == text[place : place + size]
        assert text[:place].endswith(detail["left"])
        assert text[place + size :].startswith(detail["right"])
        assert (16 <= len(detail["left"]) <= 20, 16 <= len(detail["right"]) <= 20) == (True, True)


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_knows_fills_every_gap_though_it_would_rather_end(subject, tokenizer, table_model, way):
    first, end = tokenizer.encode("a")[0], list(tokenizer.vocab.ends)

    def rule(tokens, positions):
        # without a mask a letter tells the next one, with masks the first that is seen tells all
        letters = tokens + 1 - first if way == "ar" else tokens[:, 1:2] - first + positions - 1
        logits = torch.zeros(*tokens.shape, tokenizer.vocab.size)
        logits.scatter_(-1, (first + letters % 26)[..., None], 30.0)
        logits[..., end] = 60.0
        return logits

    model = table_model(rule, max_length=224)
    subject = replace(subject, checkpoint=replace(subject.checkpoint, model=model), decoding=SURE[way])
    found = score(list(Infilling(PASSAGES, batch_size=5).run(subject)))
    for span in (1, 4, 16):
        assert found[f"span {span}", "exact_match"] == found[f"span {span}", "token_accuracy"] == 1
    assert found["span 16", "tpf"] == (1 if way == "ar" else pytest.approx(8, abs=2.7))
    assert found["span 1", "tpf"] == 1


def test_a_writer_that_always_says_the_same(subject, tokenizer, plant):
    plant(lambda request: tokenizer.encode("a" * request.max_new_tokens))
    records = list(Infilling(PASSAGES, spans=(1, 4), per_span=5).run(subject))
    for span in (1, 4):
        cut = [record.detail["expected"] for record in records if record.task == f"span {span}"]
        assert len(cut) == 60
        found = score(records)
        assert found[f"span {span}", "token_accuracy"] == sum(text.count("a") for text in cut) / (60 * span)
        assert found[f"span {span}", "exact_match"] == sum(text == "a" * span for text in cut) / 60
    assert found["span 1", "exact_match"] > 0
    assert found["span 4", "exact_match"] == 0
    assert found["span 4", "tpf"] == 4


def test_a_writer_that_guesses(subject, tokenizer, plant):
    def guess(request):
        rng = random.Random(request.seed)
        return tokenizer.encode("".join(rng.choice(LETTERS) for _ in range(request.max_new_tokens)))

    plant(guess)
    records = list(Infilling(PASSAGES, spans=(16,), per_span=20).run(subject))
    pairs = [(a, b) for r in records for a, b in zip(r.detail["written"], r.detail["expected"], strict=True)]
    right = sum(a == b for a, b in pairs)
    assert len(pairs) == 12 * 20 * 16
    assert 80 < right < 220  # about one in 26
    assert score(records)["span 16", "token_accuracy"] == pytest.approx(right / len(pairs))
    assert {record.values["token_right"] for record in records} > {0, 1}


@pytest.mark.parametrize("way", WAYS)
def test_neither_batches_nor_order_change_what_is_written(subject, way):
    subject = replace(subject, decoding=WAYS[way])
    uneven = [passage(number, 50 + 9 * number) for number in range(7)]

    def written(passages, batch_size):
        records = Infilling(passages, spans=(1, 6), batch_size=batch_size).run(subject)
        return {(record.task, record.item): record for record in records}

    together = written(uneven, 64)
    assert len({record.detail["written"] for record in together.values()}) > 7
    assert all(len(record.detail["written"]) >= 6 for (task, _), record in together.items() if task == "span 6")
    assert written(uneven, 1) == written(uneven[::-1], 3) == together


def test_places_are_drawn_by_seed_and_passage_alone(subject, plant, tokenizer):
    plant(lambda request: tokenizer.encode("a" * request.max_new_tokens))

    def places(passages=PASSAGES, **options):
        records = Infilling(passages, **{"spans": (4,)} | options).run(subject)
        found: dict[str, list[int]] = {}
        for record in records:
            found.setdefault(record.item.split("@")[0], []).append(record.detail["place"])
        return found

    assert places() == places(batch_size=2)
    assert len({place for (place,) in places().values()}) > 4
    assert places() != places(seed=1)
    assert places(PASSAGES[6:]).items() < places().items()
    tight = places([passage(0, 16 + 4 + 16), passage(1, 40)], per_span=9)
    assert sorted(tight["letters/0"]) == [16]
    assert sorted(tight["letters/1"]) == [16, 17, 18, 19, 20]


def test_short_passages_are_left_out_and_counted(subject, plant, tokenizer):
    plant(lambda request: tokenizer.encode("a" * request.max_new_tokens))
    suite = Infilling([passage(0), passage(1, 36), passage(2, 32)], spans=(1, 4, 5))
    records = [(r.task, r.item, r.detail["skipped"]) for r in suite.run(subject)]
    names = [f"letters/{number}@{tokenizer.hash[:6]}" for number in range(2)]
    assert sorted(records) == [
        ("span 1", names[0], 1),
        ("span 1", names[1], 1),
        ("span 4", names[0], 1),
        ("span 4", names[1], 1),
        ("span 5", names[0], 2),
    ]
    with pytest.raises(UserError, match="none of the 1 passages has the 48 tokens that a span of 16"):
        list(Infilling([passage(0, 47)]).run(subject))


def test_mistakes_are_refused(subject):
    for changes, message in (
        ({"passages": ()}, "passages must be at least one"),
        ({"passages": [passage(0), passage(0)]}, "letters/0 comes twice"),
        ({"spans": ()}, "spans must be different"),
        ({"spans": (0, 1)}, "at least 1"),
        ({"spans": (4, 4)}, "different"),
        ({"per_span": 0}, "per_span must be at least 1"),
        ({"context": 15}, "context must be at least 16"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Infilling(**{"passages": PASSAGES} | changes)
    with pytest.raises(
        UserError, match="up to 104 tokens on each side of 16, 225 with the start, but the context of m"
    ):
        next(Infilling(PASSAGES, context=104).run(subject))
