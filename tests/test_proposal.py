"""The parts of writing that need no model: filters, draws, the plan of passes, and gathering what was written."""

from __future__ import annotations

import math
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_llada.config.decoding import Autoregressive, Diffusion
from nano_llada.decode.proposal import choose, penalise, truncate
from nano_llada.decode.rows import spread
from nano_llada.decode.types import collect
from planted import wrote


@given(sizes=st.integers(1, 40), block=st.integers(1, 45), steps=st.integers(1, 50))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_passes_are_shared_out_whatever_divides_what(sizes, block, steps):
    blocks = [min(block, sizes - left) for left in range(0, sizes, block)]
    plan = spread(steps, blocks)
    assert [sum(part) for part in plan] == blocks
    assert all(max(part) - min(part) <= 1 and min(part) >= 1 and part == sorted(part)[::-1] for part in plan)
    assert sum(map(len, plan)) == min(max(steps, len(blocks)), sizes)  # as asked for, where that can be


def test_penalty_by_hand_leaves_ends_alone(vocab):
    logits, seen = torch.full((1, 24), 2.0), torch.zeros(1, 24, dtype=torch.bool)
    logits[0, 7], seen[0, [1, 3, 7, 8]] = -2.0, True
    assert penalise(logits, seen, 4.0, vocab)[0, [1, 3, 7, 8, 9]].tolist() == [2.0, 2.0, -8.0, 0.5, 2.0]


def test_numbers_too_small_for_float32_still_choose_the_likeliest(vocab):
    logits = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    logits[:, 0] = -torch.inf
    for options in ({"temperature": 1e-320}, {"temperature": 1e-300}, {"temperature": 2.0, "top_p": 1e-300}):
        rng = torch.Generator().manual_seed(1)
        assert choose(logits, Autoregressive(**options), [rng] * 3).tolist() == logits.argmax(-1).tolist()
    seen = torch.ones(3, 24, dtype=torch.bool)
    for penalty in (1e-300, 1e-45):
        assert not penalise(logits, seen, penalty, vocab).isnan().any()
        assert penalise(logits, seen, penalty, vocab)[:, 0].isneginf().all()


TRUNCATIONS = [
    *[({}, 4), ({"top_k": 2}, 2), ({"top_k": 9}, 4), ({"top_p": 0.4}, 1), ({"top_p": 0.7}, 2), ({"top_p": 0.81}, 3)],
    *[({"min_p": 0.5}, 2), ({"min_p": 0.25}, 3), ({"min_p": 0.5, "temperature": 2.0}, 3)],
    *[({"top_p": 0.7, "temperature": 2.0}, 3), ({"top_k": 3, "min_p": 0.5}, 2), ({"top_k": 1, "top_p": 0.9}, 1)],
]


@pytest.mark.parametrize(("options", "kept"), TRUNCATIONS)
def test_truncation_sets_by_hand(options, kept):
    logits = torch.tensor([[0.05, 0.3, 0.5, 0.15]]).log()
    left = truncate(logits, Autoregressive(**({"temperature": 1.0} | options)))[0]
    assert left.isfinite().nonzero()[:, 0].tolist() == sorted([2, 1, 3, 0][:kept])  # likeliest first
    torch.testing.assert_close(left[2], logits[0, 2] / options.get("temperature", 1.0))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_drawn_tokens_follow_the_softmax(temperature):
    logits, rng = torch.tensor([1.0, 0.0, -1.0, 2.0, -torch.inf, 0.5]), torch.Generator().manual_seed(0)
    tokens = choose(logits.expand(20_000, -1), Autoregressive(temperature=temperature), [rng] * 20_000)
    counts, expected = tokens.bincount(minlength=6), (logits / temperature).softmax(-1) * 20_000
    assert counts[4] == 0
    deviation = ((counts - expected) ** 2 / expected)[expected > 0].sum()
    assert float(deviation) < 4 + 5 * math.sqrt(8)


def test_collect_says_how_it_ended_when_and_in_which_order():
    clock = (float(now) for now in count(100, 2))
    steps = [
        [wrote(0, (1,), (8,), last=False), wrote(1, (0, 1), (6, 7), last=True)],
        [wrote(0, (0, 2), (9, 3), last=False, forwards=2)],
        [wrote(0, (3,), (6,), last=True, forwards=3)],
    ]
    first, second = collect(steps, 2, (1, 3), lambda: next(clock))
    assert (first.tokens, first.order, first.finish) == ([9, 8], [1, 0], "stop")
    assert (second.tokens, second.order, second.finish) == ([6, 7], [0, 0], "length")
    assert (first.forwards, first.seconds, first.first_seconds) == (3, 6.0, 4.0)
    assert (second.forwards, second.seconds, second.first_seconds) == (1, 2.0, 2.0)
    assert (first.tokens_per_forward, second.tokens_per_forward) == (pytest.approx(2 / 3), 2.0)
    assert collect([], 1, ())[0].tokens_per_forward == 0


NONSENSE = [
    ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
    ({"temperature": -1.0}, "temperature must be at least 0"),
    ({"top_p": 0.0}, "top_p must be in"),
    ({"min_p": 1.0}, "min_p must be in"),
    ({"top_k": -1}, "top_k must be at least 0"),
    ({"top_k": 5}, "set a temperature above 0"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be positive"),
    ({"steps": 0}, "steps must be at least 1, got 0"),
    ({"steps": 4, "threshold": 0.9}, "give one of them"),
    ({"threshold": 1.1}, "threshold must be in"),
    ({"threshold": 0.9, "strategy": "random"}, "needs strategy low_confidence, not random"),
    ({"block_length": 0}, "block_length must be at least 1, got 0"),
    ({"end_confidence": 2.0}, "end_confidence must be in"),
]


@pytest.mark.parametrize(("options", "message"), NONSENSE)
def test_options_that_make_no_sense_are_refused(options, message):
    for kind in (Diffusion, Autoregressive):
        if set(options) <= set(vars(kind())):
            with pytest.raises(ValueError, match=message):
                kind(**options)
