"""Direct preference optimisation (DPO): raise the likelihood of the better of two answers, for both tracks."""

from __future__ import annotations

import torch
from torch import Tensor

from nano_llada.config.objectives import Preference
from nano_llada.core.batch import LossOutput, Model, StepContext, TokenBatch
from nano_llada.core.random import derive_seed
from nano_llada.objectives.likelihood import make_score


class PreferenceLoss:
    """-log sigmoid(beta * margin) over pairs of answers, as a `Preference` record says (LLaDA 2.0, eq. 8)."""

    def __init__(self, config: Preference) -> None:
        self.config, self.score = config, make_score(config.score)

    def loss(self, model: Model, batch: TokenBatch, ctx: StepContext) -> LossOutput:
        """Sum over pairs, (), and their number, ().

        Raises:
            ValueError: without a reference.
        """
        gains = self.gains(model, batch, ctx)
        draws, rows = gains.shape
        margins = gains.mean(0)[0::2] - gains.mean(0)[1::2]
        losses = -torch.nn.functional.logsigmoid(self.config.beta * margins)
        pairs = torch.tensor(len(margins), device=margins.device)
        metrics = {
            "reward_accuracy": ((margins > 0).sum() + 0.5 * (margins == 0).sum(), pairs),
            "reward_margin": (self.config.beta * margins.detach().sum(), pairs),
        }
        if draws > 1:  # of one draw; the mean's is as many times smaller
            metrics["gain_variance"] = (gains.detach().var(0).sum(), torch.tensor(rows))
        streams = 2 if self.config.block_size else 1  # the noisy and the clean text
        positions = 2 * draws * streams * batch.tokens.numel()  # of the model and of the reference
        predicted = draws * batch.scored.sum()  # half of the tokens are hidden in the mean, for both of them
        return LossOutput(losses.sum().float(), pairs, predicted, positions, metrics)

    def gains(self, model: Model, batch: TokenBatch, ctx: StepContext) -> Tensor:
        """(draws, B) float64: log p under the model minus log p under the reference, estimated; per token if
        `length_normalised`.

        Raises:
            ValueError: without a reference.
        """
        if ctx.reference is None:
            raise ValueError("preference optimisation needs a reference model")
        seed = derive_seed(ctx.seed, "preference", ctx.step)
        with torch.no_grad():
            other = seed if self.config.shared_noise else derive_seed(seed, "reference")
            before = self.score(ctx.reference, batch, ctx, other)
        gained = self.score(model, batch, ctx, seed) - before
        return gained / batch.scored.sum(1).clamp(min=1) if self.config.length_normalised else gained
