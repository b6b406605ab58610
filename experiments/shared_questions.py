"""How often models are right when several seeds answer the same questions: intervals and differences over questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nano_llada.evaluation.answers import Answer
from nano_llada.evaluation.metric import Array
from nano_llada.evaluation.statistics import bootstrap


def told(answers: Sequence[Answer]) -> str:
    """Right answers to each question, as a digit: 0 to 2, since a question is asked in both languages."""
    right: dict[str, int] = {}
    for answer in answers:
        right[answer.example.pair] = right.get(answer.example.pair, 0) + answer.right
    return "".join(str(right[pair]) for pair in sorted(right))


@dataclass(frozen=True)
class Shares:
    """The share of right answers to each question, over languages and seeds."""

    values: NDArray[np.float64]

    @classmethod
    def of(cls, seeds: Sequence[str]) -> Shares:
        """From what `told` wrote of each seed; all must have been asked the same questions."""
        return cls(np.array([[int(digit) / 2 for digit in seed] for seed in seeds]).mean(0))

    @property
    def mean(self) -> float:
        """Over all questions."""
        return float(self.values.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, by drawing questions anew: one question's answers come and go together."""

        def drawn(weights: Array) -> Array:
            means: Array = weights @ self.values / weights.sum(1)
            return means

        return bootstrap(drawn, [np.arange(len(self.values))])

    def less(self, other: Shares) -> Shares:
        """The difference, question by question."""
        return Shares(self.values - other.values)
