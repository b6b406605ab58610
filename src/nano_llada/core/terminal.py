"""Text of a model or a user on a terminal: it must not move the cursor, change colours or reorder other text."""

from __future__ import annotations

import unicodedata

KEPT = "\n\t"
JOINERS = "\u200c\u200d"  # needed inside words and emoji


def visible(text: str) -> str:
    """The text with every control or invisible formatting character written as its escape, such as ``\\x1b``.

    New lines and tabs stay. Print the result without markup (rich: ``Text`` or ``markup=False``): brackets are left.
    """
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    unseen = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    if not unseen or character in KEPT + JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")
