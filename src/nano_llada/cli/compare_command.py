"""`nano-llada compare`: models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nano_llada.cli.options import DecodingOptions, checkpoint_decoding, parse
from nano_llada.core.errors import UserError

if TYPE_CHECKING:
    from nano_llada.checkpoint.files import Checkpoint
    from nano_llada.evaluate.compare import Entry


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoints: tuple[Path, ...]
    """Run folders or checkpoint folders, AR and diffusion in any order."""
    prompts: tuple[str, ...] = ()
    """Prompts that all models answer (or, when none is fine-tuned, continue)."""
    skills: tuple[str, ...] = ()
    """Small-world skills with test questions and right answers; `all` for every one."""
    items: int = 40
    """Questions a skill and language."""
    thresholds: tuple[float, ...] = (0.9,)
    """Measure diffusion models with these confidence thresholds besides."""
    timed: int = 12
    """Texts written one at a time to measure speed."""
    out: Path = Path("runs/compare")
    """Folder for report.md, report.html, answers.jsonl and plots."""
    device: str = "auto"
    """cpu, cuda, mps, or auto."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="compare",
        about="Compare models: answers, exact match and speed.",
        leading="checkpoints",
    )
    if not options.checkpoints:
        raise UserError("no model: give at least one with --checkpoints")
    for name in ("timed", "items"):
        if getattr(options, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(options, name)}")
    if not options.prompts and not options.skills:
        raise UserError("nothing to compare on: give --prompts or --skills")
    from nano_llada.checkpoint.files import load_checkpoint
    from nano_llada.cli.tables import print_table
    from nano_llada.core.hardware import choose_machine
    from nano_llada.data.world import SKILLS
    from nano_llada.demo import held_out_questions
    from nano_llada.evaluate.compare import compare
    from nano_llada.evaluate.report import sample_rows, skill_rows, summary_rows, write_report
    from nano_llada.sampling import answers_chats

    device = choose_machine(options.device).device
    loaded = [load_checkpoint(path, device) for path in options.checkpoints]
    entries = [entry for checkpoint in loaded for entry in _entries(options, checkpoint)]
    skills = SKILLS if options.skills == ("all",) else options.skills
    chat = any(answers_chats(checkpoint) for checkpoint in loaded)
    questions = held_out_questions(skills, options.items)
    comparison = compare(entries, questions, options.prompts, chat=chat, timed=options.timed)
    curves = [path / "loss.png" for path in options.checkpoints]
    page = write_report(comparison, options.out, "nano-llada: models compared", curves)
    print_table(summary_rows(comparison))
    if skills:
        print_table(skill_rows(comparison))
    print_table(sample_rows(comparison))
    print(f"the report is {page}")
    return 0


def _entries(options: Options, checkpoint: Checkpoint) -> list[Entry]:
    from nano_llada.evaluate.compare import Entry

    name = f"{checkpoint.info.get('run', checkpoint.folder.name)} ({checkpoint.track})"
    given = options.decoding
    if checkpoint.track == "ar":  # options of diffusion models are for those compared with it
        common = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "min_new_tokens")
        kept = {key: getattr(given, key) for key in (*common, "seed")}
        return [Entry(name, checkpoint, checkpoint_decoding(checkpoint, DecodingOptions(**kept), default_length=64))]
    entries = [Entry(name, checkpoint, checkpoint_decoding(checkpoint, given, default_length=64))]
    for threshold in options.thresholds if given.threshold is None and given.strategy is None else ():
        decoding = checkpoint_decoding(checkpoint, replace(given, threshold=threshold, steps=None), default_length=64)
        entries.append(Entry(f"{name}, threshold {threshold:g}", checkpoint, decoding))
    return entries
