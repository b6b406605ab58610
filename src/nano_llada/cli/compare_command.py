"""`nano-llada compare`: models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nano_llada.cli.options import WRITING, parse, short_names
from nano_llada.cli.training_runs import training_run
from nano_llada.config.checks import Threads
from nano_llada.config.decoding import DecodingOptions, decoding_for
from nano_llada.core.errors import UserError

if TYPE_CHECKING:
    from nano_llada.checkpoint.files import Checkpoint
    from nano_llada.evaluation.suite import Subject


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoints: tuple[Path, ...]
    """Run folders or checkpoint folders, AR and diffusion in any order."""
    prompts: tuple[str, ...] = ()
    """Prompts that models answer or, where they are not fine-tuned, continue."""
    skills: tuple[str, ...] = ()
    """Small-world skills with test questions and right answers; `all` for every one."""
    items: int = 40
    """Questions a skill and language."""
    thresholds: tuple[float, ...] = (0.9,)
    """Measure diffusion models with these confidence thresholds besides."""
    timed: int = 12
    """Texts written one at a time to measure speed."""
    out: Path = Path("runs/compare")
    """Folder for records.jsonl, report.md, report.json, report.html and plots."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """CPU threads; default: PyTorch's choice."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)


SHOWN = {"options": "prompts skills items thresholds timed out device threads", **WRITING}


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="compare",
        about="Compare models: answers, exact match and speed.",
        leading="checkpoints",
        shown=SHOWN,
    )
    _check(options)
    from nano_llada.checkpoint.files import load_checkpoint
    from nano_llada.cli.tables import print_comparison
    from nano_llada.core.device import choose_machine, use_threads
    from nano_llada.evaluation.page import write_evaluation
    from nano_llada.evaluation.side_by_side import free_questions, side_by_side
    from nano_llada.evaluation.suites.generation import world_questions
    from nano_llada.world import SKILLS

    use_threads(options.threads)
    device = choose_machine(options.device).device
    loaded = [load_checkpoint(path, device) for path in options.checkpoints]
    names = _names(options.checkpoints, loaded)
    subjects = [one for name, model in zip(names, loaded, strict=True) for one in _subjects(options, name, model)]
    runs = [training_run(path, name) for path, name in zip(options.checkpoints, names, strict=True)]
    skills = SKILLS if options.skills == ("all",) else options.skills
    questions = [*(world_questions(skills, options.items) if skills else ()), *free_questions(options.prompts)]
    records = side_by_side(subjects, questions, options.out, options.timed)
    training = [run for run in runs if run is not None]
    page = write_evaluation(records, options.out, "nano-llada: models compared", training=training)
    print_comparison(records)
    print(f"the report is {page}")
    return 0


def _check(options: Options) -> None:
    if not options.checkpoints:
        raise UserError("no model: give at least one with --checkpoints")
    for name in ("timed", "items"):
        if getattr(options, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(options, name)}")
    if not options.prompts and not options.skills:
        raise UserError("nothing to compare on: give --prompts or --skills")


def _names(paths: Sequence[Path], loaded: Sequence[Checkpoint]) -> list[str]:
    """Run and track of each model, and where runs of one name lie. Raises UserError for a folder given twice."""
    runs = [str(checkpoint.card.run or checkpoint.folder.name) for checkpoint in loaded]
    told = [run if runs.count(run) == 1 else f"{run} {end}" for run, end in zip(runs, short_names(paths), strict=True)]
    return [f"{name} ({checkpoint.card.track})" for name, checkpoint in zip(told, loaded, strict=True)]


def _subjects(options: Options, name: str, checkpoint: Checkpoint) -> list[Subject]:
    """A model with every way in which it is made to write."""
    from nano_llada.config.decoding import Autoregressive
    from nano_llada.evaluation.suite import Subject

    given = options.decoding
    if checkpoint.card.autoregressive:  # options of diffusion models are for those compared with it
        given = DecodingOptions(**{option.name: getattr(given, option.name) for option in fields(Autoregressive)})
    ways = {"default": given}
    if checkpoint.card.denoising and given.threshold is None and given.strategy is None:
        ways |= {f"threshold={least:g}": replace(given, threshold=least, steps=None) for least in options.thresholds}
    return [
        Subject(name, checkpoint, decoding_for(checkpoint.card, settings, default_length=64), decoder)
        for decoder, settings in ways.items()
    ]
