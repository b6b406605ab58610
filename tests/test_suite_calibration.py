"""Calibration: oracles whose sureness and rightness are known, sums by hand, and no figure moved by batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.evaluation.figures import figures
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suites import metrics_of
from nano_llada.evaluation.suites.calibration import BINS, THRESHOLDS, Calibration, value_names
from test_suite_likelihood import Letters, assert_alike, passages, subject

WORDS = ("abc", "red ball on a mat", "x", "a cat sat by the door of a red house with a blue hat")
KINDS = [("ar", {}), ("diffusion", {}), ("diffusion", {"block_size": 5})]


def told(records: Sequence[Record]) -> dict[str, float]:
    return {figure.metric: figure.value for figure in figures(records, metrics_of)}


def always(letter: str, probability: float, vocab, *others: str) -> torch.Tensor:
    """(64, V) logits of a model that gives one letter a probability, and the others the rest."""
    logits = torch.full((64, vocab.size), -100.0)
    for other in others:
        logits[:, Letters(vocab).encode(other)] = math.log((1 - probability) / len(others))
    logits[:, Letters(vocab).encode(letter)] = math.log(probability)
    return logits


@pytest.mark.parametrize(("track", "info"), KINDS)
def test_no_passage_depends_on_batches_order_or_company(peaky, vocab, track, info):
    tested, some = subject(peaky, vocab, track, **info), passages(*WORDS)
    suite = Calibration(some, window=12)
    whole = list(suite.run(tested))
    assert {record.task for record in whole} == {"wiki"}
    assert_alike(whole, list(replace(suite, batch_size=1).run(tested)))
    assert_alike(whole[::-1], list(replace(suite, passages=some[::-1], batch_size=3).run(tested)))
    assert_alike(whole[3:], list(replace(suite, passages=some[3:]).run(tested)))
    other = list(replace(suite, seed=1).run(tested))
    assert ([o.values for o in other] == [w.values for w in whole]) is (track == "ar")
    elsewhere = list(replace(suite, passages=passages(*WORDS, file="news")).run(tested))  # a file's noise is its own
    assert ([e.values for e in elsewhere] == [w.values for w in whole]) is (track == "ar")


@pytest.mark.parametrize(("track", "info"), KINDS)
def test_a_perfect_model_is_sure_and_right(table_model, vocab, track, info):
    text = "red ball on a mat"
    table = torch.zeros(64, vocab.size)
    table[torch.arange(len(text)) + int(track != "ar"), Letters(vocab).encode(text)] = 50.0
    found = told(Calibration(passages(text), window=64).run(subject(table_model(table), vocab, track, **info)))
    assert found["calibration_error"] == pytest.approx(0, abs=1e-6)
    assert {found[name] for name in found if name != "calibration_error"} == {1.0}


@pytest.mark.parametrize("track", ["ar", "diffusion"])
def test_a_model_that_is_sure_and_never_right_is_as_wrong_as_can_be(table_model, vocab, track):
    tested = subject(table_model(always("q", 1 - 1e-9, vocab)), vocab, track)
    found = told(Calibration(passages("red ball"), window=64).run(tested))
    assert found["calibration_error"] == pytest.approx(1, abs=1e-5)
    assert found["accuracy"] == found["accuracy_above_0.95"] == 0
    assert found["share_above_0.95"] == 1


@pytest.mark.parametrize(("probability", "error"), [(0.75, 0.0), (0.92, 0.17)])
def test_sureness_is_compared_with_how_often_it_is_right(table_model, vocab, probability, error):
    tested = subject(table_model(always("a", probability, vocab, "b", "c")), vocab, "ar")
    (record,) = Calibration(passages("aaab" * 5), window=64).run(tested)
    found = told([record])
    assert found["calibration_error"] == pytest.approx(error, abs=1e-5)
    assert found["accuracy"] == 0.75
    assert [found[f"share_above_{limit}"] for limit in THRESHOLDS] == [probability > limit for limit in THRESHOLDS]
    assert found["accuracy_above_0.7"] == 0.75
    place = int(probability * BINS)
    assert (record.values[f"count_{place}"], record.values[f"right_{place}"]) == (20, 15)
    assert record.values[f"confidence_{place}"] == pytest.approx(20 * probability, rel=1e-5)
    assert math.isnan(found["accuracy_above_0.95"])  # nothing is written, so nothing is right or wrong


@pytest.mark.parametrize("track", ["ar", "diffusion"])
def test_what_may_not_be_written_is_not_chosen_and_takes_no_probability(table_model, vocab, track):
    table = torch.zeros(64, vocab.size)
    table[:, list(vocab.unwritable)] = 80.0
    suite = Calibration(passages("red ball"), window=64, rate=1.0)
    (record,) = suite.run(subject(table_model(table), vocab, track))
    writable = vocab.size - len(vocab.unwritable)
    assert record.values["confidence_0"] == pytest.approx(8 / writable, rel=1e-5)
    assert (record.values["count_0"], record.values["right_0"]) == (8, 0)  # the first that may be is no letter


def test_a_random_models_values_are_those_of_its_next_tokens(peaky, vocab):
    (record,) = Calibration(passages(WORDS[3]), window=64).run(subject(peaky, vocab, "ar"))
    tokens = torch.tensor([[vocab.eos, *Letters(vocab).encode(WORDS[3])]])
    with torch.no_grad():
        logits = peaky(tokens, AttentionPattern("causal"))[0, :-1]
    logits[:, list(vocab.unwritable)] = -torch.inf
    sure, choice = logits.softmax(-1).max(-1)
    expected = dict.fromkeys(value_names(), 0.0)
    for probability, right in zip(sure.tolist(), (choice == tokens[0, 1:]).tolist(), strict=True):
        place = min(int(probability * BINS), BINS - 1)
        for name, value in (("tokens", 1), ("right", right), (f"count_{place}", 1), (f"right_{place}", right)):
            expected[name] += value
        expected[f"confidence_{place}"] += probability
        for limit in THRESHOLDS:
            expected[f"above_{limit}"] += probability > limit
            expected[f"right_above_{limit}"] += right and probability > limit
    assert record.values == pytest.approx(expected, rel=1e-5)
    assert sum(record.values[f"count_{b}"] > 0 for b in range(BINS)) > 2


@pytest.mark.parametrize("info", [{}, {"block_size": 5}])
def test_a_denoiser_is_asked_at_hidden_places_alone(table_model, vocab, watch, info):
    model = table_model(torch.zeros(64, vocab.size))
    seen, text = watch(model), "abcdefgh" * 7
    shares = {}
    for rate in (0.2, 0.5, 1.0):
        seen.tokens.clear()
        suite = Calibration(passages(*[text] * 20), window=64, rate=rate)
        records = list(suite.run(subject(model, vocab, "diffusion", **info)))
        hidden = sum(int((tokens == vocab.mask).sum()) for tokens in seen.tokens)
        asked = sum(record.values["tokens"] for record in records)
        assert asked == hidden
        shares[rate] = asked / (20 * len(text))
    assert shares == {0.2: pytest.approx(0.2, abs=0.05), 0.5: pytest.approx(0.5, abs=0.06), 1.0: 1.0}


def test_a_block_sees_clean_text_before_it_and_nothing_behind(peaky, vocab):
    tested, text = subject(peaky, vocab, "diffusion", block_size=1), "red ball"
    (record,) = Calibration(passages(text), window=64, rate=1.0).run(tested)
    tokens, confidences = [vocab.eos, *Letters(vocab).encode(text)], []
    for place in range(1, len(tokens)):
        seen = torch.tensor([[*tokens[:place], vocab.mask]])
        with torch.no_grad():
            logits = peaky(seen, AttentionPattern("block_causal", None, torch.arange(place + 1)[None]))[0, -1]
        logits[list(vocab.unwritable)] = -torch.inf
        confidences.append(float(logits.softmax(-1).max()))
    assert sum(record.values[f"confidence_{b}"] for b in range(BINS)) == pytest.approx(sum(confidences), rel=1e-5)


def test_sureness_alone_has_no_better_end():
    better = {metric.name: metric.better for metric in Calibration.metrics}
    assert better.pop("calibration_error") == "low"
    assert {better.pop(f"share_above_{limit}") for limit in THRESHOLDS} == {""}
    assert better == {name: "high" for name in ("accuracy", *(f"accuracy_above_{limit}" for limit in THRESHOLDS))}


def test_what_cannot_be_is_refused(peaky, vocab):
    some = passages("red")
    with pytest.raises(UserError, match="window 65 is longer than the model's context 64"):
        list(Calibration(some, window=65).run(subject(peaky, vocab, "diffusion")))
    for options in ({"window": 1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="must be at least"):
            Calibration(some, **({"window": 8} | options))
    for rate in (0.0, 1.5):
        with pytest.raises(ValueError, match="share of hidden tokens"):
            Calibration(some, window=8, rate=rate)
    with pytest.raises(ValueError, match="no passages"):
        Calibration((), window=8)
