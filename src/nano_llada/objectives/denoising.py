"""The masked-diffusion objective of LLaDA 1.0: predict the hidden tokens from those that are left."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from nano_llada.diffusion.corruption import Masking

if TYPE_CHECKING:
    from torch import Tensor

    from nano_llada.core.types import LossOutput, Model, StepContext, TokenBatch


@dataclass(frozen=True)
class Denoising:
    """An upper bound on -log p(x_0): weighted cross-entropy at masked positions (LLaDA, eq. 3 and 5).

    Raises:
        ValueError: if `random_length` is not a probability.
    """

    corruption: Masking = field(default_factory=Masking)
    """The forward process."""
    loss_weight: Literal["elbo", "uniform"] = "elbo"
    """`elbo` weighs masked tokens so that the loss bounds the likelihood; `uniform` is a plain mean over masked tokens,
    another objective, never reported as a likelihood."""
    normalise_by: Literal["token", "document"] = "token"
    """`token` divides by all scored tokens (pretraining); `document` averages each answer first (SFT, eq. 5)."""
    random_length: float = 0.0
    """Share of rows cut to a random length, so that the model meets short contexts; LLaDA pretrains with 0.01."""

    def __post_init__(self) -> None:
        if not 0 <= self.random_length <= 1:
            raise ValueError(f"random_length is a share of rows, in [0, 1]; got {self.random_length}")
        if self.loss_weight == "uniform" and self.normalise_by == "document":
            raise ValueError("loss_weight 'uniform' is a mean over masked tokens; normalise_by must be 'token'")

    def loss(self, model: Model, batch: TokenBatch, ctx: StepContext) -> LossOutput:
        """Sum of weighted cross-entropies, and what it is divided by over the global batch."""
        from nano_llada.core.pattern import AttentionPattern
        from nano_llada.core.types import LossOutput
        from nano_llada.objectives.cross_entropy import head_cross_entropy

        if self.random_length:
            batch = cut_to_random_length(batch, self.random_length, ctx)
        noisy = self.corruption.corrupt(batch, ctx)
        pattern = AttentionPattern.packed("full", batch.doc_ids)
        features = model.features(noisy.tokens, pattern, positions=batch.positions, select=noisy.masked)
        targets = batch.tokens[noisy.masked]
        weights, count = self._weights(noisy.masked, noisy.weights, batch)
        total, nll = head_cross_entropy(features, model.head.weight, targets, weights[noisy.masked])
        end = targets == ctx.vocab.eos
        metrics = {
            "masked_text_loss": (nll[~end].sum(), (~end).sum()),
            "masked_eos_loss": (nll[end].sum(), end.sum()),
        }
        return LossOutput(total, count, noisy.masked.sum(), metrics)

    def _weights(self, masked: Tensor, elbo: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """(B, L) weights and the count they are normalised by."""
        import torch

        if self.loss_weight == "uniform":
            return masked.float(), masked.sum()
        if self.normalise_by == "token":
            return elbo, batch.scored.sum()
        doc = batch.doc_ids.clamp(min=0)
        lengths = torch.zeros(len(doc), int(doc.max()) + 1, device=doc.device)
        lengths.scatter_add_(1, doc, batch.scored.float())
        return elbo / lengths.gather(1, doc).clamp(min=1), (lengths > 0).sum()


def cut_to_random_length(batch: TokenBatch, share: float, ctx: StepContext) -> TokenBatch:
    """Turn the tail of some rows into padding: a row is cut with probability `share`, to U{1..L} tokens."""
    import torch

    from nano_llada.core.random import row_uniforms

    length = batch.tokens.shape[1]
    draws = row_uniforms(batch.rows, 2, ctx.seed, "length", ctx.step).to(batch.tokens.device)
    keep = torch.where(draws[:, 0] < share, (draws[:, 1] * length).long() + 1, length)
    inside = torch.arange(length, device=keep.device) < keep[:, None]
    return replace(batch, scored=batch.scored & inside, doc_ids=batch.doc_ids.masked_fill(~inside, -1))
