"""Policy gradients: clipped surrogate and divergence against likelihoods by hand, their gradients, steps on them."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from built import act
from nano_llada.config.objectives import BoundScore, ExactScore, Policy, Rollouts
from nano_llada.core.batch import PolicyBatch, StepContext, TokenBatch
from nano_llada.core.pattern import AttentionPattern

SCORES = [ExactScore(), BoundScore(2), BoundScore(2, 4), BoundScore(1, 1)]
each_score = pytest.mark.parametrize("score", SCORES, ids=str)
BY_HAND = [ExactScore(), BoundScore(1, 1), BoundScore(3, 1)]  # exact likelihoods, a token at a time
each_by_hand = pytest.mark.parametrize("score", BY_HAND, ids=str)
each_mean = pytest.mark.parametrize("log_ratio", ["mean", "sum"])
ROWS, PROMPT = 6, 4
CLIP = {"clip_low": 0.2, "clip_high": 0.3}


@pytest.fixture
def batch(make_batch) -> PolicyBatch:
    """Three questions of four tokens, two answers of different lengths to each: the first better than the second."""
    made = make_batch([[9], [11], [12], [8], [10], [10]], width=12)
    tokens = made.tokens.clone()
    tokens[1::2, :PROMPT] = tokens[0::2, :PROMPT]
    scored = made.scored & (torch.arange(12) >= PROMPT)
    rewards = torch.tensor([1.0, 0.0, 0.75, 0.25, 3.0, 1.0], dtype=torch.float64)
    advantages = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64)
    parts = vars(replace(made, tokens=tokens, scored=scored))
    return PolicyBatch(**parts, rewards=rewards, advantages=advantages, old_scores=torch.zeros_like(rewards))


@pytest.fixture
def model(make_model):
    return make_model(seed=1, peak=8.0)


@pytest.fixture
def reference(make_model):
    return make_model(seed=2, peak=8.0)


def policy(score, reuse: int = 2, **options) -> Policy:
    return Policy(score, Rollouts(group_size=2, reuse=reuse), **(CLIP | options))


@torch.no_grad()
def drawn_by(batch: PolicyBatch, objective: Policy, model, ctx: StepContext) -> PolicyBatch:
    """The batch as it would be had this model drawn it."""
    scores = act(objective).score(model, batch, ctx, act(objective).noise_seed(ctx.seed, ctx.step))
    return replace(batch, old_scores=scores.mean(0))


def nudged(model, scale: float = 0.05, seed: int = 7):
    """The model a little further on."""
    other, rng = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in other.parameters():
            weight += scale * weight.std(correction=0) * torch.randn(weight.shape, generator=rng)
    return other


def likelihood(model, batch: TokenBatch, row: int, score, mask: int) -> Tensor:
    """log p(answer | question), one forward pass a token, left to right; differentiable."""
    tokens, total = batch.tokens[row], torch.zeros((), dtype=torch.float64)
    for place in batch.scored[row].nonzero()[:, 0].tolist():
        if isinstance(score, ExactScore):
            logits = model(tokens[None, :place], AttentionPattern("causal"))
        else:  # blocks of one token: each is hidden behind clean text
            pattern = AttentionPattern("block_causal", key_blocks=torch.arange(place + 1)[None])
            logits = model(torch.cat([tokens[:place], torch.tensor([mask])])[None], pattern)
        total = total + logits[0, -1].double().log_softmax(-1)[tokens[place]]
    return total


def metric(out, name: str) -> float:
    total, count = out.metrics[name]
    return float(total) / float(count)


def value(number: Tensor) -> float:
    return float(number.detach())


def gradient(total: Tensor, model) -> Tensor:
    """All gradients in one vector."""
    found = torch.autograd.grad(total, list(model.parameters()), retain_graph=True)
    return torch.cat([each.flatten() for each in found])


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))


@each_score
@pytest.mark.parametrize("reuse", [1, 2])
@pytest.mark.parametrize("size", [6, 4, 1])
def test_the_ratio_is_exactly_one_before_the_first_step_and_then_no_longer(model, batch, context, score, reuse, size):
    objective, steps = policy(score, reuse), [context(ROWS, step=6), context(ROWS, step=7)]
    drawn = drawn_by(batch, objective, model, steps[0])

    def ratios(some, ctx: StepContext) -> list[float]:
        parts = [drawn.select(slice(first, first + size)) for first in range(0, ROWS, size)]
        return [metric(act(objective).loss(some, part, ctx), "ratio") for part in parts]

    assert ratios(model, steps[0]) == [1.0] * math.ceil(ROWS / size)
    moved = nudged(model)
    if reuse == 1:  # every step draws its own answers
        assert ratios(moved, steps[1]) == [1.0] * math.ceil(ROWS / size)
    else:
        assert ratios(model, steps[1]) == pytest.approx([1.0] * math.ceil(ROWS / size), abs=1e-6)
        assert min(abs(ratio - 1) for ratio in ratios(moved, steps[1])) > 1e-3


def test_masks_are_those_of_the_set_of_answers(model, batch, context):
    objective = policy(BoundScore(1), reuse=3)
    seeds = [act(objective).noise_seed(0, step) for step in range(7)]
    assert seeds[0] == seeds[1] == seeds[2] != seeds[3] == seeds[4] == seeds[5] != seeds[6] != seeds[0]
    assert act(objective).noise_seed(1, 0) != seeds[0]
    drawn = drawn_by(batch, objective, model, context(ROWS, step=3))
    assert metric(act(objective).loss(model, drawn, context(ROWS, step=5)), "ratio") == pytest.approx(1, abs=1e-6)
    assert abs(metric(act(objective).loss(model, drawn, context(ROWS, step=7)), "ratio") - 1) > 0.01


@pytest.mark.parametrize("reuse", [1, 2])
def test_half_precision_and_dropout_do_not_move_the_first_ratio(make_model, batch, context, reuse):
    shaky = make_model(seed=1, peak=8.0, dropout=0.3).train()
    for score in SCORES:
        with torch.autocast("cpu", torch.bfloat16):
            out = act(policy(score, reuse)).loss(shaky, batch, context(ROWS))
        assert metric(out, "ratio") == 1
        assert out.total.dtype == torch.float32


def surrogate(ratio: Tensor, advantage: float) -> Tensor:
    """What an answer adds to the objective, case by case."""
    if advantage > 0 and value(ratio) > 1 + CLIP["clip_high"]:
        return torch.tensor((1 + CLIP["clip_high"]) * advantage, dtype=torch.float64)
    if advantage < 0 and value(ratio) < 1 - CLIP["clip_low"]:
        return torch.tensor((1 - CLIP["clip_low"]) * advantage, dtype=torch.float64)
    return ratio * advantage


@each_by_hand
@each_mean
def test_loss_and_gradient_equal_the_surrogate_by_hand(model, batch, context, vocab, score, log_ratio):
    """Answers on either side of both clips, and between them."""
    advantages, ratios = [1.5, -0.5, 1.0, -1.0, 2.0, -2.0], [0.5, 0.5, 2.0, 2.0, 1.2, 0.9]
    now = [likelihood(model, batch, row, score, vocab.mask) for row in range(ROWS)]
    lengths = batch.scored.sum(1).tolist() if log_ratio == "mean" else [1] * ROWS
    # how likely they must have been for these ratios
    before = [value(a) - n * math.log(r) for a, n, r in zip(now, lengths, ratios, strict=True)]
    given = replace(batch, advantages=torch.tensor(advantages).double(), old_scores=torch.tensor(before).double())
    out = act(policy(score, log_ratio=log_ratio)).loss(model, given, context(ROWS, step=1))
    found = [((a - b) / n).exp() for a, b, n in zip(now, before, lengths, strict=True)]
    expected = -sum(surrogate(r, a) for r, a in zip(found, advantages, strict=True))
    assert value(out.total) == pytest.approx(value(expected), rel=1e-4)
    assert int(out.count) == ROWS
    assert metric(out, "ratio") == pytest.approx(sum(ratios) / ROWS, rel=1e-4)
    assert metric(out, "clipped") == 4 / ROWS
    close(gradient(out.total, model), gradient(expected, model))


@pytest.mark.parametrize("ratio", [0.3, 0.79, 0.81, 1.0, 1.29, 1.31, 4.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_clipping_stops_the_gradient_exactly_where_it_must(model, batch, context, vocab, ratio, advantage):
    one = batch.select(slice(2, 3))
    length, now = int(one.scored.sum()), likelihood(model, one, 0, ExactScore(), vocab.mask)
    before = value(now) - length * math.log(ratio)
    given = replace(one, advantages=torch.tensor([advantage]).double(), old_scores=torch.tensor([before]).double())
    found = gradient(act(policy(ExactScore())).loss(model, given, context(ROWS, step=1)).total, model)
    stopped = (advantage > 0 and ratio > 1.3) or (advantage < 0 and ratio < 0.8) or advantage == 0
    assert (float(found.abs().max()) == 0) == stopped
    if not stopped:
        close(found, -ratio * advantage * gradient(now, model) / length)


@each_score
@each_mean
@pytest.mark.parametrize("reuse", [1, 2])
def test_at_ratio_one_the_gradient_is_that_of_reinforce(model, batch, context, score, log_ratio, reuse):
    """sum A grad log p, over the answer's length where the ratio is a mean."""
    objective, ctx = policy(score, reuse, log_ratio=log_ratio), context(ROWS)
    given = replace(batch, advantages=torch.tensor([1.2, -0.4, 0.3, -2.0, 0.0, 0.7]).double())
    scores = act(score)(model, given, ctx, act(objective).noise_seed(0, 0)).mean(0)
    lengths = given.scored.sum(1) if log_ratio == "mean" else 1
    expected = -gradient((given.advantages * scores / lengths).sum(), model)
    out = act(objective).loss(model, given, ctx)
    close(gradient(out.total, model), expected)
    assert value(out.total) == pytest.approx(-float(given.advantages.sum()), rel=1e-6)


@each_score
def test_a_step_raises_better_answers_and_lowers_worse_ones(model, batch, context, score):
    objective = policy(score)
    drawn, ctx = drawn_by(batch, objective, model, context(ROWS)), context(ROWS)
    before = act(objective).loss(model, drawn, ctx)
    before.total.backward()
    size = math.sqrt(sum(float(weight.grad.square().sum()) for weight in model.parameters()))
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.002 / size * weight.grad
    moved = drawn_by(batch, objective, model, ctx).old_scores - drawn.old_scores
    assert (moved * batch.advantages > 0).all()
    after = act(objective).loss(model, drawn, context(ROWS, step=1))
    assert value(before.total) - value(after.total) == pytest.approx(0.002 * size, rel=0.2)  # slope times length


@each_score
def test_worse_answers_weigh_what_they_are_told(model, batch, context, score):
    """The loss is linear in the weight: at a half it is the mean of that at 0, of better answers alone, and at 1."""
    ctx = context(ROWS)
    better = replace(batch, advantages=batch.advantages.clamp(min=0))
    assert (batch.advantages < 0).any()
    totals = [act(policy(score, negative_weight=weight)).loss(model, batch, ctx).total for weight in (0.0, 0.5, 1.0)]
    grads = [gradient(total, model) for total in totals]
    close(grads[0], gradient(act(policy(score)).loss(model, better, ctx).total, model))
    close(grads[1], (grads[0] + grads[2]) / 2)
    assert (grads[0] - grads[2]).abs().max() > 1e-3


@each_score
def test_the_divergence_is_zero_at_the_reference_with_no_gradient(model, batch, context, score):
    ctx = replace(context(ROWS), reference=copy.deepcopy(model))
    outs = [act(policy(score, kl_weight=weight)).loss(model, batch, ctx) for weight in (0.0, 5.0)]
    assert metric(outs[1], "kl") == 0
    assert "kl" not in outs[0].metrics
    close(*(gradient(out.total, model) for out in outs))


@each_score
@each_mean
def test_the_divergence_is_never_negative_and_grows_away_from_the_reference(model, batch, context, score, log_ratio):
    objective, found = policy(score, kl_weight=1.0, log_ratio=log_ratio), []
    for scale in (0.001, 0.01, 0.05):
        ctx = replace(context(ROWS), reference=nudged(model, scale))
        with torch.no_grad():
            outs = [act(objective).loss(model, batch.select(slice(row, row + 1)), ctx) for row in range(ROWS)]
        assert min(metric(out, "kl") for out in outs) > 0
        found.append(sum(metric(out, "kl") for out in outs))
    assert found[0] < found[1] < found[2]


@each_by_hand
@each_mean
def test_the_divergence_and_its_gradient_by_hand(model, batch, context, vocab, score, log_ratio):
    reference, still = nudged(model, 0.02), replace(batch, advantages=torch.zeros(ROWS).double())
    out = act(policy(score, kl_weight=0.7, log_ratio=log_ratio)).loss(
        model, still, replace(context(ROWS), reference=reference)
    )
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(ROWS):
        length = int(batch.scored[row].sum()) if log_ratio == "mean" else 1
        new, old = (likelihood(some, batch, row, score, vocab.mask) for some in (model, reference))
        apart = (old.detach() - new) / length
        expected = expected + apart.exp() - 1 - apart
    assert value(expected) > 1e-3
    assert metric(out, "kl") == pytest.approx(value(expected) / ROWS, rel=1e-3)
    assert value(out.total) == pytest.approx(0.7 * value(expected), rel=1e-3)
    close(gradient(out.total, model), 0.7 * gradient(expected, model))


def test_over_all_answers_the_divergence_is_that_of_two_distributions(model, batch, context, vocab):
    """Answers of one token, all of them: the mean is KL(model | reference), its gradient that of the reverse."""
    reference, count = nudged(model, 0.05), vocab.size
    prompt = batch.tokens[0, :PROMPT]
    tokens = torch.cat([prompt.expand(count, -1), torch.arange(count)[:, None]], dim=1)
    flat, scored = torch.zeros_like(tokens), torch.arange(PROMPT + 1).expand_as(tokens) == PROMPT
    places, none = torch.arange(PROMPT + 1).expand_as(tokens), torch.zeros(count).double()
    every = PolicyBatch(tokens, scored, flat, places, torch.arange(count), none, none, none)
    objective, ctx = policy(ExactScore(), kl_weight=1.0), replace(context(count), reference=reference)
    terms = [act(objective).loss(model, every.select(slice(i, i + 1)), ctx).total for i in range(count)]
    mine, theirs = (
        some(prompt[None], AttentionPattern("causal"))[0, -1].double().log_softmax(-1) for some in (model, reference)
    )
    theirs = theirs.detach()
    mean = sum(value(p) * value(term) for p, term in zip(mine.exp(), terms, strict=True))
    assert mean == pytest.approx(value((mine.exp() * (mine - theirs)).sum()), rel=1e-4)
    slope = gradient(sum(value(p) * term for p, term in zip(mine.exp(), terms, strict=True)), model)
    close(slope, gradient((theirs.exp() * (theirs - mine)).sum(), model))


@each_score
def test_micro_batches_add_up(model, reference, batch, context, score):
    objective = policy(score, kl_weight=0.1)
    drawn = drawn_by(batch, objective, nudged(model), context(ROWS))
    ctx = replace(context(ROWS, step=1), reference=nudged(model, 0.02))
    whole = act(objective).loss(model, drawn, ctx)
    for size in (1, 4):
        parts = [act(objective).loss(model, drawn.select(slice(i, i + size)), ctx) for i in range(0, ROWS, size)]
        assert sum(int(part.count) for part in parts) == int(whole.count) == ROWS
        assert sum(int(part.predicted) for part in parts) == int(whole.predicted)
        assert sum(part.positions for part in parts) == whole.positions
        for name, (total, count) in whole.metrics.items():
            assert sum(int(part.metrics[name][1]) for part in parts) == int(count)
            assert sum(float(part.metrics[name][0]) for part in parts) == pytest.approx(float(total), rel=1e-4)
        close(gradient(sum(part.total for part in parts), model), gradient(whole.total, model))


def test_metrics_by_hand(model, batch, context):
    given = replace(batch, advantages=torch.tensor([1.0, -1.0, 0.0, 0.0, 0.5, -0.5]).double())
    out = act(policy(ExactScore(), reuse=1)).loss(model, given, context(ROWS))
    found = {name: metric(out, name) for name in out.metrics}
    assert found == {"reward": 1.0, "ratio": 1.0, "clipped": 0.0, "informative": 4 / 6, "answer_length": 36 / 6}


@each_score
@pytest.mark.parametrize("kl_weight", [0.0, 1.0])
def test_work_is_counted(model, reference, batch, context, watch, score, kl_weight):
    seen = [watch(model), watch(reference)]
    ctx = replace(context(ROWS), reference=reference)
    out = act(policy(score, kl_weight=kl_weight)).loss(model, batch, ctx)
    assert out.positions == sum(tokens.numel() for each in seen for tokens in each.tokens)
    assert bool(seen[1].tokens) == bool(kl_weight)


def test_rows_and_devices_keep_every_field(batch):
    names = list(vars(batch))
    assert {"rewards", "advantages", "old_scores", "tokens", "rows"} <= set(names)
    some, elsewhere = batch.select(slice(2, 5)), batch.to("meta")
    assert type(some) is type(elsewhere) is PolicyBatch
    for name in names:
        assert torch.equal(getattr(some, name), getattr(batch, name)[2:5])
        assert getattr(elsewhere, name).device.type == "meta"
        assert getattr(elsewhere, name).dtype == getattr(batch, name).dtype
    assert some.rows.tolist() == [2, 3, 4]


def test_it_learns_from_drawn_answers_alone_and_near_a_reference_only_with_one(model, batch, make_batch, context):
    with pytest.raises(TypeError, match=r"^Policy learns from drawn answers: a PolicyBatch$"):
        act(policy(ExactScore())).loss(model, make_batch([[5]]), context(1))
    with pytest.raises(ValueError, match=r"^kl_weight needs a reference model$"):
        act(policy(ExactScore(), kl_weight=0.1)).loss(model, batch, context(ROWS))


REFUSED = [
    ({"clip_low": 0.0}, r"clip_low must be in \(0, 1\), got 0.0"),
    ({"clip_low": 1.0}, r"clip_low must be in \(0, 1\), got 1.0"),
    ({"clip_high": 0.0}, "clip_high must be positive, got 0.0"),
    ({"negative_weight": -1.0}, "negative_weight must be .*, got -1.0"),
    ({"kl_weight": -0.1}, "kl_weight must be .*, got -0.1"),
    ({"group_size": 1}, "group_size must be at least 2, got 1"),
    ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
    ({"reuse": 0}, "reuse must be at least 1, got 0"),
    ({"threshold": 1.5}, r"threshold must be in \[0, 1\], got 1.5"),
    ({"edit_threshold": -0.5}, r"edit_threshold must be in \[0, 1\], got -0.5"),
    (
        {"edit_threshold": 0.9},
        "edit_threshold has no effect where answers are not decoded in blocks: .*",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_options_that_cannot_be_are_refused(options, message):
    mine = {name: value for name, value in options.items() if name in CLIP or name in ("kl_weight", "negative_weight")}
    for score in (ExactScore(), BoundScore()):
        with pytest.raises(ValueError, match=f"^{message}$"):
            Policy(score, Rollouts(**{k: v for k, v in options.items() if k not in mine}), **(CLIP | mine))
    assert Policy(BoundScore(1, 8), Rollouts(edit_threshold=0.9)).rollouts.edit_threshold == 0.9
