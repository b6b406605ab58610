"""Preference optimisation of both tracks: is it learnt, at what cost, and what does shared noise save."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.config import RunConfig
from nano_llada.core.errors import UserError
from nano_llada.core.types import StepContext, TokenBatch
from nano_llada.data.config import DataConfig
from nano_llada.data.world.files import write_preferences, write_world
from nano_llada.evaluate.judge import read_questions
from nano_llada.evaluate.measure import measured, protocol_of
from nano_llada.evaluate.suite import Subject, Suite
from nano_llada.evaluate.suites.choices import Choices, read_choices
from nano_llada.evaluate.suites.generation import Generation
from nano_llada.experiments import llada2_ablation
from nano_llada.experiments.dpo_report import write_report
from nano_llada.experiments.grid import Cell, run_grid
from nano_llada.experiments.options import Dpo, Llada2Ablation
from nano_llada.objectives.preference import BoundScore, ExactScore, Preference
from nano_llada.run import choose_tokenizer, complete
from nano_llada.run_data import load_data
from nano_llada.sampling import default_decoding
from nano_llada.train.config import TrainConfig
from nano_llada.train.log import read_metrics

NAME = "dpo"
MEASURED_PAIRS, MEASURED_DRAWS, GRADIENTS = 200, 8, 12
WATCHED_PAIRS = 100  # while training
CHOICE_DRAWS, ANSWER = 4, 64


def run(options: Dpo) -> bool:
    """Make or go on with the experiment; True when it is complete.

    Raises:
        UserError: for own pairs without all that they need.
    """
    own_files = (options.data, options.validation, options.own_ar, options.own_diffusion)
    if any(own_files) and not all(own_files):
        raise UserError("--data needs --validation, --own-ar and --own-diffusion: pairs held out, and models to align")
    shared = f"--draws {options.draws}"
    command = (
        f"nano-llada experiment {NAME} --steps {options.steps} --learning-rate {options.learning_rate:g} {shared} "
        f"--items {options.items}"
    )
    results = run_grid(NAME, _cells(options, "world"), options.docs / NAME, command)
    if results is None:
        return False
    if options.data is not None:
        names = [path.name for path in own_files if path is not None]  # without the folders they happen to lie in
        given = " ".join(
            map(" ".join, zip(("--data", "--validation", "--own-ar", "--own-diffusion"), names, strict=True))
        )
        command = (
            f"nano-llada experiment {NAME} {given} --own-steps {options.own_steps} "
            f"--own-learning-rate {options.own_learning_rate:g} "
            f"--own-diffusion-learning-rate {options.own_diffusion_learning_rate:g} --own-draws {options.own_draws}"
        )
        for name, files in (("questions", options.own_questions), ("choices", options.own_choices)):
            if files:
                command += f" --own-{name} {' '.join(Path(file).name for file in files)}"
        if options.own_questions or options.own_choices:
            command += f" --own-limit {options.own_limit}"
        own = run_grid(NAME, _cells(options, "own"), options.docs / NAME, command)
        if own is None:
            return False
        results += own
    write_report(results, options.docs / NAME)
    return True


def _cells(options: Dpo, kind: str) -> list[Cell]:
    names = {track: track if kind == "world" else f"{track}-own" for track in ("ar", "diffusion")}
    return [
        Cell(name, options.seed, functools.partial(_variant, options, track, kind)) for track, name in names.items()
    ]


def _variant(options: Dpo, track: str, kind: str) -> Mapping[str, Any] | None:
    own = options.own_ar if track == "ar" else options.own_diffusion
    start = own if kind == "own" else _small_world_models(options, track)
    if start is None:
        return None
    stage = _stage(options, track, kind, start)
    if not complete([stage]):
        return None
    before, after = load_checkpoint(start), load_checkpoint(stage.folder)
    metrics: dict[str, Any] = {"reward_accuracy_before": 0.5} | _margins(stage, before, after)
    for when, checkpoint in (("before", before), ("after", after)):
        if kind == "own":
            metrics |= {f"{name}_{when}": figure for name, figure in _own_exam(options, checkpoint).items()}
        else:
            answers = llada2_ablation.answers(checkpoint, Llada2Ablation(items=options.items))
            metrics[f"exact_match_{when}"] = answers["exact_match"]
    return metrics | {"curve": _curve(stage.folder)}


def _own_exam(options: Dpo, checkpoint: Checkpoint) -> dict[str, float]:
    """Exact match on questions and accuracy on multiple choice, of those that were given."""
    length = checkpoint.info.get("answer_length") or ANSWER
    decoding = default_decoding(checkpoint.track, length, checkpoint.info.get("block_size"))
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


def _curve(folder: Path) -> list[tuple[int, float]]:
    """Step and reward accuracy on held-out pairs, as it was measured while training."""
    watched = [m for m in read_metrics(folder) if "validation_reward_accuracy" in m]
    return [(0, 0.5), *((int(m["step"]), m["validation_reward_accuracy"]) for m in watched)]


def _small_world_models(options: Dpo, track: str) -> Path | None:
    """The fine-tuned model of a track; trained as in the ablation of LLaDA 2.0, whose folder may be shared."""
    ablation = Llada2Ablation(runs=options.models, threads=options.threads)
    world = options.models / "world"
    if not (world / "words.txt").is_file():
        write_world(world, documents_count=30_000, chats_count=60_000, skills=llada2_ablation.SKILLS, seed=0)
    if not (world / "preference-train.jsonl").is_file():  # another seed than the conversations: other questions
        write_preferences(world, count=8_000, skills=llada2_ablation.SKILLS, seed=1)
    plan = llada2_ablation.stages(ablation, llada2_ablation.VARIANTS[0], options.seed)
    if not complete(plan[:2] if track == "ar" else plan):
        return None
    return plan[1].folder if track == "ar" else plan[3].folder


def _stage(options: Dpo, track: str, kind: str, start: Path) -> RunConfig:
    world = options.models / "world"
    own = kind == "own"
    steps = options.own_steps if own else options.steps
    rate = options.own_learning_rate if track == "ar" else options.own_diffusion_learning_rate
    data = options.data if own else world / "preference-train.jsonl"
    validation = options.validation if own else world / "preference-validation.jsonl"
    info = load_checkpoint(start).info
    draws = options.own_draws if own else options.draws
    score = ExactScore() if track == "ar" else BoundScore(draws=draws, block_size=info.get("block_size"))
    return RunConfig(
        name=f"{track}-{kind}",
        runs=options.runs,
        init_from=start,
        objective=Preference(score),
        data=DataConfig(
            data=(str(data),),
            validation=(str(validation),),
            format="preference",
            packing=False,
            sequence_length=256 if own else 128,
            eos_fill=0 if track == "ar" else info.get("answer_length") or 0,
            fill_multiple=info.get("fill_multiple") or 1,
        ),
        train=TrainConfig(
            steps=steps,
            batch_size=16,
            learning_rate=rate if own else options.learning_rate,
            schedule="constant",
            warmup_steps=10,
            eval_every=max(1, steps // 6),
            eval_rows=2 * WATCHED_PAIRS,
            save_every=100,
            keep_last=1,
            keep_best=0,
            seed=options.seed,
            threads=options.threads,
        ),
    )


def _margins(stage: RunConfig, before: Checkpoint, after: Checkpoint) -> dict[str, Any]:
    """Reward accuracy on held-out pairs, and how much estimates vary with the same and with other masks."""
    _, held_out = load_data(stage, choose_tokenizer(stage, before))
    batches = list(held_out.once(2 * MEASURED_PAIRS)) if held_out is not None else []
    size = stage.block_size
    score = ExactScore() if stage.track == "ar" else BoundScore(MEASURED_DRAWS, size)
    gains = [_gains(Preference(score), before, after, batch, i) for i, batch in enumerate(batches)]
    margins = torch.cat([gain.mean(0)[0::2] - gain.mean(0)[1::2] for gain in gains])
    found = {
        "reward_accuracy_after": float((margins > 0).double().mean()),
        "pairs": len(margins),
        "length_accuracy": length_accuracy(batches, before.tokenizer.vocab.eos),
    }
    if stage.track == "ar":  # an exact likelihood has no noise
        return found | {"score_variance_shared": 0.0, "score_variance_independent": 0.0}
    some = max(1, 2 * WATCHED_PAIRS // len(batches[0].tokens))  # variances need no more
    for name, shared in (("shared", True), ("independent", False)):
        if not shared:
            objective = Preference(score, shared_noise=False)
            gains = [_gains(objective, before, after, batch, i) for i, batch in enumerate(batches[:some])]
        found[f"score_variance_{name}"] = float(torch.cat([gain.var(0) for gain in gains[:some]]).mean())
        one = Preference(BoundScore(1, size), shared_noise=shared)
        found[f"gradient_variance_{name}"] = gradient_variance(one, before, after, batches[0])
    return found


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
    return objective.gains(model, batch, _context(before, batch, step))


def gradient_variance(objective: Preference, before: Checkpoint, after: Checkpoint, batch: TokenBatch) -> float:
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
