"""Speed by a clock that only samplers advance: tokens a second, passes and latencies are exact."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Autoregressive, Block, Diffusion
from nano_llada.core.errors import UserError
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.data.tokenizer import Tokenizer, train_characters
from nano_llada.evaluation.figures import figures
from nano_llada.evaluation.items import Passage
from nano_llada.evaluation.measure import protocol_of
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites import metrics_of, speed
from nano_llada.evaluation.suites.speed import Speed, full_batches
from nano_llada.model.transformer import Transformer
from planted import wrote

ENGLISH = tuple(Passage("abcd"[: i + 1], "en", "file", str(i)) for i in range(4))
CHINESE = (Passage("汤姆", "zh", "file", "4"), Passage("艾米有", "zh", "file", "5"))


class Clock:
    """Seconds that pass only when someone says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Runner:
    """Writes as many letters as the prompt has, an end and a letter behind it, all at once or one a pass.

    A pass takes half a second; in the first `slow` streams four times that, as a machine that is still cold.
    """

    def __init__(self, tokenizer: Tokenizer, clock: Clock, *, at_once: bool, slow: int = 0) -> None:
        self.tokenizer, self.clock, self.at_once, self.slow = tokenizer, clock, at_once, slow
        self.ends, self.batches = tokenizer.vocab.ends, []

    def stream(self, requests, stop=None):
        self.batches.append([self.tokenizer.decode(request.prompt[1:]) for request in requests])
        seconds = 2.0 if len(self.batches) <= self.slow else 0.5
        letter, end = self.tokenizer.encode("x")[0], self.tokenizer.vocab.eos
        texts = [[letter] * (len(request.prompt) - 1) + [end, letter] for request in requests]
        places = range(max(map(len, texts)))
        for forwards, some in enumerate([places] if self.at_once else [[place] for place in places], 1):
            self.clock.now += seconds
            writes = []
            for i, text in enumerate(texts):
                mine = tuple(place for place in some if place < len(text))
                if mine:
                    tokens, last = [text[p] for p in mine], mine[-1] + 1 == len(text)
                    writes.append(wrote(i, mine, tokens, last=last, forwards=forwards))
            yield writes


@dataclass(frozen=True)
class Planted(Subject):
    """A subject with a sampler of the test's own."""

    runner: Runner | None = None

    def sampler(self):
        return self.runner


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    return train_characters(["abcdx", *(p.text for p in CHINESE), "user assistant\n"])


@pytest.fixture
def planted(letters, table_model):
    """A clock, and a subject whose sampler advances it."""

    def make(**options) -> tuple[Clock, Planted]:
        clock = Clock()
        model = table_model(torch.zeros(1, letters.vocab.size))
        checkpoint = Checkpoint(model, letters, ModelCard("diffusion"), Path("it"))
        runner = Runner(letters, clock, **options)
        return clock, Planted("it", checkpoint, Diffusion(), "planted", runner=runner)

    return make


def speller(make_model, tokenizer: Tokenizer, seed: int = 0, **shape) -> Transformer:
    """A model that writes characters rather than bytes, so that its texts tell its tokens."""
    model = make_model(seed=seed, peak=16.0, vocab_size=tokenizer.vocab.size, **shape)
    with torch.no_grad():
        model.head.weight[16 : 16 + 256] = 0.0  # the bytes; what is positive now is likelier
    return model


def found(records, task: str, language: str = "en") -> dict[str, float]:
    return {f.metric: f.value for f in figures(records, metrics_of) if (f.task, f.language) == (task, language)}


def test_all_at_once_is_one_pass(planted, letters):
    clock, it = planted(at_once=True)
    records = list(Speed(ENGLISH, (1, 4), repeats=2, clock=clock).run(it))
    hash6 = letters.hash[:6]
    assert [(r.task, r.item, r.detail["repeat"]) for r in records] == [
        *(("batch 1", f"en-{number}@{hash6}", repeat) for repeat in range(2) for number in range(4)),
        ("batch 4", f"en-0@{hash6}", 0),
        ("batch 4", f"en-0@{hash6}", 1),
    ]
    assert {f.items for f in figures(records, metrics_of) if f.task == "batch 1"} == {4}  # repeats are no examples
    alone = found(records, "batch 1")
    assert alone["tokens_per_second"] == 10 / 4 / 0.5  # 1 to 4 letters, half a second each; no end and nothing behind
    assert alone["tpf"] == 10 / 4
    assert [alone[name] for name in ("latency_p50", "latency_p95", "first_p50", "first_p95")] == [500] * 4
    together = found(records, "batch 4")
    assert together["tokens_per_second"] == 10 / 0.5
    assert together["tpf"] == 10 / 4
    assert "latency_p50" not in together
    assert records[-1].values["texts"] == 4
    assert records[-1].detail["texts"] == ["x", "xx", "xxx", "xxxx"]


def test_one_token_a_pass_takes_as_many_passes(planted):
    clock, it = planted(at_once=False)
    records = list(Speed(ENGLISH, (1, 4), repeats=1, clock=clock).run(it))
    alone = found(records, "batch 1")
    passes = [3, 4, 5, 6]  # two more than tokens: the end and what stands behind it
    assert alone["tokens_per_second"] == 10 / (sum(passes) / 2)
    assert alone["tpf"] == 10 / sum(passes)
    assert (alone["latency_p50"], alone["latency_p95"]) == (2000, 3000)
    assert (alone["first_p50"], alone["first_p95"]) == (500, 500)
    together = found(records, "batch 4")
    assert together["tokens_per_second"] == 10 / 3  # all wait for the longest
    assert together["tpf"] == 10 / sum(passes)


def test_what_warms_up_is_not_recorded(planted):
    clock, it = planted(at_once=True, slow=2)
    suite = Speed(ENGLISH, (1,), repeats=1, warm=2, clock=clock)
    assert {r.values["seconds"] for r in suite.run(it)} == {0.5}
    assert it.runner.batches[:2] == [["a"], ["ab"]]
    assert len(it.runner.batches) == 6
    clock, cold = planted(at_once=True, slow=2)
    seconds = [r.values["seconds"] for r in replace(suite, warm=0, clock=clock).run(cold)]
    assert seconds == [2.0, 2.0, 0.5, 0.5]


def test_a_batch_is_full_and_of_one_language(planted, letters):
    clock, it = planted(at_once=True)
    mixed = (ENGLISH[0], CHINESE[0], *ENGLISH[1:3], CHINESE[1])
    records = list(Speed(mixed, (8, 2), repeats=1, warm=0, clock=clock).run(it))
    hash6 = letters.hash[:6]
    assert [(r.task, r.language, r.item) for r in records] == [
        ("batch 2", "en", f"en-0@{hash6}"),
        ("batch 2", "en", f"en-1@{hash6}"),
        ("batch 2", "zh", f"zh-0@{hash6}"),
        ("batch 8", "en", f"en-0@{hash6}"),
        ("batch 8", "zh", f"zh-0@{hash6}"),
    ]
    assert it.runner.batches[:3] == [["a", "ab"], ["abc", "a"], ["汤姆", "艾米有"]]
    assert Counter(it.runner.batches[3]) == {"a": 3, "ab": 3, "abc": 2}
    assert Counter(it.runner.batches[4]) == {"汤姆": 4, "艾米有": 4}
    assert found(records, "batch 8", "zh")["tokens_per_second"] == 20 / 0.5


def test_batches_hold_every_request():
    assert full_batches([1, 2, 3], 2) == [[1, 2], [3, 1]]
    assert full_batches([1, 2], 2) == [[1, 2]]
    assert full_batches([1], 3) == [[1, 1, 1]]


def test_memory_is_the_most_of_all_batches(planted, monkeypatch):
    clock, it = planted(at_once=True)
    suite = Speed(ENGLISH, (1, 2), repeats=1, warm=0, clock=clock)
    figures_of_memory = iter([1e9, 3e9, 2e9, 2e9, 5e9, 4e9])
    monkeypatch.setattr(speed, "peak_memory", lambda device: next(figures_of_memory))
    records = list(suite.run(it))
    assert (found(records, "batch 1")["memory_gb"], found(records, "batch 2")["memory_gb"]) == (3, 5)
    monkeypatch.setattr(speed, "peak_memory", lambda device: float("nan"))
    assert all("peak_memory_bytes" not in record.values for record in suite.run(it))


def test_memory_is_told_and_not_ranked():
    better = {metric.name: metric.better for metric in Speed.metrics}
    assert (better.pop("memory_gb"), better.pop("tokens_per_second"), better.pop("tpf")) == ("", "high", "high")
    assert set(better.values()) == {"low"}


def test_another_machine_is_another_measurement():
    here = Speed(ENGLISH)
    assert here.machine == Speed(ENGLISH).machine
    assert "threads" in here.machine
    assert protocol_of(here) == protocol_of(Speed(ENGLISH))
    assert protocol_of(here) != protocol_of(replace(here, machine="another"))


def test_memory_of_this_process_is_measured(planted):
    clock, it = planted(at_once=True)
    (record,) = Speed(ENGLISH[:1], (1,), repeats=1, clock=clock).run(it)
    assert record.values["peak_memory_bytes"] > 1e7


def test_a_model_that_answers_is_asked_and_long_prompts_are_cut(planted, letters):
    clock, it = planted(at_once=True)
    suite = Speed(ENGLISH[-1:], (1,), repeats=1, warm=0, prompt_tokens=3, clock=clock)
    assert len(list(suite.run(it))) == 1
    assert it.runner.batches == [["abc"]]
    clock, other = planted(at_once=True)
    taught = replace(other, checkpoint=replace(other.checkpoint, card=replace(other.checkpoint.card, stage="sft")))
    assert len(list(replace(suite, clock=clock).run(taught))) == 1
    asked = encode_prompt(letters, [Message("user", "abc")])
    assert taught.runner.batches == [[letters.decode(asked[1:])]]


@pytest.mark.parametrize(
    "decoding",
    [
        Autoregressive(max_new_tokens=7, temperature=1.0),
        Diffusion(max_new_tokens=7, temperature=1.0),
        Block(max_new_tokens=7, temperature=1.0, block_size=4, threshold=0.3),
    ],
    ids=["ar", "diffusion", "block"],
)
def test_texts_do_not_depend_on_the_size_of_a_batch(make_model, letters, decoding):
    model = speller(make_model, letters)
    it = Subject("it", Checkpoint(model, letters, ModelCard("diffusion"), Path("it")), decoding, "drawn")
    prompts = (*ENGLISH[:3], replace(ENGLISH[2], item="3"))  # one text twice, drawn anew
    records = list(Speed(prompts, (1, 2, 4), repeats=2, warm=0, clock=Clock()).run(it))
    texts: dict[tuple[str, int], list[str]] = {}
    for record in records:
        texts.setdefault((record.task, record.detail["repeat"]), []).extend(record.detail["texts"])
    assert len(texts) == 6
    assert len(set(map(tuple, texts.values()))) == 1
    assert len(set(texts["batch 1", 0])) == 4
    tokens = Counter()
    for record in records:
        tokens[record.task] += record.values["tokens"]
    assert len(set(tokens.values())) == 1


def test_options_out_of_range_are_said(make_model, letters):
    with pytest.raises(ValueError, match="no prompts"):
        Speed(())
    for sizes in ((), (0, 1), (2, 2)):
        with pytest.raises(ValueError, match="batch_sizes must be different numbers of at least 1"):
            Speed(ENGLISH, sizes)
    for name, value in {"repeats": 0, "warm": -1, "prompt_tokens": 0}.items():
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            Speed(ENGLISH, **{name: value})
    model = make_model(vocab_size=letters.vocab.size, max_length=4)
    it = Subject("it", Checkpoint(model, letters, ModelCard("ar"), Path("it")), Autoregressive(), "greedy")
    with pytest.raises(UserError, match="the model's context is 4"):
        list(Speed(ENGLISH, (1,)).run(it))
