"""`nano-llada compare`: models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nano_llada.cli.options import WRITING, default_folder, named_folders, parse
from nano_llada.config.checks import Threads
from nano_llada.config.decoding import Decoding, DecodingOptions, decoding_for, shared_length
from nano_llada.core.errors import UserError

if TYPE_CHECKING:
    from nano_llada.checkpoint.files import Checkpoint
    from nano_llada.config.card import ModelCard
    from nano_llada.evaluation.suite import Subject


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoints: tuple[str, ...]
    """Run folders or checkpoint folders, or NAME=FOLDER; AR and diffusion in any order."""
    prompts: tuple[str, ...] = ()
    """Prompts that the models answer, or continue if they are not fine-tuned."""
    skills: tuple[str, ...] = ()
    """Small-world skills with test questions and right answers; `all` for every one."""
    items: int = 40
    """Questions per skill and language."""
    thresholds: tuple[float, ...] = (0.9,)
    """Confidence thresholds that diffusion models are measured with in addition."""
    timed: int = 12
    """Texts decoded one at a time to measure speed."""
    out: Path | None = None
    """Folder for records.jsonl, report.md, report.json, report.html and plots; default: runs/compare, or, if that
    exists, runs/compare-2 and so on."""
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
    from nano_llada.evaluation.results import measure
    from nano_llada.evaluation.side_by_side import free_questions, side_by_side
    from nano_llada.evaluation.suites import metrics_of
    from nano_llada.evaluation.suites.generation import world_questions
    from nano_llada.report.training_run import read_run
    from nano_llada.report.write import write_report
    from nano_llada.world import SKILLS

    use_threads(options.threads)
    device = choose_machine(options.device).device
    models = named_folders(options.checkpoints)
    loaded = [load_checkpoint(path, device) for _, path in models]
    names = _names(models, loaded)
    length = shared_length(model.card for model in loaded) or 64
    pairs = zip(names, loaded, strict=True)
    subjects = [one for name, model in pairs for one in _subjects(options, name, model, length)]
    runs = [read_run(path, name) for path, name in zip((path for _, path in models), names, strict=True)]
    skills = SKILLS if options.skills == ("all",) else options.skills
    questions = [*(world_questions(skills, options.items) if skills else ()), *free_questions(options.prompts)]
    folder = default_folder(options.out, Path("runs/compare"))
    records = side_by_side(subjects, questions, folder, options.timed)
    training = [run for run in runs if run is not None]
    results = measure(records, metrics_of)
    page = write_report(records, folder, "nano-llada: comparison", training=training, results=results)
    print_comparison(records, results)
    print(f"the report is {page}")
    return 0


def _check(options: Options) -> None:
    if not options.checkpoints:
        raise UserError("no model: give at least one")
    for name in ("timed", "items"):
        if getattr(options, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(options, name)}")
    if not options.prompts and not options.skills:
        raise UserError("nothing to compare on: give --prompts or --skills")


def _names(models: Sequence[tuple[str, Path]], loaded: Sequence[Checkpoint]) -> list[str]:
    """Names as given, or the run's, with the folder where it is not unique; and the track.

    Raises:
        UserError: for a name given twice.
    """
    ends = [end for end, _ in named_folders([str(path) for _, path in models])]
    runs = [checkpoint.card.run or checkpoint.folder.name for checkpoint in loaded]
    names = []
    for (name, _), end, run in zip(models, ends, runs, strict=True):
        usual = run if runs.count(run) == 1 else f"{run} {end}"
        names.append(usual if name == end else name)
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{', '.join(sorted(twice))} is the name of several models: give each NAME=FOLDER of its own")
    return [f"{name} ({checkpoint.card.track})" for name, checkpoint in zip(names, loaded, strict=True)]


def _ways(options: Options, card: ModelCard) -> dict[str, DecodingOptions]:
    """The decodings of a model of one track."""
    from nano_llada.config.decoding import Autoregressive

    given = replace(options.decoding, decode=None, drafts=None)
    if card.autoregressive:  # options of diffusion models are for those compared with it
        return {"default": _only(Autoregressive, given)}
    ways = {"default": given}
    if given.threshold is None and given.strategy is None:
        ways |= {f"threshold={least:g}": replace(given, threshold=least, steps=None) for least in options.thresholds}
    return ways


def _ways_of_both(options: Options) -> dict[str, DecodingOptions]:
    """The decodings of a tri-mode model, or the one that was asked for."""
    from nano_llada.config.decoding import WAYS, Block

    given, ways = options.decoding, dict[str, DecodingOptions]()
    for way, cls in WAYS.items():
        if given.decode not in (None, way):
            continue
        own = replace(_only(cls, given), decode=way)
        ways[f"decode={way}"] = own
        if cls is Block and given.threshold is None:
            ways |= {f"decode={way},threshold={x:g}": replace(own, threshold=x) for x in options.thresholds}
    return ways


def _only(cls: type[Decoding], given: DecodingOptions) -> DecodingOptions:
    """The options that a kind of decoding has."""
    known = {option.name for option in fields(DecodingOptions)}
    return DecodingOptions(**{o.name: getattr(given, o.name) for o in fields(cls) if o.name in known})


def _subjects(options: Options, name: str, checkpoint: Checkpoint, length: int) -> list[Subject]:
    """A model with each of its decodings."""
    from nano_llada.evaluation.suite import Subject

    ways = _ways_of_both(options) if checkpoint.card.track == "both" else _ways(options, checkpoint.card)
    return [
        Subject(name, checkpoint, decoding_for(checkpoint.card, settings, default_length=length), decoder)
        for decoder, settings in ways.items()
    ]
