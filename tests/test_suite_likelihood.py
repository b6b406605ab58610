"""Bits per byte of passages: against sums and enumeration by hand, and the same however they are cut into batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Autoregressive
from nano_llada.core.batch import TokenBatch, Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.evaluation.figures import figures
from nano_llada.evaluation.items import Passage, read_passages
from nano_llada.evaluation.likelihood import passage_likelihoods, passage_numbers, text_likelihood
from nano_llada.evaluation.record import Record, read_records, write_records
from nano_llada.evaluation.statistics import bootstrap
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites import metrics_of
from nano_llada.evaluation.suites.likelihood import Likelihood, MonteCarloError
from nano_llada.objectives.likelihood import bound_nll, exact_nll
from tiny import read_lines, write_rows

WORDS = ("abc", "red ball on a mat", "x", "a cat sat by the door of a red house with a blue hat")


class Letters:
    """One of 18 tokens for each character, those that the tiny vocabulary leaves free."""

    def __init__(self, vocab: Vocabulary) -> None:
        self.vocab = vocab

    def encode(self, text: str) -> list[int]:
        return [6 + ord(letter) % 18 for letter in text]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]


def subject(model, vocab, track: str, **info) -> Subject:
    return Subject("m", Checkpoint(model, Letters(vocab), ModelCard(track, **info), Path()), Autoregressive(), "greedy")


def passages(*texts: str, file: str = "wiki") -> tuple[Passage, ...]:
    return tuple(Passage(text, "en", file, str(i)) for i, text in enumerate(texts))


def total(records: Sequence[Record], name: str) -> float:
    return sum(record.values[name] for record in records)


def assert_alike(records: Sequence[Record], others: Sequence[Record]) -> None:
    for one, other in zip(records, others, strict=True):
        assert (one.task, one.item, one.values.keys()) == (other.task, other.item, other.values.keys())
        for name, value in one.values.items():
            assert other.values[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name


KINDS = [("ar", {}), ("diffusion", {}), ("diffusion", {"block_size": 5})]


@pytest.mark.parametrize(("track", "info"), KINDS)
def test_no_passage_depends_on_batches_order_or_company(peaky, vocab, track, info):
    tested, some = subject(peaky, vocab, track, **info), passages(*WORDS)
    suite = Likelihood(some, window=12, draws=4)
    whole = list(suite.run(tested))
    assert [record.item for record in whole] == ["0", "1", "2", "3"]
    assert_alike(whole, list(replace(suite, batch_size=1).run(tested)))
    assert_alike(whole[::-1], list(replace(suite, passages=some[::-1], batch_size=3).run(tested)))
    assert_alike(whole[3:], list(replace(suite, passages=some[3:]).run(tested)))
    other = list(replace(suite, seed=1).run(tested))
    assert (other[1].values["nats"] == whole[1].values["nats"]) is (track == "ar")


@pytest.mark.parametrize(("track", "info"), KINDS)
def test_text_likelihood_is_the_sum_of_the_passages(peaky, vocab, track, info):
    tested, some = subject(peaky, vocab, track, **info), passages(*WORDS)
    options = {"window": 16, "draws": 4, "seed": 3, "batch_size": 2}
    records = list(Likelihood(some, window=16, draws=4, seed=3).run(tested))
    ours, alone = (
        passage_likelihoods(tested.checkpoint, WORDS, numbers, **options)
        for numbers in (passage_numbers(some), range(len(WORDS)))  # texts without a file are numbered
    )
    assert [record.values["nats"] for record in records] == pytest.approx([one.nats for one in ours], rel=1e-6)
    assert [record.values["tokens"] for record in records] == [one.tokens for one in ours]
    found = text_likelihood(tested.checkpoint, WORDS, **options)
    told = {figure.metric: figure.value for figure in figures(records, metrics_of)}
    for mine, bits, nats, error in (
        (ours, told["bits_per_byte"], told["nats_per_token"], told["monte_carlo_error"]),
        (alone, found.bits_per_byte, found.nats_per_token, found.standard_error),
    ):
        whole, unit = sum(one.nats for one in mine), math.log(2) * found.text_bytes
        assert (bits, nats) == pytest.approx((whole / unit, whole / found.tokens), rel=1e-6)
        assert error == pytest.approx(math.sqrt(sum(one.variance for one in mine)) / unit, rel=1e-3)
        assert (error == 0) is (track == "ar")
    assert (ours == alone) is (track == "ar")
    assert total(records, "bytes") == found.text_bytes == total(records, "tokens") == found.tokens
    assert {record.values["draws"] for record in records} == {found.draws}


def test_bits_of_an_autoregressive_model_are_those_of_its_next_tokens(peaky, vocab):
    (record,) = Likelihood(passages("red ball"), window=64).run(subject(peaky, vocab, "ar"))
    tokens = torch.tensor([[vocab.eos, *Letters(vocab).encode("red ball")]])
    with torch.no_grad():
        log_probs = peaky(tokens, AttentionPattern("causal"))[0, :-1].double().log_softmax(-1)
    nats = -float(log_probs.gather(1, tokens[0, 1:, None]).sum())
    assert record.values["bits"] == pytest.approx(nats / math.log(2), rel=1e-5)
    assert (record.values["error_squared"], record.values["draws"]) == (0, 1)


def test_the_bound_is_that_of_an_enumeration_over_all_masks(peaky, vocab, enumerate_bound):
    many = tuple(Passage("red cat", "en", "wiki", str(i)) for i in range(64))
    records = list(Likelihood(many, window=5, draws=16, batch_size=64).run(subject(peaky, vocab, "diffusion")))
    exact = 0.0
    for piece in ("red ", "cat"):
        tokens = torch.tensor([vocab.eos, *Letters(vocab).encode(piece)])
        exact += enumerate_bound(peaky, tokens, torch.arange(len(tokens)) > 0) / math.log(2)
    bits = np.array([record.values["bits"] for record in records])
    error = bits.std(ddof=1) / 8
    assert 0 < error < 0.03 * exact
    assert bits.mean() == pytest.approx(exact, abs=4 * error)
    told = np.mean([record.values["error_squared"] for record in records])
    assert bits.var(ddof=1) < 1.7 * told < 20 * bits.var(ddof=1)


def test_blocks_of_one_token_are_exact_and_see_the_clean_text_before_them(peaky, vocab):
    (record,) = Likelihood(passages("red"), window=8, draws=2).run(subject(peaky, vocab, "diffusion", block_size=1))
    tokens, nats = [vocab.eos, *Letters(vocab).encode("red")], 0.0
    for place in (1, 2, 3):
        seen = torch.tensor([[*tokens[:place], vocab.mask]])
        pattern = AttentionPattern("block_causal", None, torch.arange(place + 1)[None])
        with torch.no_grad():
            nats -= float(peaky(seen, pattern)[0, -1].double().log_softmax(-1)[tokens[place]])
    assert record.values["nats"] == pytest.approx(nats, rel=1e-5)
    assert record.values["error_squared"] == 0


def test_windows_and_passages_have_noise_of_their_own(table_model, vocab, watch):
    model = table_model(torch.zeros(64, vocab.size))
    seen = watch(model)
    some = (*passages("abcdefgh" * 2, "abcdefgh"), *passages("abcdefgh", file="news"))
    list(Likelihood(some, window=9, draws=16).run(subject(model, vocab, "diffusion")))
    masks = (torch.stack(seen.tokens) == vocab.mask).unbind(1)
    assert len(masks) == 4  # two windows, another text of the file, and the first of another file
    assert not any(torch.equal(one, two) for one, two in itertools.combinations(masks, 2))


def test_passages_are_named_as_their_rows_are(peaky, vocab, tmp_path):
    rows = [{"text": WORDS[1], "id": "moon"}, {"text": WORDS[1]}, {"text": WORDS[1], "id": 7}]
    some = tuple(read_passages([str(write_rows(tmp_path / "wiki.jsonl", rows))]))
    assert [passage.item for passage in some] == ["moon", "1", "7"]
    records = list(Likelihood(some, window=64, draws=2).run(subject(peaky, vocab, "diffusion")))
    assert [record.item for record in records] == ["moon", "1", "7"]
    assert len({record.values["nats"] for record in records}) == 3  # a name has noise of its own
    for name, reason in ((None, "null"), ([1], "a list"), (True, "true or false"), ("", "")):
        write_rows(tmp_path / "wiki.jsonl", [rows[0], {"text": "x", "id": name}])
        with pytest.raises(UserError, match=rf"wiki\.jsonl:2: id is {reason}.*expected text or a number"):
            read_passages([str(tmp_path / "wiki.jsonl")])
    write_rows(tmp_path / "wiki.jsonl", [rows[0], rows[1] | {"id": "moon"}])
    with pytest.raises(UserError, match=r"wiki\.jsonl:2: id 'moon' stands twice in the file"):
        read_passages([str(tmp_path / "wiki.jsonl")])


def test_one_block_is_the_whole_text(peaky, vocab):
    suite = Likelihood(passages(*WORDS), window=16, draws=4)
    whole = list(suite.run(subject(peaky, vocab, "diffusion")))
    assert_alike(whole, list(suite.run(subject(peaky, vocab, "diffusion", block_size=16))))


@pytest.mark.parametrize("track", ["ar", "diffusion"])
def test_oracles_get_what_they_should(table_model, vocab, track):
    text = "red ball on a mat"
    ids = torch.tensor(Letters(vocab).encode(text))
    right = torch.zeros(len(text) + 1, vocab.size)
    right[torch.arange(len(text)) + (track == "diffusion"), ids] = 50.0  # an AR model is asked a place before
    chance = torch.randn(right.shape, generator=torch.Generator().manual_seed(0))
    costs = -chance.double().log_softmax(-1)[torch.arange(len(text)) + (track == "diffusion"), ids]
    for table, nats in ((right, 0.0), (right * 0, len(text) * math.log(vocab.size)), (chance, float(costs.sum()))):
        suite = Likelihood(passages(text), window=64, draws=17)  # draws a token: every number of masks comes once
        (record,) = suite.run(subject(table_model(table), vocab, track))
        error = 4 * math.sqrt(record.values["error_squared"]) * math.log(2)
        assert record.values["nats"] == pytest.approx(nats, rel=1e-5, abs=1e-4 + error)


@pytest.mark.parametrize("track", ["ar", "diffusion"])
def test_buckets_hold_every_token_once_and_the_nats_of_their_places(table_model, vocab, track):
    behind = torch.arange(64) + (track == "ar")  # where a row's logits speak about
    table = torch.zeros(64, vocab.size)
    table[behind > 32] = torch.where(torch.arange(vocab.size) == vocab.mask, 0.0, -1000.0)  # lost behind the first 32
    tested = subject(table_model(table), vocab, track)
    (record,) = Likelihood(passages("a" * 100), window=45, draws=16).run(tested)  # windows of 44, 44 and 12 tokens
    values = record.values
    assert (values["tokens_p0"], values["tokens_p1"]) == (32 + 32 + 12, 12 + 12)
    assert "tokens_p2" not in values
    assert values["nats_p0"] + values["nats_p1"] == pytest.approx(values["nats"])
    assert values["nats_p1"] > 1000
    if track == "ar":
        assert values["nats_p0"] == pytest.approx(76 * math.log(vocab.size), rel=1e-5)
        assert values["nats_p1"] == pytest.approx(24 * 1000, rel=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_places_add_up_to_each_row(peaky, make_batch, vocab, exact):
    batch: TokenBatch = make_batch([[9], [4, 5], [7]], scored=0.7)
    nll = exact_nll(peaky, batch) if exact else bound_nll(peaky, batch, vocab, draws=5, seed=1)
    assert torch.equal(nll.places.sum(1), nll.mean) if exact else torch.allclose(nll.places.sum(1), nll.mean)
    assert not bool((nll.places != 0)[~batch.scored].any())
    if exact:
        assert (nll.places > 0).sum(1).tolist() == nll.tokens.tolist()


def test_records_are_of_their_file_language_and_bytes(peaky, vocab, tmp_path):
    zh = replace(passages("红球", file="news")[0], language="zh")
    records = list(Likelihood((*passages("red"), zh), window=9, draws=2).run(subject(peaky, vocab, "diffusion")))
    assert [(r.suite, r.task, r.language, r.decoder) for r in records] == [
        ("likelihood", "wiki", "en", ""),
        ("likelihood", "news", "zh", ""),
    ]
    assert [(r.values["bytes"], r.values["tokens"]) for r in records] == [(3, 3), (6, 2)]
    records[0] = replace(records[0], protocol="1a2b3c4d", detail={"told": "红"})
    write_records(tmp_path / "records.jsonl", records)
    assert list(read_records(tmp_path)) == records
    bare = {name: value for name, value in read_lines(tmp_path / "records.jsonl")[1].items() if name != "protocol"}
    assert list(read_records(write_rows(tmp_path / "old" / "records.jsonl", [bare]))) == records[1:]


def test_what_cannot_be_is_refused(peaky, vocab, table_model):
    some = passages("red")
    with pytest.raises(UserError, match="window 65 is longer than the model's context 64"):
        list(Likelihood(some, window=65).run(subject(peaky, vocab, "ar")))
    for options in ({"window": 1}, {"draws": 1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="must be at least"):
            Likelihood(some, **({"window": 8} | options))
    with pytest.raises(ValueError, match="no passages"):
        Likelihood((), window=8)
    broken = torch.full((64, vocab.size), math.nan)
    with pytest.raises(UserError, match="likelihood: m gives nats = nan for wiki, 0: are its weights broken"):
        list(Likelihood(some, window=8).run(subject(table_model(broken), vocab, "ar")))
    with pytest.raises(UserError, match="may not be called 'all'"):
        list(Likelihood(passages("red", file="all"), window=8).run(subject(peaky, vocab, "ar")))


def test_the_error_of_the_draws_has_no_better_end():
    better = {metric.name: metric.better for metric in Likelihood.metrics}
    assert better == {"bits_per_byte": "low", "nats_per_token": "low", "monte_carlo_error": ""}


@pytest.mark.parametrize(
    ("line", "reason"),
    [("{}", "no"), ('{"text": 3}', "expected text"), ('{"text": " "}', "empty"), ("[", "broken JSON")],
)
def test_malformed_passages_are_told_with_file_and_line(tmp_path, line, reason):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "red"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"texts.jsonl:2: .*{reason}"):
        read_passages([str(path)])


def test_the_error_of_drawing_lies_within_its_own_interval():
    rng = np.random.default_rng(0)
    columns = {"squared": rng.uniform(0.5, 1.5, 60), "bytes": rng.uniform(50, 150, 60)}
    metric = MonteCarloError("error", "squared", "bytes")
    low, high = bootstrap(lambda weights: metric.of(columns, weights), [np.arange(60)])
    value = metric.of(columns, np.ones(60))
    assert low < value < high
    assert value == pytest.approx(columns["squared"].sum() ** 0.5 / columns["bytes"].sum())
