"""How a figure comes from records: functions of weighted sums over examples, so that resampling is one product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Better = Literal["high", "low", ""]


def divided(top: Array, bottom: Array) -> Array:
    """Their quotient, nan over zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom != 0, top / bottom, np.nan)


@dataclass(frozen=True)
class Metric(ABC):
    """A figure over examples."""

    share: ClassVar[bool] = False  # of examples that are each right or wrong

    name: str
    unit: str = field(default="", kw_only=True)  # as in table headings; empty for a plain number
    pooled: bool = field(default=True, kw_only=True)  # whether its value over all tasks of a suite means something

    @property
    @abstractmethod
    def better(self) -> Better:
        """Which end is better, if any."""

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """The values that a record must have."""

    @abstractmethod
    def of(self, columns: Mapping[str, Array], weights: Array) -> Array:
        """The figure for each way of counting the examples.

        Args:
            columns: the examples' values, each (N,).
            weights: (..., N), how often each example counts.

        Returns:
            (...), nan where the figure does not exist.
        """


def separately(*metrics: Metric) -> tuple[Metric, ...]:
    """The same metrics for a suite whose tasks are conditions (batch sizes, lengths): never pooled over tasks."""
    return tuple(replace(metric, pooled=False) for metric in metrics)


@dataclass(frozen=True)
class Ratio(Metric):
    """sum(top) / sum(bottom) x scale; without a bottom the mean over examples. Bits per byte, tokens a second, ..."""

    top: str
    bottom: str = ""
    better: Better = "high"
    scale: float = 1.0
    exponential: bool = False  # perplexity: e to the power of the ratio

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.top, self.bottom) if self.bottom else (self.top,)

    def of(self, columns: Mapping[str, Array], weights: Array) -> Array:
        below = weights @ columns[self.bottom] if self.bottom else weights.sum(-1)
        found = divided(weights @ columns[self.top], below) * self.scale
        return np.exp(found) if self.exponential else found


@dataclass(frozen=True)
class Share(Metric):
    """The share of examples whose value is 1 (the others' is 0): its interval is Wilson's."""

    share: ClassVar[bool] = True

    top: str
    better: Better = "high"
    unit: str = field(default="%", kw_only=True)

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.top,)

    def of(self, columns: Mapping[str, Array], weights: Array) -> Array:
        return Ratio(self.name, self.top).of(columns, weights)


@dataclass(frozen=True)
class Quantile(Metric):
    """The value that a share `q` of the examples stays at or below, such as the 95th percentile of latency."""

    top: str
    q: float
    better: Better = "low"
    scale: float = 1.0

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.top,)

    def of(self, columns: Mapping[str, Array], weights: Array) -> Array:
        values = columns[self.top]
        if not len(values):
            return np.full(weights.shape[:-1], np.nan)
        order = np.argsort(values, kind="stable")
        counted = np.cumsum(weights[..., order], -1)
        enough = counted >= self.q * counted[..., -1:] - 1e-9
        found = values[order][enough.argmax(-1)] * self.scale
        return np.where(counted[..., -1] > 0, found, np.nan)


@dataclass(frozen=True)
class CalibrationError(Metric):
    """Expected calibration error: mean over tokens of |confidence - accuracy| of the bin that a token falls into.

    Each record holds, for bin b, `count_b`, `right_b` and `confidence_b` (a sum over its tokens).
    """

    bins: int
    better: Better = "low"

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(f"{what}_{b}" for what in ("count", "right", "confidence") for b in range(self.bins))

    def of(self, columns: Mapping[str, Array], weights: Array) -> Array:
        count, right, sure = (
            np.stack([weights @ columns[f"{what}_{b}"] for b in range(self.bins)], -1)
            for what in ("count", "right", "confidence")
        )
        return divided(np.abs(right - sure).sum(-1), count.sum(-1))
