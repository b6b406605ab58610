"""The forward process: what is hidden, what it weighs, and that its noise belongs to the row."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from built import act
from nano_llada.config.objectives import Denoising, Masking
from nano_llada.core.batch import TokenBatch
from nano_llada.core.random import row_uniforms
from nano_llada.diffusion.noise import Cosine, make_noise
from nano_llada.objectives.denoising import cut_to_random_length

FORMS = [
    Masking(),
    Masking(stratified=False),
    Masking("bernoulli"),
    Masking("bernoulli", stratified=False),
    Masking("bernoulli", "cosine"),
]
names = [f"{f.mask_count}-{f.noise}-{'stratified' if f.stratified else 'independent'}" for f in FORMS]
each_form = pytest.mark.parametrize("masking", FORMS, ids=names)


def looks_uniform(counts: Tensor) -> bool:
    """Chi-square of `counts` against equal expectations, at five deviations."""
    expected = counts.double().mean()
    return float(((counts - expected) ** 2 / expected).sum()) < len(counts) - 1 + 5 * math.sqrt(2 * (len(counts) - 1))


def over_steps(masking: Masking, batch: TokenBatch, context, steps: int) -> list:
    return [act(masking).corrupt(batch, context(len(batch.rows), step=step)) for step in range(steps)]


@each_form
def test_only_scored_positions_are_hidden_and_the_rest_stays(masking, make_batch, context, vocab):
    batch = make_batch([[9, 3], [5, 4, 2], [6]] * 20, scored=0.6)
    noisy = act(masking).corrupt(batch, context(60))
    assert noisy.masked.sum() > 60
    assert not (noisy.masked & ~batch.scored).any()
    assert torch.equal(noisy.tokens == vocab.mask, noisy.masked)
    assert torch.equal(noisy.tokens[~noisy.masked], batch.tokens[~noisy.masked])
    assert torch.equal(noisy.weights > 0, noisy.masked)


def test_exact_always_hides_one_and_weighs_it_by_share(make_batch, context):
    batch = make_batch([[7, 1, 4], [5, 12]] * 50, scored=0.7)
    noisy = act(Masking()).corrupt(batch, context(100))
    met = 0
    for row, doc in ((row, doc) for row in range(100) for doc in range(3)):
        inside = batch.scored[row] & (batch.doc_ids[row] == doc)
        hidden = noisy.masked[row] & inside
        if inside.any():
            met += 1
            assert hidden.any()
            expected = inside.sum() / hidden.sum()
            torch.testing.assert_close(noisy.weights[row][hidden], expected.expand(int(hidden.sum())))
    assert met > 200


@pytest.mark.parametrize("stratified", [True, False])
def test_exact_number_of_masks_is_uniform_from_one_to_all(make_batch, context, stratified):
    batch = make_batch([[3, 8]] * 8)
    hidden = torch.stack([noisy.masked for noisy in over_steps(Masking(stratified=stratified), batch, context, 400)])
    for row, document, size in ((0, slice(0, 3), 3), (5, slice(0, 3), 3), (0, slice(3, 11), 8), (7, slice(3, 11), 8)):
        counts = hidden[:, row, document].sum(-1).bincount(minlength=size + 1)
        assert counts[0] == 0
        assert looks_uniform(counts[1:])  # of a single row over steps: the marginal


@each_form
def test_every_position_is_hidden_equally_often(masking, make_batch, context):
    hidden = torch.stack([n.masked for n in over_steps(masking, make_batch([[10]] * 20), context, 40)]).sum((0, 1))
    assert looks_uniform(hidden)
    assert hidden.sum() / 8000 == pytest.approx(0.55 if masking.mask_count == "exact" else 0.5, abs=0.04)


def test_every_set_of_one_size_is_equally_likely(make_batch, context):
    hidden = torch.cat([noisy.masked for noisy in over_steps(Masking(), make_batch([[4]] * 64), context, 40)])
    codes = (hidden[hidden.sum(1) == 2] * torch.tensor([1, 2, 4, 8])).sum(1).bincount(minlength=16)
    assert looks_uniform(codes[codes > 0])
    assert int((codes > 0).sum()) == 6


def test_exact_weights_average_to_one_in_every_document(make_batch, context):
    batch = make_batch([[9, 5, 1]] * 30)
    noisy = act(Masking()).corrupt(batch, context(30))
    for first, last in ((0, 9), (9, 14), (14, 15)):
        torch.testing.assert_close(noisy.weights[:, first:last].mean(1), torch.ones(30))


@pytest.mark.untraced
@pytest.mark.parametrize(("noise", "tolerance"), [("linear", 0.003), ("cosine", 0.0013)])
def test_bernoulli_weights_average_to_one(make_batch, context, noise, tolerance):
    batch = make_batch([[4096]] * 512)
    masking = Masking("bernoulli", noise)
    means = [act(masking).corrupt(batch, context(512, step=step)).weights.mean() for step in range(8)]
    assert float(torch.stack(means).mean()) == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize("noise", ["linear", "cosine"])
def test_schedules_run_from_clean_to_hidden_and_weigh_by_their_slope(noise):
    t = torch.linspace(0.05, 1, 39, dtype=torch.float64, requires_grad=True)
    rate = make_noise(noise).rate(t)
    (slope,) = torch.autograd.grad(rate.sum(), t)
    torch.testing.assert_close(make_noise(noise).weight(t), slope / rate)
    assert float(make_noise(noise).rate(torch.tensor(0.0))) == 0
    assert float(make_noise(noise).rate(torch.tensor(1.0))) == pytest.approx(1)


def test_cosine_schedule_by_hand():
    t = torch.tensor([0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(Cosine().rate(t), torch.tensor([0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(Cosine().weight(t), torch.tensor([math.pi, 0.0], dtype=torch.float64))


def test_masked_fraction_concentrates_at_t(make_batch, context):
    batch, size = make_batch([[6000, 2000]] * 24), (6000, 2000)
    noisy = act(Masking("bernoulli")).corrupt(batch, context(24))
    for row in range(24):
        for doc in (0, 1):
            inside = batch.doc_ids[row] == doc
            t = 1 / float(noisy.weights[row][inside].max())
            fraction = float(noisy.masked[row][inside].float().mean())
            assert abs(fraction - t) < 5 * math.sqrt(t * (1 - t) / size[doc]) + 1e-3


def test_packed_documents_have_times_of_their_own(make_batch, context):
    for masking in FORMS:
        noisy = act(masking).corrupt(make_batch([[500, 500, 500]] * 6), context(6))
        weights = noisy.weights.view(6, 3, 500).amax(-1)
        assert len(weights.flatten().unique()) == 18
        assert all(len(part[part > 0].unique()) == 1 for part in noisy.weights.view(18, 500))


def masked_share(masking: Masking, batch: TokenBatch, context) -> Tensor:
    return torch.stack([noisy.masked.double().mean() for noisy in over_steps(masking, batch, context, 100)])


@pytest.mark.parametrize("form", ["exact", "bernoulli"])
def test_stratified_times_keep_the_mean_and_lower_the_variance(make_batch, context, form):
    batch = make_batch([[50]] * 16)
    spread = masked_share(Masking(form, stratified=True), batch, context)
    independent = masked_share(Masking(form, stratified=False), batch, context)
    assert spread.var() < independent.var() / 10
    error = math.sqrt(float(spread.var() + independent.var()) / 100)
    assert abs(float(spread.mean() - independent.mean())) < 4 * error


def pick(batch: TokenBatch, rows: list[int]) -> TokenBatch:
    names = ("tokens", "scored", "doc_ids", "positions", "rows")
    return TokenBatch(*(getattr(batch, name)[rows] for name in names))


@each_form
@pytest.mark.parametrize("split", [[[0], [1], [2], [3], [4], [5]], [[0, 1, 2], [3, 4, 5]], [[5, 2], [1], [0, 4, 3]]])
def test_any_split_of_the_rows_draws_the_same_noise(masking, make_batch, context, split):
    batch = make_batch([[30], [10, 20], [5, 5, 5, 5], [24], [1, 29], [7, 7]], scored=0.8)
    whole = act(masking).corrupt(batch, context(6))
    for rows in split:
        part = act(masking).corrupt(pick(batch, rows), context(6))
        assert torch.equal(part.masked, whole.masked[rows])
        assert torch.equal(part.weights, whole.weights[rows])


@each_form
def test_noise_follows_seed_and_step_and_row_and_nothing_global(masking, make_batch, context):
    batch, before = make_batch([[40]] * 4), torch.get_rng_state()
    first = act(masking).corrupt(batch, context(4))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(act(masking).corrupt(batch, context(4)).masked, first.masked)
    assert not torch.equal(act(masking).corrupt(batch, context(4, step=1)).masked, first.masked)
    assert not torch.equal(act(masking).corrupt(batch, context(4, seed=1)).masked, first.masked)
    other = replace(batch, rows=batch.rows + 4)
    assert not torch.equal(act(masking).corrupt(other, context(8)).masked, first.masked)
    assert len({tuple(row) for row in first.masked.tolist()}) == 4


def test_row_uniforms_are_a_function_of_the_row():
    one = row_uniforms(torch.arange(5), 20, 3, "mask")
    assert torch.equal(row_uniforms(torch.tensor([4, 1]), 20, 3, "mask"), one[[4, 1]])
    assert torch.equal(row_uniforms(torch.arange(5), 40, 3, "mask")[:, :20], one)
    assert not (row_uniforms(torch.arange(5), 20, 3, "time") == one).any()
    assert float(one.min()) >= 0
    assert float(one.max()) < 1


@pytest.mark.untraced
@each_form
@pytest.mark.parametrize("length", [1, 2, 4])
def test_training_loss_is_unbiased_at_every_length(masking, peaky, make_batch, context, enumerate_bound, length):
    one = make_batch([[2 + length]], seed=3)
    rows = 256
    prompt = torch.arange(2 + length) < 2
    batch = TokenBatch(
        one.tokens.expand(rows, -1),
        ~prompt.expand(rows, -1),
        one.doc_ids.expand(rows, -1),
        one.positions.expand(rows, -1),
        torch.arange(rows),
    )
    exact = enumerate_bound(peaky, one.tokens[0], ~prompt) / length
    objective, losses = Denoising(masking), []
    with torch.no_grad():
        for step in range(32):
            out = act(objective).loss(peaky, batch, context(rows, step=step))
            losses.append(out.total.double() / out.count)
    mean, error = torch.stack(losses).mean(), torch.stack(losses).std() / math.sqrt(32)
    assert error < 0.05 * exact  # or agreement would say nothing
    assert float(mean) == pytest.approx(exact, abs=4 * float(error) + 1e-5)


def test_random_length_cuts_the_asked_share_to_uniform_lengths(make_batch, context):
    batch = make_batch([[20]] * 4000)
    cut = cut_to_random_length(batch, 0.3, context(4000))
    lengths = (cut.doc_ids >= 0).sum(1)
    assert int(lengths.min()) == 1
    assert float((lengths < 20).float().mean()) == pytest.approx(0.3 * 19 / 20, abs=0.03)
    assert looks_uniform(lengths.bincount(minlength=21)[1:20])
    assert torch.equal(cut.doc_ids >= 0, torch.arange(20) < lengths[:, None])  # the tail goes, not the middle
    assert torch.equal(cut.scored, cut.doc_ids >= 0)
    assert cut.tokens is batch.tokens


def test_random_length_of_a_row_is_its_own(make_batch, context):
    batch = make_batch([[12, 8]] * 6)
    whole = cut_to_random_length(batch, 0.7, context(6))
    assert (whole.doc_ids < 0).any()
    for rows in ([3], [5, 0]):
        assert torch.equal(cut_to_random_length(pick(batch, rows), 0.7, context(6)).doc_ids, whole.doc_ids[rows])


def test_a_schedule_without_effect_is_refused():
    with pytest.raises(ValueError, match="noise 'cosine' has no effect with mask_count 'exact'"):
        Masking("exact", "cosine")
