"""The denoising objectives: predict what is masked or wrong in a text or its blocks (LLaDA 1.0, 2.0, 2.1), alone or
together with the next token of the clean text (tri-mode)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nano_llada.config.card import ModelCard, Predicts
from nano_llada.config.objectives import Denoising, TriMode
from nano_llada.core.batch import LossOutput, Model, StepContext, TokenBatch, Vocabulary
from nano_llada.core.pattern import AttentionPattern, Blocked
from nano_llada.core.random import row_uniforms
from nano_llada.diffusion.editing import EditingProcess
from nano_llada.diffusion.masking import (
    Corrupted,
    MaskingProcess,
    begins_of,
    count_in_groups,
    drawn_blocks,
    groups_of,
)
from nano_llada.diffusion.suffix import with_suffixes_first
from nano_llada.objectives.cross_entropy import head_choice, head_cross_entropy, head_entropy
from nano_llada.objectives.next_token import next_token_targets


@dataclass(frozen=True)
class Reading:
    """Which outputs predict the tokens of a noisy text, and what the clean text beside it sees.

    With `next` the output one place before predicts a token: that of the noisy text within a block, that of the clean
    text for the first token of a block. So the first token of a text has no prediction.
    """

    predicts: Predicts = "self"
    causal: bool = False  # the clean text is read left to right (tri-mode), not in blocks
    numbers: Tensor | None = None  # (B, L) block of each position within its document, instead of blocks of one size

    @classmethod
    def of(cls, card: ModelCard) -> Reading:
        """That of a trained model."""
        return cls(card.predicts, causal=card.autoregressive)


PLAIN = Reading()


class DenoisingLoss:
    """An upper bound on -log p(x_0): weighted cross-entropy at masked positions, as a `Denoising` record says."""

    def __init__(self, config: Denoising) -> None:
        self.config = config
        self.masking, self.editing = MaskingProcess(config.corruption), EditingProcess(config.editing)

    def loss(self, model: Model, batch: TokenBatch, ctx: StepContext) -> LossOutput:
        """Sum of weighted cross-entropies, (), and its divisor over the global batch (LLaDA, eq. 3, 5; 2.0, eq. 1)."""
        batch = self._prepared(batch, ctx)
        size = self.config.blocks.at(ctx.progress)
        if size is not None and size > int(batch.positions.max()):
            size = None  # every document is one block
        noisy = self.masking.corrupt(batch, ctx, size, self._reading(batch, ctx, size).numbers)
        noisy = self.editing.replace(noisy, ctx)
        reading = self._reading(noisy.batch, ctx, size)
        drafting = 0
        if self.config.editing.draft_rate:
            noisy, drafting = self._drafted(model, noisy, ctx, size, reading)
        total, count, predicted, positions, metrics = self._sums(model, noisy, ctx, size, reading)
        if self.config.blocks.changes:
            used = batch.tokens.shape[1] if size is None else size
            metrics["block_size"] = (torch.tensor(float(used)), torch.tensor(1.0))
        work = positions + drafting // 3  # a pass without gradient costs a third
        return LossOutput(total, count, predicted, work, metrics)

    def _prepared(self, batch: TokenBatch, ctx: StepContext) -> TokenBatch:
        """The batch with what cannot be learnt left out."""
        if self.config.random_length:
            batch = cut_to_random_length(batch, self.config.random_length, ctx)
        if self.config.suffix_share and not ctx.measuring:  # validation losses stay comparable
            batch = with_suffixes_first(batch, self.config.suffix_share, ctx)
        return without_first(batch) if self.config.predicts == "next" else batch

    def _reading(self, batch: TokenBatch, ctx: StepContext, size: int | None) -> Reading:
        """How a noisy version of the batch is read in blocks of `size`."""
        return Reading(self.config.predicts)

    def _counted(self, batch: TokenBatch, vocab: Vocabulary) -> Tensor:
        """(B, L) bool: the tokens that the loss is an average over."""
        return batch.scored

    def _sums(
        self, model: Model, noisy: Corrupted, ctx: StepContext, size: int | None, reading: Reading
    ) -> tuple[Tensor, Tensor, Tensor, int, dict[str, tuple[Tensor, Tensor]]]:
        """The loss, its count, how many logits and positions were computed, and metrics."""
        features, positions = noisy_features(model, noisy.tokens, noisy.batch, noisy.learnt, size, reading)
        targets = noisy.targets[noisy.learnt]
        weights, count = self._weights(noisy, self._counted(noisy.batch, ctx.vocab))
        total, nll = head_cross_entropy(features, model.head.weight, targets, weights[noisy.learnt])
        metrics = self._metrics(noisy, nll, targets == ctx.vocab.eos)
        if self.config.confidence_weight:
            total = total + self._confidence(model, noisy, features, ctx.vocab, metrics)
        return total, count, noisy.learnt.sum(), positions, metrics

    def _confidence(
        self,
        model: Model,
        noisy: Corrupted,
        features: Tensor,
        vocab: Vocabulary,
        metrics: dict[str, tuple[Tensor, Tensor]],
    ) -> Tensor:
        """The term of Confidence-Aware Parallel training, (), from the `features` (N, H) at learnt positions."""
        entropy, right = head_entropy(features, model.head.weight, noisy.targets[noisy.learnt])
        right &= noisy.masked[noisy.learnt]
        metrics["right_entropy"] = ((entropy.detach() * right).sum(), right.sum())
        shares = self._shares(noisy, right, self._counted(noisy.batch, vocab))
        return self.config.confidence_weight * (entropy * shares).sum()

    def _drafted(
        self, model: Model, noisy: Corrupted, ctx: StepContext, size: int | None, reading: Reading = PLAIN
    ) -> tuple[Corrupted, int]:
        """The batch with the model's own draft in some rows (multi-turn forward), and the positions it computed."""
        rows = self.editing.drafted_rows(noisy, ctx)
        wanted = bool((noisy.masked & rows[:, None]).any())
        if not ctx.anywhere(wanted):
            return noisy, 0
        if not wanted:  # a pass in vain, with the processes that need one
            rows = torch.ones_like(rows)
        some, hidden = noisy.batch.select(rows), noisy.masked[rows]
        reading = replace(reading, numbers=None if reading.numbers is None else reading.numbers[rows])
        with torch.no_grad():
            features, positions = noisy_features(model, noisy.tokens[rows], some, hidden, size, reading)
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

    def _weights(self, noisy: Corrupted, counted: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) weights and the count they are normalised by, over `counted` (B, L) tokens."""
        if self.config.loss_weight == "uniform":
            return noisy.weights.masked_fill(noisy.masked, 1.0), noisy.masked.sum()
        if self.config.normalise_by == "token":
            return noisy.weights, counted.sum()
        lengths = _per_document(noisy.batch, counted)
        at_each = lengths.gather(1, groups_of(noisy.batch, None))
        return noisy.weights / at_each.clamp(min=1), (lengths > 0).sum()

    def _shares(self, noisy: Corrupted, right: Tensor, counted: Tensor) -> Tensor:
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
            mass = _per_document(noisy.batch, counted)
        else:
            mass = torch.ones_like(hits)
        return ((mass / hits.clamp(min=1)).gather(1, document) * hit)[noisy.learnt]


class TriModeLoss(DenoisingLoss):
    """``(w * L_AR + L_mask) / (1 + w)``, as a `TriMode` record says: both parts from one pass over both streams.

    Both are sums over the same count: the tokens that an AR model would be trained on. An answer's filling behind its
    end is masked, so that blocks behind an end are known, but no next token of it is learnt, and it does not count.
    """

    config: TriMode

    def _prepared(self, batch: TokenBatch, ctx: StepContext) -> TokenBatch:
        return without_first(super()._prepared(batch, ctx))  # no mode predicts it, so both parts have one count

    def _reading(self, batch: TokenBatch, ctx: StepContext, size: int | None) -> Reading:
        numbers = torch.zeros_like(batch.positions)
        if size is not None:
            numbers = drawn_blocks(batch, ctx, size, self.config.short_blocks)
        return Reading(self.config.predicts, causal=True, numbers=numbers)

    def _counted(self, batch: TokenBatch, vocab: Vocabulary) -> Tensor:
        return batch.scored & ~filling(batch, vocab)

    def _sums(
        self, model: Model, noisy: Corrupted, ctx: StepContext, size: int | None, reading: Reading
    ) -> tuple[Tensor, Tensor, Tensor, int, dict[str, tuple[Tensor, Tensor]]]:
        counted, learnt = self._counted(noisy.batch, ctx.vocab), noisy.learnt
        clean, following = next_token_targets(replace(noisy.batch, scored=counted))
        features, positions = noisy_features(model, noisy.tokens, noisy.batch, learnt, size, reading, clean)
        weights, count = self._weights(noisy, counted)
        plain, _ = self._weights(replace(noisy, weights=torch.ones_like(noisy.weights)), counted)
        of_masks, of_next = weights[learnt], plain[:, 1:][clean[:, :-1]]
        targets, share = noisy.targets[learnt], self.config.ar_weight
        total, nll = head_cross_entropy(
            features,
            model.head.weight,
            torch.cat([targets, following]),
            torch.cat([of_masks, share * of_next]) / (1 + share),
        )
        masked, after = nll.split([len(targets), len(following)])
        metrics = self._metrics(noisy, masked, targets == ctx.vocab.eos)
        metrics["ar_loss"] = ((after * of_next).sum(), count)
        metrics["mask_loss"] = ((masked * of_masks).sum(), count)
        if self.config.confidence_weight:
            term = self._confidence(model, noisy, features[: len(targets)], ctx.vocab, metrics)
            total = total + term / (1 + share)
        return total, count, learnt.sum() + clean.sum(), positions, metrics


def noisy_features(
    model: Model,
    tokens: Tensor,
    batch: TokenBatch,
    select: Tensor,
    block_size: int | None,
    reading: Reading = PLAIN,
    clean: Tensor | None = None,
) -> tuple[Tensor, int]:
    """(N, H) features that predict the tokens at `select` (B, L) of a text that the model sees as noisy `tokens`, and
    how many positions the model computed for them.

    With a block size, each block of the noisy text attends to itself and to the clean text of earlier blocks: the noisy
    and the clean row go through the model side by side (LLaDA 2.0, eq. 3).

    Args:
        reading: which outputs predict these tokens; with its `numbers`, blocks are those.
        clean: (B, L), only with two streams: outputs of the clean text that are read, too. They come after the N.
    """
    numbers = reading.numbers
    if block_size is None and numbers is None:
        chosen = select if reading.predicts == "self" else _before(select)
        pattern = AttentionPattern.packed("full", batch.doc_ids)
        return model.features(tokens, pattern, positions=batch.positions, select=chosen), tokens.numel()
    kind: Blocked = "two_stream_causal" if reading.causal else "two_stream"
    if numbers is None:
        pattern = AttentionPattern.blocks(kind, batch.doc_ids, batch.positions, block_size or 1)
        numbers = batch.positions // (block_size or 1)
    else:
        pattern = AttentionPattern.numbered(kind, batch.doc_ids, numbers)
    both, positions = torch.cat([tokens, batch.tokens], dim=1), batch.positions.repeat(1, 2)
    if reading.predicts == "self" and clean is None:
        chosen = torch.cat([select, torch.zeros_like(select)], dim=1)
        return model.features(both, pattern, positions=positions, select=chosen), both.numel()
    sources = _sources(select, begins_of(batch, numbers), reading.predicts)
    if clean is not None:
        row, place = clean.nonzero().unbind(1)
        sources = torch.cat([sources, (2 * row + 1) * clean.shape[1] + place])
    used, order = sources.unique(return_inverse=True)
    chosen = torch.zeros(both.numel(), dtype=torch.bool, device=both.device)
    chosen[used] = True
    features = model.features(both, pattern, positions=positions, select=chosen.view(both.shape))
    return features[order], both.numel()


def _before(select: Tensor) -> Tensor:
    """(B, L) bool: the positions right before those of `select`."""
    return torch.nn.functional.pad(select[:, 1:], (0, 1))


def _sources(select: Tensor, begins: Tensor, predicts: Predicts) -> Tensor:
    """(N,) for each token of `select` the output that predicts it, as an index into (B, 2L) outputs, noisy and clean.

    Args:
        begins: (B, L) bool: the first tokens of blocks.
    """
    row, place = select.nonzero().unbind(1)
    width = select.shape[1]
    if predicts == "self":
        return 2 * row * width + place
    return (2 * row + begins[row, place]) * width + place - 1


def without_first(batch: TokenBatch) -> TokenBatch:
    """The batch without the first token of each text among what is learnt: nothing comes before it to predict it."""
    return replace(batch, scored=batch.scored & (batch.positions > 0))


def filling(batch: TokenBatch, vocab: Vocabulary) -> Tensor:
    """(B, L) bool: end tokens right behind an end token of the same document, with which answers are filled."""
    is_end = torch.isin(batch.tokens, torch.tensor(vocab.ends, device=batch.tokens.device))
    alike = batch.doc_ids[:, 1:] == batch.doc_ids[:, :-1]
    return torch.nn.functional.pad(is_end[:, 1:] & is_end[:, :-1] & alike, (1, 0))


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
