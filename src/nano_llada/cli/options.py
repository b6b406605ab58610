"""Command lines from dataclasses: their fields are the options, their docstrings the help."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from nano_llada.config.record import from_plain, read_config
from nano_llada.core.errors import UserError

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
