"""Self-speculation writes the text of autoregressive decoding in fewer passes; and blocks after causal text."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import (
    Autoregressive,
    Block,
    Decoding,
    DecodingOptions,
    Diffusion,
    Speculative,
    decoding_for,
    default_decoding,
)
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.forward import Rectangles, rectangles
from nano_llada.decode.lean import lean_passes
from nano_llada.decode.proposal import propose
from nano_llada.decode.rows import make_row
from nano_llada.decode.speculation import verified
from nano_llada.decode.types import Request, collect
from nano_llada.objectives.denoising import Reading, noisy_features

WORDS = Vocabulary(size=24, mask=0, eos=1, turn_start=2, turn_end=3, reserved=(4, 5))
READINGS = ("next", "self")
BOTH = ModelCard("both", "sft", block_size=4, predicts="next")


def prompts(count: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    return [Request(tuple(rng.randint(6, 23) for _ in range(rng.randint(1, 12))), seed=i) for i in range(count)]


def written(model, decoding, requests, rows=None, backend=lean_passes):
    sampler = BatchSampler(model, WORDS, decoding, rows, backend)
    return collect(sampler.stream(requests), len(requests), sampler.ends)


def texts(done):
    return [(one.tokens, one.finish, one.end) for one in done]


def some_options(rng: random.Random) -> dict[str, float]:
    """Options that both kinds have."""
    options: dict[str, float] = {"max_new_tokens": rng.randint(1, 24)}
    options["min_new_tokens"] = rng.choice([0, 0, options["max_new_tokens"] // 2])
    if rng.random() < 0.4:
        options["repetition_penalty"] = rng.choice([1.3, 2.0])
    return options


@pytest.mark.parametrize("reading", READINGS)
def test_greedy_text_is_that_of_autoregressive_decoding(make_model, reading):
    rng, tokens, forwards, most = random.Random(7), 0, 0, 0
    for seed in range(8):
        model, requests = make_model(seed=seed, peak=12.0, num_kv_heads=2), prompts(10, seed)
        options, drafts = some_options(rng), rng.choice([1, 2, 3, 5])
        plain = written(model, Autoregressive(**options), requests)
        quick = written(model, Speculative(drafts=drafts, predicts=reading, **options), requests)
        assert texts(quick) == texts(plain)
        for one in quick:
            made = len(one.tokens) + (one.end is not None)
            tokens, forwards, most = tokens + made, forwards + one.forwards, most + one.forwards * (drafts + 1)
    assert forwards < tokens < most  # drafts were accepted, and rejected


def test_greedy_text_is_that_of_autoregressive_decoding_on_the_lean_forward(make_model):
    """To the last bit: there a row's logits do not depend on how many tokens a pass computes."""
    tokens = forwards = 0
    for seed in range(4):
        model = make_model(seed=seed, peak=12.0, num_kv_heads=2)
        lean = lean_passes.prepared(model)
        requests = prompts(12, seed)
        if not lean.exact:
            pytest.skip("the kernels of this machine are not exact")
        plain = written(model, Autoregressive(max_new_tokens=24), requests)
        quick = written(model, Speculative(max_new_tokens=24, drafts=2), requests)
        assert texts(quick) == texts(plain)
        tokens += sum(len(one.tokens) + (one.end is not None) for one in quick)
        forwards += sum(one.forwards for one in quick)
    assert forwards < tokens < 3 * forwards


def test_drafts_end_where_the_context_and_the_answer_do(peaky):
    """The masks behind the last token need places in the cache, but no room in the context of 64."""
    requests = [Request(tuple(range(6, 24)) * 3 + (7,) * count) for count in (0, 5, 9)]
    options = {"max_new_tokens": 16, "min_new_tokens": 16}
    plain, quick = (written(peaky, kind(**options), requests) for kind in (Autoregressive, Speculative))
    assert [len(one.tokens) for one in quick] == [10, 5, 1]
    assert texts(quick) == texts(plain)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_without_drafts_it_is_autoregressive_decoding(peaky, temperature):
    requests = prompts(10, 1)
    plain = written(peaky, Autoregressive(max_new_tokens=12, temperature=temperature), requests)
    quick = written(peaky, Speculative(max_new_tokens=12, drafts=0, temperature=temperature), requests)
    assert texts(quick) == texts(plain)
    assert [one.forwards for one in quick] == [one.forwards for one in plain]


def test_verified_drafts_have_the_verifiers_distribution():
    """A draft from any q, accepted or replaced: its place has distribution p, and so has the one behind it."""
    rng = torch.Generator().manual_seed(0)
    p, after = (torch.rand(5, dtype=torch.float64, generator=rng).softmax(0) ** 3 for _ in range(2))
    p, after = p / p.sum(), after / after.sum()
    q = torch.tensor([0.7, 0.1, 0.1, 0.1, 0.0], dtype=torch.float64)
    count, found, accepted = 6000, Counter[int](), Counter[int]()
    for _ in range(count):
        draft = int(torch.multinomial(q, 1, generator=rng))
        tokens = verified(torch.stack([p, after]), [draft], [q], rng)
        found[tokens[0]] += 1
        if tokens[0] == draft:
            assert len(tokens) == 2
            accepted[tokens[1]] += 1
        else:
            assert len(tokens) == 1
    for observed, expected in ((found, p), (accepted, after)):
        total = observed.total()
        assert total > 2000
        squares = sum((observed[i] - total * float(e)) ** 2 / (total * float(e)) for i, e in enumerate(expected))
        assert squares < 18.5  # chi-square with 4 degrees of freedom: 1 in 1000
    assert found.total() > accepted.total()


@pytest.mark.parametrize("reading", READINGS)
def test_the_distribution_of_drawn_tokens_is_that_of_the_autoregressive_mode(make_model, reading):
    """Two tokens behind one prompt, by enumeration of all pairs: the second one is a draft in every text."""
    model, count = make_model(seed=3, peak=4.0, num_kv_heads=2), 600
    prompt, options = (7, 9, 11), {"max_new_tokens": 3, "min_new_tokens": 3, "temperature": 0.8, "top_k": 4}
    requests = [Request(prompt, seed=i) for i in range(count)]
    done = written(model, Speculative(drafts=2, predicts=reading, **options), requests)
    assert {one.forwards for one in done} == {2, 3}  # some drafts were accepted, and some not
    found = Counter(tuple(one.tokens[:2]) for one in done)

    def chances(text):
        logits = model(torch.tensor([text]), AttentionPattern("causal"))[0, -1].detach().clone()
        logits[[*WORDS.unwritable, *WORDS.ends]] = -torch.inf
        best = logits.topk(4).indices
        kept = torch.full_like(logits, -torch.inf)
        kept[best] = logits[best] / 0.8
        return kept.softmax(-1)

    first = chances(prompt)
    expected = {
        (a, b): float(first[a]) * float(second[b])
        for a in first.nonzero()[:, 0].tolist()
        for second in [chances((*prompt, a))]
        for b in second.nonzero()[:, 0].tolist()
    }
    assert sum(expected.values()) == pytest.approx(1)
    assert found.keys() <= expected.keys()
    squares = sum((found[pair] - count * e) ** 2 / (count * e) for pair, e in expected.items())
    assert len(expected) == 16
    assert squares < 37.7  # chi-square with 15 degrees of freedom: 1 in 1000


def test_stop_texts_and_cancelled_rows(peaky):
    """A stop test sees the text after every pass, as it does with any other kind."""
    requests, seen = prompts(3, 2), []
    sampler = BatchSampler(peaky, WORDS, Speculative(max_new_tokens=16, min_new_tokens=16))

    def test(number, tokens):
        seen.append((number, len(tokens)))
        return number == 1 and len(tokens) >= 5

    done = collect(sampler.stream(requests, test), 3, sampler.ends)
    assert [one.finish for one in done] == ["length", "stop", "length"]
    assert 5 <= len(done[1].tokens) <= 7
    plain = written(peaky, Autoregressive(max_new_tokens=16, min_new_tokens=16), requests)
    assert [one.tokens for one in done] == [plain[0].tokens, plain[1].tokens[: len(done[1].tokens)], plain[2].tokens]


# --- blocks ----------------------------------------------------------------------------------------------------------


def passes(model, request: Request, decoding: Decoding):
    """Every pass of one request: the row before it, the places that were read, and their logits."""
    row = make_row(request, WORDS, decoding, 64)
    backend = Rectangles(model, WORDS.eos)
    backend.resize(1, row.size, [])
    while not row.finished:
        window = row.window()
        logits = backend.compute([(0, window)])
        yield row, window.places, logits
        (proposal,) = propose(logits.clone(), [(row, window.places)], WORDS)
        row.update(*proposal)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("cached", [True, False])
def test_decoding_a_block_sees_what_training_it_saw(make_model, make_batch, reading, cached):
    """Causal text, then a block that sees itself: the logits of every pass are those of the two training streams."""
    model, looks = make_model(seed=5, peak=12.0, num_kv_heads=2), 0
    for request in prompts(4, 3):
        decoding = Block(
            max_new_tokens=10,
            min_new_tokens=10,
            block_size=4,
            threshold=0.6,
            predicts=reading,
            causal=True,
            cached=cached,
        )
        for row, places, logits in passes(model, request, replace(decoding, cached=cached)):
            batch = make_batch([[len(row.tokens)]])
            canvas = torch.tensor([row.tokens])
            clean = torch.where(canvas == WORDS.mask, WORDS.eos, canvas)  # never seen where it is masked
            numbers = torch.tensor([[max(0, 1 + (i - row.first) // 4) for i in range(len(row.tokens))]])
            select = torch.zeros(canvas.shape, dtype=torch.bool)
            select[0, places] = True
            with torch.no_grad():
                look = noisy_features(
                    model, canvas, replace(batch, tokens=clean), select, None, Reading(reading, True, numbers)
                )[0]
                torch.testing.assert_close(logits, model.head(look), atol=1e-4, rtol=0)
            looks += len(places) < 4  # passes over partly written blocks
    assert looks > 4


@pytest.mark.parametrize("size", [None, 4])
def test_a_denoiser_that_predicts_the_next_token_decodes_as_it_was_trained(make_model, make_batch, size):
    model = make_model(seed=5, peak=12.0, num_kv_heads=2)
    options = {"max_new_tokens": 10, "min_new_tokens": 10, "threshold": 0.6, "predicts": "next"}
    decoding = Block(block_size=size, **options) if size else Diffusion(**options)
    for request in prompts(3, 4):
        for row, places, logits in passes(model, request, decoding):
            batch = make_batch([[len(row.tokens)]])
            canvas = torch.tensor([row.tokens])
            clean = torch.where(canvas == WORDS.mask, WORDS.eos, canvas)
            select = torch.zeros(canvas.shape, dtype=torch.bool)
            select[0, places] = True
            with torch.no_grad():
                look = noisy_features(model, canvas, replace(batch, tokens=clean), select, size, Reading("next"))[0]
            torch.testing.assert_close(logits, model.head(look), atol=1e-4, rtol=0)


def test_blocks_of_one_token_that_predict_the_next_are_autoregressive_decoding(peaky):
    requests = prompts(8, 5)
    plain = written(peaky, Autoregressive(max_new_tokens=12), requests)
    blocks = written(peaky, Block(max_new_tokens=12, block_size=1, predicts="next", causal=True), requests)
    assert texts(blocks) == texts(plain)


@pytest.mark.parametrize("edits", [None, 0.3])
def test_causal_blocks_decode_on_the_lean_forward_as_on_the_other(make_model, edits):
    model = make_model(seed=6, peak=12.0, num_kv_heads=2)
    for reading in READINGS:
        decoding = Block(
            max_new_tokens=12, block_size=5, threshold=0.5, predicts=reading, causal=True, edit_threshold=edits
        )
        one, other = (written(model, decoding, prompts(8, 6), backend=b) for b in (rectangles, lean_passes))
        assert texts(one) == texts(other)


# --- which way a model decodes ---------------------------------------------------------------------------------------


def test_a_model_of_both_tracks_decodes_in_each_of_its_ways():
    assert decoding_for(BOTH, DecodingOptions()) == Speculative(drafts=2, predicts="next")
    assert decoding_for(replace(BOTH, drafts=3), DecodingOptions()) == Speculative(drafts=3)
    assert decoding_for(BOTH, DecodingOptions(decode="ar", temperature=0.5)) == Autoregressive(temperature=0.5)
    block = decoding_for(BOTH, DecodingOptions(decode="block", threshold=0.9))
    assert block == Block(block_size=4, threshold=0.9, predicts="next", causal=True)
    assert type(decoding_for(replace(BOTH, decode="block"), DecodingOptions())) is Block
    assert type(default_decoding(BOTH)) is Speculative
    assert type(decoding_for(ModelCard("diffusion", block_size=8, predicts="next"), DecodingOptions())) is Block


@pytest.mark.parametrize(
    ("card", "options", "message"),
    [
        (BOTH, {"threshold": 0.9}, "threshold: not for this way of decoding.*decode block"),
        (BOTH, {"decode": "block", "drafts": 3}, "drafts: not for this way of decoding.*decode speculative"),
        (BOTH, {"decode": "blocks"}, "did you mean"),
        (ModelCard("ar"), {"decode": "speculative"}, "track ar was not trained for it; this one has ar"),
        (ModelCard("diffusion", block_size=4), {"decode": "ar"}, "this one has block"),
        (ModelCard("diffusion"), {"decode": "ar"}, "canvas of masks"),
        (ModelCard("ar"), {"drafts": 2}, "this model is autoregressive"),
        (replace(BOTH, decode="block"), {"edit_threshold": 0.5, "edit_blocks": 1}, "edit_blocks"),
    ],
)
def test_other_ways_are_refused_with_the_reason(card, options, message):
    with pytest.raises((UserError, ValueError), match=message):  # a word that is no choice: by the record itself
        decoding_for(card, DecodingOptions(**options))


def test_a_suffix_is_refused(peaky):
    for decoding in (Speculative(), Block(causal=True)):
        with pytest.raises(UserError, match="cannot see what follows"):
            make_row(Request((6, 7), suffix=(8,), fill=True), WORDS, decoding, 64)
