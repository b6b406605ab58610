"""What preference optimisation has taught and cost: rewards on held-out pairs, their noise, questions of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.options import Dpo
from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.decoding import default_decoding
from nano_llada.config.objectives import BoundScore, Preference
from nano_llada.config.run import RunConfig
from nano_llada.core.batch import Objective, StepContext, TokenBatch
from nano_llada.evaluation.measure import measured, protocol_of
from nano_llada.evaluation.questions import read_questions
from nano_llada.evaluation.suite import Subject, Suite
from nano_llada.evaluation.suites.choices import Choices, read_choices
from nano_llada.evaluation.suites.generation import Generation
from nano_llada.objectives.preference import PreferenceLoss
from nano_llada.session.data import load_data
from nano_llada.session.run import choose_tokenizer
from nano_llada.training.log import read_metrics

MEASURED_PAIRS, MEASURED_DRAWS, GRADIENTS = 200, 8, 12
WATCHED_PAIRS = 100  # while training
CHOICE_DRAWS, ANSWER = 4, 64


def own_exam(options: Dpo, checkpoint: Checkpoint) -> dict[str, float]:
    """Exact match on questions and accuracy on multiple choice, of those that were given."""
    length = checkpoint.card.answer_length or ANSWER
    decoding = default_decoding(checkpoint.card, length)
    suites: list[tuple[str, str, Suite]] = []
    if options.own_questions:
        questions = read_questions(options.own_questions, options.own_limit)
        suites.append(("exact_match", "right", Generation(questions, batch_size=64)))
    if options.own_choices:
        asked = tuple(read_choices(options.own_choices, options.own_limit))
        suites.append(("choices", "right_sum", Choices(asked, draws=CHOICE_DRAWS)))
    found = {}
    for name, value, suite in suites:
        records = list(measured(suite, Subject("", checkpoint, decoding, "", 0), protocol_of(suite)))
        found[name] = sum(record.values[value] for record in records) / len(records)
    return found


def curve(folder: Path) -> list[tuple[int, float]]:
    """Step and reward accuracy on held-out pairs, as it was measured while training."""
    watched = [m for m in read_metrics(folder) if "validation_reward_accuracy" in m]
    return [(0, 0.5), *((int(m["step"]), m["validation_reward_accuracy"]) for m in watched)]


def margins(stage: RunConfig, before: Checkpoint, after: Checkpoint) -> dict[str, Any]:
    """Reward accuracy on held-out pairs, and how much estimates vary with the same and with other masks."""
    _, held_out = load_data(stage, choose_tokenizer(stage, before))
    batches = list(held_out.once(2 * MEASURED_PAIRS)) if held_out is not None else []
    assert isinstance(stage.objective, Preference)
    score = stage.objective.score
    objective = replace(
        stage.objective, score=replace(score, draws=MEASURED_DRAWS) if isinstance(score, BoundScore) else score
    )
    gains = [_gains(objective, before, after, batch, i) for i, batch in enumerate(batches)]
    lengths = [batch.scored.sum(1) if objective.length_normalised else torch.ones(()) for batch in batches]
    whole = [gain * length for gain, length in zip(gains, lengths, strict=True)]
    found = {
        "reward_accuracy_after": _accuracy(gains),
        "whole_accuracy_after": _accuracy(whole),
        "pairs": sum(len(batch.tokens) for batch in batches) // 2,
        "length_accuracy": length_accuracy(batches, before.tokenizer.vocab.eos),
    }
    if not isinstance(score, BoundScore):  # an exact likelihood has no noise
        return found | {"score_variance_shared": 0.0, "score_variance_independent": 0.0}
    some = max(1, 2 * WATCHED_PAIRS // len(batches[0].tokens))  # variances need no more
    apart = replace(objective, shared_noise=False, length_normalised=False)
    other = [_gains(apart, before, after, batch, i) for i, batch in enumerate(batches[:some])]
    for name, drawn, shared in (("shared", whole[:some], True), ("independent", other, False)):
        found[f"score_variance_{name}"] = float(torch.cat([gain.var(0) for gain in drawn]).mean())
        one = replace(objective, score=replace(score, draws=1, complementary=False), shared_noise=shared)
        found[f"gradient_variance_{name}"] = gradient_variance(PreferenceLoss(one), before, after, batches[0])
    return found


def _accuracy(gains: Sequence[torch.Tensor]) -> float:
    """Share of pairs, rows 2i and 2i + 1, whose better answer gained more in the mean over draws, (draws, B) each."""
    margins = torch.cat([gain.mean(0)[0::2] - gain.mean(0)[1::2] for gain in gains])
    return float((margins > 0).double().mean())


def length_accuracy(batches: Sequence[TokenBatch], eos: int) -> float:
    """Share of pairs that whoever takes the longer answer for the better one gets right; what fills up is no answer."""
    lengths = torch.cat([(batch.scored & (batch.tokens != eos)).sum(1) for batch in batches])
    longer = lengths[0::2] - lengths[1::2]
    return float(((longer > 0) + 0.5 * (longer == 0)).double().mean())


def _context(before: Checkpoint, batch: TokenBatch, step: int) -> StepContext:
    reference: Any = before.model
    return StepContext(before.tokenizer.vocab, 0, step, 1, len(batch.tokens), reference=reference)


@torch.no_grad()
def _gains(objective: Preference, before: Checkpoint, after: Checkpoint, batch: TokenBatch, step: int) -> torch.Tensor:
    model: Any = after.model
    return PreferenceLoss(objective).gains(model, batch, _context(before, batch, step))


def gradient_variance(objective: Objective, before: Checkpoint, after: Checkpoint, batch: TokenBatch) -> float:
    """Variance of a batch's gradient over masks, as a share of the expected gradient's square; unbiased in both parts.

    Infinite where the mean of so few gradients is no longer than chance makes it.
    """
    model: Any = after.model
    gradients = []
    for step in range(GRADIENTS):
        after.model.zero_grad()
        out = objective.loss(model, batch, _context(before, batch, 1000 + step))
        (out.total / out.count).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in after.model.parameters() if p.grad is not None]))
    after.model.zero_grad()
    stacked = torch.stack(gradients)
    mean = stacked.mean(0)
    variance = float((stacked - mean).square().sum() / (GRADIENTS - 1))
    square = float(mean.square().sum()) - variance / GRADIENTS  # a mean of few has their noise in its square
    return variance / square if square > 0 else float("inf")
