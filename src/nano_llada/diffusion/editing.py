"""Wrong tokens to correct, in addition to masked ones: the training data of a model that edits (LLaDA 2.1)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nano_llada.config.objectives import TokenEditing
from nano_llada.core.batch import StepContext, Vocabulary
from nano_llada.core.random import row_uniforms
from nano_llada.diffusion.masking import Corrupted, count_in_groups


class EditingProcess:
    """Makes visible tokens wrong, at random or by the model's own drafts, as a `TokenEditing` record says."""

    def __init__(self, config: TokenEditing) -> None:
        self.config = config

    def replace(self, noisy: Corrupted, ctx: StepContext) -> Corrupted:
        """Replace visible tokens by random wrong ones; a function of (seed, step, row) as all noise is."""
        if not self.config.replace_rate:  # the visible tokens may still be learnt
            return self.weigh(noisy, noisy.tokens, noisy.masked, noisy.wrong) if self.config.keep_weight else noisy
        device, rows, width = noisy.tokens.device, noisy.batch.rows, noisy.tokens.shape[1]
        chosen, drawn = (
            row_uniforms(rows, width, ctx.seed, name, ctx.step).to(device) for name in ("replace", "wrong token")
        )
        ordinary = self._ordinary(ctx.vocab).to(device)
        tokens = ordinary[(drawn * len(ordinary)).long()]
        changed = noisy.batch.scored & ~noisy.masked & (chosen < self.config.replace_rate)
        return self.weigh(noisy, tokens, noisy.masked, changed)

    def weigh(self, noisy: Corrupted, tokens: Tensor, masked: Tensor, filled: Tensor) -> Corrupted:
        """The batch with `tokens` (B, L) at `filled` (B, L) positions, `masked` (B, L) ones hidden, and all weights."""
        seen = torch.where(filled, tokens, noisy.tokens).masked_fill(masked, noisy.mask)
        visible = noisy.batch.scored & ~masked
        wrong = visible & (seen != noisy.targets)
        weights = torch.where(masked, noisy.weights, 0.0)
        weights = weights + self.config.edit_weight * wrong + self.config.keep_weight * (visible & ~wrong)
        learnt = masked | wrong | (visible if self.config.keep_weight else wrong)
        return replace(noisy, tokens=seen, masked=masked, wrong=wrong, learnt=learnt, weights=weights)

    def drafted_rows(self, noisy: Corrupted, ctx: StepContext) -> Tensor:
        """(B,) bool: rows that the model fills in first."""
        draws = row_uniforms(noisy.batch.rows, 1, ctx.seed, "draft", ctx.step)[:, 0]
        return draws.to(noisy.tokens.device) < self.config.draft_rate

    def draft(self, noisy: Corrupted, rows: Tensor, predicted: Tensor, ctx: StepContext) -> Corrupted:
        """Fill some hidden tokens of `rows` with `predicted` (N,), the model's choice at each place hidden in them.

        How many stay hidden is drawn for each row, and their weight grows as their number falls.
        """
        device, names, width = noisy.tokens.device, noisy.batch.rows, noisy.tokens.shape[1]
        share = row_uniforms(names, 1, ctx.seed, "share that stays hidden", ctx.step).to(device)
        stays = row_uniforms(names, width, ctx.seed, "stays hidden", ctx.step).to(device) < share
        hidden = noisy.masked & rows[:, None]
        drafted = hidden & ~stays
        tokens = noisy.tokens.masked_scatter(hidden, predicted)
        masked = noisy.masked & ~drafted
        before, after = (count_in_groups(flags, noisy.group) for flags in (noisy.masked, masked))
        growth = (before / after.clamp(min=1)).gather(1, noisy.group)
        grown = replace(noisy, weights=torch.where(noisy.masked, noisy.weights * growth, noisy.weights))
        return self.weigh(grown, tokens, masked, drafted | (noisy.wrong & ~noisy.masked))

    def _ordinary(self, vocab: Vocabulary) -> Tensor:
        """Ids that may occur in a text."""
        special = {*vocab.unwritable, *vocab.ends, *self.config.excluded_tokens}
        return torch.tensor([token for token in range(vocab.size) if token not in special])
