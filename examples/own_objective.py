"""An objective of your own in one file: masked denoising that concentrates on hard tokens (focal loss).

    nano-llada pretrain diffusion DATA --objective examples/own_objective.py:FocalDenoising --gamma 2

In Python: `train(replace(default_run("pretrain", "diffusion"), objective=FocalDenoising(gamma=2.0), ...))`. The run
and its checkpoints record the objective as examples/own_objective.py:FocalDenoising, and its fields as its options.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nano_llada.config.checks import NotNegative
from nano_llada.config.objectives import Masking, ObjectiveConfig
from nano_llada.core.batch import LossOutput, Model, StepContext, TokenBatch
from nano_llada.diffusion.masking import MaskingProcess
from nano_llada.objectives.cross_entropy import head_nll
from nano_llada.objectives.denoising import noisy_features


@dataclass(frozen=True)  # its fields become options of the command line
class FocalDenoising(ObjectiveConfig):
    """LLaDA's loss (eq. 3) with a factor (1 - p)^gamma on each masked token, where p is the model's probability of the
    right token (arXiv:1708.02002, eq. 4). With gamma 0 it is the library's `Denoising`, a bound on the likelihood.
    """

    track = "diffusion"  # what kind of model it trains; `ObjectiveConfig` lists what else an objective can declare

    gamma: NotNegative = 2.0
    """Exponent of the focal factor: the larger, the less a token counts that is already predicted well."""
    corruption: Masking = field(default_factory=Masking)
    """The forward process: which tokens are masked."""

    def loss(self, model: Model, batch: TokenBatch, ctx: StepContext) -> LossOutput:
        """Sum of weighted cross-entropies over the masked tokens, and the number of tokens to divide it by.

        Args:
            batch: clean rows, tensors (B, L).
            ctx: seed and step, from which all noise follows.
        """
        noisy = MaskingProcess(self.corruption).corrupt(batch, ctx)  # 1. x_0 -> x_t
        # 2. one pass of the model: (N, H) features at the masked positions
        features, positions = noisy_features(model, noisy.tokens, noisy.batch, noisy.learnt, None)
        nll = head_nll(features, model.head.weight, noisy.targets[noisy.learnt])  # 3. -log p of the right tokens, (N,)
        focus = (1 - (-nll.detach()).exp()) ** self.gamma  # 4. a weight: no gradient flows through it
        total = (nll * focus * noisy.weights[noisy.learnt]).sum()
        metrics = {"focus": (focus.sum(), noisy.learnt.sum())}  # a sum and its count: averaged over the whole batch
        return LossOutput(total, noisy.batch.scored.sum(), noisy.learnt.sum(), positions, metrics)
