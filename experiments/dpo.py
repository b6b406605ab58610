"""Preference optimisation of both tracks: is it learnt, at what cost, and what does shared noise save."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import llada2_ablation
from experiments.dpo_measure import WATCHED_PAIRS, curve, margins, own_exam
from experiments.dpo_report import write_report
from experiments.grid import Cell, run_grid
from experiments.options import Dpo, Llada2Ablation
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.data import DataConfig
from nano_llada.config.objectives import BoundScore, ExactScore, Preference
from nano_llada.config.run import RunConfig
from nano_llada.config.train import TrainConfig
from nano_llada.core.errors import UserError
from nano_llada.session.run import complete
from nano_llada.world.files import write_preferences, write_world

NAME = "dpo"
OWN_BETA = 3.0  # of gains per token


def run(options: Dpo) -> bool:
    """Run the experiment, or resume it; True when it is complete.

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
    metrics: dict[str, Any] = {"reward_accuracy_before": 0.5} | margins(stage, before, after)
    for when, checkpoint in (("before", before), ("after", after)):
        if kind == "own":
            metrics |= {f"{name}_{when}": figure for name, figure in own_exam(options, checkpoint).items()}
        else:
            answers = llada2_ablation.answers(checkpoint, Llada2Ablation(items=options.items))
            metrics[f"exact_match_{when}"] = answers["exact_match"]
    return metrics | {"curve": curve(stage.folder)}


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
    card = load_checkpoint(start).card
    draws = options.own_draws if own else options.draws
    score: ExactScore | BoundScore = ExactScore()
    if track == "diffusion":
        score = BoundScore(draws, card.block_size)
    if isinstance(score, BoundScore) and own and draws % 2 == 0:
        # real pairs say little: chance must not decide how much of a token is learnt
        score = replace(score, mask_rate_min=0.25, mask_rate_max=0.75, complementary=True)
    return RunConfig(
        name=f"{track}-{kind}",
        runs=options.runs,
        init_from=start,
        # real answers differ in length by as much as they have tokens: per token, or the shorter one gains more
        objective=Preference(score, beta=OWN_BETA, length_normalised=True) if own else Preference(score),
        data=DataConfig(
            data=(str(data),),
            validation=(str(validation),),
            format="preference",
            packing=False,
            sequence_length=256 if own else 128,
            eos_fill=0 if track == "ar" else card.answer_length or 0,
            fill_multiple=card.fill_multiple,
        ),
        train=TrainConfig(
            steps=steps,
            batch_size=16,
            learning_rate=rate if own else options.learning_rate,
            schedule="cosine" if own else "constant",  # real pairs say little each: the last steps average over many
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
