"""Texts to measure models on, each with its language and a name that does not depend on the model."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from nano_llada.core.errors import UserError
from nano_llada.core.text import printable
from nano_llada.data.read import BadRow, Row, read_rows, resolve
from nano_llada.data.rows import Unread, kind_of, to_messages, to_text
from nano_llada.evaluation.options import SuiteOptions, given

T = TypeVar("T")


@dataclass(frozen=True)
class Passage:
    """A text from a file."""

    text: str
    language: str  # zh or en
    file: str  # its name without folder and endings
    item: str  # which one of the file: the row's `id`, or its number


def read_passages(sources: Sequence[str], text_field: str = "text", limit: int | None = None) -> list[Passage]:
    """The first `limit` texts of each file; of conversations, what was said, a line each. Unread fields are named.

    Raises:
        UserError: with file and line for a row without text, or if there is none at all.
    """

    seen: set[tuple[str, str]] = set()
    unread = Unread()

    def passage(given: Row, file: str, item: str) -> Passage:
        row = given.value
        if text_field in row:
            text = to_text(row, text_field, unread)
        else:
            text = "\n".join(message.content for message in to_messages(row, unread))
        name = row.get("id", item)
        if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
            raise ValueError(f"id is {kind_of(name)}, expected text or a number")
        if (file, str(name)) in seen:
            raise ValueError(f"id {name!r} occurs twice in the file")
        seen.add((file, str(name)))
        return Passage(text, row_language(row, text), file, str(name))

    found = read_items(sources, passage, limit)
    if unread.counts:
        print(unread.summary())
    return found


def passages(shared: SuiteOptions, suite: str) -> tuple[Passage, ...]:
    """The texts of --text for a suite that needs some. Raises UserError if there are none or a row is broken."""
    return tuple(read_passages(given(shared.text, suite, "--text"), shared.text_field, shared.limit))


def read_items(sources: Sequence[str], make: Callable[[Row, str, str], T], limit: int | None = None) -> list[T]:
    """What `make` makes of each row (with the file's short name and the row's number), `limit` of each file.

    Raises:
        UserError: with file and line for a broken row or one that `make` refuses with a ValueError; if there is none.
    """
    if limit is not None and limit < 1:
        raise UserError(f"the number of examples must be at least 1, got {limit}")
    found: list[T] = []
    resolved = resolve(sources)
    names = [Path(source.name).name.split(".")[0] for source in resolved]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two files are called {twice[0]}: their figures could not be distinguished: rename one")
    for name, source in zip(names, resolved, strict=True):
        for number, row in enumerate(islice(read_rows(source), limit)):
            if isinstance(row, BadRow):
                raise UserError(f"{row.where}: {printable(row.reason)}")
            try:
                found.append(make(row, name, str(number)))
            except (ValueError, UserError) as error:
                raise UserError(f"{row.where}: {printable(str(error))}") from error
    if not found:
        raise UserError(f"nothing to measure on in {', '.join(sources)}")
    return found


def row_language(row: Mapping[str, Any], text: str) -> str:
    """What the row says in `language` or `lang`, or else what the text looks like.

    Raises:
        ValueError: for another language than zh and en.
    """
    told = row.get("language", row.get("lang"))
    if told is None:
        return language_of(text)
    if told not in ("zh", "en"):
        raise ValueError(f"language {told!r} is not zh or en")
    return str(told)


def language_of(text: str) -> str:
    """zh where at least a third of the letters are Chinese characters, else en."""
    letters = [letter for letter in text if unicodedata.category(letter).startswith("L")]
    chinese = sum("\u3400" <= letter <= "\u9fff" for letter in letters)
    return "zh" if letters and 3 * chinese >= len(letters) else "en"
