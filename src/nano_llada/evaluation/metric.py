"""How a figure comes from records: functions of weighted sums over examples, so that resampling is one product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Better = Literal["high", "low", ""]


def divided(top: Array, bottom: Array) -> Array:
    """Their quotient, nan over zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom != 0, top / bottom, np.nan)


class Metric(Protocol):
    """A figure over examples.

    `of` takes the examples' values as columns (each (N,)) and how often each example counts, (..., N), and gives a
    figure for each such counting, (...), nan where there is none. `needs` are the values that a record must have.
    """

    share: ClassVar[bool]  # of examples that are each right or wrong

    @property
    def name(self) -> str: ...
    @property
    def better(self) -> Better: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    def of(self, columns: Mapping[str, Array], weights: Array) -> Array: ...


@dataclass(frozen=True)
class Ratio:
    """sum(top) / sum(bottom) x scale; without a bottom the mean over examples. Bits per byte, tokens a second, ..."""

    share: ClassVar[bool] = False

    name: str
    top: str
    bottom: str = ""
    better: Better = "high"
    scale: float = 1.0
    exponential: bool = False  # perplexity: e to the power of the ratio

    @property
    def needs(self) -> tuple[str, ...]:
        """The values that a record must have."""
        return (self.top, self.bottom) if self.bottom else (self.top,)

    def of(self, columns: Mapping[str, Array], weights: Array) -> Array:
        """See `Metric.of`."""
        below = weights @ columns[self.bottom] if self.bottom else weights.sum(-1)
        found = divided(weights @ columns[self.top], below) * self.scale
        return np.exp(found) if self.exponential else found


@dataclass(frozen=True)
class Share:
    """The share of examples whose value is 1 (the others' is 0): its interval is Wilson's."""

    share: ClassVar[bool] = True

    name: str
    top: str
    better: Better = "high"

    @property
    def needs(self) -> tuple[str, ...]:
        """The values that a record must have."""
        return (self.top,)

    def of(self, columns: Mapping[str, Array], weights: Array) -> Array:
        """See `Metric.of`."""
        return Ratio(self.name, self.top).of(columns, weights)


@dataclass(frozen=True)
class Quantile:
    """The value that a share `q` of the examples stays at or below, such as the 95th percentile of latency."""

    share: ClassVar[bool] = False

    name: str
    top: str
    q: float
    better: Better = "low"
    scale: float = 1.0

    @property
    def needs(self) -> tuple[str, ...]:
        """The values that a record must have."""
        return (self.top,)

    def of(self, columns: Mapping[str, Array], weights: Array) -> Array:
        """See `Metric.of`."""
        values = columns[self.top]
        if not len(values):
            return np.full(weights.shape[:-1], np.nan)
        order = np.argsort(values, kind="stable")
        counted = np.cumsum(weights[..., order], -1)
        enough = counted >= self.q * counted[..., -1:] - 1e-9
        found = values[order][enough.argmax(-1)] * self.scale
        return np.where(counted[..., -1] > 0, found, np.nan)


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error: mean over tokens of |confidence - accuracy| of the bin that a token falls into.

    Each record holds, for bin b, `count_b`, `right_b` and `confidence_b` (a sum over its tokens).
    """

    share: ClassVar[bool] = False

    name: str
    bins: int
    better: Better = "low"

    @property
    def needs(self) -> tuple[str, ...]:
        """The values that a record must have."""
        return tuple(f"{what}_{b}" for what in ("count", "right", "confidence") for b in range(self.bins))

    def of(self, columns: Mapping[str, Array], weights: Array) -> Array:
        """See `Metric.of`."""
        count, right, sure = (
            np.stack([weights @ columns[f"{what}_{b}"] for b in range(self.bins)], -1)
            for what in ("count", "right", "confidence")
        )
        return divided(np.abs(right - sure).sum(-1), count.sum(-1))
