"""The one judge of answers, for data, reinforcement learning and evaluation. Imports no torch."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from nano_llada.core.errors import UserError
from nano_llada.core.own import is_own, load_own

Kind = Literal["exact", "final", "json", "words", "sudoku"]
Judge = Callable[[str], bool]  # a model's text -> whether it is right
Reward = Callable[[str, str, Mapping[str, Any]], float]  # question, answer, the row of the data file -> a number

REFERENCES = ("references", "reference", "answer")  # fields of a row with right answers; the first that it has counts
VERIFIER = "verifier"  # the field of a row with its verifier, and the reward that uses it
COLON = "[:：]"  # the full-width one, too
TOLERANCE = 1e-6  # of a number, relative to the reference

_WIDE = str.maketrans("０１２３４５６７８９．＋－−，", "0123456789.+--,")
_NUMBER = re.compile(
    r"(?P<sign>(?<![0-9A-Za-z)\]%])[-+])?[$¥￥€£]?"  # not a sign in 10-5 and COVID-19
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?![\d,]*\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+)(?P<power>[eE][-+]?\d+)?",
    re.ASCII,
)
_MARKS = (  # an answer says which number counts; `#### 1. First step` is a heading
    (re.compile(r"####[ \t]*(?!\d+[.):：、][ \t]*[^\s\d])([-+$¥￥€£]?[-+$¥￥€£]?\.?\d[^\n]*)"), 0),
    (re.compile(r"\\boxed\{([^\n]*?)\}"), -1),
)
_GSM8K = re.compile(r"####[ \t]*[-+$]{0,2}\.?\d[^\n]*\s*\Z")


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
            kind, expected, count = data["kind"], tuple(str(text) for text in data["expected"]), data["count"]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"This verifier cannot be read: {data!r}. Give it `kind`, `expected` (a list) and `count`."
            ) from error
        if kind not in get_args(Kind):
            raise UserError(f"Unknown kind of verifier {kind!r}. Use one of: {', '.join(get_args(Kind))}.")
        if not expected:
            raise UserError(f"This verifier expects nothing: {data!r}. Give at least one right answer.")
        if kind == "final" and (colons := [text for text in expected if re.search(COLON, text)]):
            raise UserError(f"This verifier expects {colons[0]!r} behind a colon. Give results without a colon.")
        return cls(kind, expected, int(count))


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


def last_number(text: str) -> float | None:
    """The result that a text states: in its last `#### N` or `\\boxed{N}`, or else its last number; None without one.

    1,234.5, -3, 1e3, $5 and full-width digits are read; 1/2 is two numbers, and 50% is 50.
    """
    text = re.sub(r"，(?![０-９]{3}(?![０-９]))|(?<![０-９])，", " ", text).translate(_WIDE)
    marked: dict[int, float] = {}
    for pattern, which in _MARKS:
        for mark in pattern.finditer(text):
            if numbers := _numbers(mark[1]):
                marked[mark.start()] = numbers[which]
    if marked:
        return marked[max(marked)]
    return next(reversed(_numbers(text)), None)


def _numbers(text: str) -> list[float]:
    matches = _NUMBER.finditer(text)
    return [float("".join(m[p] or "" for p in ("sign", "digits", "power")).replace(",", "")) for m in matches]


def judge_of(
    row: Mapping[str, Any], prompt: str, references: tuple[str, ...], load: Callable[[str], Reward]
) -> tuple[Judge, tuple[str, ...]]:
    """The judge of a row, and its right answers. Raises ValueError with the reason if the row has no valid one."""
    spec = row.get("verifier")
    if spec is None:
        spec = "numeric" if any(map(_GSM8K.search, references)) else "exact"
    try:
        if isinstance(spec, dict):
            verifier = Verifier.from_json(spec)
            return functools.partial(verify, verifier), references or verifier.expected
        if isinstance(spec, str) and is_own(spec):
            return functools.partial(_ask, load(spec), spec, prompt, row), references
    except UserError as error:
        raise ValueError(str(error)) from error
    except TypeError as error:
        raise ValueError(f"the row's `verifier` cannot be read: {error}") from error
    makers = {"exact": _exact, "contains": _contains, "regex": _regex, "numeric": _numeric}
    if not isinstance(spec, str) or spec not in makers:
        raise ValueError(f"unknown verifier {spec!r}: use {', '.join(makers)}, an object, or FILE.py:FUNCTION")
    if not references:
        raise ValueError(f"no right answer: give it {' or '.join(REFERENCES)}, or an answer as the last message")
    return makers[spec](references), references


def description_of(row: Mapping[str, Any]) -> str:
    """What a row's verifier depends on: for a user's own the content of its file and the row."""
    spec = row.get("verifier", "")
    if isinstance(spec, str) and is_own(spec):
        file, _, name = spec.rpartition(":")
        given = json.dumps({**row, "verifier": name}, sort_keys=True, ensure_ascii=False, default=str)
        return f"{hashlib.sha256(Path(file).read_bytes()).hexdigest()} {given}"
    return json.dumps(spec, sort_keys=True, ensure_ascii=False)


def _ask(function: Reward, spec: str, prompt: str, row: Mapping[str, Any], text: str) -> bool:
    value = function(prompt, text, row)
    if value not in (0.0, 1.0):
        raise UserError(f"verifier {spec!r} gave {value:g} for {text!r}: it must return True or False (1 or 0)")
    return value == 1.0


def _exact(references: tuple[str, ...]) -> Judge:
    return functools.partial(verify, Verifier("exact", references))


def _contains(references: tuple[str, ...]) -> Judge:
    wanted = [" ".join(reference.split()) for reference in references]
    return lambda text: any(reference in " ".join(text.split()) for reference in wanted)


def _regex(references: tuple[str, ...]) -> Judge:
    try:
        patterns = [re.compile(reference) for reference in references]
    except re.error as error:
        raise ValueError(f"{error.pattern!r} is not a regular expression: {error}") from error
    return lambda text: any(pattern.search(text) for pattern in patterns)


def _numeric(references: tuple[str, ...]) -> Judge:
    numbers = []
    for reference in references:
        number = last_number(reference)
        if number is None or not math.isfinite(number):
            raise ValueError(f"the right answer {reference!r} contains no number, which the verifier numeric needs")
        numbers.append(number)

    def judge(text: str) -> bool:
        found = last_number(text)
        return found is not None and any(math.isclose(found, number, rel_tol=TOLERANCE) for number in numbers)

    return judge


def load_reward(spec: str) -> Reward:
    """`verifier`, or the function in FILE.py:FUNCTION; the file is run.

    Raises:
        UserError: if there is no such file or function.
    """
    if spec == VERIFIER:
        return _verified
    return _checked(load_own(spec, "reward", "function", known="verifier, or "), spec)


def verifier_of(row: Mapping[str, Any]) -> Verifier:
    """The verifier of a row. Raises UserError if there is none, or none that can be read."""
    if not isinstance(row.get("verifier"), dict):
        raise UserError("the row has no `verifier`; give it one, or a reward function with --reward FILE.py:FUNCTION")
    try:
        return Verifier.from_json(row["verifier"])
    except (TypeError, ValueError) as error:
        raise UserError(f"the row's `verifier` cannot be read: {error}") from error


def _verified(question: str, answer: str, row: Mapping[str, Any]) -> float:
    return float(verify(verifier_of(row), answer))


def _checked(function: Callable[..., Any], spec: str) -> Reward:
    def reward(question: str, answer: str, row: Mapping[str, Any]) -> float:
        try:
            value = float(function(question, answer, row))
        except Exception as error:
            raise UserError(f"reward {spec!r} failed on {answer!r}: {type(error).__name__}: {error}") from error
        if not math.isfinite(value):
            raise UserError(f"reward {spec!r} gave {value} for {answer!r}: rewards are finite numbers")
        return value

    return reward
