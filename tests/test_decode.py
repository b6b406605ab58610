"""Writing: what may be written, where and in which order, at what cost, and that a batch is only a batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nano_llada.config.decoding import Autoregressive, Diffusion
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.forward import rectangles
from nano_llada.decode.lean import lean_passes
from nano_llada.decode.proposal import forbid
from nano_llada.decode.types import Completion, Event, Request, collect

ALL = {"max_new_tokens": 14, "min_new_tokens": 5}
DRAWN = ALL | {"temperature": 0.8}
DIFFUSION = {
    "confidence": Diffusion(steps=6, block_length=5, **ALL),
    "confidence-drawn": Diffusion(steps=9, top_k=9, **DRAWN),
    "margin": Diffusion(steps=5, strategy="margin", **ALL),
    "entropy-drawn": Diffusion(strategy="entropy", block_length=6, **DRAWN),
    "random": Diffusion(steps=6, strategy="random", **ALL),
    "random-drawn": Diffusion(steps=6, strategy="random", block_length=4, **DRAWN),
    "threshold": Diffusion(threshold=0.5, block_length=7, **ALL),
    "threshold-drawn": Diffusion(threshold=0.4, **DRAWN),
    "guidance": Diffusion(steps=7, guidance=0.7, repetition_penalty=1.2, **ALL),
}
CONFIGS = {"ar": Autoregressive(**ALL), "ar-drawn": Autoregressive(top_p=0.95, **DRAWN), **DIFFUSION}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
each_diffusion = pytest.mark.parametrize("config", DIFFUSION.values(), ids=DIFFUSION)
both_tracks = pytest.mark.parametrize("track", [Autoregressive, Diffusion], ids=["ar", "diffusion"])
REQUESTS = [
    Request((6, 7, 8)),
    Request((9, 20, 11, 12, 13, 9, 23), seed=1),
    Request((14, 15), seed=2, max_new_tokens=4),
]


@pytest.fixture
def run(vocab):
    """Events and completions of some requests."""

    def start(
        model, config, requests=REQUESTS, stop=None, backend=lean_passes
    ) -> tuple[list[list[Event]], list[Completion]]:
        sampler = BatchSampler(model, vocab, config, backend=backend)
        events = list(sampler.stream(requests, stop))
        return events, collect(events, len(requests), sampler.ends)

    return start


def one_hot(tokens: list[int], logit: float = 9.0) -> Tensor:
    """A table that writes these tokens, position by position."""
    table = torch.zeros(64, 24)
    table[range(len(tokens)), tokens] = logit
    return table


def places(events: list[list[Event]], request: int = 0) -> list[tuple[int, ...]]:
    return [tuple(sorted(place for place, _ in e.writes)) for some in events for e in some if e.request == request]


@each_config
def test_a_batch_decodes_as_its_rows_would_alone(peaky, run, config):
    _, together = run(peaky, config)
    for request, completion in zip(REQUESTS, together, strict=True):
        _, (alone,) = run(peaky, config, [request])
        assert (alone.tokens, alone.order, alone.forwards) == (completion.tokens, completion.order, completion.forwards)
    assert len({completion.forwards for completion in together}) > 1  # rows left the batch at different times
    assert len({tuple(completion.tokens[:5]) for completion in together}) == 3
    _, turned = run(peaky, config, REQUESTS[::-1])
    assert [c.tokens for c in turned[::-1]] == [c.tokens for c in together]


@each_config
def test_same_seed_same_output_and_another_only_where_something_is_drawn(peaky, run, config):
    before = torch.get_rng_state()
    events, first = run(peaky, config)
    assert run(peaky, config)[0] == events
    assert torch.equal(torch.get_rng_state(), before)
    drawn = config.temperature > 0 or getattr(config, "strategy", "") == "random"
    for changed in (replace(config, seed=1), config):
        requests = [replace(r, seed=r.seed + 7) for r in REQUESTS] if changed is config else REQUESTS
        _, other = run(peaky, changed, requests)
        same = all((a.tokens, a.order) == (b.tokens, b.order) for a, b in zip(first, other, strict=True))
        assert same != drawn


@each_diffusion
def test_what_is_given_is_never_written_and_nothing_written_changes(peaky, run, watch, vocab, config):
    request = Request((6, 7, 8), (9, 10), given=((4, 22), (13, 23)), fill=True)
    seen = watch(peaky)
    events, _ = run(peaky, replace(config, guidance=0.0), [request], backend=rectangles)
    seen.stop()
    stands = {4: 22, 13: 23}
    for canvas, (write,) in zip(seen.tokens, events, strict=True):
        assert canvas[0].tolist() == [6, 7, 8, *(stands.get(place, vocab.mask) for place in range(14)), 9, 10]
        assert not set(dict(write.writes)) & set(stands)
        stands |= dict(write.writes)
    assert sorted(stands) == list(range(14))
    assert not set(stands.values()) & {*vocab.unwritable, *vocab.ends}  # an end would tear the text apart
    assert [writes[0].finished for writes in events] == [False] * (len(events) - 1) + [True]


@each_config
def test_nothing_unwritable_is_ever_written(table_model, vocab, run, config):
    table = torch.randn(64, vocab.size, generator=torch.Generator().manual_seed(0))
    table[:, list(vocab.unwritable)] += 50
    events, _ = run(table_model(table), config)
    tokens = {token for writes in events for write in writes for _, token in write.writes}
    assert len(tokens) > 5
    assert not tokens & set(vocab.unwritable)


def test_ar_greedy_equals_a_loop_without_cache(peaky, vocab, run):
    for request, completion in zip(REQUESTS, run(peaky, CONFIGS["ar"])[1], strict=True):
        text = list(request.prompt)
        for _ in range(request.max_new_tokens or 14):
            logits = peaky(torch.tensor([text]), AttentionPattern("causal"))[:, -1].detach()
            early = torch.tensor([len(text) - len(request.prompt) < 5])
            text.append(int(forbid(logits, vocab, no_end=early).argmax()))
            if text[-1] in vocab.ends:
                break
        expected = [token for token in text[len(request.prompt) :] if token not in vocab.ends]
        assert completion.tokens == expected


@torch.no_grad()
def test_low_confidence_equals_a_plain_loop(peaky, vocab, run):
    request = Request((6, 7, 8), suffix=(9,), fill=True)
    _, (done,) = run(peaky, Diffusion(max_new_tokens=12, steps=6, block_length=4), [request])
    canvas = torch.tensor([[6, 7, 8, *[vocab.mask] * 12, 9]])
    for first in (3, 3, 7, 7, 11, 11):  # three blocks of four, two passes each
        logits = forbid(peaky(canvas, AttentionPattern("full"))[0], vocab, no_end=torch.ones(16, dtype=torch.bool))
        sure, tokens = logits.softmax(-1).max(-1)
        place = torch.arange(16)
        hidden = (canvas[0] == vocab.mask) & (place >= first) & (place < first + 4)
        best = sure.masked_fill(~hidden, -1).topk(2).indices
        canvas[0, best] = tokens[best]
    assert done.tokens == canvas[0, 3:15].tolist()
    assert len(set(done.tokens)) > 3


def test_one_step_a_token_in_blocks_of_one_is_left_to_right(peaky, run):
    events, (done,) = run(
        peaky, Diffusion(max_new_tokens=10, steps=10, block_length=1, min_new_tokens=10), REQUESTS[:1]
    )
    assert places(events) == [(place,) for place in range(10)]
    assert done.order == list(range(10))


@given(length=st.integers(1, 13), block=st.integers(1, 15), steps=st.integers(1, 15), random=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_place_is_written_once_whatever_divides_what(table_model, vocab, length, block, steps, random):
    strategy = "random" if random else "low_confidence"
    config = Diffusion(max_new_tokens=length, block_length=block, steps=steps, strategy=strategy)
    sampler = BatchSampler(table_model(one_hot([7] * 20)), vocab, config)
    written = [place for writes in sampler.stream([Request((6,))]) for place, _ in writes[0].writes]
    assert sorted(written) == list(range(length))
    assert [place // block for place in written] == sorted(place // block for place in written)


def test_threshold_writes_all_that_is_sure_and_at_least_one(table_model, run):
    table = one_hot([9, 7, 7, 7, 7])
    table[range(1, 5), 7] = torch.tensor([9.0, 2.0, 7.0, 3.0])  # probabilities .997 .28 .98 .51
    thresholds = {0.9: [(0, 2), (3,), (1,)], 0.4: [(0, 2, 3), (1,)], 0.0: [(0, 1, 2, 3)], 1.0: [(0,), (2,), (3,), (1,)]}
    for threshold, expected in thresholds.items():
        events, _ = run(table_model(table), Diffusion(max_new_tokens=4, threshold=threshold), [Request((6,))])
        assert places(events) == expected


def test_threshold_one_is_a_token_a_forward_and_zero_a_block_a_forward(peaky, run):
    request = [Request((6, 7), suffix=(8,), fill=True)]
    slow, _ = run(peaky, Diffusion(max_new_tokens=12, threshold=1.0, block_length=5), request)
    fast, _ = run(peaky, Diffusion(max_new_tokens=12, threshold=0.0, block_length=5), request)
    assert [len(group) for group in places(slow)] == [1] * 12
    assert places(fast) == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9), (10, 11)]


def test_guidance_costs_a_second_forward_only_when_it_is_on(peaky, run, watch, vocab):
    for guidance, calls in ((0.0, 1), (0.5, 2)):
        seen = watch(peaky)
        events, _ = run(peaky, Diffusion(max_new_tokens=6, guidance=guidance), backend=rectangles)
        seen.stop()
        assert len(seen.tokens) == calls * len(events)
    assert (seen.tokens[1][1, :7] == vocab.mask).all()  # the second call is blind to the prompt
    assert seen.tokens[0][1, :7].tolist() == list(REQUESTS[1].prompt)


@pytest.mark.parametrize("guidance", [0.5, 2.0])
def test_guidance_follows_the_formula(table_model, run, vocab, guidance):
    seeing, blind = torch.randn(2, 64, vocab.size, generator=torch.Generator().manual_seed(4)).mul(2).unbind()

    def rule(tokens, positions):
        return torch.where((tokens[:, :1] == vocab.mask)[..., None], blind[positions], seeing[positions])

    _, (done,) = run(
        table_model(rule), Diffusion(max_new_tokens=12, guidance=guidance, min_new_tokens=12), [Request((6,))]
    )
    guided = blind + (1 + guidance) * (seeing - blind)
    no_end = torch.ones(12, dtype=torch.bool)
    expected = forbid(guided[1:13].clone(), vocab, no_end=no_end)
    assert done.tokens == expected.argmax(-1).tolist()
    assert done.tokens != forbid(seeing[1:13].clone(), vocab, no_end=no_end).argmax(-1).tolist()
    ranking = expected.softmax(-1).amax(-1).argsort(descending=True).tolist()
    assert sorted(range(12), key=lambda place: done.order[place]) == ranking


@both_tracks
def test_min_new_tokens_holds_the_end_back(table_model, run, track):
    table = one_hot([1] * 20) + one_hot([7] * 20, 5.0)  # wants to end everywhere
    for least in (0, 3):
        _, (done,) = run(table_model(table), track(max_new_tokens=8, min_new_tokens=least), [Request((6, 7))])
        assert (done.tokens, done.finish) == ([7] * least, "stop")


@pytest.mark.parametrize("strategy", ["low_confidence", "margin", "entropy"])
def test_end_confidence_lets_ends_wait(table_model, run, strategy):
    table = one_hot([6, 7, 7, 1, 3], 4.0)
    table[3:5] *= 2  # the model is surer of its ends than of its text
    order = {}
    for factor in (1.0, 0.05):
        config = Diffusion(max_new_tokens=4, strategy=strategy, end_confidence=factor)
        order[factor] = places(run(table_model(table), config, [Request((6,))])[0])
    assert order == {1.0: [(2,), (3,), (0,), (1,)], 0.05: [(0,), (1,), (2,)]}


@both_tracks
def test_finished_rows_stop_costing_compute(table_model, run, watch, track):
    table = one_hot([7] * 20)
    table[3] = one_hot([1])[0]  # a prompt of three meets the end, one of six is past it
    model = table_model(table)
    seen = watch(model)
    config = track(max_new_tokens=6) if track is Autoregressive else track(max_new_tokens=6, block_length=1)
    _, done = run(model, config, [Request((6,) * 3), Request((6,) * 6)], backend=rectangles)
    first = 2 if track is Autoregressive else 1
    assert [len(tokens) for tokens in seen.tokens] == [2] * first + [1] * (6 - first)
    assert [c.finish for c in done] == ["stop", "length"]
    assert [c.forwards for c in done] == [first, 6]


@pytest.mark.parametrize("end", [1, 3])
def test_an_answer_ends_when_its_end_stands_and_nothing_before_it_is_hidden(table_model, run, end):
    table = one_hot([6, 7, 7, 7, end, 8, 8, 8])
    table[4] *= 2  # the end is written first
    events, (done,) = run(table_model(table), Diffusion(max_new_tokens=7), [Request((6,))])
    assert places(events) == [(3,), (0,), (1,), (2,)]  # and what follows is left
    assert [writes[0].finished for writes in events] == [False, False, False, True]
    assert (done.tokens, done.finish, done.order) == ([7, 7, 7], "stop", [1, 2, 3])


def test_infilling_fills_every_gap_to_its_end(table_model, run):
    table = one_hot([6, 7, 1, 3, 1]) + one_hot([9] * 20, 4.0)  # wants to end inside the gap
    request = Request((6,), (10, 11), given=((1, 8),), fill=True)
    events, (done,) = run(table_model(table), Diffusion(max_new_tokens=5), [request])
    assert sorted(sum(places(events), ())) == [0, 2, 3, 4]
    assert (done.tokens, done.finish) == ([7, 9, 9, 9], "length")


@pytest.mark.parametrize(
    ("strategy", "expected"), [("low_confidence", [2, 0, 1]), ("margin", [2, 1, 0]), ("entropy", [0, 2, 1])]
)
@pytest.mark.parametrize("filters", [{}, {"temperature": 5.0, "top_k": 1}, {"temperature": 0.1, "top_p": 0.01}])
def test_scores_come_from_the_unfiltered_softmax_at_temperature_one(table_model, run, strategy, expected, filters):
    table = torch.full((64, 24), 1e-12)
    table[1:4, 6:] = torch.tensor([[0.50, 0.46, *[0.0025] * 16], [0.4, *[0.6 / 17] * 17], [0.55, *[0.45 / 17] * 17]])
    table = table.log()
    table[3, 0] = 20.0  # what cannot be written takes no confidence away
    events, (done,) = run(
        table_model(table), Diffusion(max_new_tokens=3, strategy=strategy, **filters), [Request((6,))]
    )
    assert places(events) == [(place,) for place in expected]
    assert done.tokens == [6, 6, 6]


def test_random_order_writes_the_share_that_the_reverse_process_asks_for(table_model, run):
    requests = [Request((6,), seed=seed) for seed in range(100)]
    events, done = run(
        table_model(one_hot([7] * 20)), Diffusion(max_new_tokens=16, steps=5, strategy="random"), requests
    )
    hidden = 1600
    for step, writes in enumerate(events):
        t, s = 1 - step / 5, 1 - (step + 1) / 5
        share = 1 - s / t
        written = sum(len(write.writes) for write in writes)
        assert abs(written / hidden - share) <= 4 * math.sqrt(share * (1 - share) / hidden)
        hidden -= written
    assert hidden == 0
    assert len({tuple(completion.order) for completion in done}) == 100


@both_tracks
def test_repetition_penalty_turns_to_other_tokens(table_model, run, track):
    table = one_hot([7] * 20, 5.0) + one_hot([8] * 20, 4.0) + one_hot([9] * 20, 3.0)
    options = {"block_length": 1} if track is Diffusion else {}
    for penalty, expected in ((1.0, [7, 7, 7]), (2.0, [8, 9, 7])):
        config = track(max_new_tokens=3, repetition_penalty=penalty, **options)
        _, (done,) = run(table_model(table), config, [Request((7, 6))])
        assert done.tokens == expected


@both_tracks
def test_a_stop_test_ends_its_request_alone(table_model, run, track):
    asked: list[tuple] = []

    def stop(number, tokens):
        asked.append((number, tuple(tokens)))
        return number == 1 and tokens[1:2] == [7]

    config = track(max_new_tokens=5, **({"block_length": 1} if track is Diffusion else {}))
    _, done = run(table_model(one_hot([7] * 20)), config, [Request((6,)), Request((6, 6))], stop)
    assert [(c.tokens, c.finish) for c in done] == [([7] * 5, "length"), ([7, 7], "stop")]
    assert done[1].forwards == 2
    assert [number for number, _ in asked] == [0, 1, 0, 1, 0, 0, 0][: max(6, len(asked))]
    assert asked[3] == (1, (7, 7) if track is Autoregressive else (7, 7, None, None, None))


def test_what_a_stop_test_leaves_has_no_holes(table_model, run):
    table = one_hot([6, 7, 8, 9, 10])
    table[4] *= 3
    table[1] *= 2  # order of writing: places 3, 0, then the stop
    stop = lambda number, tokens: tokens[0] is not None  # noqa: E731
    events, (done,) = run(table_model(table), Diffusion(max_new_tokens=4), [Request((6,))], stop)
    assert places(events) == [(3,), (0,)]
    assert (done.tokens, done.order) == ([7], [1])


REFUSED = [
    (Request((6,) * 64), "the prompt has 64 tokens, the model's context is 64"),
    (Request(()), "the prompt is empty: give at least one token"),
    (Request((6,), max_new_tokens=0), "max_new_tokens must be at least 1, got 0: there is nothing to write"),
]


@both_tracks
@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_requests_that_cannot_be_written_are_refused(table_model, run, track, wrong, message):
    with pytest.raises(UserError, match=message):
        run(table_model(one_hot([])), track(), [Request((6,)), wrong])


def test_infilling_needs_a_diffusion_model_and_room(table_model, run):
    for request in (Request((6,), suffix=(7,)), Request((6,), fill=True), Request((6,), given=((1, 7),))):
        with pytest.raises(UserError, match="infilling needs a diffusion model"):
            run(table_model(one_hot([])), Autoregressive(max_new_tokens=4), [request])
    with pytest.raises(UserError, match="need 68 tokens, the model's context is 64"):  # never a gap cut short
        run(table_model(one_hot([])), Diffusion(), [Request((6,) * 60, max_new_tokens=8, fill=True)])


def test_a_request_with_nothing_hidden_is_done_at_once(table_model, run):
    whole = Request((6,), (7,), max_new_tokens=2, given=((0, 8), (1, 9)), fill=True)
    _, done = run(table_model(one_hot([7] * 9)), Diffusion(max_new_tokens=3), [whole, Request((6,))])
    assert [(c.tokens, c.forwards) for c in done] == [([], 0), ([7, 7, 7], 3)]


@both_tracks
def test_a_long_prompt_leaves_the_room_it_leaves(peaky, run, track):
    _, (done,) = run(peaky, track(min_new_tokens=9), [Request((6,) * 60)])
    assert (len(done.tokens), done.finish) == (4, "length")


@both_tracks
def test_streams_can_be_left_at_any_time_and_leak_no_inference_mode(peaky, vocab, watch, track):
    sampler = BatchSampler(peaky, vocab, track(max_new_tokens=9), backend=rectangles)
    seen, stream = watch(peaky), sampler.stream(REQUESTS)
    next(stream)
    assert not torch.is_inference_mode_enabled()
    stream.close()
    seen.stop()
    assert len(seen.tokens) == 1
    assert list(sampler.stream([])) == []
