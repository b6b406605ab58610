"""Noise schedules: the mask rate p(t), its inverse, and the weight w(t) of a masked token (LLaDA, eq. 3; MDLM, eq. 10).

A schedule is one class. Yours derives from `Noise`, lives in a file, and is named FILE.py:NAME on the command line.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from nano_llada.core.own import load_own


class Noise(ABC):
    """A schedule alpha(t), given by three functions of the time t in [0, 1]; see `examples/own_noise.py`."""

    edge: float = 1e-3
    """Times stay this far from mask rates of 0 and 1, where the weight of a schedule may grow without bound."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """p(t) = 1 - alpha(t), the probability that a token is masked, from 0 to 1; (...,) float64 to (...,)."""

    @abstractmethod
    def weight(self, t: Tensor) -> Tensor:
        """w(t) = -alpha'(t) / (1 - alpha(t)), the weight of a masked token's cross-entropy in the bound; (...,)."""

    def complement_weight(self, t: Tensor) -> Tensor:
        """p'(t) / (1 - p(t)), (...,): the weight of tokens that are masked where `rate(t)` does not mask."""
        rate = self.rate(t)
        return self.weight(t) * rate / (1 - rate)

    @abstractmethod
    def time(self, rate: float) -> float:
        """The inverse of `rate`: the time at which the mask rate is `rate`, in [0, 1]."""


class Linear(Noise):
    """alpha(t) = 1 - t, w(t) = 1 / t: LLaDA's schedule."""

    def rate(self, t: Tensor) -> Tensor:
        """p(t) = t, (...,)."""
        return t

    def weight(self, t: Tensor) -> Tensor:
        """w(t) = 1 / t, (...,)."""
        return 1 / t

    def complement_weight(self, t: Tensor) -> Tensor:
        """1 / (1 - t), (...,)."""
        return self.weight(1 - t)  # the schedule is symmetric

    def time(self, rate: float) -> float:
        return rate


class Cosine(Noise):
    """alpha(t) = cos^2(pi t / 2), w(t) = pi sin(pi t) / (2 sin^2(pi t / 2))."""

    edge = 0.0  # its mean weight is bounded

    def rate(self, t: Tensor) -> Tensor:
        """p(t) = sin^2(pi t / 2), (...,)."""
        rate: Tensor = (t * math.pi / 2).sin() ** 2
        return rate

    def weight(self, t: Tensor) -> Tensor:
        """w(t) = pi sin(pi t) / (2 sin^2(pi t / 2)), (...,)."""
        weight: Tensor = math.pi / 2 * (t * math.pi).sin() / self.rate(t)
        return weight

    def complement_weight(self, t: Tensor) -> Tensor:
        """w(1 - t), (...,)."""
        return self.weight(1 - t)  # the schedule is symmetric

    def time(self, rate: float) -> float:
        return 2 / math.pi * math.asin(math.sqrt(rate))


SCHEDULES: Mapping[str, type[Noise]] = {"linear": Linear, "cosine": Cosine}


def make_noise(noise: str | type) -> Noise:
    """The schedule of a name (`linear`, `cosine`, FILE.py:NAME) or a class.

    Raises:
        UserError: for a file or class that does not exist, or a class that is not a `Noise`.
    """
    if isinstance(noise, str):
        found: type[Noise] = SCHEDULES.get(noise) or load_own(noise, Noise, what="noise")  # type: ignore[type-abstract]
        return found()
    made: Noise = noise()
    return made
