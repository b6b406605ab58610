"""The one exception for mistakes a user can mend: the CLI prints it without a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class UserError(Exception):
    """What was wrong, where, and what to do about it, in words for the person at the terminal."""


class ReportedElsewhere(UserError):
    """Ends this process of a run of several; another one says what was wrong."""


def text_of(value: object, what: str) -> str:
    """The value, if it is text. Raises UserError that says what must be."""
    if not isinstance(value, str):
        raise UserError(f"{what} must be text, got {type(value).__name__}")
    return value


def texts_of(values: object, what: str) -> list[str]:
    """Several texts; one alone counts as a list of one. Raises UserError as `text_of` does."""
    if isinstance(values, str):
        return [values]
    if not isinstance(values, Iterable) or isinstance(values, bytes | Mapping):
        raise UserError(f"{what} must be text or a list of texts, got {type(values).__name__}")
    return [text_of(value, f"{what} {number}") for number, value in enumerate(values, 1)]
