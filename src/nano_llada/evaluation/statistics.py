"""How sure a figure is, and whether two models differ: intervals and paired tests over examples, not over tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nano_llada.evaluation.metric import Array

RESAMPLES = 1000
Statistic = Callable[[Array], Array]  # how often each example counts, (resamples, items) -> figures, (resamples,)


def wilson(right: float, count: float) -> tuple[float, float]:
    """95 % interval of a share `right` out of `count`, by Wilson's formula; nan of none."""
    if not count:
        return (float("nan"), float("nan"))
    z = 1.959964
    middle = (right + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(right * (1 - right) / count + z * z / (4 * count * count))
    return (max(0.0, middle - half), min(1.0, middle + half))  # rounding may leave the unit interval


def bootstrap(statistic: Statistic, strata: Sequence[NDArray[np.intp]], seed: int = 0) -> tuple[float, float]:
    """95 % interval of a statistic by resampling examples with replacement; nan where it cannot be computed.

    Examples are drawn whole: everything that was measured on one (by all seeds of a model, in both languages) comes
    and goes together.

    Args:
        strata: numbers of the examples, in groups each of which is drawn from by itself.
    """
    if any(len(some) < 2 for some in strata):
        return (float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    weights = np.zeros((RESAMPLES, sum(map(len, strata))))
    for some in strata:
        weights[:, some] = rng.multinomial(len(some), np.full(len(some), 1 / len(some)), RESAMPLES)
    drawn = statistic(weights)
    finite = drawn[np.isfinite(drawn)]
    if len(finite) < RESAMPLES // 2:
        return (float("nan"), float("nan"))
    low, high = np.quantile(finite, (0.025, 0.975))
    return (float(low), float(high))


def sign_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value that two models are right equally often: McNemar's test, exact, over the same examples."""
    won = sum(a > b for a, b in zip(first, second, strict=True))
    lost = sum(a < b for a, b in zip(first, second, strict=True))
    count = won + lost
    tail = sum(math.comb(count, k) for k in range(min(won, lost) + 1))
    return min(1.0, tail / 2 ** (count - 1)) if count else 1.0


def swap_test(difference: Statistic, items: int, seed: int = 0) -> float:
    """Two-sided p-value of a difference between two models, by exchanging their results example by example.

    Args:
        difference: of the figure when the examples where the argument (resamples, items) is 1 change sides; zeros give
            what was observed.
    """
    observed = abs(float(difference(np.zeros((1, items)))[0]))
    if not math.isfinite(observed):
        return float("nan")
    rng = np.random.default_rng(seed)
    swaps = rng.integers(0, 2, (RESAMPLES, items)).astype(float)
    drawn = np.abs(difference(swaps))
    as_large = ~(drawn < observed * (1 - 1e-9))  # also where it does not exist
    return (int(as_large.sum()) + 1) / (RESAMPLES + 1)
