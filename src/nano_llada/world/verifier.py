"""Verifiers of the small world: what a right answer is, as data that a row carries."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from nano_llada.core.errors import UserError

Kind = Literal["exact", "final", "json", "words", "sudoku"]
COLON = "[:：]"  # the full-width one, too


@dataclass(frozen=True)
class Verifier:
    """What a right answer is.

    kind `exact`: the text is one of `expected` (spacing and one last full stop do not matter);
    `final`: the part after its last colon (the whole text if there is none) is one of `expected`, as in `exact`;
    `json`: it parses to the same value as `expected[0]`;
    `words`: it lists exactly `count` different words out of `expected`;
    `sudoku`: it is a valid 4x4 grid that keeps the givens of `expected[0]` (four rows, 0 is blank).
    """

    kind: Kind
    expected: tuple[str, ...]
    count: int = 0

    def to_json(self) -> dict[str, Any]:
        """The verifier as plain JSON values."""
        return {"kind": self.kind, "expected": list(self.expected), "count": self.count}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verifier:
        """The inverse of to_json. Raises UserError if a field is missing, the kind unknown or nothing can be right."""
        try:
            kind, expected, count = data["kind"], data["expected"], data["count"]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"This verifier cannot be read: {data!r}. Give it `kind`, `expected` (a list) and `count`."
            ) from error
        if kind not in get_args(Kind):
            raise UserError(f"Unknown kind of verifier {kind!r}. Use one of: {', '.join(get_args(Kind))}.")
        if not isinstance(expected, (list, tuple)) or not all(isinstance(text, str) for text in expected):
            raise UserError(f"This verifier's `expected` is not a list of texts: {expected!r}.")
        if not expected:
            raise UserError(f"This verifier expects nothing: {data!r}. Give at least one right answer.")
        if kind == "final" and (colons := [text for text in expected if re.search(COLON, text)]):
            raise UserError(f"This verifier expects {colons[0]!r} behind a colon. Give results without a colon.")
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise UserError(f"This verifier's `count` must be a whole number of at least 0, not {count!r}.")
        return cls(kind, tuple(expected), count)


def verify(verifier: Verifier, text: str) -> bool:
    """Whether `text` is a right answer. Any text may be given; none makes it raise."""
    return _CHECKS[verifier.kind](text, verifier)


def is_sudoku(grid: str) -> bool:
    """Whether 16 digits, row by row, hold each of 1 to 4 once in every row, column and 2x2 box."""
    rows = [grid[4 * r : 4 * r + 4] for r in range(4)]
    columns = [grid[c::4] for c in range(4)]
    boxes = [grid[k : k + 2] + grid[k + 4 : k + 6] for k in (0, 2, 8, 10)]
    return len(grid) == 16 and all(set(unit) == set("1234") for unit in rows + columns + boxes)


def _plain(text: str) -> str:
    spaced = " ".join(text.split())
    return spaced[:-1].rstrip() if spaced.endswith((".", "。")) else spaced


def _canonical(text: str) -> str:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a field is given twice")
        return dict(pairs)

    # Text, not values, is compared: in Python True == 1 and 7.0 == 7.
    return json.dumps(json.loads(text, object_pairs_hook=once), sort_keys=True)


def _same_json(answer: str, expected: str) -> bool:
    try:
        return _canonical(answer) == _canonical(expected)
    except (ValueError, RecursionError):
        return False


def _lists_words(answer: str, verifier: Verifier) -> bool:
    pieces = [piece for piece in re.split(r"[\s,，、]+|\band\b|和", answer) if piece]
    return len(pieces) == len(set(pieces)) == verifier.count and set(pieces) <= set(verifier.expected)


def _completes_sudoku(answer: str, givens: str) -> bool:
    if len(answer) != len(givens) or not re.fullmatch(r"[1-4]( [1-4]){3}( / [1-4]( [1-4]){3}){3}", answer):
        return False
    kept = all(given in ("0", digit) for given, digit in zip(givens, answer, strict=True))
    return kept and is_sudoku(re.sub(r"\D", "", answer))


def _is_one_of(text: str, verifier: Verifier) -> bool:
    return _plain(text) in map(_plain, verifier.expected)


_CHECKS: Mapping[Kind, Callable[[str, Verifier], bool]] = {
    "exact": _is_one_of,
    "final": lambda text, verifier: _is_one_of(re.split(COLON, text)[-1], verifier),
    "json": lambda text, verifier: _same_json(_plain(text), verifier.expected[0]),
    "words": lambda text, verifier: _lists_words(_plain(text), verifier),
    "sudoku": lambda text, verifier: _completes_sudoku(_plain(text), verifier.expected[0]),
}
