"""The autoregressive objective: predict each token from those before it."""

from __future__ import annotations

import torch
from torch import Tensor

from nano_llada.config.objectives import NextToken
from nano_llada.core.batch import LossOutput, Model, StepContext, TokenBatch
from nano_llada.core.pattern import AttentionPattern
from nano_llada.objectives.cross_entropy import head_cross_entropy


class NextTokenLoss:
    """Mean over scored tokens of -log p(x_i | x_<i), within each document."""

    def __init__(self, config: NextToken) -> None:
        self.config = config

    def loss(self, model: Model, batch: TokenBatch, ctx: StepContext) -> LossOutput:
        """Sum of the scored tokens' cross-entropy, (), and their number, ()."""
        select, targets = next_token_targets(batch)
        pattern = AttentionPattern.packed("causal", batch.doc_ids)
        features = model.features(batch.tokens, pattern, positions=batch.positions, select=select)
        weights = torch.ones(len(targets), device=targets.device)
        total, _ = head_cross_entropy(features, model.head.weight, targets, weights)
        return LossOutput(total, select.sum(), select.sum(), batch.tokens.numel())


def next_token_targets(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Positions followed by a scored token of the same document, (B, L) bool, and those tokens, (N,)."""
    follows = batch.scored[:, 1:] & (batch.doc_ids[:, 1:] == batch.doc_ids[:, :-1])
    select = torch.nn.functional.pad(follows, (0, 1))
    return select, batch.tokens[:, 1:][follows]
