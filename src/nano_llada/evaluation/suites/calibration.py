"""Calibration: the confidence of a model in the tokens it would write, and how often those are right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.checks import at_least
from nano_llada.core.batch import TokenBatch
from nano_llada.core.pattern import AttentionPattern
from nano_llada.core.random import row_uniforms
from nano_llada.decode.proposal import confidence, forbid
from nano_llada.evaluation.items import Passage, passages
from nano_llada.evaluation.likelihood import check_window, passage_numbers, window_batches
from nano_llada.evaluation.metric import Array, CalibrationError, Metric, Ratio
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import Subject, Suite
from nano_llada.objectives.denoising import Reading, noisy_features
from nano_llada.objectives.likelihood import readable
from nano_llada.objectives.next_token import next_token_targets
from nano_llada.training import parallel

BINS = 10  # bin b holds confidences from b / 10 on
THRESHOLDS = (0.5, 0.7, 0.9, 0.95)
POSITIONS = 1024  # whose logits are held at once


@dataclass(frozen=True)
class Looks:
    """What a model would write at some positions of a batch, all (N,)."""

    rows: Tensor  # int64: which row a place is in
    confidence: Tensor  # float32: probability of the likeliest token, among those that may be written
    right: Tensor  # bool: whether it is the text's own


@dataclass(frozen=True)
class Calibration(Suite):
    """The confidence of the likeliest token, as the samplers see it, and whether it is the text's own.

    For a diffusion model every token of a passage is masked with probability `rate` (for a block-diffusion model in
    each block, after the clean blocks before it) and predicted at the masked positions; an autoregressive model
    predicts every next token. Records hold `count_b`, `right_b` and `confidence_b` (a sum) of the tokens in bin b of
    ten, for a reliability plot, and for each threshold how many tokens are above it and how many of those are right.

    Raises:
        ValueError: for options out of range.
    """

    name: ClassVar[str] = "calibration"
    title: ClassVar[str] = "Calibration"
    explanation: ClassVar[str] = "Whether the probability that the model gives its choice is how often it is right."
    metrics: ClassVar[tuple[Metric, ...]] = (
        CalibrationError("calibration_error", BINS, unit="fraction"),
        Ratio("accuracy", "right", "tokens", unit="fraction"),
        *(
            Ratio(f"share_above_{limit}", f"above_{limit}", "tokens", "", unit="fraction of tokens")
            for limit in THRESHOLDS
        ),
        *(
            Ratio(f"accuracy_above_{limit}", f"right_above_{limit}", f"above_{limit}", unit="fraction")
            for limit in THRESHOLDS
        ),
    )
    meanings: ClassVar[Mapping[str, str]] = {
        "calibration_error": "mean absolute difference between confidence and accuracy, over tokens (ECE, ten bins)",
        "accuracy": "how often the likeliest token is the text's own",
    }
    writes: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("text", "window")

    passages: tuple[Passage, ...]
    window: int  # tokens that are seen at once
    rate: float = 0.5
    seed: int = 0
    batch_size: int = 16  # windows computed at once; changes no figure

    def __post_init__(self) -> None:
        passage_numbers(self.passages)
        at_least(self, 2, "window")
        at_least(self, 1, "batch_size")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate is the share of hidden tokens, in (0, 1]; got {self.rate}")

    @classmethod
    def build(cls, shared: SuiteOptions, own: object, context: int, device: torch.device | str) -> Calibration:
        window = shared.window_in(context)
        texts = passages(shared, cls.name)
        return cls(texts, window, seed=shared.noise_seed, batch_size=shared.batch_size)

    def run(self, subject: Subject) -> Iterator[Record]:
        """A record a passage. Raises UserError where a window is longer than the model's context."""
        checkpoint, numbers = subject.checkpoint, passage_numbers(self.passages)
        check_window(checkpoint, self.window)
        texts = [passage.text for passage in self.passages]
        names = value_names()
        totals = np.zeros((len(texts), len(names)))
        parts = window_batches(checkpoint, texts, numbers, self.window, self.batch_size)
        for (owners, _), looks in parallel.shared_out(parts, lambda part: self._looks(checkpoint, part[1])):
            np.add.at(totals, np.array(owners)[looks.rows.numpy()], tallies(looks))
        for passage, total in zip(self.passages, totals, strict=True):
            values = dict(zip(names, total.tolist(), strict=True))
            yield subject.record(self, passage.file, passage.language, passage.item, values)

    @torch.no_grad()
    def _looks(self, checkpoint: Checkpoint, batch: TokenBatch) -> Looks:
        model, vocab = checkpoint.model, checkpoint.tokenizer.vocab
        if checkpoint.card.autoregressive:
            asked, targets = next_token_targets(batch)
            pattern = AttentionPattern.packed("causal", batch.doc_ids)
            features = model.features(batch.tokens, pattern, positions=batch.positions, select=asked)
        else:
            uniforms = row_uniforms(batch.rows, batch.tokens.shape[1], self.seed, "calibration")
            batch = readable(batch, Reading.of(checkpoint.card))
            asked = batch.scored & (uniforms.to(batch.tokens.device) < self.rate)
            targets, hidden = batch.tokens[asked], batch.tokens.masked_fill(asked, vocab.mask)
            reading = Reading.of(checkpoint.card)
            features, _ = noisy_features(model, hidden, batch, asked, checkpoint.card.block_size, reading)
        sure, right = [], []
        for some, target in zip(features.split(POSITIONS), targets.split(POSITIONS), strict=True):
            logits = forbid(some @ model.head.weight.T, vocab)
            choice = logits.argmax(-1)
            sure.append(confidence(logits, choice, "low_confidence"))
            right.append(choice == target)
        return Looks(asked.nonzero()[:, 0].cpu(), torch.cat(sure).cpu(), torch.cat(right).cpu())


def value_names() -> list[str]:
    """The names of a record's values, in the order of `tallies`."""
    binned = [f"{what}_{b}" for what in ("count", "right", "confidence") for b in range(BINS)]
    above = [f"{what}_{limit}" for what in ("above", "right_above") for limit in THRESHOLDS]
    return ["tokens", "right", *binned, *above]


def tallies(looks: Looks) -> Array:
    """(N, values): what each place adds to the values of its passage."""
    sure, right = looks.confidence.double(), looks.right.double()[:, None]
    binned = torch.nn.functional.one_hot((sure * BINS).long().clamp(max=BINS - 1), BINS).double()
    above = torch.stack([sure > limit for limit in THRESHOLDS], 1).double()  # above, as the samplers take it
    parts = [torch.ones_like(right), right, binned, binned * right, binned * sure[:, None], above, above * right]
    found: Array = torch.cat(parts, 1).numpy()
    return found
