"""Reinforcing one skill by its verifier, with both tracks: is it learnt, and what becomes of the other skills?"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.editing import wsd_stages
from experiments.grid import Cell, Result, read_results, run_grid
from experiments.llada2_ablation import ANSWER, ROW, SKILLS, THRESHOLD
from experiments.options import Rl
from experiments.rl_report import write_report
from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.config.data import DataConfig
from nano_llada.config.decoding import Autoregressive, Block, Decoding
from nano_llada.config.objectives import BoundScore, ExactScore, Policy, Rollouts
from nano_llada.config.run import RunConfig
from nano_llada.config.train import TrainConfig
from nano_llada.core.errors import UserError
from nano_llada.demo.run import held_out_questions
from nano_llada.evaluation.answers import answer_examples, exact_match
from nano_llada.language_model import make_sampler
from nano_llada.session.run import complete
from nano_llada.training.log import read_metrics
from nano_llada.world.generate import chats

NAME = "rl"
VARIANTS = ("ebpo", "grpo")  # of the diffusion model and of the AR model
QUESTIONS, QUESTION_SEED = 4_000, 2  # to draw answers to; conversations have seed 0 and preferences 1


def run(options: Rl) -> bool:
    """Make or go on with the experiment; True when it is complete.

    Each skill is a grid of its own in one results file, told apart by its command, which names the skill.

    Raises:
        UserError: for a skill that the models never met, or groups that cannot be compared.
    """
    if unknown := [skill for skill in options.skills if skill not in SKILLS]:
        raise UserError(f"skills {', '.join(unknown)}: the models were taught {', '.join(SKILLS)} alone")
    if options.group_size < 2:
        raise UserError(f"group_size must be at least 2, got {options.group_size}: rewards are compared in a group")
    if options.threads:
        torch.set_num_threads(options.threads)
    results: list[Result] = []
    for skill in options.skills:
        cells = [
            Cell(variant, seed, functools.partial(_measure, options, variant, skill, seed))
            for seed in options.seeds
            for variant in VARIANTS
        ]
        found = run_grid(NAME, cells, options.docs / NAME, command(options, skill))
        if found is None:
            return False
        results += found
    commands = {result.command for result in results}
    recorded = read_results(options.docs / NAME / "results.jsonl")
    write_report(results, options.docs / NAME, [r for r in recorded if r.command not in commands])
    return True


def command(options: Rl, skill: str) -> str:
    """What makes the runs of one skill."""
    shorter = "" if options.sft_steps is None else f"--sft-steps {options.sft_steps} "
    together = f"--together {' '.join(options.skills)} " if options.together else ""
    return (
        f"nano-llada experiment {NAME} --skills {skill} {together}{shorter}--steps {options.steps} "
        f"--questions {options.questions} "
        f"--group-size {options.group_size} --learning-rate {options.learning_rate:g} "
        f"--negative-weight {options.negative_weight:g} --draws {options.draws} --items {options.items}"
    )


def _asked(options: Rl, skill: str) -> tuple[str, ...]:
    """The skills that the run for a skill asks about."""
    return tuple(options.skills) if options.together else (skill,)


def _folder(options: Rl, variant: str, skill: str, seed: int) -> Path:
    return options.runs / f"seed-{seed}" / f"{variant}-{'-'.join(_asked(options, skill))}"


def _curve(options: Rl, variant: str, skill: str, seed: int) -> list[tuple[float, float]]:
    """(step, mean reward of the answers since the step before) of a run."""
    metrics = read_metrics(_folder(options, variant, skill, seed))
    return [(line["step"], line["reward"]) for line in metrics if "reward" in line]


def write_questions(folder: Path, *skills: str) -> Path:
    """Questions of the training split with their verifiers, drawn with another seed than the conversations."""
    path = folder / f"{'-'.join(skills)}-train.jsonl"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        hidden = path.with_name(f".{path.name}.writing")  # a file that is there is complete
        with hidden.open("w", encoding="utf-8") as file:
            for example in chats(skills, "train", QUESTIONS, QUESTION_SEED):
                file.write(json.dumps(example.to_row(), ensure_ascii=False) + "\n")
        hidden.replace(path)
    return path


def starts(options: Rl, seed: int) -> dict[str, list[RunConfig]]:
    """The runs that end in the model of each track that is reinforced."""
    plan = wsd_stages(options.models, seed, options.threads)
    plans = {"ebpo": plan, "grpo": plan[:2]}  # the second ends with the fine-tuned AR model
    if options.sft_steps is None:
        return plans
    folder = options.runs / f"seed-{seed}"
    shorter = {}
    for variant, (*before, last) in plans.items():
        train = replace(last.train, steps=options.sft_steps)
        shorter[variant] = [*before, replace(last, name=f"{variant}-sft", runs=folder, train=train)]
    return shorter


def _stage(options: Rl, variant: str, skill: str, seed: int, start: Path) -> RunConfig:
    folder, rows = _folder(options, variant, skill, seed), options.questions * options.group_size
    size = load_checkpoint(start).card.block_size
    score = ExactScore() if variant == "grpo" else BoundScore(draws=options.draws, block_size=size)
    return RunConfig(
        name=folder.name,
        runs=folder.parent,
        init_from=start,
        objective=Policy(
            score,
            Rollouts(group_size=options.group_size, max_new_tokens=ANSWER),
            negative_weight=options.negative_weight,
        ),
        data=DataConfig(
            data=(write_questions(options.runs / "questions", *_asked(options, skill)).as_posix(),),
            format="prompts",
            packing=False,
            sequence_length=ROW,
        ),
        train=TrainConfig(
            steps=options.steps,
            batch_size=rows,
            learning_rate=options.learning_rate,
            schedule="cosine",
            min_lr_ratio=0.0,
            warmup_steps=10,
            log_every=max(1, options.steps // 20),
            save_every=50,
            keep_last=1,
            keep_best=0,
            seed=seed,
            threads=options.threads,
        ),
    )


def _measure(options: Rl, variant: str, skill: str, seed: int) -> Mapping[str, Any] | None:
    plan = starts(options, seed)[variant]
    if not complete(plan):
        return None
    start = plan[-1].folder
    stage = _stage(options, variant, skill, seed, start)
    if not complete([stage]):
        return None
    before, after = (_by_skill(folder, options.items) for folder in (start, stage.folder))
    rewards = _curve(options, variant, skill, seed)
    return {
        "skill": skill,
        "asked": ", ".join(_asked(options, skill)),
        "exact_match_before": before[skill],
        "exact_match_after": after[skill],
        "worst_other_skill_change": min(after[other] - before[other] for other in SKILLS if other != skill),
        "reward_first": rewards[0][1],
        "reward_last": rewards[-1][1],
        "rewards": rewards,
        "rollouts": options.steps * stage.train.batch_size,
        "questions": 2 * options.items,
        **{f"before_{other}": share for other, share in before.items()},
        **{f"after_{other}": share for other, share in after.items()},
    }


@functools.cache  # the runs of all skills start from the same model, and may be one
def _by_skill(run: Path, items: int) -> dict[str, float]:
    return by_skill(load_checkpoint(run), items)


def by_skill(checkpoint: Checkpoint, items: int) -> dict[str, float]:
    """Exact match on held-out questions of each of the ablation's skills, the likeliest tokens being written."""
    decoding: Decoding = Autoregressive(ANSWER)
    if checkpoint.card.denoising:
        decoding = Block(ANSWER, block_size=checkpoint.card.block_size or ANSWER, threshold=THRESHOLD)
    sampler = make_sampler(checkpoint.model, checkpoint.tokenizer.vocab, decoding)
    found = answer_examples(sampler, checkpoint.tokenizer, held_out_questions(SKILLS, items))
    return {skill: exact_match(found, skill=skill) for skill in SKILLS}
