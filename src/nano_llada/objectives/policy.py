"""Reinforcement learning from verifiable rewards: GRPO for the autoregressive model, EBPO for the diffusion model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from nano_llada.objectives.preference import BoundScore, ExactScore

if TYPE_CHECKING:
    from torch import Tensor

    from nano_llada.core.types import LossOutput, Model, StepContext, TokenBatch


@dataclass(frozen=True)
class Rollouts:
    """How answers are drawn to be rewarded.

    Raises:
        ValueError: for groups that cannot be compared, or nothing to draw.
    """

    group_size: int = 8
    """Answers drawn to each question; their rewards are compared with each other."""
    temperature: float = 1.0
    """Of drawing answers; at 0 all answers to a question would be the same."""
    max_new_tokens: int = 32
    """Most tokens of an answer."""
    threshold: float = 0.9
    """Diffusion: confidence above which tokens are written together; see decoding."""
    edit_threshold: float | None = None
    """Diffusion: change a written token when another one is likelier than this; None: never."""
    reuse: int = 1
    """Optimizer steps for each set of answers."""
    reward: str = "verifier"
    """`verifier`: 1 for an answer that the row's own verifier accepts, else 0; or FILE.py:FUNCTION, which is called
    with the question, the answer and the row, and gives a number."""

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(f"group_size must be at least 2, got {self.group_size}: rewards are compared in a group")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}: answers would all be the same")
        if self.max_new_tokens < 1 or self.reuse < 1:
            raise ValueError(f"max_new_tokens and reuse must be at least 1, got {self.max_new_tokens} and {self.reuse}")
        for name in ("threshold", "edit_threshold"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ValueError(f"{name} is a probability, in [0, 1]; got {getattr(self, name)}")


@dataclass(frozen=True)
class Policy:
    """min(rho A, clip(rho, 1 - low, 1 + high) A), averaged over answers (LLaDA 2.1, EBPO; with exact scores GRPO).

    rho is how much likelier the model finds an answer now than when it was drawn: exactly, or by the likelihood bound
    with the same masks then and now. A is the answer's reward, less its group's mean, over its group's deviation.

    Raises:
        ValueError: for clips or weights that cannot be.
    """

    score: ExactScore | BoundScore = field(default_factory=BoundScore)
    """How likely an answer is under a model."""
    rollouts: Rollouts = field(default_factory=Rollouts)
    """How answers are drawn and rewarded."""
    clip_low: float = 0.2
    """How far rho may fall below 1 before an answer teaches no more."""
    clip_high: float = 0.2
    """How far rho may rise above 1."""
    negative_weight: float = 1.0
    """Factor on the advantages of answers worse than their group's mean. Below 1 right answers are learnt more than
    wrong ones are unlearnt: every token of a wrong answer is held against the model, the right ones in it, too."""
    kl_weight: float = 0.0
    """Weight of the divergence from the model that training started from; 0: off, and it is not loaded."""
    log_ratio: Literal["mean", "sum"] = "mean"
    """Over an answer's tokens: `mean` makes rho as steady for long answers as for short ones; `sum` is the ratio."""

    def __post_init__(self) -> None:
        if not 0 < self.clip_low < 1 or self.clip_high <= 0:
            raise ValueError(f"clip_low must be in (0, 1) and clip_high above 0, got {self.clip_low}, {self.clip_high}")
        for name in ("negative_weight", "kl_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.rollouts.edit_threshold is not None and self.score.block_size is None:
            raise ValueError("edit_threshold has no effect where answers are not written in blocks: give a block_size")

    def loss(self, model: Model, batch: TokenBatch, ctx: StepContext) -> LossOutput:
        """Sum over answers, and their number. The batch is a `PolicyBatch`."""
        import torch

        from nano_llada.core.types import LossOutput, PolicyBatch

        if not isinstance(batch, PolicyBatch):
            raise TypeError("Policy learns from drawn answers: a PolicyBatch")
        seed = self.noise_seed(ctx.seed, ctx.step)
        new = self.score(model, batch, ctx, seed).mean(0)
        # at the first step of a set the weights are those that drew it: no rounding or dropout is to come in between
        old = batch.old_scores if ctx.step % self.rollouts.reuse else new.detach()
        length = batch.scored.sum(1).clamp(min=1) if self.log_ratio == "mean" else torch.ones_like(new)
        ratio = ((new - old) / length).exp()
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        worth = torch.where(batch.advantages < 0, self.negative_weight * batch.advantages, batch.advantages)
        total = -torch.minimum(ratio * worth, clipped * worth).sum()
        answers = torch.tensor(len(ratio), device=ratio.device)
        metrics = {
            "reward": (batch.rewards.sum(), answers),
            "ratio": (ratio.detach().sum(), answers),
            "clipped": ((ratio != clipped).sum(), answers),
            "informative": ((worth != 0).sum(), answers),
            "answer_length": (batch.scored.sum(), answers),
        }
        if self.kl_weight:
            if ctx.reference is None:
                raise ValueError("kl_weight needs a reference model")
            with torch.no_grad():
                before = self.score(ctx.reference, batch, ctx, seed).mean(0)
            apart = (before - new) / length
            # never negative; with `sum` its mean over the model's answers is KL(model | reference), and its gradient's
            # mean that of KL(reference | model)
            divergence = apart.exp() - apart - 1
            total = total + self.kl_weight * divergence.sum()
            metrics["kl"] = (divergence.detach().sum(), answers)
        positions, predicted = self._work(batch)
        return LossOutput(total.float(), answers, predicted, positions, metrics)

    def _work(self, batch: TokenBatch) -> tuple[int, Tensor]:
        """Positions computed, by the model and by the reference where there is one, and logits."""
        passes = self.score.draws * (2 if self.kl_weight else 1)
        streams = 2 if self.score.block_size else 1  # the noisy and the clean text
        return passes * streams * batch.tokens.numel(), passes * batch.scored.sum()

    def noise_seed(self, seed: int, step: int) -> int:
        """Seed of the masks for a step: the same for all steps that reuse one set of answers."""
        from nano_llada.core.random import derive_seed

        return derive_seed(seed, "policy", step // self.rollouts.reuse)
