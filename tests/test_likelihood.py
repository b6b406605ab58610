"""Likelihoods: exact ones against enumeration, the diffusion bound against every set of masks and against the truth."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from built import act
from nano_llada.config.objectives import Denoising
from nano_llada.core.batch import TokenBatch
from nano_llada.core.pattern import AttentionPattern
from nano_llada.objectives.likelihood import bound_nll, exact_nll

SMALL = -1e9  # a logit that never wins


def copies(batch: TokenBatch, count: int) -> TokenBatch:
    """One row many times, each with noise of its own."""
    same = (getattr(batch, name).expand(count, -1) for name in ("tokens", "scored", "doc_ids", "positions"))
    return TokenBatch(*same, torch.arange(count))


@torch.no_grad()
def test_exact_nll_equals_brute_force(peaky, make_batch):
    batch = make_batch([[9], [6], [7]], width=10, scored=0.7)
    result = exact_nll(peaky, batch)
    for row in range(3):
        logits = peaky(batch.tokens[row : row + 1, : int((batch.doc_ids[row] >= 0).sum())], AttentionPattern("causal"))
        log_probs = logits[0].log_softmax(-1)
        places = [place for place in range(1, len(log_probs)) if batch.scored[row, place]]
        expected = -sum(float(log_probs[place - 1, batch.tokens[row, place]]) for place in places)
        assert int(result.tokens[row]) == len(places) > 2
        assert float(result.mean[row]) == pytest.approx(expected, rel=1e-5)
    assert result.standard_error.tolist() == [0, 0, 0]
    assert result.draws == 1


def test_exact_probabilities_of_all_continuations_sum_to_one(peaky, vocab):
    endings = torch.tensor(list(product(range(vocab.size), repeat=2)))
    tokens = torch.cat([torch.tensor([[7, 9]]).expand(len(endings), -1), endings], 1)
    scored = (torch.arange(4) >= 2).expand(len(endings), -1)
    zeros, positions = torch.zeros_like(tokens), torch.arange(4).expand(len(endings), -1)
    result = exact_nll(peaky, TokenBatch(tokens, scored, zeros, positions, torch.arange(len(endings))))
    assert float((-result.mean).exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float((-result.mean).exp().max()) > 0.02


@pytest.mark.parametrize("scored", [1.0, 0.6])
def test_bound_equals_enumeration_over_all_masks(peaky, make_batch, vocab, enumerate_bound, scored):
    one = make_batch([[5]], scored=scored, seed=2)
    exact = enumerate_bound(peaky, one.tokens[0], one.scored[0])
    result = bound_nll(peaky, copies(one, 64), vocab, draws=20, seed=0)
    error = float(result.mean.std()) / 8
    assert error < 0.03 * exact
    assert float(result.mean.mean()) == pytest.approx(exact, abs=4 * error)
    assert result.tokens.unique().tolist() == [int(one.scored.sum())]


def test_bound_is_unbiased_with_a_single_draw(peaky, make_batch, vocab, enumerate_bound):
    one = make_batch([[4]])
    result = bound_nll(peaky, copies(one, 3000), vocab, draws=1, seed=0)
    error = float(result.mean.std()) / math.sqrt(3000)
    assert float(result.mean.mean()) == pytest.approx(
        enumerate_bound(peaky, one.tokens[0], one.scored[0]), abs=4 * error
    )
    assert result.standard_error.isnan().all()  # one draw says nothing of its own error


def test_reported_standard_error_is_at_least_the_true_one_and_shrinks(peaky, make_batch, vocab):
    batch = copies(make_batch([[6]]), 64)
    few, many = (bound_nll(peaky, batch, vocab, draws=draws, seed=0) for draws in (4, 64))
    for result in (few, many):
        assert float(result.mean.std()) < 1.3 * float(result.standard_error.mean())
    assert float(many.standard_error.mean()) < float(few.standard_error.mean()) / 2.5
    assert (few.draws, many.draws) == (4, 64)


def test_one_scored_token_is_exact_with_one_draw(peaky, make_batch, vocab):
    batch = make_batch([[6], [6]])
    scored = torch.arange(6).expand(2, -1) == torch.tensor([[2], [5]])
    batch = TokenBatch(batch.tokens, scored, batch.doc_ids, batch.positions, batch.rows)
    logits = peaky(batch.tokens.masked_fill(scored, vocab.mask), AttentionPattern("full"))
    expected = -logits.log_softmax(-1)[scored].gather(1, batch.tokens[scored][:, None])[:, 0].double()
    for draws in (1, 3):
        result = bound_nll(peaky, batch, vocab, draws=draws, seed=draws)
        torch.testing.assert_close(result.mean, expected.detach(), atol=1e-5, rtol=0)
        assert result.standard_error.tolist() == [0, 0]


def test_bound_and_training_loss_agree_within_their_standard_errors(peaky, make_batch, vocab, context):
    one = make_batch([[9]], scored=0.8)
    bound = bound_nll(peaky, copies(one, 200), vocab, draws=8, seed=1)
    count, rows, losses = int(one.scored.sum()), copies(one, 200), []
    with torch.no_grad():
        for step in range(24):
            out = act(Denoising()).loss(peaky, rows, context(200, step=step))
            losses.append(float(out.total / out.count) * count)
    training = torch.tensor(losses, dtype=torch.float64)
    errors = float(bound.mean.std()) / math.sqrt(200), float(training.std()) / math.sqrt(24)
    assert max(errors) < 0.02 * float(training.mean())
    assert abs(float(bound.mean.mean() - training.mean())) < 4 * math.hypot(*errors)


def test_draws_hide_every_number_of_tokens_equally_often(table_model, make_batch, vocab, watch):
    model, batch = table_model(torch.zeros(8, vocab.size)), make_batch([[4], [6]], width=8)
    seen = watch(model)
    bound_nll(model, batch, vocab, draws=12, seed=5)
    hidden = torch.stack([(tokens == vocab.mask).sum(1) for tokens in seen.tokens])
    assert hidden[:, 0].bincount().tolist() == [0, 3, 3, 3, 3]
    assert hidden[:, 1].bincount().tolist() == [0, 2, 2, 2, 2, 2, 2]


def test_bound_of_a_row_does_not_depend_on_the_batch(peaky, make_batch, vocab):
    batch = make_batch([[9], [4], [7]], scored=0.8)
    whole = bound_nll(peaky, batch, vocab, draws=5, seed=3)
    assert whole.mean.std() > 0.5
    for row in range(3):
        alone = bound_nll(peaky, batch.select(slice(row, row + 1)), vocab, draws=5, seed=3)
        torch.testing.assert_close(alone.mean, whole.mean[row : row + 1], atol=1e-4, rtol=0)
    again = bound_nll(peaky, batch, vocab, draws=5, seed=4)
    assert not torch.equal(again.mean, whole.mean)


def test_nothing_scored_costs_nothing(peaky, make_batch, vocab):
    batch = make_batch([[5]], scored=0.0)
    assert float(bound_nll(peaky, batch, vocab, draws=2, seed=0).mean) == 0
    assert float(exact_nll(peaky, batch).mean) == 0


def test_bound_is_tight_for_independent_tokens(table_model, make_batch, vocab, enumerate_bound):
    table = torch.randn(4, vocab.size, generator=torch.Generator().manual_seed(0)) * 3
    batch = make_batch([[4]])
    truth = -float(table.double().log_softmax(-1)[range(4), batch.tokens[0]].sum())
    assert enumerate_bound(table_model(table), batch.tokens[0], batch.scored[0]) == pytest.approx(truth, rel=1e-6)
    result = bound_nll(table_model(table), copies(batch, 200), vocab, draws=8, seed=0)
    error = float(result.mean.std()) / math.sqrt(200)
    assert float(result.mean.mean()) == pytest.approx(truth, abs=4 * error)


def posterior_model(joint: torch.Tensor, table_model, vocab):
    """A model that knows p(x_i | visible) of a joint distribution over {6, 7}^3 exactly."""
    texts = torch.tensor(list(product((6, 7), repeat=3)))

    def rule(tokens, positions):
        logits = torch.full((*tokens.shape, vocab.size), SMALL)
        for row, text in enumerate(tokens):
            fits = ((texts == text) | (text == vocab.mask)).all(1)
            for place in range(tokens.shape[1]):
                for value in (6, 7):
                    others = fits & (texts[:, place] == value)
                    logits[row, place, value] = joint[others].sum().clamp(min=1e-30).log()
        return logits

    return table_model(rule), texts


def test_bound_is_the_likelihood_where_the_conditionals_are_consistent(table_model, vocab, enumerate_bound):
    joint = torch.tensor([0.4, 0.05, 0.02, 0.13, 0.1, 0.05, 0.05, 0.2])
    model, texts = posterior_model(joint, table_model, vocab)
    everything = torch.ones(3, dtype=torch.bool)
    for text, probability in zip(texts, joint, strict=True):
        assert enumerate_bound(model, text, everything) == pytest.approx(-math.log(probability), rel=1e-5)


def test_bound_never_claims_more_probability_than_there_is(peaky, vocab, enumerate_bound):
    everything = torch.ones(2, dtype=torch.bool)
    claimed = [
        math.exp(-enumerate_bound(peaky, torch.tensor(text), everything)) for text in product(range(24), repeat=2)
    ]
    assert 0.3 < sum(claimed) < 1
