"""How much of the text is hidden at time t, and how much a hidden token then weighs (LLaDA, eq. 3; MDLM, eq. 10)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

NoiseName = Literal["linear", "cosine"]


def mask_rate(noise: NoiseName, t: Tensor) -> Tensor:
    """p(t) = 1 - alpha(t): `linear` is LLaDA's alpha = 1 - t, `cosine` is alpha = cos^2(pi t / 2)."""
    return t if noise == "linear" else (t * math.pi / 2).sin() ** 2


def time_of(noise: NoiseName, rate: float) -> float:
    """The time at which the mask rate is `rate`."""
    return rate if noise == "linear" else 2 / math.pi * math.asin(math.sqrt(rate))


def elbo_weight(noise: NoiseName, t: Tensor) -> Tensor:
    """w(t) = -alpha'(t) / (1 - alpha(t)), the weight of a masked token's cross-entropy in the bound."""
    if noise == "linear":
        return 1 / t
    return math.pi / 2 * (t * math.pi).sin() / mask_rate(noise, t)
