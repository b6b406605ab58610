"""How likely a text is under a model: exactly for the autoregressive one, as a bound for the diffusion one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nano_llada.core.pattern import AttentionPattern
from nano_llada.core.random import generator
from nano_llada.core.types import Model, TokenBatch, Vocabulary
from nano_llada.objectives.cross_entropy import cross_entropy
from nano_llada.objectives.next_token import next_token_targets


@dataclass(frozen=True)
class NLL:
    """Negative log-likelihood of the scored tokens of each row, in nats."""

    mean: Tensor  # (B,) float64: exact, or the estimate of the upper bound
    standard_error: Tensor  # (B,) float64: 0 where exact
    tokens: Tensor  # (B,) scored tokens
    draws: int  # Monte-Carlo draws; 1 where exact


@torch.no_grad()
def exact_nll(model: Model, batch: TokenBatch) -> NLL:
    """-sum log p(x_i | x_<i) over scored tokens, for an autoregressive model."""
    select, targets = next_token_targets(batch)
    pattern = AttentionPattern.packed("causal", batch.doc_ids)
    logits = model(batch.tokens, pattern, positions=batch.positions, select=select)
    per_token = torch.zeros(select.shape, dtype=torch.float64, device=select.device)
    per_token[select] = cross_entropy(logits, targets).double()
    return NLL(per_token.sum(1), torch.zeros(len(select), dtype=torch.float64), select.sum(1), 1)


@torch.no_grad()
def bound_nll(model: Model, batch: TokenBatch, vocab: Vocabulary, *, draws: int, seed: int) -> NLL:
    """Monte-Carlo estimate of the diffusion bound (LLaDA, eq. 6), unbiased for any number of draws.

    Each draw hides l ~ U{1..L'} of a row's L' scored tokens and adds L'/l times their cross-entropy; l is stratified
    over the draws. A row of one scored token has nothing to draw, so its estimate is exact. A row holds one document.
    """
    estimates = torch.zeros(draws, len(batch.tokens), dtype=torch.float64)
    counts = batch.scored.sum(1)
    pattern = AttentionPattern.packed("full", batch.doc_ids)
    streams = [generator(seed, "likelihood", row) for row in batch.rows.tolist()]
    offsets = [float(torch.rand((), dtype=torch.float64, generator=rng)) for rng in streams]
    for draw in range(draws):
        hidden, scale = torch.zeros_like(batch.scored), torch.zeros(len(streams), dtype=torch.float64)
        for row, rng in enumerate(streams):
            scored = batch.scored[row].nonzero()[:, 0]
            if len(scored):
                count = min(int((offsets[row] + draw) / draws * len(scored)) + 1, len(scored))
                picked = torch.randperm(len(scored), generator=rng)[:count]
                hidden[row, scored[picked.to(scored.device)]] = True
                scale[row] = len(scored) / count
        noisy = batch.tokens.masked_fill(hidden, vocab.mask)
        logits = model(noisy, pattern, positions=batch.positions, select=hidden)
        per_token = torch.zeros(hidden.shape, dtype=torch.float64, device=hidden.device)
        per_token[hidden] = cross_entropy(logits, batch.tokens[hidden]).double()
        estimates[draw] = per_token.sum(1).cpu() * scale
    error = estimates.std(0) / draws**0.5 if draws > 1 else torch.full((len(streams),), float("nan"))
    error = torch.where(counts.cpu() <= 1, 0.0, error.double())
    return NLL(estimates.mean(0), error, counts, draws)
