"""`nano-llada eval`: models, AR and diffusion, measured by one protocol; every figure from records that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_llada.cli.options import DecodingOptions, checkpoint_decoding, parse
from nano_llada.core.errors import UserError
from nano_llada.core.record import from_plain, to_plain
from nano_llada.evaluate.options import SuiteOptions

if TYPE_CHECKING:
    import torch

    from nano_llada.checkpoint.files import Checkpoint
    from nano_llada.evaluate.suite import Subject

PLAIN = "default"
AUTOREGRESSIVE = (
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "min_new_tokens",
    "seed",
)


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoints: tuple[str, ...]
    """Run or checkpoint folders, or NAME=FOLDER; a name given several times is one model trained with several seeds."""
    suites: SuiteOptions = field(default_factory=SuiteOptions)
    decoders: tuple[str, ...] = (PLAIN,)
    """Ways to write, each measured: `default`, or settings such as threshold=0.9 or temperature=0.7,top_p=0.9; those
    that an autoregressive model does not have are for the others alone."""
    out: Path | None = None
    """Folder for records.jsonl, report.md, report.json, report.html and plots; default: runs/eval/NAME. The same
    command goes on with what it began."""
    device: str = "auto"
    """cpu, cuda, mps, or auto."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="eval",
        about="Measure models by suites: likelihood, multiple choice, answers, text quality, infilling, speed.",
        leading="checkpoints",
    )
    _check(options)
    from nano_llada.cli.tables import print_table
    from nano_llada.core.hardware import choose_machine
    from nano_llada.evaluate.build import make_suites
    from nano_llada.evaluate.measure import evaluate, plan_name
    from nano_llada.evaluate.page import figure_rows, write_evaluation

    device = choose_machine(options.device).device
    found = subjects(options, device)
    context = min(subject.checkpoint.model.config.max_length for subject in found)
    suites = make_suites(options.suites, context, device)
    plan = make_plan(options, found)
    folder = options.out or Path("runs/eval") / f"{'+'.join(dict.fromkeys(s.name for s in found))}-{plan_name(plan)}"
    records = evaluate(found, suites, folder, plan)
    page = write_evaluation(records, folder, "nano-llada: models measured")
    for suite in suites:
        print_table(figure_rows(records, suite.name, suite.metrics))
    print(f"the report is {page}")
    return 0


def _check(options: Options) -> None:
    if not options.checkpoints:
        raise UserError("no model: give at least one with --checkpoints")
    for name in ("draws", "batch_size", "items", "prompt_tokens"):
        if getattr(options.suites, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(options.suites, name)}")


def subjects(options: Options, device: torch.device | str) -> list[Subject]:
    """Every model with every way of writing that it knows.

    Raises:
        UserError: for a folder without a model, or settings that cannot be.
    """
    from nano_llada.checkpoint.files import load_checkpoint
    from nano_llada.evaluate.suite import Subject

    found: list[Subject] = []
    runs: dict[str, int] = {}
    for given in options.checkpoints:
        name, path = _named(given)
        checkpoint = load_checkpoint(path, device)
        run = runs.setdefault(name, 0)
        runs[name] += 1
        for decoder, settings in decoders_for(checkpoint, options).items():
            decoding = checkpoint_decoding(checkpoint, settings, default_length=24)
            found.append(Subject(name, checkpoint, decoding, decoder, run))
    return found


def _named(given: str) -> tuple[str, Path]:
    name, equals, path = given.partition("=")
    if equals and not Path(given).exists():
        return name, Path(path)
    parts = [part for part in Path(given).parts if part not in (".", "..", "/")]
    return "/".join(parts[-2:]) or given, Path(given)


def decoders_for(checkpoint: Checkpoint, options: Options) -> dict[str, DecodingOptions]:
    """Settings by name; an autoregressive model leaves out what it does not have, and decoders that are only that.

    Raises:
        UserError: for words that are no settings.
    """
    found: dict[str, DecodingOptions] = {}
    common = {name: value for name, value in vars(options.decoding).items() if value is not None}
    for told in options.decoders:
        settings = _settings(told)
        own = set(settings) | set(common) if checkpoint.track == "diffusion" else set(AUTOREGRESSIVE)
        if set(settings) <= own:
            merged = {name: value for name, value in (common | settings).items() if name in own}
            found[told] = from_plain(DecodingOptions, merged)
    return found or {PLAIN: from_plain(DecodingOptions, {n: v for n, v in common.items() if n in AUTOREGRESSIVE})}


def _settings(told: str) -> dict[str, Any]:
    known = {option.name for option in fields(DecodingOptions)}
    settings: dict[str, Any] = {}
    for word in told.split(",") if told != PLAIN else ():
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise UserError(f"decoder {told!r}: {word!r} is no SETTING=VALUE; settings: {', '.join(sorted(known))}")
        settings[name] = _value(value)
    return settings


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def make_plan(options: Options, found: Sequence[Subject]) -> dict[str, Any]:
    """All that decides the figures, as plain values: options, and the weights of every model."""
    from nano_llada.evaluate.measure import fingerprint

    models = {f"{s.name} {s.run}": fingerprint(s.checkpoint) for s in found}
    decoders = {f"{s.name} {s.run} {s.decoder}": to_plain(s.decoding) for s in found}
    return {"suites": to_plain(options.suites), "models": models, "decoders": decoders, "device": options.device}
