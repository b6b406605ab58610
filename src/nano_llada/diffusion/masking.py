"""The forward process q(x_t | x_0): which tokens are masked, and the weight of a masked token (LLaDA, eq. 3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from nano_llada.config.objectives import Masking
from nano_llada.core.batch import StepContext, TokenBatch
from nano_llada.core.random import generator, row_uniforms
from nano_llada.diffusion.noise import make_noise

# consecutive groups of a row step by this share of [0, 1): the additive recurrence with the lowest discrepancy
GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Corrupted:
    """A noisy batch, tensors (B, L)."""

    batch: TokenBatch  # the clean rows: those given, or those twice
    tokens: Tensor  # x_t: the mask token wherever `masked`
    masked: Tensor  # bool, drawn here and never read back from the tokens
    targets: Tensor  # int64: the token that the model learns to predict at each position
    weights: Tensor  # float32: weight of a position in the loss, 0 where not learnt
    group: Tensor  # int64: which document or block of its row a position belongs to
    mask: int  # the mask token
    wrong: Tensor  # bool: visible, but not the target
    learnt: Tensor  # bool: positions that bear loss; those that are masked, unless editing is learnt too


class MaskingProcess:
    """Draws x_t for a batch as a `Masking` record says.

    Every document of a row, or every block of a document, has its own time. No mask is forced while the weight is
    still 1/t: that would bias the loss.
    """

    def __init__(self, config: Masking) -> None:
        self.config, self.noise = config, make_noise(config.noise)

    def corrupt(
        self, batch: TokenBatch, ctx: StepContext, block_size: int | None = None, numbers: Tensor | None = None
    ) -> Corrupted:
        """Draw x_t for a batch. The noise of a row depends on (seed, step, its global index) alone.

        Args:
            block_size: None: one time for each document; a number: one for each block of a document.
            numbers: (B, L) block of each position within its document, instead of blocks of one size.
        """
        device = batch.tokens.device
        group = groups_of(batch, block_size, numbers)
        times = self._times(batch.rows, int(group.max()) + 1, ctx).to(device)
        uniforms = row_uniforms(batch.rows, group.shape[1], ctx.seed, "mask", ctx.step).to(device)
        draw = self._exact if self.config.mask_count == "exact" else self._bernoulli
        masked, weights, opposite = draw(batch, group, times, uniforms)
        if self.config.complementary:
            batch, masked, weights = _twice(batch, masked, weights, opposite)
            group = group.repeat_interleave(2, 0)
        weights = weights.float().masked_fill(~masked, 0.0)
        tokens = batch.tokens.masked_fill(masked, ctx.vocab.mask)
        nowhere = torch.zeros_like(masked)
        return Corrupted(batch, tokens, masked, batch.tokens, weights, group, ctx.vocab.mask, nowhere, masked)

    def _exact(
        self, batch: TokenBatch, group: Tensor, times: Tensor, uniforms: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Masked positions, their weights, and what the others weigh in the complement, all (B, L)."""
        scored, rates = count_in_groups(batch.scored, group), (self.config.mask_rate_min, self.config.mask_rate_max)
        hidden, weight, opposite = _exact_counts(scored, times, rates, self.config.complementary)
        masked = hide(batch.scored, group, hidden, uniforms)
        return masked, weight.gather(1, group), opposite.gather(1, group)

    def _bernoulli(
        self, batch: TokenBatch, group: Tensor, times: Tensor, uniforms: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same with a time for each group."""
        edge, noise = self.noise.edge, self.noise
        band = max(self.config.mask_rate_min, edge), min(self.config.mask_rate_max, 1 - edge)
        first, last = (noise.time(rate) for rate in band)
        t = first + (last - first) * times
        scale = (last - first) / (band[1] - band[0])  # within a band, too, a token weighs 1 in the mean
        masked = batch.scored & (uniforms < noise.rate(t).gather(1, group))
        weight, opposite = scale * noise.weight(t), scale * noise.complement_weight(t)
        return masked, weight.gather(1, group), opposite.gather(1, group)

    def _times(self, rows: Tensor, groups: int, ctx: StepContext) -> Tensor:
        """(B, groups) float64 in [0, 1), each uniform."""
        if not self.config.stratified:
            return row_uniforms(rows, groups, ctx.seed, "time", ctx.step)
        offset = torch.rand((), dtype=torch.float64, generator=generator(ctx.seed, "time", ctx.step))
        by_row = rows.cpu().double()[:, None] / ctx.global_rows
        return (offset + by_row + torch.arange(groups) * GOLDEN) % 1.0


def stratified_draws(
    batch: TokenBatch,
    *,
    draws: int,
    seed: int,
    block_size: int | None = None,
    rates: tuple[float, float] = (0.0, 1.0),
    complementary: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Masked positions (B, L) and their weights (B, L) float64, `draws` times, for estimating a likelihood.

    The number of hidden tokens of a group, within a band of `rates`, is spread evenly over the draws, from a random
    start in each group. With `complementary`, every second draw hides exactly what the one before it did not.
    """
    device, group = batch.tokens.device, groups_of(batch, block_size)
    scored = count_in_groups(batch.scored, group)
    starts = row_uniforms(batch.rows, scored.shape[1], seed, "likelihood").to(device)
    for draw in range(0, draws, 2 if complementary else 1):
        times = (starts + draw / draws) % 1.0
        count, weight, opposite = _exact_counts(scored, times, rates, complementary)
        uniforms = row_uniforms(batch.rows, group.shape[1], seed, "likelihood", draw).to(device)
        hidden = hide(batch.scored, group, count, uniforms)
        yield hidden, weight.double().gather(1, group)
        if complementary:
            yield batch.scored & ~hidden, opposite.double().gather(1, group)


def groups_of(batch: TokenBatch, block_size: int | None, numbers: Tensor | None = None) -> Tensor:
    """(B, L): which document of its row a position belongs to, or, with a block size, which block of all its documents.

    Blocks are counted from each document's start, the last of a document may be shorter; or `numbers` (B, L) says which
    block of its document a position belongs to.
    """
    if numbers is None and block_size is not None:
        numbers = batch.positions // block_size
    return batch.doc_ids.clamp(min=0) if numbers is None else begins_of(batch, numbers).cumsum(1)


def begins_of(batch: TokenBatch, numbers: Tensor) -> Tensor:
    """(B, L) bool: where another block, by `numbers` (B, L), or document begins than at the position before."""
    doc = batch.doc_ids.clamp(min=0)
    begins = (doc[:, 1:] != doc[:, :-1]) | (numbers[:, 1:] != numbers[:, :-1])
    return torch.nn.functional.pad(begins, (1, 0))


def drawn_blocks(batch: TokenBatch, ctx: StepContext, block_size: int, short: float) -> Tensor:
    """(B, L) block of each position within its document, where blocks may begin anywhere and be shorter (tri-mode).

    Each row draws how far its blocks are moved, U{0..size - 1}, so that the first of a document is cut; a share `short`
    of the rows also draws its size, U{1..block_size}. A function of (seed, step, global row), as all noise is.
    """
    draws = row_uniforms(batch.rows, 3, ctx.seed, "blocks", ctx.step).to(batch.tokens.device)
    size = torch.where(draws[:, 0] < short, (draws[:, 1] * block_size).long() + 1, block_size)
    moved = (draws[:, 2] * size).long()
    return (batch.positions + moved[:, None]) // size[:, None]


def _exact_counts(
    scored: Tensor, times: Tensor, rates: tuple[float, float], complementary: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """How many of each group's `scored` tokens are hidden, what a hidden one weighs, and one in the complement."""
    ends = [(scored.double() * rate).round(decimals=9) for rate in rates]  # 0.29 * 100 is 28.999999999999996
    # with a complement, hiding none is a legal draw: its twin hides all
    least = ends[0].ceil().long().clamp(min=0 if complementary else 1).minimum(scored)
    most = torch.maximum(ends[1].floor().long(), least)
    hidden = (least + (times * (most - least + 1)).long()).minimum(most)
    weight = _count_weight(scored, hidden, least, most)
    opposite = _count_weight(scored, scored - hidden, scored - most, scored - least)
    if complementary:  # where one of a pair never hides anything, the other speaks for both
        weight, opposite = weight * (1 + (least == scored).long()), opposite * (1 + (most == 0).long())
    return hidden, weight, opposite


def _count_weight(scored: Tensor, hidden: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """n / k for k hidden of n, k uniform in least..most; more where k may be 0, a draw that teaches nothing."""
    useful = (most - least.clamp(min=1) + 1).clamp(min=1)
    return scored / hidden.clamp(min=1) * ((most - least + 1) / useful)


def _twice(batch: TokenBatch, masked: Tensor, weights: Tensor, opposite: Tensor) -> tuple[TokenBatch, Tensor, Tensor]:
    """The rows, and again with everything hidden that was not."""
    doubled = type(batch)(*(getattr(batch, field.name).repeat_interleave(2, 0) for field in fields(batch)))
    masks = torch.stack([masked, batch.scored & ~masked], dim=1).flatten(0, 1)
    return doubled, masks, torch.stack([weights, opposite], dim=1).flatten(0, 1)


def count_in_groups(flags: Tensor, group: Tensor) -> Tensor:
    """(B, groups) int64: how many positions of each group are flagged."""
    counts = torch.zeros(len(group), int(group.max()) + 1, dtype=torch.int64, device=group.device)
    return counts.scatter_add_(1, group, flags.long())


def hide(scored: Tensor, group: Tensor, hidden: Tensor, uniforms: Tensor) -> Tensor:
    """(B, L) bool: `hidden` (B, groups) scored positions of each group, chosen by the order of `uniforms` (B, L)."""
    counts = count_in_groups(scored, group)
    order = (torch.where(scored, group, counts.shape[1]) + uniforms).argsort(dim=1)
    place = torch.empty_like(order).scatter_(
        1, order, torch.arange(group.shape[1], device=group.device).expand_as(order).contiguous()
    )
    start = counts.cumsum(1) - counts
    return scored & (place - start.gather(1, group) < hidden.gather(1, group))
