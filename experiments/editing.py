"""What editing (LLaDA 2.1) is worth: a model that never edits and one that does, each made to write in many ways."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from experiments import llada2_ablation
from experiments.editing_report import write_report
from experiments.grid import Cell, read_results, run_grid, trained_tokens
from experiments.llada2_ablation import ANSWER, BLOCK, SKILLS, THRESHOLD
from experiments.options import Editing, Llada2Ablation
from experiments.shared_questions import told
from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.config.decoding import MODES, Block
from nano_llada.config.objectives import Denoising, TokenEditing
from nano_llada.config.run import RunConfig
from nano_llada.core.errors import UserError
from nano_llada.demo.run import held_out_questions
from nano_llada.evaluation.answers import answer_examples, exact_match
from nano_llada.language_model import make_sampler
from nano_llada.session.run import complete
from nano_llada.world import verify
from nano_llada.world.files import write_world

NAME = "editing"
THRESHOLDS = (0.05, 0.3, 0.5, 0.7, 0.9, 0.95)
REREAD = 0.6
EDITS = ((None, 1.0), (0.5, 1.0), (0.0, 1.0), (0.0, REREAD))  # edit and reread thresholds


def run(options: Editing) -> bool:
    """Make or go on with the experiment; True when it is complete.

    Raises:
        UserError: for rates or weights of editing that cannot be.
    """
    try:
        editing = TokenEditing(options.replace_rate, options.draft_rate, options.edit_weight, options.keep_weight)
    except ValueError as error:
        raise UserError(str(error)) from error
    if options.threads:
        torch.set_num_threads(options.threads)
    cells = [
        Cell(variant, seed, functools.partial(_measure, options, editing, variant, decoding, seed))
        for seed in options.seeds
        for variant, decoding in decodings().items()
        if options.frontier or "@" not in variant
    ]
    command = (
        f"nano-llada experiment {NAME} --replace-rate {options.replace_rate:g} --draft-rate {options.draft_rate:g} "
        f"--edit-weight {options.edit_weight:g} --keep-weight {options.keep_weight:g} --items {options.items}"
    )
    results = run_grid(NAME, cells, options.docs / NAME, command)
    if results is None:
        return False
    if not options.frontier:
        return True
    others = [result for result in read_results(options.docs / NAME / "results.jsonl") if result.command != command]
    write_report(results, options.docs / NAME, others)
    return True


def decodings() -> dict[str, Block]:
    """Every way of writing by its name, which begins with the model's: the six of the comparison, then the frontier.

    A frontier's name is MODEL@THRESHOLD, for the model that edits with /EDIT_THRESHOLD, or /never, and the
    /REREAD_THRESHOLD where there is one.
    """
    base = Block(ANSWER, block_size=BLOCK, threshold=THRESHOLD)
    quality, speed = (replace(base, threshold=t, edit_threshold=edit) for t, edit in (MODES["q"], MODES["s"]))
    ways = {"2.0": base, "2.1-off": base, "2.1-q": quality, "2.1-s": speed}
    ways["2.1-s-mbe"] = replace(speed, edit_blocks=1)
    ways["2.1-s-reread"] = replace(speed, reread_threshold=REREAD)
    ways |= {f"2.0@{t:g}": replace(base, threshold=t) for t in THRESHOLDS}
    for edit, reread in EDITS:
        setting = "never" if edit is None else f"{edit:g}" if reread == 1 else f"{edit:g}/{reread:g}"
        way = replace(base, edit_threshold=edit, reread_threshold=reread)
        ways |= {f"2.1@{t:g}/{setting}": replace(way, threshold=t) for t in THRESHOLDS}
    return ways


def wsd_stages(models: Path, seed: int, threads: int | None) -> list[RunConfig]:
    """The ablation's runs that end in its block model, AR first; their world is written if it is not there."""
    world = models / "world"
    if not (world / "words.txt").is_file():
        write_world(world, documents_count=30_000, chats_count=60_000, skills=SKILLS, seed=0)
    ablation = Llada2Ablation(runs=models, threads=threads)
    return llada2_ablation.stages(ablation, llada2_ablation.VARIANTS[0], seed)


def with_editing(options: Editing, editing: TokenEditing, stages: Sequence[RunConfig], seed: int) -> list[RunConfig]:
    """The same runs with another objective, in folders of their own: AR runs, pretraining, fine-tuning."""
    *before, pretrain, tune = stages
    folder = options.runs / f"seed-{seed}"
    first, second = (
        replace(stage, name=name, runs=folder, objective=replace(cast(Denoising, stage.objective), editing=editing))
        for name, stage in (("pretrain", pretrain), ("sft", tune))
    )
    return [*before, first, replace(second, init_from=first.folder)]


def _measure(
    options: Editing, editing: TokenEditing, variant: str, decoding: Block, seed: int
) -> Mapping[str, Any] | None:
    stages, edits = wsd_stages(options.models, seed, options.threads), variant.startswith("2.1")
    if edits:
        stages = with_editing(options, editing, stages, seed)
    if not complete(stages):
        return None
    drafts = editing.draft_rate if edits else 0.0
    training = {
        "train_tokens": sum(trained_tokens(stage.folder) for stage in stages[2:]),
        "draft_passes": drafts * sum(stage.train.steps or 0 for stage in stages[2:]),
    }
    checkpoint = load_checkpoint(stages[-1].folder, prefer="last")  # as the ablation measures it
    return training | measure(checkpoint, decoding, options.items)


def measure(checkpoint: Checkpoint, decoding: Block, items: int) -> dict[str, Any]:
    """How often answers to held-out questions are right, at how many passes, and what was edited in them."""
    tokenizer = checkpoint.tokenizer
    sampler = make_sampler(checkpoint.model, tokenizer.vocab, decoding)
    found = answer_examples(sampler, tokenizer, held_out_questions(SKILLS, items))
    written = sum(len(answer.completion.tokens) for answer in found)
    forwards = sum(answer.completion.forwards for answer in found)
    drafts = [tokenizer.decode(answer.completion.draft, specials=False) for answer in found]
    before = [verify(answer.example.verifier, draft) for answer, draft in zip(found, drafts, strict=True)]
    both = list(zip(before, (answer.right for answer in found), strict=True))
    metrics: dict[str, Any] = {
        "threshold": decoding.threshold,
        "edit_threshold": decoding.edit_threshold,
        "edit_blocks": decoding.edit_blocks,
        "reread_threshold": decoding.reread_threshold,
        "exact_match": exact_match(found),
        "tpf": written / forwards,
        "edits_per_100": 100 * sum(answer.completion.edits for answer in found) / max(written, 1),
        "edits_fixed": 100 * both.count((False, True)) / len(found),
        "edits_broken": 100 * both.count((True, False)) / len(found),
        "forwards": forwards,
        "questions": len(found),
        "right": told(found),
    }
    metrics |= {f"exact_match_{language}": exact_match(found, language=language) for language in ("zh", "en")}
    return metrics | {f"exact_match_{skill}": exact_match(found, skill=skill) for skill in SKILLS}
