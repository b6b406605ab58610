"""How well a model predicts held-out texts, text by text: bits per byte, exact or as a bound, and where in a window."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nano_llada.config.checks import at_least
from nano_llada.evaluation.items import Passage
from nano_llada.evaluation.likelihood import PassageLikelihood, passage_likelihoods, passage_numbers
from nano_llada.evaluation.metric import Array, Better, Metric, Ratio, divided
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import Subject


@dataclass(frozen=True)
class MonteCarloError:
    """Standard error of a ratio's top that was estimated by drawing, over the ratio's bottom: see `Likelihood`."""

    share: ClassVar[bool] = False

    name: str
    variance: str  # of each example's top
    bottom: str
    better: Better = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """The values that a record must have."""
        return (self.variance, self.bottom)

    def of(self, columns: Mapping[str, Array], weights: Array) -> Array:
        """See `Metric.of`. A text that is drawn twice stands for two such texts, whose noise would differ."""
        return divided(np.sqrt(weights @ columns[self.variance]), weights @ columns[self.bottom])


@dataclass(frozen=True)
class Likelihood:
    """Texts cut into windows that do not see each other, as `evaluate.likelihood` does.

    An autoregressive model's likelihood is exact, a diffusion model's is its bound (LLaDA, eq. 6), a block-diffusion
    model's the sum of its blocks' bounds. A bound may make a model look worse than it is, but never better.
    A record's `nats_p0`, `tokens_p0` are those of the first 32 tokens of each window, `_p1` of the next, and so on.

    Raises:
        ValueError: for options that cannot be.
    """

    name: ClassVar[str] = "likelihood"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Ratio("bits_per_byte", "bits", "bytes", better="low"),
        Ratio("nats_per_token", "nats", "tokens", better="low"),
        MonteCarloError("monte_carlo_error", "error_squared", "bytes"),
    )
    writes: ClassVar[bool] = False

    passages: tuple[Passage, ...]
    window: int  # tokens that are seen at once
    draws: int = 8  # of the noise; of a single one the error would not be known
    seed: int = 0
    batch_size: int = 16  # windows computed at once; changes no figure

    def __post_init__(self) -> None:
        passage_numbers(self.passages)
        at_least(self, 2, "window", "draws")
        at_least(self, 1, "batch_size")

    def run(self, subject: Subject) -> Iterator[Record]:
        """A record a passage. Raises UserError where a window is longer than the model's context."""
        found = passage_likelihoods(
            subject.checkpoint,
            [passage.text for passage in self.passages],
            passage_numbers(self.passages),
            window=self.window,
            draws=self.draws,
            seed=self.seed,
            batch_size=self.batch_size,
        )
        draws = 1 if subject.checkpoint.card.autoregressive else self.draws
        for passage, one in zip(self.passages, found, strict=True):
            values = _values(one) | {"bytes": len(passage.text.encode()), "draws": draws}
            yield subject.record(self, passage.file, passage.language, passage.item, values)


def _values(found: PassageLikelihood) -> dict[str, float]:
    values: dict[str, float] = {
        "nats": found.nats,
        "bits": found.nats / math.log(2),
        "tokens": found.tokens,
        "error_squared": found.variance / math.log(2) ** 2,
    }
    for bucket, (nats, tokens) in enumerate(zip(found.bucket_nats, found.bucket_tokens, strict=True)):
        values |= {f"nats_p{bucket}": nats, f"tokens_p{bucket}": tokens}
    return values
