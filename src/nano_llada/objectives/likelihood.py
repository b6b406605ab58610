"""The likelihood of a text: exact for an autoregressive model, a bound for a diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nano_llada.config.objectives import BoundScore, ExactScore
from nano_llada.core.batch import Model, StepContext, TokenBatch, Vocabulary
from nano_llada.core.pattern import AttentionPattern
from nano_llada.diffusion.masking import count_in_groups, groups_of, stratified_draws
from nano_llada.objectives.cross_entropy import head_nll
from nano_llada.objectives.denoising import PLAIN, Reading, noisy_features, without_first
from nano_llada.objectives.next_token import next_token_targets


@dataclass(frozen=True)
class NLL:
    """Negative log-likelihood of the scored tokens of each row, in nats."""

    mean: Tensor  # (B,) float64: exact, or the estimate of the upper bound
    standard_error: Tensor  # (B,) float64: 0 where exact
    tokens: Tensor  # (B,) scored tokens
    draws: int  # Monte-Carlo draws; 1 where exact
    places: Tensor  # (B, L) float64: what each scored token adds to the mean


@torch.no_grad()
def exact_nll(model: Model, batch: TokenBatch) -> NLL:
    """-sum log p(x_i | x_<i) over scored tokens, (B,) nats, for an autoregressive model."""
    select, nll = _next_token_nll(model, batch)
    places = _spread(select, nll).roll(1, 1)  # from the position that predicts a token to its own
    mean = places.sum(1)
    return NLL(mean, torch.zeros_like(mean), select.sum(1), 1, places)


@torch.no_grad()
def bound_nll(
    model: Model,
    batch: TokenBatch,
    vocab: Vocabulary,
    *,
    draws: int,
    seed: int,
    block_size: int | None = None,
    reading: Reading = PLAIN,
) -> NLL:
    """Monte-Carlo estimate of the diffusion bound, (B,) nats, see `bound_scores`; exact with one token per unit."""
    batch = readable(batch, reading)
    places = torch.zeros(batch.tokens.shape, dtype=torch.float64, device=batch.tokens.device)
    totals = []
    for drawn in _drawn_nll(model, batch, vocab, draws, seed, block_size, reading=reading):
        places += drawn / draws
        totals.append(drawn.sum(1))
    estimates = torch.stack(totals)
    error = estimates.std(0) / draws**0.5 if draws > 1 else torch.full_like(estimates[0], float("nan"))
    error = torch.where(bound_is_exact(batch, block_size), 0.0, error)
    return NLL(estimates.mean(0), error, batch.scored.sum(1), draws, places)


def readable(batch: TokenBatch, reading: Reading) -> TokenBatch:
    """The batch without scored tokens that no output predicts: with `next`, the first of each text."""
    return without_first(batch) if reading.predicts == "next" else batch


def bound_is_exact(batch: TokenBatch, block_size: int | None = None) -> Tensor:
    """(B,) bool: whether each text (or block) has at most one scored token; a single draw is then exact."""
    return (count_in_groups(batch.scored, groups_of(batch, block_size)) <= 1).all(1)


def exact_scores(model: Model, batch: TokenBatch) -> Tensor:
    """(B,) float64: sum of log p(x_i | x_<i) over scored tokens; differentiable."""
    return -_spread(*_next_token_nll(model, batch)).sum(1)


def bound_scores(  # noqa: PLR0913 - what an estimate is made of
    model: Model,
    batch: TokenBatch,
    vocab: Vocabulary,
    *,
    draws: int,
    seed: int,
    block_size: int | None = None,
    rates: tuple[float, float] = (0.0, 1.0),
    complementary: bool = False,
    reading: Reading = PLAIN,
) -> Tensor:
    """(draws, B) float64: estimates, each unbiased, of a lower bound on log p of each row; differentiable.

    A draw hides l ~ U{1..L'} of a document's L' scored tokens and adds L'/l times their log-probability (LLaDA, eq. 6);
    l is stratified over the draws. With a block size the same is done to each block, given the clean blocks before it,
    and the blocks' bounds add up to the text's. The noise is a function of the seed and the row: two models scored
    with the same seed see the same masks. `rates` and `complementary`: see `stratified_draws`; within a band narrower
    than 0 to 1 the estimate is not a bound.
    """
    batch = readable(batch, reading)
    drawn = _drawn_nll(model, batch, vocab, draws, seed, block_size, rates, complementary, reading)
    return torch.stack([-places.sum(1) for places in drawn])


Score = Callable[
    [Model, TokenBatch, StepContext, int], Tensor
]  # the last argument seeds the noise -> (draws, B) float64


def _exact_score(config: ExactScore) -> Score:
    return lambda model, batch, ctx, seed: exact_scores(model, batch)[None]


def _bound_score(config: BoundScore) -> Score:
    def score(model: Model, batch: TokenBatch, ctx: StepContext, seed: int) -> Tensor:
        return bound_scores(
            model,
            batch,
            ctx.vocab,
            draws=config.draws,
            seed=seed,
            block_size=config.block_size,
            rates=(config.mask_rate_min, config.mask_rate_max),
            complementary=config.complementary,
            reading=Reading(config.predicts),
        )

    return score


SCORES: Mapping[type, Callable[..., Score]] = {ExactScore: _exact_score, BoundScore: _bound_score}


def make_score(config: ExactScore | BoundScore) -> Score:
    """The log-likelihood of each row's scored tokens, as a record says: a function to (draws, B), differentiable."""
    return SCORES[type(config)](config)


def _next_token_nll(model: Model, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Where a scored token follows, (B, L) bool, and the nats those tokens cost, (N,) float64."""
    select, targets = next_token_targets(batch)
    pattern = AttentionPattern.packed("causal", batch.doc_ids)
    features = model.features(batch.tokens, pattern, positions=batch.positions, select=select)
    return select, head_nll(features, model.head.weight, targets).double()


def _drawn_nll(  # noqa: PLR0913 - as `bound_scores`
    model: Model,
    batch: TokenBatch,
    vocab: Vocabulary,
    draws: int,
    seed: int,
    block_size: int | None,
    rates: tuple[float, float] = (0.0, 1.0),
    complementary: bool = False,
    reading: Reading = PLAIN,
) -> Iterator[Tensor]:
    """(B, L) float64 for each draw: the weighted nats of the tokens it hides, 0 elsewhere."""
    for hidden, weights in stratified_draws(
        batch, draws=draws, seed=seed, block_size=block_size, rates=rates, complementary=complementary
    ):
        noisy = batch.tokens.masked_fill(hidden, vocab.mask)
        features, _ = noisy_features(model, noisy, batch, hidden, block_size, reading)
        nll = head_nll(features, model.head.weight, batch.tokens[hidden]).double()
        yield _spread(hidden, nll * weights[hidden])


def _spread(select: Tensor, values: Tensor) -> Tensor:
    """(B, L): `values` (N,) at `select` (B, L), 0 elsewhere."""
    return torch.zeros(select.shape, dtype=values.dtype, device=values.device).masked_scatter(select, values)
