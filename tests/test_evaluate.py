"""Measuring: answers against a sampler that is always or never right, likelihoods against sums."""

from __future__ import annotations

import math

import pytest
import torch

from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.core.batch import TokenBatch
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.types import Completion
from nano_llada.evaluation import likelihood
from nano_llada.evaluation.answers import Answer, answer_examples, exact_match
from nano_llada.evaluation.likelihood import text_likelihood
from nano_llada.evaluation.statistics import wilson
from nano_llada.objectives.likelihood import exact_nll
from nano_llada.session.run import BUNDLED_TOKENIZER
from nano_llada.world import Example, examples
from planted import wrote
from tiny import family

TEXTS = ["Tom has a red ball.", "汤姆有一个红色的球，艾米有一只蓝色的猫。" * 3, "x", "Amy"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(BUNDLED_TOKENIZER)


@pytest.fixture(scope="module")
def questions() -> list[Example]:
    return [example for skill in ("copy", "counting") for example in examples(skill, "test", 5, 0)]


class Oracle:
    """A sampler that knows the answers: it looks a prompt up, and writes one token a pass, or all at once."""

    def __init__(self, tokenizer: Tokenizer, questions: list[Example], *, right: bool, at_once: bool = False) -> None:
        self.ends, self.at_once = tokenizer.vocab.ends, at_once
        self.batches: list[list[int]] = []
        self.known = {}
        for question in questions:
            prompt = tuple(encode_prompt(tokenizer, [Message("user", question.prompt)]))
            answer = question.answer if right else "no idea whatsoever"
            self.known[prompt] = [*tokenizer.encode(answer), tokenizer.vocab.turn_end]

    def stream(self, requests, stop=None):
        self.batches.append([len(request.prompt) for request in requests])
        answers = [self.known[request.prompt] for request in requests]
        if self.at_once:
            yield [wrote(i, range(len(a)), a, last=True) for i, a in enumerate(answers)]
            return
        for place in range(max(map(len, answers))):
            yield [
                wrote(i, (place,), (answer[place],), last=place + 1 == len(answer), forwards=place + 1)
                for i, answer in enumerate(answers)
                if place < len(answer)
            ]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_sampler_that_knows_gets_everything_right(tokenizer, questions, at_once, batch_size):
    sampler = Oracle(tokenizer, questions, right=True, at_once=at_once)
    answers = answer_examples(sampler, tokenizer, questions, batch_size)
    assert [answer.example for answer in answers] == questions
    assert [answer.text for answer in answers] == [question.answer for question in questions]
    assert exact_match(answers) == 1.0
    assert all(answer.completion.finish == "stop" for answer in answers)
    assert max(map(len, sampler.batches)) == min(batch_size, len(questions))
    flat = [length for batch in sampler.batches for length in batch]
    assert flat == sorted(flat)  # similar lengths are written together


def test_a_sampler_that_does_not_gets_nothing_right(tokenizer, questions):
    answers = answer_examples(Oracle(tokenizer, questions, right=False), tokenizer, questions)
    assert exact_match(answers) == 0.0


def test_exact_match_is_a_share_of_a_skill_and_language(questions):
    done = Completion([], "stop", 1, 0.0, 0.0)
    rights = [question.skill == "copy" and question.language == "zh" for question in questions]
    answers = [Answer(question, "", right, done) for question, right in zip(questions, rights, strict=True)]
    assert exact_match(answers) == 0.25
    assert exact_match(answers, skill="copy") == exact_match(answers, language="zh") == 0.5
    assert exact_match(answers, skill="copy", language="zh") == 1.0
    assert exact_match(answers, skill="counting") == 0.0
    assert math.isnan(exact_match(answers, skill="juggling"))
    assert exact_match(iter(answers)) == 0.25


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Checkpoint]:
    place = family(tmp_path_factory.getbasetemp())
    return {track: load_checkpoint(place.runs / track) for track in ("ar", "diffusion")}


def windows(monkeypatch, checkpoint: Checkpoint, texts: list[str], window: int, batch_size: int) -> list[TokenBatch]:
    seen: list[TokenBatch] = []
    monkeypatch.setattr(likelihood, "exact_nll", lambda model, batch: (seen.append(batch), exact_nll(model, batch))[1])
    text_likelihood(checkpoint, texts, window=window, batch_size=batch_size)
    return seen


@pytest.mark.parametrize("window", [2, 7, 64])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_hold_every_token_once(models, monkeypatch, window, batch_size):
    tokenizer = models["ar"].tokenizer
    batches = windows(monkeypatch, models["ar"], TEXTS, window, batch_size)
    pieces = {}
    rows = [
        derive_seed(number, place)
        for number, text in enumerate(TEXTS)
        for place in range(math.ceil(len(tokenizer.encode(text)) / (window - 1)))
    ]
    for batch in batches:
        assert len(batch.tokens) <= batch_size
        assert batch.tokens.shape[1] <= window
        for row, tokens, scored, docs, positions in zip(
            batch.rows.tolist(), batch.tokens, batch.scored, batch.doc_ids, batch.positions, strict=True
        ):
            assert (tokens[0].item(), scored[0].item()) == (tokenizer.vocab.eos, False)
            assert torch.equal(scored[1:], docs[1:] == 0)
            assert positions.tolist() == list(range(len(positions)))
            assert row not in pieces
            pieces[row] = tokens[scored].tolist()
    assert pieces.keys() == set(rows)
    flat = [token for row in rows for token in pieces[row]]
    assert flat == [token for text in TEXTS for token in tokenizer.encode(text)]


@pytest.mark.parametrize("track", ["ar", "diffusion"])
@pytest.mark.parametrize("window", [5, 64])
def test_a_model_that_knows_nothing_takes_log_v_a_token(models, track, window):
    checkpoint = load_checkpoint(models[track].folder)
    with torch.no_grad():
        checkpoint.model.head.weight.zero_()
    found = text_likelihood(checkpoint, TEXTS, window=window, draws=3)
    tokens = sum(len(checkpoint.tokenizer.encode(text)) for text in TEXTS)
    size = sum(len(text.encode()) for text in TEXTS)
    nats = math.log(checkpoint.tokenizer.vocab.size)
    assert (found.tokens, found.text_bytes, found.draws) == (tokens, size, 1 if track == "ar" else 3)
    assert found.nats_per_token == pytest.approx(nats, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) * tokens / size, rel=1e-5)
    assert found.standard_error == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("track", ["ar", "diffusion"])
def test_batching_changes_no_likelihood(models, track):
    found = [text_likelihood(models[track], TEXTS, window=16, draws=4, batch_size=size) for size in (1, 4, 64)]
    for other in found[1:]:
        assert other.bits_per_byte == pytest.approx(found[0].bits_per_byte, rel=1e-5)
        assert other.standard_error == pytest.approx(found[0].standard_error, rel=1e-3, abs=1e-7)
        assert (other.tokens, other.text_bytes) == (found[0].tokens, found[0].text_bytes)


def test_texts_add_up_by_their_bytes(models):
    whole = text_likelihood(models["ar"], TEXTS, window=64)
    alone = [text_likelihood(models["ar"], [text], window=64) for text in TEXTS]
    bits = sum(found.bits_per_byte * found.text_bytes for found in alone)
    assert whole.bits_per_byte == pytest.approx(bits / whole.text_bytes, rel=1e-5)


def test_the_error_of_the_bound_shrinks_with_draws_and_covers_their_difference(models):
    few, many = (text_likelihood(models["diffusion"], TEXTS, window=32, draws=n) for n in (4, 64))
    assert 0 < many.standard_error < few.standard_error
    assert abs(few.bits_per_byte - many.bits_per_byte) < 5 * (few.standard_error + many.standard_error)
    again = text_likelihood(models["diffusion"], TEXTS, window=32, draws=4)
    assert again == few
    assert text_likelihood(models["diffusion"], TEXTS, window=32, draws=4, seed=1) != few


def test_nothing_to_measure_is_said(models):
    with pytest.raises(UserError, match="no texts to measure"):
        text_likelihood(models["ar"], [], window=8)
    with pytest.raises(UserError, match="window 257 is longer than the model's context 256"):
        text_likelihood(models["ar"], TEXTS, window=257)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (5, 10, 0.2366, 0.7634),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilsons_interval(right, count, low, high):
    assert wilson(right / count, count) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_wilsons_interval_of_nothing():
    assert all(math.isnan(end) for end in wilson(float("nan"), 0))
