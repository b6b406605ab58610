"""A noise schedule of your own in one file: three functions of the time t.

    nano-llada pretrain diffusion DATA --noise examples/own_noise.py:Quadratic --mask-count bernoulli

The bound on the likelihood is the same for every schedule; a schedule decides how often each mask rate is drawn, and
thereby the variance of the loss. `--mask-count bernoulli` draws times, without which no schedule has an effect.
"""

from __future__ import annotations

import math

from torch import Tensor

from nano_llada.diffusion.noise import Noise


class Quadratic(Noise):
    """alpha(t) = 1 - t^2: low mask rates are drawn more often than with LLaDA's linear schedule."""

    def rate(self, t: Tensor) -> Tensor:
        """p(t) = 1 - alpha(t) = t^2: the probability that a token is masked."""
        return t**2

    def weight(self, t: Tensor) -> Tensor:
        """w(t) = -alpha'(t) / (1 - alpha(t)) = 2 / t: then the mean of p(t) w(t) over t is 1."""
        return 2 / t

    def time(self, rate: float) -> float:
        """The inverse of `rate`."""
        return math.sqrt(rate)
