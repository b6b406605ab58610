"""Preference optimisation: its loss against likelihoods by hand, its gradient, and noise shared with the reference."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from built import act
from nano_llada.config.objectives import BoundScore, ExactScore, Preference
from nano_llada.core.batch import StepContext, TokenBatch
from nano_llada.core.pattern import AttentionPattern

QUIET = {"mask_rate_min": 0.25, "mask_rate_max": 0.75, "complementary": True}
SCORES = [ExactScore(), BoundScore(), BoundScore(4), BoundScore(2, 3), BoundScore(1, 1), BoundScore(2, 4, **QUIET)]
each_score = pytest.mark.parametrize("score", SCORES, ids=str)
PAIRS = 3
PROMPT = 4


@pytest.fixture
def batch(make_batch) -> TokenBatch:
    """Three pairs: the same prompt of four tokens twice, then two different answers of different lengths."""
    made = make_batch([[9], [11], [12], [8], [10], [10]], width=12)
    tokens = made.tokens.clone()
    tokens[1::2, :PROMPT] = tokens[0::2, :PROMPT]
    return replace(made, tokens=tokens, scored=made.scored & (torch.arange(12) >= PROMPT))


@pytest.fixture
def model(make_model):
    return make_model(seed=1, peak=8.0)


@pytest.fixture
def reference(make_model):
    return make_model(seed=2, peak=8.0)


def told(ctx: StepContext, reference) -> StepContext:
    return replace(ctx, reference=reference)


def nudged(model, scale: float = 0.02):
    """The model a little further on."""
    other, rng = copy.deepcopy(model), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in other.parameters():
            weight += scale * weight.std(correction=0) * torch.randn(weight.shape, generator=rng)
    return other


def value(out) -> float:
    return float(out.total.detach())


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@each_score
def test_a_model_that_is_its_reference_loses_log_two(model, batch, context, score):
    ctx = told(context(6), copy.deepcopy(model))
    out = act(Preference(score)).loss(model, batch, ctx)
    assert value(out) == pytest.approx(PAIRS * math.log(2), abs=1e-6)
    assert int(out.count) == PAIRS
    assert float(act(Preference(score)).gains(model, batch, ctx).detach().abs().max()) == 0
    total, count = out.metrics["reward_accuracy"]
    assert float(total) / float(count) == 0.5
    assert [float(part) for part in out.metrics["reward_margin"]] == [0, PAIRS]


@each_score
def test_noise_of_its_own_makes_a_difference_only_where_there_is_noise(model, batch, context, score):
    """A block of one token is hidden with certainty and an exact likelihood draws nothing."""
    ctx = told(context(6), model)
    gains = act(Preference(score, shared_noise=False)).gains(model, batch, ctx).detach()
    if score in (ExactScore(), BoundScore(1, 1)):
        assert float(gains.abs().max()) < 1e-5
    else:
        assert float((gains != 0).double().mean()) > 0.8  # unless the same tokens are hidden by chance
        assert (
            abs(value(act(Preference(score, shared_noise=False)).loss(model, batch, ctx)) - PAIRS * math.log(2)) > 1e-2
        )


def test_half_precision_does_not_part_model_and_reference(model, batch, context):
    with torch.autocast("cpu", torch.bfloat16):
        for score in SCORES:
            out = act(Preference(score)).loss(model, batch, told(context(6), model))
            assert value(out) == pytest.approx(PAIRS * math.log(2), abs=1e-6)
            assert out.total.dtype == torch.float32


@torch.no_grad()
def causal_likelihood(model, tokens: Tensor) -> float:
    """log p(answer | prompt), a token at a time."""
    total = 0.0
    for place in range(PROMPT, len(tokens)):
        logits = model(tokens[None, :place], AttentionPattern("causal"))[0, -1]
        total += float(logits.double().log_softmax(-1)[tokens[place]])
    return total


@torch.no_grad()
def one_token_block_likelihood(model, tokens: Tensor, mask: int) -> float:
    """The same for a block-diffusion model with blocks of one token: each is hidden behind clean text."""
    total = 0.0
    for place in range(PROMPT, len(tokens)):
        seen = torch.cat([tokens[:place], torch.tensor([mask])])[None]
        pattern = AttentionPattern("block_causal", key_blocks=torch.arange(place + 1)[None])
        total += float(model(seen, pattern)[0, -1].double().log_softmax(-1)[tokens[place]])
    return total


@pytest.mark.parametrize("score", [ExactScore(), BoundScore(1, 1), BoundScore(3, 1)], ids=str)
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_loss_equals_likelihoods_by_hand(model, reference, batch, context, vocab, score, beta):
    rows = [batch.tokens[row, : int((batch.doc_ids[row] >= 0).sum())] for row in range(6)]

    def likelihood(some, tokens: Tensor) -> float:
        if isinstance(score, ExactScore):
            return causal_likelihood(some, tokens)
        return one_token_block_likelihood(some, tokens, vocab.mask)

    gains = [likelihood(model, tokens) - likelihood(reference, tokens) for tokens in rows]
    margins = [better - worse for better, worse in zip(gains[0::2], gains[1::2], strict=True)]
    assert min(abs(margin) for margin in margins) > 0.1
    out = act(Preference(score, beta)).loss(model, batch, told(context(6), reference))
    assert value(out) == pytest.approx(-sum(log_sigmoid(beta * margin) for margin in margins), rel=1e-4)
    accuracy, margin = out.metrics["reward_accuracy"], out.metrics["reward_margin"]
    assert [float(part) for part in accuracy] == [sum(margin > 0 for margin in margins), PAIRS]
    assert float(margin[0]) == pytest.approx(beta * sum(margins), rel=1e-3)
    assert int(margin[1]) == PAIRS


@each_score
def test_normalised_by_length_a_gain_is_that_of_a_token_of_the_answer(model, reference, batch, context, score):
    ctx, lengths = told(context(6), reference), torch.tensor([5.0, 7, 8, 4, 6, 6])  # the prompt is not counted
    whole = act(Preference(score)).gains(model, batch, ctx).detach()
    each = Preference(score, beta=10.0, length_normalised=True)
    gains = act(each).gains(model, batch, ctx).detach()
    torch.testing.assert_close(gains, whole / lengths)
    margins = gains.mean(0)[0::2] - gains.mean(0)[1::2]
    assert value(act(each).loss(model, batch, ctx)) == pytest.approx(-sum(log_sigmoid(10 * float(m)) for m in margins))


def test_normalised_by_length_an_answer_is_not_the_worse_for_being_long(model, batch, context):
    """Of a model that finds every token a little less likely than its reference did."""

    def losing(some, batch, ctx, seed):
        return (-0.1 * batch.scored.sum(1) * (some is model)).double()[None]

    ctx = told(context(6), copy.deepcopy(model))
    first = batch.select(slice(0, 2))  # of 5 and of 7 tokens
    for normalised, margin in ((False, 0.2), (True, 0.0)):
        objective = act(Preference(ExactScore(), beta=1.0, length_normalised=normalised))
        objective.score = losing
        assert value(objective.loss(model, first, ctx)) == pytest.approx(-log_sigmoid(margin))


@pytest.mark.parametrize("shared", [True, False])
def test_bound_gains_are_those_of_enumerated_bounds_in_the_mean(
    model, reference, make_batch, context, enumerate_bound, shared
):
    one = make_batch([[6]], seed=5)
    one = replace(one, scored=torch.arange(6)[None] >= 3)
    rows = TokenBatch(*(tensor.expand(1000, *tensor.shape[1:]) for tensor in vars(one).values()))
    rows = replace(rows, rows=torch.arange(1000))
    before, after = (-enumerate_bound(some, one.tokens[0], one.scored[0]) for some in (reference, model))
    with torch.no_grad():
        objective = Preference(BoundScore(3), shared_noise=shared)
        gains = act(objective).gains(model, rows, told(context(1000), reference)).mean(0)
    error = float(gains.std()) / math.sqrt(1000)
    assert error < 0.05 * abs(after - before)
    assert float(gains.mean()) == pytest.approx(after - before, abs=4 * error)


@each_score
def test_exchanged_answers_turn_the_margin_round(model, reference, batch, context, score):
    """Of -log sigmoid(x) and -log sigmoid(-x) the difference is x; the noise goes with the row."""
    objective, ctx = Preference(score, beta=0.5), told(context(6), reference)
    turned = TokenBatch(*(tensor[[1, 0, 3, 2, 5, 4]] for tensor in vars(batch).values()))
    out, other = act(objective).loss(model, batch, ctx), act(objective).loss(model, turned, ctx)
    margin = float(out.metrics["reward_margin"][0])
    assert abs(margin) > 0.01
    assert float(other.metrics["reward_margin"][0]) == pytest.approx(-margin, rel=1e-4)
    assert value(other) - value(out) == pytest.approx(margin, rel=1e-4)


@each_score
def test_gradient_flows_to_the_model_alone(model, reference, batch, context, score):
    assert all(weight.requires_grad for weight in reference.parameters())
    act(Preference(score)).loss(model, batch, told(context(6), reference)).total.backward()
    assert all(weight.grad is None for weight in reference.parameters())
    assert all(float(weight.grad.abs().sum()) > 0 for weight in model.parameters())


@each_score
def test_prompts_alone_are_not_learnt(model, reference, batch, context, score):
    nothing = replace(batch, scored=torch.zeros_like(batch.scored))
    out = act(Preference(score)).loss(model, nothing, told(context(6), reference))
    out.total.backward()
    assert value(out) == pytest.approx(PAIRS * math.log(2), abs=1e-6)
    assert all(weight.grad is None or float(weight.grad.abs().sum()) == 0 for weight in model.parameters())


@each_score
@pytest.mark.parametrize("at_start", [True, False], ids=["from-reference", "from-elsewhere"])
def test_a_step_down_the_gradient_raises_the_margin(model, reference, batch, context, score, at_start):
    objective, ctx = Preference(score), told(context(6), copy.deepcopy(model) if at_start else reference)
    before = act(objective).loss(model, batch, ctx)
    before.total.backward()
    size = math.sqrt(sum(float(weight.grad.square().sum()) for weight in model.parameters()))
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.01 / size * weight.grad
    after = act(objective).loss(model, batch, ctx)
    # to first order the loss falls by step length times slope
    assert value(before) - value(after) == pytest.approx(0.01 * size, rel=0.2)
    assert float(after.metrics["reward_margin"][0]) > float(before.metrics["reward_margin"][0])
    if at_start:
        assert float(after.metrics["reward_accuracy"][0]) >= 2


@each_score
@pytest.mark.parametrize("shared", [True, False])
def test_micro_batches_of_whole_pairs_add_up(model, reference, batch, context, score, shared):
    objective, ctx = Preference(score, shared_noise=shared), told(context(6), reference)
    whole = act(objective).loss(model, batch, ctx)
    for size in (2, 4):
        parts = [act(objective).loss(model, batch.select(slice(i, i + size)), ctx) for i in range(0, 6, size)]
        assert sum(int(part.count) for part in parts) == int(whole.count) == PAIRS
        assert sum(int(part.predicted) for part in parts) == int(whole.predicted)
        assert sum(part.positions for part in parts) == whole.positions
        assert sum(value(part) for part in parts) == pytest.approx(value(whole), rel=1e-5)
        for name, (total, count) in whole.metrics.items():
            assert sum(int(part.metrics[name][1]) for part in parts) == int(count)
            assert sum(float(part.metrics[name][0]) for part in parts) == pytest.approx(float(total), rel=1e-4)
        once, split = (
            torch.autograd.grad(total, list(model.parameters()), retain_graph=True)
            for total in (whole.total, sum(part.total for part in parts))
        )
        torch.testing.assert_close(split, once, atol=1e-4, rtol=1e-3)


def test_only_several_draws_tell_their_variance(model, reference, batch, context):
    ctx = told(context(6), reference)
    for score in (ExactScore(), BoundScore(1), BoundScore(1, 2)):
        assert "gain_variance" not in act(Preference(score)).loss(model, batch, ctx).metrics
    objective = Preference(BoundScore(5))
    gains = act(objective).gains(model, batch, ctx).detach()
    total, count = act(objective).loss(model, batch, ctx).metrics["gain_variance"]
    assert gains.shape == (5, 6)
    assert float(total) == pytest.approx(float(gains.var(0, correction=1).sum()), rel=1e-6)
    assert int(count) == 6
    assert float(total) > 0.1


@pytest.mark.parametrize("size", [None, 4])
def test_shared_noise_cancels_when_model_and_reference_are_near(model, batch, context, size):
    ctx = told(context(6), model)
    near, far = nudged(model), nudged(model, 1.0)

    def variance(some, shared: bool) -> float:
        objective = Preference(BoundScore(16, size), shared_noise=shared)
        total, count = act(objective).loss(some, batch, ctx).metrics["gain_variance"]
        return float(total / count)

    assert 0 < variance(near, True) < 0.1 * variance(near, False)
    assert variance(near, True) < variance(far, True)  # the further they are apart, the less there is in common


@pytest.mark.untraced
def test_more_draws_vary_less(model, reference, batch, context):
    """Over steps: the mean of eight draws has less than a third of the variance of one (stratified, even less)."""
    spread = []
    with torch.no_grad():
        for draws in (1, 8):
            objective = Preference(BoundScore(draws))
            gains = [act(objective).gains(model, batch, told(context(6, step=s), reference)).mean(0) for s in range(40)]
            spread.append(float(torch.stack(gains).var(0).sum()))
    assert spread[1] < spread[0] / 3


def test_noise_follows_seed_and_step(model, reference, batch, context):
    places = [context(6), context(6, step=1), context(6, seed=1), context(6)]
    found = [value(act(Preference()).loss(model, batch, told(ctx, reference))) for ctx in places]
    assert found[0] == found[3]
    assert len(set(found)) == 3
    exact = [value(act(Preference(ExactScore())).loss(model, batch, told(ctx, reference))) for ctx in places]
    assert len(set(exact)) == 1


def test_a_larger_beta_counts_a_nat_for_more(model, reference, batch, context):
    ctx = told(context(6), reference)
    losses = [value(act(Preference(ExactScore(), beta)).loss(model, batch, ctx)) for beta in (1e-6, 0.1, 1.0)]
    assert losses[0] == pytest.approx(PAIRS * math.log(2), abs=1e-4)
    assert all(abs(a - b) > 1e-3 for a, b in pairwise(losses))
    margins = [
        float(act(Preference(ExactScore(), b)).loss(model, batch, ctx).metrics["reward_margin"][0]) for b in (0.1, 1)
    ]
    assert margins[1] == pytest.approx(10 * margins[0])


@pytest.mark.parametrize(
    "score",
    [
        *SCORES[:3],
        BoundScore(2, 3),
        BoundScore(1, 1),
    ],
    ids=str,
)
def test_work_is_counted(model, reference, batch, context, watch, score):
    """All positions that went through the model or the reference."""
    seen = [watch(model), watch(reference)]
    out = act(Preference(score)).loss(model, batch, told(context(6), reference))
    assert out.positions == sum(tokens.numel() for each in seen for tokens in each.tokens)


def test_a_reference_is_needed(model, batch, context):
    for score in SCORES:
        with pytest.raises(ValueError, match=r"^preference optimisation needs a reference model$"):
            act(Preference(score)).loss(model, batch, context(6))


@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_a_beta_that_is_not_positive_is_refused(beta):
    with pytest.raises(ValueError, match=rf"^beta must be .*, got {beta}$"):
        Preference(beta=beta)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"draws": 3, "complementary": True}, "complementary draws come in pairs, got draws 3"),
        ({"mask_rate_min": 0.8, "mask_rate_max": 0.2}, "mask rates must satisfy .*, got 0.8 and 0.2"),
    ],
)
def test_impossible_scores_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        BoundScore(**options)
