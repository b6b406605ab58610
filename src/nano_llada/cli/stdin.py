"""Standard input as lines of text."""

from __future__ import annotations

import io
import queue
import sys
import threading
from collections.abc import Callable, Iterator

from nano_llada.core.errors import UserError
from nano_llada.core.text import mark_of, unify_line_ends


class StandardInput:
    """Lines of standard input, one after the other, as `read` gives them.

    Line ends (`\\n`, `\\r\\n` and a lone `\\r`), byte-order marks and UTF-16 with a mark are treated as in files.
    """

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read
        self._number = 0

    def line(self) -> str:
        """The next line; its end, if `read` gives one, is `\\n`.

        Raises:
            UserError: with the number of the line, for bytes that are not text; the next call reads the line after it.
        """
        if self._number == 0:
            _prepare(sys.stdin)
        self._number += 1
        try:
            text = unify_line_ends(self._read())
        except UnicodeDecodeError as error:
            raise UserError(f"line {self._number} of standard input is not valid {error.encoding}") from error
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


def batches(most: int) -> Iterator[list[str]]:
    """The same as they arrive: what has been sent so far, `most` at a time, without waiting for more.

    Raises:
        UserError: as `StandardInput.line` does, after the lines before it.
    """
    arrived: queue.Queue[str | UserError | None] = queue.Queue(maxsize=4 * most)

    def read() -> None:
        try:
            for prompt in prompts():
                arrived.put(prompt)
        except UserError as error:
            arrived.put(error)
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    last: str | UserError | None = ""
    while isinstance(last, str):
        last, some = arrived.get(), []
        while isinstance(last, str):
            some.append(last)
            if len(some) == most or arrived.empty():
                break
            last = arrived.get()
        if some:
            yield some
    if last is not None:
        raise last


def _prepare(stream: object) -> None:
    """Find out the encoding by the mark in front, and let it be known which line bad bytes are in."""
    if not isinstance(stream, io.TextIOWrapper):
        return
    if stream.isatty():
        stream.reconfigure(errors="surrogateescape")
        return
    head = stream.buffer.peek(4)[:4] if isinstance(stream.buffer, io.BufferedReader) else b""
    encoding, length = mark_of(head)
    if length:
        stream.buffer.read(length)
        stream.reconfigure(encoding=encoding, errors="surrogateescape", newline=None)
    else:
        stream.reconfigure(errors="surrogateescape", newline=None)
