"""Standard input as lines of text."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator

from nano_llada.core.errors import UserError


class StandardInput:
    """Lines of standard input, one after the other, as `read` gives them: with their ends, or without."""

    def __init__(self, read: Callable[[], str]) -> None:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # so that it is known which line bad bytes stand in
        self._read = read
        self._number = 0

    def line(self) -> str:
        """The next one, without the byte-order mark that some programs write before the first.

        Raises:
            UserError: with the number of the line, for bytes that are no text; the next call goes on behind them.
        """
        text = self._read()
        self._number += 1
        if self._number == 1:
            text = text.removeprefix("\ufeff")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            encoding = sys.stdin.encoding or "UTF-8"
            raise UserError(f"line {self._number} of standard input is not valid {encoding}") from error
        return text


def prompts() -> Iterator[str]:
    """The lines that are not blank. Raises UserError as `StandardInput.line` does."""
    lines = StandardInput(lambda: sys.stdin.readline())
    while text := lines.line():
        if text.strip():
            yield text.rstrip("\n")
