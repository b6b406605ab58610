"""Reinforcement learning from verifiable rewards: GRPO for the autoregressive model, EBPO for the diffusion model."""

from __future__ import annotations

import torch
from torch import Tensor

from nano_llada.config.objectives import Policy
from nano_llada.core.batch import LossOutput, Model, PolicyBatch, StepContext, TokenBatch
from nano_llada.core.random import derive_seed
from nano_llada.objectives.likelihood import make_score


class PolicyLoss:
    """min(rho A, clip(rho, 1 - low, 1 + high) A) over rewarded answers, as a `Policy` record says (LLaDA 2.1)."""

    def __init__(self, config: Policy) -> None:
        self.config, self.score = config, make_score(config.score)

    def loss(self, model: Model, batch: TokenBatch, ctx: StepContext) -> LossOutput:
        """Sum over answers, (), and their number, ().

        Raises:
            TypeError: if the batch is not a `PolicyBatch`.
            ValueError: with a `kl_weight`, without a reference.
        """
        if not isinstance(batch, PolicyBatch):
            raise TypeError("Policy learns from drawn answers: a PolicyBatch")
        seed = self.noise_seed(ctx.seed, ctx.step)
        new = self.score(model, batch, ctx, seed).mean(0)
        # at the first step of a set the weights are those that drew it: rounding and dropout must not change the ratio
        old = batch.old_scores if ctx.step % self.config.rollouts.reuse else new.detach()
        length = batch.scored.sum(1).clamp(min=1) if self.config.log_ratio == "mean" else torch.ones_like(new)
        ratio = ((new - old) / length).exp()
        clipped = ratio.clamp(1 - self.config.clip_low, 1 + self.config.clip_high)
        worth = torch.where(batch.advantages < 0, self.config.negative_weight * batch.advantages, batch.advantages)
        total = -torch.minimum(ratio * worth, clipped * worth).sum()
        answers = torch.tensor(len(ratio), device=ratio.device)
        metrics = {
            "reward": (batch.rewards.sum(), answers),
            "ratio": (ratio.detach().sum(), answers),
            "clipped": ((ratio != clipped).sum(), answers),
            "informative": ((worth != 0).sum(), answers),
            "answer_length": (batch.scored.sum(), answers),
        }
        if self.config.kl_weight:
            if ctx.reference is None:
                raise ValueError("kl_weight needs a reference model")
            with torch.no_grad():
                before = self.score(ctx.reference, batch, ctx, seed).mean(0)
            apart = (before - new) / length
            # never negative; with `sum` its mean over the model's answers is KL(model | reference), and its gradient's
            # mean that of KL(reference | model)
            divergence = apart.exp() - apart - 1
            total = total + self.config.kl_weight * divergence.sum()
            metrics["kl"] = (divergence.detach().sum(), answers)
        positions, predicted = self._work(batch)
        return LossOutput(total.float(), answers, predicted, positions, metrics)

    def _work(self, batch: TokenBatch) -> tuple[int, Tensor]:
        """Positions computed, by the model and by the reference where there is one, and logits."""
        passes = self.config.score.draws * (2 if self.config.kl_weight else 1)
        streams = 2 if self.config.block_size else 1  # the noisy and the clean text
        return passes * streams * batch.tokens.numel(), passes * batch.scored.sum()

    def noise_seed(self, seed: int, step: int) -> int:
        """Seed of the masks for a step: the same for all steps that reuse one set of answers."""
        return derive_seed(seed, "policy", step // self.config.rollouts.reuse)
