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
    """Most tokens to write; default 128."""
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
    """Diffusion: write all positions surer than this in a pass, and at least one; instead of --steps."""
    block_length: int | None = None
    """Diffusion: fill the canvas in blocks of this size, left to right; default all at once."""
    guidance: float | None = None
    """Diffusion: classifier-free guidance; default 0, off."""
    end_confidence: float | None = None
    """Diffusion: factor on the confidence of end tokens; default 1, off."""


def decoding_for(track: str, options: DecodingOptions, default_length: int | None = None) -> Decoding:
    """The decoding config of a track. Raises UserError for options of the other track, or values that cannot be."""
    from nano_llada.decode.config import Autoregressive, Diffusion

    cls = Autoregressive if track == "ar" else Diffusion
    known = {field.name for field in dataclasses.fields(cls)}
    given = {name: value for name, value in vars(options).items() if value is not None}
    if foreign := sorted(set(given) - known):
        raise UserError(f"{', '.join(foreign)}: for diffusion models only, this one is autoregressive")
    if default_length is not None:
        given.setdefault("max_new_tokens", default_length)
    strategies = ("low_confidence", "random", "margin", "entropy")
    if given.get("strategy", "random") not in strategies:
        raise UserError(f"strategy {given['strategy']!r} is not one of {', '.join(strategies)}")
    try:
        return cls(**given)
    except ValueError as error:
        raise UserError(str(error)) from error
