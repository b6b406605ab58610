"""How well a model predicts held-out texts: bits per byte, exact or as a bound, and by position in a window."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from nano_llada.config.checks import at_least
from nano_llada.evaluation.items import Passage, passages
from nano_llada.evaluation.likelihood import PassageLikelihood, passage_likelihoods, passage_numbers
from nano_llada.evaluation.metric import Array, Better, Metric, Ratio, divided
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import Subject, Suite


@dataclass(frozen=True)
class MonteCarloError(Metric):
    """Standard error of a ratio's top that was estimated by drawing, over the ratio's bottom: see `Likelihood`."""

    variance: str  # of each example's top
    bottom: str
    better: Better = ""

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.variance, self.bottom)

    def of(self, columns: Mapping[str, Array], weights: Array) -> Array:
        """See `Metric.of`. A text that is drawn twice counts as two texts whose noise would differ."""
        return divided(np.sqrt(weights @ columns[self.variance]), weights @ columns[self.bottom])


@dataclass(frozen=True)
class Likelihood(Suite):
    """Texts cut into windows that do not see each other, as `evaluate.likelihood` does.

    An autoregressive model's likelihood is exact, a diffusion model's is its bound (LLaDA, eq. 6), a block-diffusion
    model's the sum of its blocks' bounds. A bound may make a model look worse than it is, but never better.
    A record's `nats_p0`, `tokens_p0` are those of the first 32 tokens of each window, `_p1` of the next, and so on.

    Raises:
        ValueError: for options out of range.
    """

    name: ClassVar[str] = "likelihood"
    title: ClassVar[str] = "Likelihood of text"
    explanation: ClassVar[str] = "How well the model predicts held-out text. Lower is better."
    metrics: ClassVar[tuple[Metric, ...]] = (
        Ratio("bits_per_byte", "bits", "bytes", "low", unit="bits/byte"),
        Ratio("nats_per_token", "nats", "tokens", "low", unit="nats/token"),
        MonteCarloError("monte_carlo_error", "error_squared", "bytes", unit="bits/byte"),
    )
    meanings: ClassVar[Mapping[str, str]] = {
        "bits_per_byte": "bits to store a byte of text with the model's predictions; for diffusion an upper bound",
        "nats_per_token": "the same per token; not comparable between tokenizers",
        "monte_carlo_error": "standard error of bits_per_byte from the random masks alone; 0 where it is exact",
    }
    default_for: ClassVar[tuple[str, ...]] = ("text",)
    writes: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("text", "window")

    passages: tuple[Passage, ...]
    window: int  # tokens that are seen at once
    draws: int = 8  # of the noise; of a single one the error would not be known
    seed: int = 0
    batch_size: int = 16  # windows computed at once; changes no figure

    def __post_init__(self) -> None:
        passage_numbers(self.passages)
        at_least(self, 2, "window", "draws")
        at_least(self, 1, "batch_size")

    @classmethod
    def build(cls, shared: SuiteOptions, own: object, context: int, device: torch.device | str) -> Likelihood:
        window = shared.window_in(context)
        return cls(passages(shared, cls.name), window, shared.draws, shared.noise_seed, shared.batch_size)

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
