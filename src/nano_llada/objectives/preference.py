"""Direct preference optimisation (DPO): make the better of two answers likelier than the worse, for both tracks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from nano_llada.core.types import LossOutput, Model, StepContext, TokenBatch


@dataclass(frozen=True)
class ExactScore:
    """log p(answer | prompt) of an autoregressive model."""

    @property
    def draws(self) -> int:
        """Nothing is drawn: one look is exact."""
        return 1

    @property
    def block_size(self) -> int | None:
        """None: there are no blocks."""
        return None

    def __call__(self, model: Model, batch: TokenBatch, ctx: StepContext, seed: int) -> Tensor:
        """(1, B) float64."""
        from nano_llada.objectives.likelihood import exact_scores

        return exact_scores(model, batch)[None]


@dataclass(frozen=True)
class BoundScore:
    """A lower bound on log p(answer | prompt) of a diffusion model (LLaDA 2.0, eq. 7), estimated.

    Raises:
        ValueError: for no draws or an impossible block.
    """

    draws: int = 1
    """Noisy versions of each answer, with one mask pattern each; more of them vary less and cost as much more."""
    block_size: int | None = None
    """Of a block-diffusion model; None: the model sees the whole text."""
    mask_rate_min: float = 0.0
    """Least share of a block's tokens that is hidden (LLaDA 2.0's bandwidth). Tokens weigh less unevenly in a band, and
    scores vary less; above 0 they bound no likelihood."""
    mask_rate_max: float = 1.0
    """Largest share of a block's tokens that is hidden; below 1 scores bound no likelihood."""
    complementary: bool = False
    """Every second draw hides what the one before it did not, so that both together look at each token once; scores
    vary less for it within a band, where tokens weigh much the same."""

    def __post_init__(self) -> None:
        if not 0 <= self.mask_rate_min < self.mask_rate_max <= 1:
            raise ValueError(
                f"mask rates must satisfy 0 <= min < max <= 1, got {self.mask_rate_min} and {self.mask_rate_max}"
            )
        if self.complementary and self.draws % 2:
            raise ValueError(f"complementary draws come in pairs, got draws {self.draws}")
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"a block has at least 1 token, got {self.block_size}")

    def __call__(self, model: Model, batch: TokenBatch, ctx: StepContext, seed: int) -> Tensor:
        """(draws, B) float64."""
        from nano_llada.objectives.likelihood import bound_scores

        return bound_scores(
            model,
            batch,
            ctx.vocab,
            draws=self.draws,
            seed=seed,
            block_size=self.block_size,
            rates=(self.mask_rate_min, self.mask_rate_max),
            complementary=self.complementary,
        )


@dataclass(frozen=True)
class Preference:
    """-log sigmoid(beta * margin), where the margin is how much more than a frozen reference the model prefers the
    better answer (DPO; for diffusion models LLaDA 2.0, eq. 8, and LLaDA 1.5).

    Rows 2i and 2i + 1 of a batch are the better and the worse answer to one prompt.

    Raises:
        ValueError: if `beta` is not positive.
    """

    score: ExactScore | BoundScore = field(default_factory=BoundScore)
    """How likely an answer is under a model."""
    beta: float = 0.1
    """How much a nat of margin counts: the larger, the closer to the reference the model stays."""
    shared_noise: bool = True
    """Diffusion: show model and reference the same masks, so that most of the noise cancels (VRPO, LLaDA 1.5)."""
    length_normalised: bool = False
    """Count gains per token of the answer: else training, which makes all answers less likely, makes long ones the
    worse. A nat per token is much: beta is then about 10."""

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta must be positive, got {self.beta}")

    def loss(self, model: Model, batch: TokenBatch, ctx: StepContext) -> LossOutput:
        """Sum over pairs, and their number.

        Raises:
            ValueError: without a reference.
        """
        import torch

        from nano_llada.core.types import LossOutput

        gains = self.gains(model, batch, ctx)
        draws, rows = gains.shape
        margins = gains.mean(0)[0::2] - gains.mean(0)[1::2]
        losses = -torch.nn.functional.logsigmoid(self.beta * margins)
        pairs = torch.tensor(len(margins), device=margins.device)
        metrics = {
            "reward_accuracy": ((margins > 0).sum() + 0.5 * (margins == 0).sum(), pairs),
            "reward_margin": (self.beta * margins.detach().sum(), pairs),
        }
        if draws > 1:  # of one draw; the mean's is as many times smaller
            metrics["gain_variance"] = (gains.detach().var(0).sum(), torch.tensor(rows))
        streams = 2 if self.score.block_size else 1  # the noisy and the clean text
        positions = 2 * draws * streams * batch.tokens.numel()  # of the model and of the reference
        predicted = draws * batch.scored.sum()  # half of the tokens are hidden in the mean, for both of them
        return LossOutput(losses.sum().float(), pairs, predicted, positions, metrics)

    def gains(self, model: Model, batch: TokenBatch, ctx: StepContext) -> Tensor:
        """(draws, B) float64: log p under the model minus log p under the reference, estimated; a token's share of it
        if `length_normalised`."""
        import torch

        from nano_llada.core.random import derive_seed

        if ctx.reference is None:
            raise ValueError("preference optimisation needs a reference model")
        seed = derive_seed(ctx.seed, "preference", ctx.step)
        with torch.no_grad():
            other = seed if self.shared_noise else derive_seed(seed, "reference")
            before = self.score(ctx.reference, batch, ctx, other)
        gained = self.score(model, batch, ctx, seed) - before
        return gained / batch.scored.sum(1).clamp(min=1) if self.length_normalised else gained
