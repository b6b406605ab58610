"""The forward process q(x_t | x_0): which tokens are hidden, and what a hidden token weighs (LLaDA, eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nano_llada.diffusion.noise import NoiseName, elbo_weight, mask_rate

if TYPE_CHECKING:
    from torch import Tensor

    from nano_llada.core.types import StepContext, TokenBatch

# consecutive documents of a row step by this share of [0, 1): the additive recurrence with the lowest discrepancy
GOLDEN = 0.6180339887498949
EPSILON = 1e-3  # linear Bernoulli times stay this far from 0 and 1


@dataclass(frozen=True)
class Corrupted:
    """A noisy batch, all tensors (B, L)."""

    tokens: Tensor  # x_t: the mask token wherever `masked`
    masked: Tensor  # bool, drawn here and never read back from the tokens
    weights: Tensor  # float32: weight of a position in the bound, 0 where not masked


@dataclass(frozen=True)
class Masking:
    """Hide scored tokens; every document of a row has a time of its own.

    `exact` draws how many of a document's n scored tokens to hide, k ~ U{1..n}, hides k of them and weighs each
    n / k; `bernoulli` draws t, hides each token with probability p(t) and weighs it w(t). Both are unbiased at every
    length: neither forces a mask and then divides by t as if it had not.
    """

    mask_count: Literal["exact", "bernoulli"] = "exact"
    """How a document's masks are drawn; the expectation is the same, `exact` varies less."""
    noise: NoiseName = "linear"
    """The schedule alpha(t); only `bernoulli` can tell them apart, since the bound does not depend on it."""
    stratified: bool = True
    """Spread the times of a global batch evenly over [0, 1), which keeps each one uniform and lowers variance."""

    def __post_init__(self) -> None:
        if self.mask_count == "exact" and self.noise != "linear":
            raise ValueError("noise 'cosine' has no effect with mask_count 'exact'; use mask_count 'bernoulli'")

    def corrupt(self, batch: TokenBatch, ctx: StepContext) -> Corrupted:
        """Draw x_t for a batch. The noise of a row depends on (seed, step, its global index) alone."""
        import torch

        from nano_llada.core.random import row_uniforms

        device = batch.tokens.device
        doc = batch.doc_ids.clamp(min=0)
        documents = int(doc.max()) + 1
        scored_counts = torch.zeros(len(doc), documents, dtype=torch.int64, device=device)
        scored_counts.scatter_add_(1, doc, batch.scored.long())
        times = self._times(batch.rows, documents, ctx).to(device)
        uniforms = row_uniforms(batch.rows, doc.shape[1], ctx.seed, "mask", ctx.step).to(device)
        if self.mask_count == "exact":
            hidden = (times * scored_counts).long().add_(1).minimum(scored_counts)
            masked = batch.scored & (
                _rank_in_document(doc, batch.scored, scored_counts, uniforms) < hidden.gather(1, doc)
            )
            weight = scored_counts / hidden.clamp(min=1)
        else:
            # linear weights grow without bound at 0 and are cut off there; cosine ones are tame in the mean
            t = EPSILON + (1 - 2 * EPSILON) * times if self.noise == "linear" else times
            masked = batch.scored & (uniforms < mask_rate(self.noise, t).gather(1, doc))
            weight = elbo_weight(self.noise, t)
        weights = weight.gather(1, doc).float().masked_fill_(~masked, 0.0)
        return Corrupted(batch.tokens.masked_fill(masked, ctx.vocab.mask), masked, weights)

    def _times(self, rows: Tensor, documents: int, ctx: StepContext) -> Tensor:
        """(B, documents) float64 in [0, 1), each uniform."""
        import torch

        from nano_llada.core.random import generator, row_uniforms

        if not self.stratified:
            return row_uniforms(rows, documents, ctx.seed, "time", ctx.step)
        offset = torch.rand((), dtype=torch.float64, generator=generator(ctx.seed, "time", ctx.step))
        by_row = rows.cpu().double()[:, None] / ctx.global_rows
        return (offset + by_row + torch.arange(documents) * GOLDEN) % 1.0


def _rank_in_document(doc: Tensor, scored: Tensor, scored_counts: Tensor, uniforms: Tensor) -> Tensor:
    """(B, L): place of each scored position in a random order of its document's scored positions."""
    import torch

    documents = scored_counts.shape[1]
    order = (torch.where(scored, doc, documents) + uniforms).argsort(dim=1)
    place = torch.empty_like(order).scatter_(
        1, order, torch.arange(doc.shape[1], device=doc.device).expand_as(order).contiguous()
    )
    start = scored_counts.cumsum(1) - scored_counts
    return place - start.gather(1, doc)
