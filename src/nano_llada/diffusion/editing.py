"""Wrong tokens to be corrected, besides hidden ones to be found: what a model that edits is trained on (LLaDA 2.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from nano_llada.core.types import StepContext, Vocabulary
    from nano_llada.diffusion.corruption import Corrupted


@dataclass(frozen=True)
class TokenEditing:
    """Of the tokens that stay visible, some are made wrong, and the model is to restore them (token-to-token, T2T).

    Wrong tokens are drawn at random (`replace_rate`) or are the model's own mistakes (`draft_rate`): in a drafted row
    some of the hidden tokens are filled in with what the model predicts there, and it is trained on the result.

    Raises:
        ValueError: for rates that are no probabilities, or weights below zero.
    """

    replace_rate: float = 0.0
    """Share of the visible tokens that are replaced by random ones; 0: none. LLaDA 2.1's models learn editing so."""
    draft_rate: float = 0.0
    """Share of the rows in which hidden tokens are filled in by the model first (multi-turn forward); each costs one
    more forward pass, without gradient. 0: none."""
    edit_weight: float = 1.0
    """How much the cross-entropy at a wrong token counts; a hidden one counts 1 in the mean."""
    keep_weight: float = 0.0
    """How much it counts at a visible token that is right, so that the model learns to leave it; 0: not at all."""
    excluded_tokens: tuple[int, ...] = ()
    """Ids that are never put in as wrong tokens, besides the special ones."""

    def __post_init__(self) -> None:
        for name in ("replace_rate", "draft_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, in [0, 1]; got {getattr(self, name)}")
        for name in ("edit_weight", "keep_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def replace(self, noisy: Corrupted, ctx: StepContext) -> Corrupted:
        """Put random wrong tokens among the visible ones; a function of (seed, step, row) as all noise is."""
        from nano_llada.core.random import row_uniforms

        if not self.replace_rate:  # the visible tokens may still be learnt
            return self.weigh(noisy, noisy.tokens, noisy.masked, noisy.wrong) if self.keep_weight else noisy
        device, rows, width = noisy.tokens.device, noisy.batch.rows, noisy.tokens.shape[1]
        chosen, drawn = (
            row_uniforms(rows, width, ctx.seed, name, ctx.step).to(device) for name in ("replace", "wrong token")
        )
        ordinary = self._ordinary(ctx.vocab).to(device)
        tokens = ordinary[(drawn * len(ordinary)).long()]
        changed = noisy.batch.scored & ~noisy.masked & (chosen < self.replace_rate)
        return self.weigh(noisy, tokens, noisy.masked, changed)

    def weigh(self, noisy: Corrupted, tokens: Tensor, masked: Tensor, filled: Tensor) -> Corrupted:
        """The batch with `tokens` at `filled` positions, `masked` ones still hidden, and weights for all of them."""
        import torch

        clean = noisy.batch.tokens
        seen = torch.where(filled, tokens, noisy.tokens).masked_fill(masked, noisy.mask)
        visible = noisy.batch.scored & ~masked
        wrong = visible & (seen != clean)
        weights = torch.where(masked, noisy.weights, 0.0)
        weights = weights + self.edit_weight * wrong + self.keep_weight * (visible & ~wrong)
        learnt = masked | wrong | (visible if self.keep_weight else wrong)
        return replace(noisy, tokens=seen, masked=masked, wrong=wrong, learnt=learnt, weights=weights)

    def drafted_rows(self, noisy: Corrupted, ctx: StepContext) -> Tensor:
        """(B,) bool: rows that the model fills in first."""
        from nano_llada.core.random import row_uniforms

        draws = row_uniforms(noisy.batch.rows, 1, ctx.seed, "draft", ctx.step)[:, 0]
        return draws.to(noisy.tokens.device) < self.draft_rate

    def draft(self, noisy: Corrupted, rows: Tensor, predicted: Tensor, ctx: StepContext) -> Corrupted:
        """Fill some hidden tokens of `rows` with `predicted` (N,), the model's choice at each place hidden in them.

        How many stay hidden is drawn for each row, and their weight grows as their number falls.
        """
        import torch

        from nano_llada.core.random import row_uniforms
        from nano_llada.diffusion.corruption import count_in_groups

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
        """Ids that may stand in a text."""
        import torch

        special = {*vocab.unwritable, *vocab.ends, *self.excluded_tokens}
        return torch.tensor([token for token in range(vocab.size) if token not in special])
