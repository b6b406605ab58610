"""`nano-llada eval`: models, AR and diffusion, measured by one protocol; every figure from records that are kept."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_llada.cli.fields import flatten
from nano_llada.cli.options import named_folders, parse
from nano_llada.config.checks import Threads
from nano_llada.config.decoding import DecodingOptions, decoding_for, shared_length
from nano_llada.config.record import from_plain
from nano_llada.core.errors import UserError
from nano_llada.core.words import did_you_mean
from nano_llada.evaluation.options import SuiteOptions

if TYPE_CHECKING:
    import torch

    from nano_llada.checkpoint.files import Checkpoint
    from nano_llada.evaluation.suite import Subject

PLAIN = "default"
SHOWN = {
    "what to measure": "suites text skills questions items limit draws window",
    "options": "decoders out device threads",
    "writing": "max_new_tokens temperature seed",
    "diffusion models": "steps threshold block_length block_size",
    "tri-mode models": "decode drafts",
}
ABOUT = (
    "Measure models by suites: likelihood, multiple choice, answers, text quality, infilling, speed, calibration. The "
    "options that a suite adds (--choices, --judge, --prompt-tokens, --spans, --batch-sizes, or those of your own) are "
    "listed by `nano-llada eval --suites NAME --help`."
)


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoints: tuple[str, ...]
    """Run or checkpoint folders, or NAME=FOLDER; a name given several times is one model trained with several seeds."""
    suites: SuiteOptions = field(default_factory=SuiteOptions)
    decoders: tuple[str, ...] = (PLAIN,)
    """Decodings, each measured: `default`, or settings such as threshold=0.9, temperature=0.7,top_p=0.9 or
    decode=block; a model leaves out those that it does not have."""
    out: Path | None = None
    """Folder for records.jsonl, report.md, report.json, report.html and plots; default: runs/eval/NAME. The same
    command resumes an interrupted evaluation."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """CPU threads; default: PyTorch's choice."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = read(arguments)
    # torch and matplotlib behind these would slow --help down
    from nano_llada.cli.tables import print_table
    from nano_llada.core.device import choose_machine, use_threads
    from nano_llada.report.evaluation import run_evaluation
    from nano_llada.report.tables import figure_rows
    from nano_llada.training import parallel

    with parallel.joined(options.device):
        use_threads(options.threads)
        device = choose_machine(options.device).device
        done = run_evaluation(subjects(options, device), options.suites, options.out, device)
        for suite in done.suites:
            print_table(figure_rows(done.results, suite))
        print(f"the report is {done.folder / 'report.html'}")
    return 0


def read(arguments: Sequence[str]) -> Options:
    """The options of a command line. Raises UserError if it names no model."""
    cls = _options_class(arguments)
    added = [option.name for option in flatten(cls) if option.name not in {known.name for known in flatten(Options)}]
    shown = {**SHOWN, "options of these suites": " ".join(added)} if _words_of(arguments, "--suites") else SHOWN
    options = parse(cls, arguments, command="eval", about=ABOUT, leading="checkpoints", shown=shown)
    if not options.checkpoints:
        raise UserError("no model: give at least one")
    for decoder in options.decoders:
        _settings(decoder)
    return options


def _options_class(arguments: Sequence[str]) -> type[Options]:
    """The options of the command with those that the suites add.

    Help lists them for the suites that it is asked with alone: `eval --suites quality --help`.
    """
    named = _words_of(arguments, "--suites")
    if not named and {"-h", "--help"} & set(arguments):
        return Options
    from nano_llada.evaluation.suites import options_class  # the suites themselves: with torch

    suites = options_class(named)
    option = ("suites", suites, field(default_factory=suites))
    return make_dataclass("Options", [option], bases=(Options,), frozen=True)


def _words_of(arguments: Sequence[str], option: str) -> list[str]:
    """The values of an option that takes several, given as `OPTION A B` or `OPTION=A`."""
    begin = arguments.index(option) + 1 if option in arguments else len(arguments)
    joined = [word.partition("=")[2] for word in arguments if word.startswith(f"{option}=")]
    return [*joined, *itertools.takewhile(lambda word: not word.startswith("-"), arguments[begin:])]


def subjects(options: Options, device: torch.device | str) -> list[Subject]:
    """Every model with every decoding that it supports.

    Raises:
        UserError: for a folder without a model, invalid settings, or one name for different kinds of models.
    """
    from nano_llada.checkpoint.files import load_checkpoint
    from nano_llada.evaluation.suite import Subject

    models: dict[str, list[Checkpoint]] = {}
    for name, path in named_folders(options.checkpoints, least=2):
        models.setdefault(name, []).append(load_checkpoint(path, device))
    longest = shared_length(one.card for seeds in models.values() for one in seeds)
    found: list[Subject] = []
    for name, seeds in models.items():
        _check_seeds(name, seeds)
        for run, checkpoint in enumerate(seeds):
            for decoder, settings in decoders_for(checkpoint, options).items():
                decoding = decoding_for(checkpoint.card, settings, default_length=longest or 24)
                found.append(Subject(name, checkpoint, decoding, decoder, run))
    return found


def _check_seeds(name: str, seeds: Sequence[Checkpoint]) -> None:
    first = seeds[0]
    for other in seeds[1:]:
        if (other.card.track, other.tokenizer.hash, other.model.config) != (
            first.card.track,
            first.tokenizer.hash,
            first.model.config,
        ):
            raise UserError(
                f"{name} is given to {first.folder} and {other.folder}, which differ in track, tokenizer or shape: one "
                "name given several times means one model trained with several seeds"
            )


def decoders_for(checkpoint: Checkpoint, options: Options) -> dict[str, DecodingOptions]:
    """Settings by decoder name, without common settings that the model does not have and decoders that need others.

    Raises:
        UserError: for words that are not settings.
    """
    given = {name: value for name, value in vars(options.decoding).items() if value is not None}
    found, left = {}, []
    for name in options.decoders:
        settings = _settings(name)
        own = _known(checkpoint, {**given, **settings})
        if set(settings) <= own:
            common = {option: value for option, value in given.items() if option in own}
            found[name] = _decoding(common | settings)
        else:
            left.append(name)
    if left:
        print(f"{checkpoint.folder} does not support {', '.join(left)}: measured without", flush=True)
    own = _known(checkpoint, given)
    plain = {name: value for name, value in given.items() if name in own}
    return found or {PLAIN: _decoding(plain)}


def _decoding(settings: Mapping[str, Any]) -> DecodingOptions:
    try:
        return from_plain(DecodingOptions, dict(settings))
    except ValueError as error:
        raise UserError(str(error)) from error


def _known(checkpoint: Checkpoint, given: Mapping[str, Any]) -> set[str]:
    """Decoding settings that a model supports."""
    from nano_llada.config.decoding import WAYS, Block, decoding_class

    card, asked = checkpoint.card, given.get("decode")
    if asked in card.decodes:
        cls = WAYS[asked]
    else:
        cls = decoding_class(card, in_blocks=card.block_size is not None or "block_size" in given)
    own = {option.name for option in fields(cls)} | ({"preset"} if cls is Block else set())
    return own | ({"decode"} if asked in card.decodes else set())


def _settings(decoder: str) -> dict[str, Any]:
    known = {option.name for option in fields(DecodingOptions)}
    settings: dict[str, Any] = {}
    for word in decoder.split(",") if decoder != PLAIN else ():
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            near = did_you_mean(name, known)
            raise UserError(
                f"decoder {decoder!r}: {word!r} is not SETTING=VALUE{near}; settings: {', '.join(sorted(known))}"
            )
        settings[name] = _value(value)
    return settings


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
