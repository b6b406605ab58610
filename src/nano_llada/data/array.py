"""The rows of a JSON file that is one array, read piece by piece, so that no file decides how much memory is used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from nano_llada.core.errors import UserError
from nano_llada.core.text import MAX_LINE, printable, utf8_blocks
from nano_llada.data.bad_rows import BadRow, Row, Where, parse_row

_OPEN, _COMMA, _END = re.compile(r"\s*\[\s*"), re.compile(r"\s*,\s*"), re.compile(r"\s*\]\s*")


class _Window:
    """The part of a text that is being looked at; a bad byte stays one, so that it spoils its own row only."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(utf8_blocks(blocks))
        self._left = b""  # the start of a character whose rest is in the next block
        self.text, self.at, self.line, self.column = "", 0, 1, 1
        self.whole = False  # the text ends here

    def grow(self) -> None:
        """Read as much as there is already, and 64 KiB at least."""
        wanted, parts = max(len(self.text) - self.at, 2**16), [self.text[self.at :]]
        while wanted > 0 and not self.whole:
            block = next(self._blocks, None)
            self.whole = block is None
            data = self._left + (block or b"")
            cut = len(data) if self.whole else _whole_characters(data)
            self._left = data[cut:]
            parts.append(data[:cut].decode(errors="surrogateescape"))
            wanted -= len(parts[-1])
        self.text, self.at = "".join(parts), 0

    def move(self, to: int) -> None:
        """Leave what is before `to` behind."""
        lines = self.text.count("\n", self.at, to)
        self.column = to - self.text.rfind("\n", self.at, to) if lines else self.column + to - self.at
        self.line, self.at = self.line + lines, to


def array_rows(name: str, blocks: Iterable[bytes]) -> Iterator[Row | BadRow]:
    """The elements of the array in the blocks of a file.

    Raises:
        UserError: with line and column where the array is broken, or an element is longer than MAX_LINE characters.
    """
    window, decoder = _Window(blocks), json.JSONDecoder()
    try:
        _step(window, _OPEN, "Expecting '['")
        if _step(window, _END):
            _finish(window)
            return
        while True:
            end = _element(window, decoder)
            where = Where(name, window.line)
            yield parse_row(where, window.text[window.at : end].encode(errors="surrogateescape"))
            window.move(end)
            if _step(window, _END):
                _finish(window)
                return
            _step(window, _COMMA, "Expecting ',' or the one ']' that ends the file")
    except (ValueError, RecursionError) as error:
        place = f"line {window.line} column {window.column}"
        if isinstance(error, json.JSONDecodeError):
            window.move(max(error.pos, window.at))
            place = f"line {window.line} column {window.column}"
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise UserError(
            f"{printable(name)}: broken JSON array, the rows after this place cannot be read: {reason}: {place}"
        ) from error


def _whole_characters(data: bytes) -> int:
    """How many bytes there are up to a character that is not complete yet."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if wanted > back else len(data)
        if byte < 0x80:
            break
    return len(data)


def _step(window: _Window, pattern: re.Pattern[str], otherwise: str = "") -> bool:
    """Move behind a pattern, if the text continues with it. Raises JSONDecodeError `otherwise`, if one is given."""
    while True:
        match = pattern.match(window.text, window.at)
        if window.whole or (match and match.end() < len(window.text)):
            break
        if match is None and len(window.text) - window.at > 2**16 and not window.text[window.at :].isspace():
            break
        window.grow()
    if match:
        window.move(match.end())
    elif otherwise:
        raise json.JSONDecodeError(otherwise, window.text, window.at)
    return match is not None


def _element(window: _Window, decoder: json.JSONDecoder) -> int:
    """Where the element ends that begins here."""
    while True:
        try:
            end: int = decoder.raw_decode(window.text, window.at)[1]
        except ValueError:  # perhaps cut off; RecursionError is for good
            if window.whole:
                raise
            end = len(window.text)
        if (end < len(window.text) or window.whole) and end - window.at <= MAX_LINE:
            return end
        if end - window.at > MAX_LINE:
            raise ValueError(f"the row is longer than {MAX_LINE // 2**20} MiB, or broken")
        window.grow()


def _finish(window: _Window) -> None:
    while not window.whole:
        window.grow()
        if window.text.strip():
            break
    if window.text[window.at :].strip():
        raise json.JSONDecodeError("Expecting nothing after the ']' that ends the file", window.text, window.at)
