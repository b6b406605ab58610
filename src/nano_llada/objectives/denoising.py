"""The denoising objectives of LLaDA 1.0, 2.0 and 2.1: predict what is masked or wrong in a text, or in its blocks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nano_llada.config.objectives import Denoising
from nano_llada.core.batch import LossOutput, Model, StepContext, TokenBatch
from nano_llada.core.pattern import AttentionPattern
from nano_llada.core.random import row_uniforms
from nano_llada.diffusion.editing import EditingProcess
from nano_llada.diffusion.masking import Corrupted, MaskingProcess, count_in_groups, groups_of
from nano_llada.objectives.cross_entropy import head_choice, head_cross_entropy, head_entropy


class DenoisingLoss:
    """An upper bound on -log p(x_0): weighted cross-entropy at masked positions, as a `Denoising` record says."""

    def __init__(self, config: Denoising) -> None:
        self.config = config
        self.masking, self.editing = MaskingProcess(config.corruption), EditingProcess(config.editing)

    def loss(self, model: Model, batch: TokenBatch, ctx: StepContext) -> LossOutput:
        """Sum of weighted cross-entropies, (), and its divisor over the global batch (LLaDA, eq. 3, 5; 2.0, eq. 1)."""
        if self.config.random_length:
            batch = cut_to_random_length(batch, self.config.random_length, ctx)
        size = self.config.blocks.at(ctx.progress)
        if size is not None and size > int(batch.positions.max()):
            size = None  # every document is one block
        noisy = self.editing.replace(self.masking.corrupt(batch, ctx, size), ctx)
        drafting = 0
        if self.config.editing.draft_rate:
            noisy, drafting = self._drafted(model, noisy, ctx, size)
        features, positions = noisy_features(model, noisy.tokens, noisy.batch, noisy.learnt, size)
        targets = noisy.targets[noisy.learnt]
        weights, count = self._weights(noisy)
        total, nll = head_cross_entropy(features, model.head.weight, targets, weights[noisy.learnt])
        metrics = self._metrics(noisy, nll, targets == ctx.vocab.eos)
        if self.config.blocks.changes:
            used = batch.tokens.shape[1] if size is None else size
            metrics["block_size"] = (torch.tensor(float(used)), torch.tensor(1.0))
        if self.config.confidence_weight:
            entropy, right = head_entropy(features, model.head.weight, targets)
            right &= noisy.masked[noisy.learnt]
            total = total + self.config.confidence_weight * (entropy * self._shares(noisy, right)).sum()
            metrics["right_entropy"] = ((entropy.detach() * right).sum(), right.sum())
        work = positions + drafting // 3  # a pass without gradient costs a third
        return LossOutput(total, count, noisy.learnt.sum(), work, metrics)

    def _drafted(self, model: Model, noisy: Corrupted, ctx: StepContext, size: int | None) -> tuple[Corrupted, int]:
        """The batch with the model's own draft in some rows (multi-turn forward), and the positions it computed."""
        rows = self.editing.drafted_rows(noisy, ctx)
        wanted = bool((noisy.masked & rows[:, None]).any())
        if not ctx.anywhere(wanted):
            return noisy, 0
        if not wanted:  # a pass in vain, with the processes that need one
            rows = torch.ones_like(rows)
        some, hidden = noisy.batch.select(rows), noisy.masked[rows]
        with torch.no_grad():
            features, positions = noisy_features(model, noisy.tokens[rows], some, hidden, size)
            predicted = head_choice(features, model.head.weight, ctx.vocab.unwritable)
        if not wanted:
            return noisy, 0
        return self.editing.draft(noisy, rows, predicted, ctx), positions

    def _metrics(self, noisy: Corrupted, nll: Tensor, end: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Losses of masked text, of masked ends and of wrong tokens separately, as sums and counts."""
        masked, wrong = noisy.masked[noisy.learnt], noisy.wrong[noisy.learnt]
        parts = {"masked_text_loss": masked & ~end, "masked_eos_loss": masked & end}
        if self.config.edits:
            parts["edit_loss"] = wrong
        return {name: (nll[part].sum(), part.sum()) for name, part in parts.items()}

    def _weights(self, noisy: Corrupted) -> tuple[Tensor, Tensor]:
        """(B, L) weights and the count they are normalised by."""
        if self.config.loss_weight == "uniform":
            return noisy.weights.masked_fill(noisy.masked, 1.0), noisy.masked.sum()
        if self.config.normalise_by == "token":
            return noisy.weights, noisy.batch.scored.sum()
        lengths = _per_document(noisy.batch, noisy.batch.scored)
        at_each = lengths.gather(1, groups_of(noisy.batch, None))
        return noisy.weights / at_each.clamp(min=1), (lengths > 0).sum()

    def _shares(self, noisy: Corrupted, right: Tensor) -> Tensor:
        """(N,) weights with which a sum over correctly predicted positions is each document's mean, times its mass.

        So CAP's term is an average over documents of the mean over their correct positions; a mean over the whole batch
        would depend on its division into micro-batches.
        """
        hit = torch.zeros_like(noisy.masked)
        hit[noisy.learnt] = right
        document, hits = groups_of(noisy.batch, None), _per_document(noisy.batch, hit)
        if self.config.loss_weight == "uniform":
            mass = _per_document(noisy.batch, noisy.masked)
        elif self.config.normalise_by == "token":
            mass = _per_document(noisy.batch, noisy.batch.scored)
        else:
            mass = torch.ones_like(hits)
        return ((mass / hits.clamp(min=1)).gather(1, document) * hit)[noisy.learnt]


def noisy_features(
    model: Model, tokens: Tensor, batch: TokenBatch, select: Tensor, block_size: int | None
) -> tuple[Tensor, int]:
    """(N, H) features at `select` (B, L) of noisy `tokens`, and how many positions the model computed for them.

    With a block size, each block of the noisy text attends to itself and to the clean text of earlier blocks: the noisy
    and the clean row go through the model side by side (LLaDA 2.0, eq. 3).
    """
    if block_size is None:
        pattern = AttentionPattern.packed("full", batch.doc_ids)
        return model.features(tokens, pattern, positions=batch.positions, select=select), tokens.numel()
    pattern = AttentionPattern.blocks("two_stream", batch.doc_ids, batch.positions, block_size)
    both = torch.cat([tokens, batch.tokens], dim=1)
    chosen = torch.cat([select, torch.zeros_like(select)], dim=1)
    return model.features(both, pattern, positions=batch.positions.repeat(1, 2), select=chosen), both.numel()


def _per_document(batch: TokenBatch, flags: Tensor) -> Tensor:
    """(B, documents) float32: how many positions of each document are flagged."""
    return count_in_groups(flags, groups_of(batch, None)).float()


def cut_to_random_length(batch: TokenBatch, share: float, ctx: StepContext) -> TokenBatch:
    """Turn the tail of some rows into padding: a row is cut with probability `share`, to U{1..L} tokens."""
    length = batch.tokens.shape[1]
    draws = row_uniforms(batch.rows, 2, ctx.seed, "length", ctx.step).to(batch.tokens.device)
    keep = torch.where(draws[:, 0] < share, (draws[:, 1] * length).long() + 1, length)
    inside = torch.arange(length, device=keep.device) < keep[:, None]
    return replace(batch, scored=batch.scored & inside, doc_ids=batch.doc_ids.masked_fill(~inside, -1))
