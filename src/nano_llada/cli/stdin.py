"""Standard input as lines of text."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

from nano_llada.core.errors import UserError


def line_reader(read: Callable[[], str]) -> Callable[[], str]:
    """A function that gives the next line of standard input, by `read`, which gets one with or without its end.

    A byte-order mark before the first line is left out. Raises UserError, with the number of the line, for bytes that
    are no text; the next call goes on behind them.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # so that it is known which line they stand in
    number = 0

    def line() -> str:
        nonlocal number
        text = read()
        number += 1
        if number == 1:
            text = text.removeprefix("\ufeff")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"line {number} of standard input is not valid {sys.stdin.encoding or 'UTF-8'}") from error
        return text

    return line


def all_lines() -> tuple[str, ...]:
    """The lines of standard input that are not blank. Raises UserError as `line_reader` does."""
    line, lines = line_reader(sys.stdin.readline), []
    while text := line():
        lines.append(text.rstrip("\n"))
    return tuple(text for text in lines if text.strip())
