"""Confidence-aware training: an entropy at the places that are predicted rightly, averaged by document."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from built import act
from nano_llada.config.objectives import BlockSizeSchedule, Denoising, Masking
from nano_llada.core.batch import TokenBatch
from nano_llada.diffusion.masking import Corrupted
from nano_llada.objectives import denoising
from nano_llada.objectives.denoising import noisy_features

ROWS = [[6, 5], [3, 8], [11], [2, 2, 2], [5, 6], [9, 2], [4, 4, 3], [12]]
RECIPES = {
    "document": Denoising(normalise_by="document"),
    "token": Denoising(),
    "uniform": Denoising(loss_weight="uniform"),
    "complementary": Denoising(Masking(complementary=True), normalise_by="document"),
    "bernoulli": Denoising(Masking("bernoulli", mask_rate_min=0.3, mask_rate_max=0.8), normalise_by="document"),
    "blocks": Denoising(blocks=BlockSizeSchedule(3), normalise_by="document"),
    "everything": Denoising(Masking(complementary=True), BlockSizeSchedule(3), random_length=0.4),
}
each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@pytest.fixture(scope="module")
def guesser(table_model, vocab):
    """A model that expects a certain token at each place, more or less surely, swayed by the token before."""
    rng = torch.Generator().manual_seed(1)
    table, sway = torch.randn(12, vocab.size, generator=rng) * 2, torch.randn(vocab.size, vocab.size, generator=rng)
    return table_model(lambda tokens, positions: table[positions] + sway[F.pad(tokens, (1, 0))[:, :-1]])


@pytest.fixture
def batch(guesser, make_batch):
    """Two thirds of its tokens are as expected, but in the second row hardly any."""
    batch = make_batch(ROWS, width=12, scored=0.85)
    expected = guesser(torch.zeros_like(batch.tokens), None, positions=batch.positions).argmax(-1)
    chosen = batch.scored & (torch.arange(12) % 3 < 2) & (batch.rows[:, None] != 1)
    return replace(batch, tokens=torch.where(chosen, expected, batch.tokens))


def logits_of(model, noisy: Corrupted, size: int | None) -> Tensor:
    """(B, L, V), of which only scored places are meant."""
    everywhere = torch.ones_like(noisy.masked)
    features, _ = noisy_features(model, noisy.tokens, noisy.batch, everywhere, size)
    return (features @ model.head.weight.T).unflatten(0, noisy.masked.shape)


def means_of_right_places(model, noisy: Corrupted, size: int | None) -> list[tuple[float, int, int, int]]:
    """For each document with a scored token: mean entropy where right, how many right, masked, scored; naively."""
    found = []
    logits = logits_of(model, noisy, size).detach()
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    right = noisy.masked & (logits.argmax(-1) == noisy.batch.tokens)
    for row in range(len(noisy.tokens)):
        for document in range(int(noisy.batch.doc_ids[row].max()) + 1):
            inside = noisy.batch.doc_ids[row] == document
            scored, hit = inside & noisy.batch.scored[row], inside & right[row]
            if scored.any():
                mean = float(entropy[row][hit].mean()) if hit.any() else 0.0
                found.append((mean, int(hit.sum()), int((inside & noisy.masked[row]).sum()), int(scored.sum())))
    return found


def added(recipe: Denoising, weight: float, model, batch: TokenBatch, ctx) -> float:
    """What confidence adds to the total."""
    sure = replace(recipe, confidence_weight=weight)
    return float((act(sure).loss(model, batch, ctx).total - act(recipe).loss(model, batch, ctx).total).detach())


@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("name", ["document", "complementary", "bernoulli", "blocks"])
def test_it_is_the_mean_over_documents_of_the_mean_over_right_places(guesser, batch, context, name, weight):
    recipe, ctx = RECIPES[name], context(len(ROWS))
    size = recipe.blocks.at(0.0)
    means = means_of_right_places(guesser, act(recipe.corruption).corrupt(batch, ctx, size), size)
    assert sum(hits > 1 for _, hits, _, _ in means) > 2
    assert sum(0 < hits < masked for _, hits, masked, _ in means) > 1
    assert any(hits == 0 for _, hits, _, _ in means)  # which counts as a document and adds nothing
    out = act(replace(recipe, confidence_weight=weight)).loss(guesser, batch, ctx)
    assert int(out.count) == len(means)
    expected = weight * sum(mean for mean, _, _, _ in means)
    assert expected > 0.1
    assert added(recipe, weight, guesser, batch, ctx) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["token", "uniform"])
def test_a_document_weighs_as_much_as_its_text_where_the_loss_does(guesser, batch, context, name):
    """Normalised by tokens, a document's mean counts once per scored token, or per masked token."""
    recipe, ctx = RECIPES[name], context(len(ROWS))
    means = means_of_right_places(guesser, act(recipe.corruption).corrupt(batch, ctx), None)
    mass = [scored if name == "token" else masked for _, _, masked, scored in means]
    assert int(act(recipe).loss(guesser, batch, ctx).count) == sum(mass)
    expected = sum(mean * each for (mean, _, _, _), each in zip(means, mass, strict=True))
    assert added(recipe, 1.0, guesser, batch, ctx) == pytest.approx(expected, rel=1e-4)


@each_recipe
@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_add_up(guesser, batch, context, recipe, size):
    ctx, sure = context(len(ROWS)), replace(recipe, confidence_weight=2.0)
    whole = act(sure).loss(guesser, batch, ctx)
    parts = [act(sure).loss(guesser, batch.select(slice(i, i + size)), ctx) for i in range(0, len(ROWS), size)]
    assert float(whole.metrics["right_entropy"][1]) > 2
    assert sum(int(part.count) for part in parts) == int(whole.count)
    assert sum(part.total.item() for part in parts) == pytest.approx(whole.total.item(), rel=1e-5)
    for name, (total, count) in whole.metrics.items():
        assert sum(int(part.metrics[name][1]) for part in parts) == int(count)
        assert sum(float(part.metrics[name][0]) for part in parts) == pytest.approx(float(total), rel=1e-5)
    totals = whole.total, sum(part.total for part in parts)
    once, split = (torch.autograd.grad(total, guesser.head.weight)[0] for total in totals)
    torch.testing.assert_close(split, once, atol=1e-4, rtol=1e-4)


@each_recipe
def test_it_is_linear_in_its_weight(guesser, batch, context, recipe):
    one, three = (added(recipe, weight, guesser, batch, context(len(ROWS))) for weight in (1.0, 3.0))
    assert one > 0.1
    assert three == pytest.approx(3 * one, rel=1e-3)


@each_recipe
def test_without_it_nothing_is_computed_or_told(guesser, batch, context, monkeypatch, recipe):
    expected = act(recipe).loss(guesser, batch, context(len(ROWS)))

    def refuse(*args):
        raise AssertionError("an entropy was computed")

    monkeypatch.setattr(denoising, "head_entropy", refuse)
    out = act(replace(recipe, confidence_weight=0.0)).loss(guesser, batch, context(len(ROWS)))
    assert torch.equal(out.total, expected.total)
    assert "right_entropy" not in out.metrics
    with pytest.raises(AssertionError, match="an entropy was computed"):
        act(replace(recipe, confidence_weight=0.1)).loss(guesser, batch, context(len(ROWS)))


@each_recipe
def test_the_rest_of_the_loss_is_as_it_was(guesser, batch, context, recipe):
    ctx = context(len(ROWS))
    plain, sure = (
        act(recipe).loss(guesser, batch, ctx),
        act(replace(recipe, confidence_weight=1.0)).loss(guesser, batch, ctx),
    )
    assert int(plain.count) == int(sure.count)
    assert (plain.positions, int(plain.predicted)) == (sure.positions, int(sure.predicted))
    for name, values in plain.metrics.items():
        assert torch.equal(torch.stack(values), torch.stack(sure.metrics[name]))
    assert set(sure.metrics) - set(plain.metrics) == {"right_entropy"}


def test_the_metric_is_the_mean_entropy_of_right_places(guesser, batch, context):
    ctx = context(len(ROWS))
    means = means_of_right_places(guesser, act(Masking()).corrupt(batch, ctx), None)
    total, count = act(Denoising(confidence_weight=0.5)).loss(guesser, batch, ctx).metrics["right_entropy"]
    assert int(count) == sum(hits for _, hits, _, _ in means) > 4
    assert float(total) == pytest.approx(sum(mean * hits for mean, hits, _, _ in means), rel=1e-4)
    assert not total.requires_grad


def table_batch(make_batch, rows: int) -> TokenBatch:
    batch = make_batch([[8]] * rows)
    return replace(batch, tokens=torch.full_like(batch.tokens, 9))


def test_gradient_flows_at_right_places_alone_and_sharpens_them(table_model, make_batch, context, vocab):
    """Odd places expect another token. One step on the term alone lowers the entropy of the even ones."""
    table = torch.randn(8, vocab.size, generator=torch.Generator().manual_seed(0)) * 0.5
    table[0::2, 9], table[1::2, 10] = 3.0, 6.0
    table.requires_grad_()
    batch, model = table_batch(make_batch, 40), table_model(table)
    recipe = Denoising(normalise_by="document")
    outs = [act(replace(recipe, confidence_weight=weight)).loss(model, batch, context(40)) for weight in (0.0, 1.0)]
    plain, sure = (torch.autograd.grad(out.total, table)[0] for out in outs)
    term = sure - plain
    assert float(term[1::2].abs().max()) < 1e-6
    assert float(term[0::2].abs().sum(1).min()) > 1e-3
    before, after = (torch.distributions.Categorical(logits=t).entropy() for t in (table, table - 0.5 * term))
    assert bool((after[0::2] < before[0::2]).all())
    torch.testing.assert_close(after[1::2], before[1::2])


def test_where_nothing_is_right_it_adds_nothing(table_model, make_batch, context, vocab):
    table = torch.zeros(8, vocab.size)
    table[:, 10] = 5.0
    table.requires_grad_()
    batch, sure = table_batch(make_batch, 3), Denoising(normalise_by="document", confidence_weight=5.0)
    out = act(sure).loss(table_model(table), batch, context(3))
    plain = act(replace(sure, confidence_weight=0.0)).loss(table_model(table), batch, context(3))
    assert torch.equal(out.total, plain.total)
    assert torch.equal(torch.autograd.grad(out.total, table)[0], torch.autograd.grad(plain.total, table)[0])
    assert [float(value) for value in out.metrics["right_entropy"]] == [0, 0]


def test_a_sure_model_pays_nothing_and_an_unsure_one_the_most(table_model, make_batch, context, vocab):
    batch = table_batch(make_batch, 4)
    terms = []
    for peak in (0.01, 1.0, 3.0, 40.0):
        table = torch.zeros(8, vocab.size)
        table[:, 9] = peak
        terms.append(added(Denoising(normalise_by="document"), 1.0, table_model(table), batch, context(4)) / 4)
    assert terms == sorted(terms, reverse=True)
    assert terms[0] == pytest.approx(float(torch.tensor(float(vocab.size)).log()), rel=1e-3)
    assert terms[-1] == pytest.approx(0, abs=1e-6)


def test_a_batch_with_nothing_scored_adds_nothing(peaky, make_batch, context):
    out = act(Denoising(confidence_weight=1.0)).loss(peaky, make_batch([[6], [6]], scored=0.0), context(2))
    assert (out.total.item(), int(out.count)) == (0.0, 0)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"^confidence_weight must be .*, got -0.1$"):
        Denoising(confidence_weight=-0.1)
