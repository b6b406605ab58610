"""Suggestions for misspelt words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], least: float = 0.6) -> str | None:
    """The known word that is most like `word`, by a ratio of at least `least`; `_`, `-` and case do not matter."""
    plain = {name.lower().replace("_", "-"): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("_", "-"), plain, 1, cutoff=least)
    return plain[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the nearest known word, or nothing."""
    near = nearest(word, known)
    return "" if near is None else f"; did you mean {near!r}?"
