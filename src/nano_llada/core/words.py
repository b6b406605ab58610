"""Suggestions for misspelt words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHORTEST = 3  # letters of an abbreviation


def nearest(word: str, known: Iterable[str], least: float = 0.6) -> str | None:
    """The known word that is most like `word`, by a ratio of at least `least`, or that begins with it.

    `_`, `-` and case do not matter.
    """
    plain = {name.lower().replace("_", "-"): name for name in known}
    start = word.lower().replace("_", "-")
    longer = [name for name in plain if name.startswith(start) and len(start) >= SHORTEST]  # it is an abbreviation
    found = sorted(longer, key=len) or difflib.get_close_matches(start, plain, 1, cutoff=least)
    return plain[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the nearest known word, or nothing."""
    near = nearest(word, known)
    return "" if near is None else f"; did you mean {near!r}?"
