"""Command lines from dataclasses: their fields are the options, their docstrings the help."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nano_llada.core.errors import UserError
from nano_llada.core.record import from_plain, read_config

if TYPE_CHECKING:
    from nano_llada.checkpoint.files import Checkpoint
    from nano_llada.decode.config import Decoding

T = TypeVar("T")


def parse(
    cls: type[T],
    arguments: Sequence[str],
    *,
    command: str,
    about: str,
    default: T | None = None,
    leading: str | None = None,
) -> T:
    """Options of a command as a value of `cls`; `--config FILE` (JSON or TOML) is read first, options override it.

    Words before the first option are the values of the option `leading`, so that `chat RUN` is `chat --checkpoint RUN`.

    Raises:
        UserError: for a broken config file or values that contradict each other.
        SystemExit: from the parser, for unknown options (2) and --help (0).
    """
    import tyro

    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    rest = list(arguments)
    if words and leading is not None:
        rest = [f"--{leading.replace('_', '-')}", *rest]
    rest, path = take_option(rest, "--config")
    about += " --config FILE reads options from a JSON or TOML file; those given on the command line win."
    try:
        if path is not None:
            default = from_plain(cls, read_config(Path(path)), base=default)
        value: T = tyro.cli(  # type: ignore[call-overload,assignment]
            cls,
            args=rest,
            prog=f"nano-llada {command}",
            description=about,
            default=default,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands),
        )
        return value
    except ValueError as error:
        raise UserError(str(error)) from error


def short_names(paths: Sequence[Path], least: int = 1) -> list[str]:
    """The shortest ends of paths, of `least` parts or more, that tell them apart.

    Raises:
        UserError: for a path that is given twice.
    """
    places = [path.resolve() for path in paths]
    if twice := [str(path) for path, place in zip(paths, places, strict=True) if places.count(place) > 1]:
        raise UserError(f"given twice: {', '.join(twice)}")
    found = []
    for place in places:
        length = least
        while sum(other.parts[-length:] == place.parts[-length:] for other in places) > 1:
            length += 1
        found.append("/".join(place.parts[-length:]))
    return found


def take_option(arguments: list[str], name: str) -> tuple[list[str], str | None]:
    """Remove `name VALUE` or `name=VALUE` from a command line; gives what is left, and the value."""
    for i, argument in enumerate(arguments):
        if argument == name:
            if i + 1 == len(arguments):
                raise UserError(f"{name} needs a value")
            return arguments[:i] + arguments[i + 2 :], arguments[i + 1]
        if argument.startswith(f"{name}="):
            return arguments[:i] + arguments[i + 1 :], argument.split("=", 1)[1]
    return arguments, None


def take_flag(arguments: list[str], name: str) -> tuple[list[str], bool]:
    """Remove a flag from a command line; gives what is left, and whether it stood there."""
    return [argument for argument in arguments if argument != name], name in arguments


def choose_word(arguments: Sequence[str], words: dict[str, str], command: str) -> tuple[str, list[str]]:
    """The second word of a command such as `pretrain ar`, and what follows it.

    Raises:
        UserError: if it is missing or unknown.
        SystemExit: 0 after printing help.
    """
    listing = "\n".join(f"  {word:<12} {text}" for word, text in words.items())
    usage = f"usage: nano-llada {command} {{{','.join(words)}}} [options]\n\n{listing}\n"
    if arguments and arguments[0] in ("-h", "--help"):
        print(usage, end="")
        sys.exit(0)
    if not arguments or arguments[0] not in words:
        got = f", not {arguments[0]!r}" if arguments else ""
        raise UserError(f"nano-llada {command} needs one of {', '.join(words)}{got}\n\n{usage}")
    return arguments[0], list(arguments[1:])


@dataclasses.dataclass(frozen=True)
class DecodingOptions:
    """How text is written; what is not given is the default of the model's track."""

    max_new_tokens: int | None = None
    """Most tokens to write; default: the answer length of its training, else 128 (chat and compare 64, eval 24)."""
    temperature: float | None = None
    """0 (default) always takes the likeliest token; above, tokens are drawn."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | None = None
    """Draw from the fewest tokens that together have this probability."""
    min_p: float | None = None
    """Drop tokens less likely than this share of the likeliest."""
    repetition_penalty: float | None = None
    """Above 1, tokens that stand in the text already become less likely."""
    min_new_tokens: int | None = None
    """No end before this many tokens."""
    seed: int | None = None
    """Seed of everything drawn; default 0."""
    strategy: str | None = None
    """Diffusion: which positions are written first: low_confidence (default), random, margin or entropy."""
    steps: int | None = None
    """Diffusion: forward passes for the whole canvas; default one a token."""
    threshold: float | None = None
    """Diffusion: write all positions surer than this in a pass, and at least one; instead of a number of steps."""
    block_length: int | None = None
    """Diffusion: fill the canvas in blocks of this size, left to right; default all at once."""
    block_size: int | None = None
    """Diffusion in blocks, with an exact cache: tokens in a block; default what the model was trained with."""
    edit_threshold: float | None = None
    """Block models: change a written token when another one is likelier than this; default: never."""
    preset: str | None = None
    """Block models that edit: q for quality (--threshold 0.7 --edit-threshold 0.5), s for speed (0.5 and 0)."""
    max_post_steps: int | None = None
    """Block models: most passes that only edit a full block; default 16."""
    reread_threshold: float | None = None
    """Block models that edit: look at a full block again only if the last look was not surer than this of all its
    tokens; default 1: always."""
    edit_blocks: int | None = None
    """Block models: finished blocks that may still be edited; default 0."""
    cache: str | None = None
    """Diffusion with --block-length: approximate cache, prefix or dual; default none."""
    guidance: float | None = None
    """Diffusion: classifier-free guidance; default 0, off."""
    end_confidence: float | None = None
    """Diffusion: factor on the confidence of end tokens; default 1, off."""


CHOICES = {
    "strategy": ("low_confidence", "random", "margin", "entropy"),
    "cache": ("none", "prefix", "dual"),
    "preset": ("q", "s"),
}


def decoding_for(track: str, options: DecodingOptions, default_length: int | None = None) -> Decoding:
    """The decoding config of a track; a diffusion model with a block_size is decoded in blocks.

    Raises:
        UserError: for options of the other track, or values that cannot be.
    """
    from nano_llada.decode.config import MODES, Autoregressive, Block, Diffusion

    given = {name: value for name, value in vars(options).items() if value is not None}
    for name, choices in CHOICES.items():
        if given.get(name, choices[0]) not in choices:
            raise UserError(f"{name} {given[name]!r} is not one of {', '.join(choices)}")
    cls = Autoregressive if track == "ar" else Block if "block_size" in given else Diffusion
    if cls is Block and "preset" in given:
        threshold, edit_threshold = MODES[given.pop("preset")]
        given = {"threshold": threshold, "edit_threshold": edit_threshold} | given
    if foreign := sorted(set(given) - {field.name for field in dataclasses.fields(cls)}):
        why = {
            Autoregressive: "for diffusion models only, this one is autoregressive",
            Block: f"not for writing in blocks of {options.block_size} tokens, which is how this model was trained"
            " or was asked to write",
            Diffusion: "for models that write in blocks: give a --block-size",
        }
        raise UserError(f"{', '.join(foreign)}: {why[cls]}")
    if default_length is not None:
        given.setdefault("max_new_tokens", default_length)
    try:
        return cls(**given)
    except ValueError as error:
        raise UserError(str(error)) from error


def checkpoint_decoding(
    checkpoint: Checkpoint, options: DecodingOptions, default_length: int | None = None
) -> Decoding:
    """The decoding config of a checkpoint; the one place that says how many tokens it writes, and in which blocks.

    What the user gives comes first, then the checkpoint's info: `answer_length`, since a diffusion model fine-tuned on
    answers filled up to this length knows no longer canvas, and `block_size`, where it was trained in blocks. Then
    `default_length`, then the track's own default.

    Raises:
        UserError: as `decoding_for` does.
    """
    if options.block_size is None and checkpoint.info.get("block_size"):
        options = dataclasses.replace(options, block_size=int(checkpoint.info["block_size"]))
    return decoding_for(checkpoint.track, options, checkpoint.info.get("answer_length") or default_length)
