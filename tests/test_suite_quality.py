"""Free text judged: planted texts and judges whose perplexity, entropy and repetition are known by hand."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Autoregressive, Block, Diffusion
from nano_llada.core.batch import TokenBatch
from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import Tokenizer, train_characters
from nano_llada.evaluation.figures import figures
from nano_llada.evaluation.items import Passage
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites import metrics_of
from nano_llada.evaluation.suites.quality import Quality, judge_texts, variety, whole_start
from nano_llada.model.transformer import Transformer
from nano_llada.objectives.likelihood import exact_nll
from nano_llada.session.run import BUNDLED_TOKENIZER
from planted import wrote

CYCLE = {"a": "b", "b": "c", "c": "d", "d": "a"}
PASSAGES = (
    Passage("abcdabcdabcdabcdabcd", "en", "english", "0"),
    Passage("bcdabcdabcdabcda", "en", "english", "1"),
    Passage("汤姆有一个红色的球，艾米有一只蓝色的猫。", "zh", "chinese", "0"),
)


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    return train_characters(["abcdxyz", "".join(p.text for p in PASSAGES)])


@pytest.fixture(scope="module")
def bundled() -> Tokenizer:
    return Tokenizer.load(BUNDLED_TOKENIZER)


def speller(make_model, tokenizer: Tokenizer, seed: int = 0, **shape) -> Transformer:
    """A model that writes characters rather than bytes, so that its texts tell its tokens."""
    model = make_model(seed=seed, peak=16.0, vocab_size=tokenizer.vocab.size, **shape)
    with torch.no_grad():
        model.head.weight[16 : 16 + 256] = 0.0  # the bytes; what is positive now is likelier
    return model


def judge_of(table_model, tokenizer: Tokenizer, after, max_length: int = 256) -> Checkpoint:
    """Each token follows another with a probability proportional to 1 for those in after[token], 0 for others."""
    table = torch.zeros(tokenizer.vocab.size, tokenizer.vocab.size)
    for token, follow in after.items():
        table[token] = -60.0
        table[token, follow] = 0.0
    model = table_model(lambda tokens, positions: table[tokens], max_length)
    return Checkpoint(model, tokenizer, ModelCard("ar"), Path("judge"))


@pytest.fixture
def uniform(table_model, bundled) -> Checkpoint:
    """A judge that knows nothing, with another tokenizer than the subject's."""
    return judge_of(table_model, bundled, {})


@pytest.fixture
def perfect(table_model, letters) -> Checkpoint:
    """A judge that knows for certain how a, b, c and d follow each other."""
    ids = {letter: letters.encode(letter)[0] for letter in CYCLE}
    return judge_of(table_model, letters, {ids[left]: [ids[right]] for left, right in CYCLE.items()})


class Scribe:
    """A sampler that writes what it is told to after each prompt, all at once."""

    def __init__(self, tokenizer: Tokenizer, say) -> None:
        self.tokenizer, self.say, self.ends = tokenizer, say, tokenizer.vocab.ends

    def stream(self, requests, stop=None):
        texts = [self.say(self.tokenizer.decode(r.prompt[1:]), r.seed) for r in requests]
        yield [wrote(i, range(len(t)), t, last=True) for i, t in enumerate(texts)]


@dataclass(frozen=True)
class Planted(Subject):
    """A subject with a sampler of the test's own."""

    scribe: Scribe | None = None

    def sampler(self):
        return self.scribe


@pytest.fixture
def subject(letters, table_model):
    """Makes one that says `say(prompt, seed)`: tokens."""

    def make(say, decoding=None, tokenizer: Tokenizer = letters, max_length: int = 64) -> Planted:
        model = table_model(torch.zeros(1, tokenizer.vocab.size), max_length)
        checkpoint = Checkpoint(model, tokenizer, ModelCard("diffusion"), Path("it"))
        decoding = decoding or Diffusion(max_new_tokens=12)
        return Planted("it", checkpoint, decoding, "planted", scribe=Scribe(tokenizer, say))

    return make


def found(records) -> dict[str, float]:
    """Figures over all passages of English, by metric."""
    task = f"english, judged by {records[0].detail['judge']}"
    return {f.metric: f.value for f in figures(records, metrics_of) if (f.language, f.task) == ("en", task)}


def test_a_constant_text_has_no_entropy_and_repeats_itself(subject, letters, uniform, bundled):
    constant = subject(lambda prompt, seed: [*letters.encode("x" * 10), letters.vocab.eos, *letters.encode("y")])
    records = list(Quality(PASSAGES, uniform, "nobody", prompt_tokens=4).run(constant))
    cut_by = letters.hash[:6]
    assert [(r.task, r.language, r.item) for r in records] == [
        ("english, judged by nobody", "en", f"0@{cut_by}"),
        ("english, judged by nobody", "en", f"1@{cut_by}"),
        ("chinese, judged by nobody", "zh", f"0@{cut_by}"),
    ]
    assert {(r.suite, r.model, r.decoder) for r in records} == {("quality", "it", "planted")}
    figure = found(records)
    assert figure["generative_perplexity"] == pytest.approx(bundled.vocab.size, rel=1e-5)
    assert figure["reference_perplexity"] == pytest.approx(bundled.vocab.size, rel=1e-5)
    bits = len(bundled.encode("x" * 10)) * math.log2(bundled.vocab.size) / 10
    assert figure["judge_bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert figure["entropy"] == 0
    assert figure["reference_entropy"] == pytest.approx(-sum(p * math.log(p) for p in (0.3, 0.3, 0.2, 0.2)))
    assert figure["distinct_1"] == 1 / 10
    assert figure["distinct_2"] == 1 / 9
    assert figure["distinct_3"] == 1 / 8
    assert figure["repetition"] == 6 / 7  # all 4-grams but the first
    assert (figure["length"], figure["ended"]) == (10, 1)
    assert figure["wasted"] == 1 / 12  # ten letters and the end, of twelve places
    assert records[0].detail["text"] == "x" * 10
    assert records[0].detail["prompt"] + records[0].detail["reference"] == "abcdabcdabcdab"
    assert records[0].detail["judge"] == "nobody"


def test_a_judge_that_knows_the_text_is_never_surprised(subject, letters, perfect):
    def goes_on(prompt, seed):
        return letters.encode(("abcd" * 9)["abcd".index(prompt[-1]) + 1 :][:12])

    suite = Quality(PASSAGES[:2], perfect, "oracle", prompt_tokens=5)
    figure = found(list(suite.run(subject(goes_on))))
    assert figure["generative_perplexity"] == pytest.approx(1, abs=1e-6)
    assert figure["reference_perplexity"] == pytest.approx(1, abs=1e-6)
    assert figure["judge_bits_per_byte"] == pytest.approx(0, abs=1e-6)
    assert figure["entropy"] == pytest.approx(math.log(4))
    assert (figure["length"], figure["ended"], figure["wasted"]) == (12, 0, 0)
    wrong = found(list(suite.run(subject(lambda prompt, seed: letters.encode("aaaa")))))
    assert wrong["generative_perplexity"] > 1e20
    assert wrong["reference_perplexity"] == pytest.approx(1, abs=1e-6)


def test_letters_drawn_at_random_are_as_likely_as_the_judge_says(subject, letters, table_model):
    ids = [letters.encode(letter)[0] for letter in CYCLE]
    rng = torch.Generator().manual_seed(0)
    drawn = torch.tensor(ids)[torch.randint(4, (40,), generator=rng)].tolist()
    judge = judge_of(table_model, letters, dict.fromkeys(range(letters.vocab.size), ids))
    random = subject(lambda prompt, seed: drawn, Diffusion(max_new_tokens=40))
    records = list(Quality(PASSAGES[:2], judge, "four letters", prompt_tokens=3).run(random))
    figure = found(records)
    assert figure["generative_perplexity"] == pytest.approx(4, rel=1e-6)
    counts = Counter(drawn)
    assert figure["entropy"] == pytest.approx(-sum(c / 40 * math.log(c / 40) for c in counts.values()))
    assert figure["distinct_1"] == 4 / 40
    # the real text is shorter than what was written: only what there is counts
    assert [r.values["reference_tokens"] for r in records] == [17, 13]


@pytest.mark.parametrize("say", [[], "end"], ids=["nothing", "only an end"])
def test_empty_texts_are_counted_and_break_nothing(subject, letters, uniform, say):
    tokens = [letters.vocab.turn_end] if say else []
    half = subject(lambda prompt, seed: letters.encode("xyxy") if prompt.startswith("a") else tokens)
    records = list(Quality(PASSAGES[:2], uniform, "judge", prompt_tokens=4).run(half))
    empty = records[1].values
    assert (empty["tokens"], empty["judge_tokens"], empty["judge_nats"], empty["reference_tokens"]) == (0, 0, 0, 0)
    assert all(math.isfinite(value) for record in records for value in record.values.values())
    figure = found(records)
    assert (figure["length"], figure["ended"]) == (2, 0.5 if say else 0)
    assert figure["entropy"] == pytest.approx(math.log(2))  # of the one text that has one
    assert figure["distinct_1"] == 2 / 4
    assert all(math.isnan(figures(records[1:], metrics_of)[i].value) for i in (0, 1, 2))


def test_passages_shorter_than_the_prompt_are_given_whole(subject, letters, uniform):
    short = (Passage("abc", "en", "english", "0"), Passage("", "en", "english", "1"))
    records = list(Quality(short, uniform, "judge").run(subject(lambda prompt, seed: letters.encode("xy"))))
    assert [r.detail["prompt"] for r in records] == ["abc", ""]
    assert [r.values["reference_tokens"] for r in records] == [0, 0]
    assert all(r.values["judge_tokens"] > 0 for r in records)


def test_n_grams_by_hand():
    assert variety([5, 6, 5, 6, 5, 6]) == {
        "ngrams_1": 6,
        "distinct_1": 2,
        "ngrams_2": 5,
        "distinct_2": 2,
        "ngrams_3": 4,
        "distinct_3": 2,
        "ngrams_4": 3,
        "repeated_4grams": 1,
    }
    assert set(variety([]).values()) == {0}
    assert (variety([1, 2])["ngrams_3"], variety([1, 2, 3])["ngrams_4"]) == (0, 0)


@pytest.mark.parametrize(
    ("decoding", "written", "canvas", "wasted"),
    [
        (Diffusion(max_new_tokens=20), 3, 20, 16),
        (Autoregressive(max_new_tokens=20), 3, 4, 0),
        # the prompt's five tokens and four more: the second block of four ends after seven, the third after eleven
        (Block(max_new_tokens=20, block_size=4), 3, 7, 3),
        (Block(max_new_tokens=20, block_size=8), 3, 11, 7),
        (Block(max_new_tokens=6, block_size=8), 3, 6, 2),  # no more than may be written
        (Diffusion(max_new_tokens=500), 3, 59, 55),  # nor than the context holds
    ],
)
def test_waste_is_what_was_computed_behind_the_end(subject, letters, uniform, decoding, written, canvas, wasted):
    tokens = [*letters.encode("x" * written), letters.vocab.eos]
    (record,) = Quality(PASSAGES[:1], uniform, "judge", prompt_tokens=4).run(subject(lambda p, s: tokens, decoding))
    # four tokens of prompt behind <|endoftext|>, so written places begin at five
    assert (record.values["canvas"], record.values["wasted"]) == (canvas, wasted)


def test_prompts_never_end_within_a_character(bundled):
    text = "汤姆𠮷有一个🎈红色的球 and a ball"
    ids = bundled.encode(text)
    counts = [whole_start(bundled, ids, count) for count in range(len(ids) + 3)]
    assert all(text.startswith(bundled.decode(ids[:count])) for count in counts)
    assert any(count < wanted for wanted, count in enumerate(counts[: len(ids)]))  # there is something to mend
    assert counts[-1] == len(ids)


def test_a_character_that_ran_out_of_room_is_not_judged(subject, bundled, uniform):
    balloon, end = bundled.encode("🎈"), bundled.vocab.eos
    said = {"b": balloon[:-1], "c": [*balloon, balloon[0]], "d": [*balloon[:-1], end]}
    passages = tuple(Passage(letter, "en", "english", letter) for letter in said)
    it = subject(lambda prompt, seed: said[prompt], tokenizer=bundled)
    texts = [record.detail["text"] for record in Quality(passages, uniform, "judge").run(it)]
    assert texts[:2] == ["", "🎈"]
    assert "\ufffd" in texts[2]  # broken by the model itself, which ended there


def plain_nats(judge: Checkpoint, prompt: str, text: str) -> float:
    before = [judge.tokenizer.vocab.eos, *judge.tokenizer.encode(prompt)]
    tokens = torch.tensor([[*before, *judge.tokenizer.encode(text)]])
    places = torch.arange(tokens.shape[1])[None]
    scored = places >= len(before)
    return float(exact_nll(judge.model, TokenBatch(tokens, scored, torch.zeros_like(tokens), places, places[0])).mean)


def test_a_judge_reads_a_text_after_its_prompt(make_model, letters):
    judge = Checkpoint(make_model(vocab_size=letters.vocab.size), letters, ModelCard("ar"), Path("judge"))
    pairs = [("abcd", "xyz"), ("", "abcabcd"), ("zz", ""), ("xyzabcab", "dcbazyx")]
    scores = judge_texts(judge, pairs, 2)
    for (prompt, text), (nats, tokens) in zip(pairs, scores, strict=True):
        assert nats == pytest.approx(plain_nats(judge, prompt, text), abs=1e-5)
        assert tokens == len(letters.encode(text))
    assert judge_texts(judge, [("zbcd", "xyz")], 2)[0][0] != pytest.approx(scores[0][0], abs=1e-3)
    for size in (1, 64):
        assert judge_texts(judge, pairs, size) == [(pytest.approx(nats, abs=1e-5), tokens) for nats, tokens in scores]


@pytest.mark.parametrize("context", [2, 3, 8, 16, 31])
@pytest.mark.parametrize("before", [0, 3, 8, 40])
def test_longer_texts_than_the_judge_can_hold_are_scored_once(table_model, letters, context, before):
    prompt, text = ("abcd" * 10)[:before], ("abcd" * 20)[before % 4 :][:37]
    seen = SimpleNamespace(widest=0, nats=0.0)
    table = torch.randn(letters.vocab.size, letters.vocab.size, generator=torch.Generator().manual_seed(1))

    def rule(tokens, positions):
        seen.widest = max(seen.widest, tokens.shape[1])
        return table[tokens]  # who knows the token before knows all, so windows change nothing

    judge = Checkpoint(table_model(rule, context), letters, ModelCard("ar"), Path("judge"))
    ((nats, tokens),) = judge_texts(judge, [(prompt, text)], 4)
    assert tokens == 37
    assert seen.widest <= context
    assert nats == pytest.approx(plain_nats(judge, prompt, text), rel=1e-6)


@pytest.mark.parametrize(
    "decoding",
    [
        Autoregressive(max_new_tokens=9, temperature=1.0),
        Diffusion(max_new_tokens=9, temperature=1.0, block_length=4),
        Block(max_new_tokens=9, temperature=1.0, block_size=4, threshold=0.3),
    ],
    ids=["ar", "diffusion", "block"],
)
def test_neither_batches_nor_order_change_a_record(make_model, letters, decoding):
    model = speller(make_model, letters)
    it = Subject("it", Checkpoint(model, letters, ModelCard("diffusion"), Path("it")), decoding, "drawn")
    judge = Checkpoint(make_model(seed=3, vocab_size=letters.vocab.size), letters, ModelCard("ar"), Path("judge"))
    mixed = (replace(PASSAGES[0], item="2"), *PASSAGES)  # one text twice, drawn anew
    suite = Quality(mixed, judge, "judge", prompt_tokens=6)
    first = list(suite.run(it))
    assert len({r.detail["text"] for r in first}) == 4
    for other in (replace(suite, batch_size=1), replace(suite, batch_size=3), replace(suite, prompts=mixed[::-1])):
        again = {(r.task, r.item): r for r in other.run(it)}
        for record in first:
            same = again[record.task, record.item]
            assert same.detail == record.detail
            assert dict(same.values) == pytest.approx(dict(record.values), rel=1e-5, abs=1e-5)
    assert [r.detail["text"] for r in replace(suite, seed=1).run(it)] != [r.detail["text"] for r in first]


def test_only_waste_has_a_better_end():
    assert {metric.name for metric in Quality.metrics if metric.better} == {"wasted"}
    assert Quality.metrics[-1].better == "low"


def test_a_judge_must_be_autoregressive_and_options_in_range(uniform, subject, letters):
    with pytest.raises(ValueError, match="the judge 'it' is a diffusion model: only an autoregressive one"):
        Quality(PASSAGES, replace(uniform, card=ModelCard("diffusion")), "it")
    with pytest.raises(ValueError, match="no passages"):
        Quality((), uniform, "judge")
    for name in ("prompt_tokens", "batch_size"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            Quality(PASSAGES, uniform, "judge", **{name: 0})


def test_a_prompt_that_fills_the_context_is_said(make_model, letters, uniform):
    model = make_model(vocab_size=letters.vocab.size, max_length=8)
    it = Subject("it", Checkpoint(model, letters, ModelCard("ar"), Path("it")), Autoregressive(), "greedy")
    with pytest.raises(UserError, match="the model's context is 8"):
        list(Quality(PASSAGES, uniform, "judge", prompt_tokens=7).run(it))
