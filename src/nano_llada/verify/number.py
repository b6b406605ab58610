"""The number that a text arrives at."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

_WIDE = str.maketrans("０１２３４５６７８９．＋－−，／", "0123456789.+--,/")
_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+)(?:[eE][-+]?\d+)?"
_NUMBER = re.compile(
    r"(?P<sign>(?<![0-9A-Za-z)\]%])[-+])?[$¥￥€£]?"  # in 10-5 and COVID-19 it is not a sign
    r"(?:(?P<whole>\d+) (?=\d+/\d))?"  # 1 1/2
    rf"(?P<digits>{_UNSIGNED})"
    r"(?:(?<!/\d)/(?P<below>\d+(?:\.\d+)?)(?![\d.]*/))?",  # 3/4, but not in 3/4/2026
    re.ASCII,
)
_STEP = re.compile(r"####[ \t]*(?!\d+[.):：、][ \t]*[^\s\d])([-+$¥￥€£]?[-+$¥￥€£]?\.?\d[^\n]*)")  # not a heading
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_FRACTION = re.compile(r"(\d*)\s*\\[dtc]?frac\s*(?:\{\s*([-+]?[\d.,]+)\s*\}|(\d))\s*(?:\{\s*([\d.,]+)\s*\}|(\d))")
_WORDS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|operatorname)\s*\{[^{}]*\}")
_HARMLESS = re.compile(r"\\(?:[,;:!$% ]|left|right|quad|qquad|approx|leq?|geq?|cdots|ldots)(?![a-zA-Z])")
_UNREADABLE = re.compile(r"\\[a-zA-Z]+|\^|√")


def last_number(text: str) -> float | None:
    """The number in a text's last `#### N` or `\\boxed{N}`, or else its last number; None without one.

    1,234.5, -3, 1e3, $5, full-width digits and fractions (3/4, 1 1/2, `\\frac{3}{4}`) are read; 50% is 50. A box that
    holds what is not a number, such as a root or a power, gives None.
    """
    text = _plain(text)
    marked: dict[int, float | None] = {}
    for match in _STEP.finditer(text):
        if numbers := _numbers(match[1]):
            marked[match.start()] = numbers[0]
    for start, content in _boxes(text):
        inner = _words_left_out(content)
        if _UNREADABLE.search(inner):
            marked[start] = None
        elif numbers := _numbers(inner):
            marked[start] = numbers[-1]
    if marked:
        return marked[max(marked)]
    return next(reversed(_numbers(text)), None)


def reference_number(text: str) -> float:
    """The number of a right answer.

    Raises:
        ValueError: if it has none, or several of which none is marked, or holds something that cannot be read.
    """
    plain = _plain(text)
    parts = [content for _, content in _boxes(plain)][-1:] or [match[1] for match in _STEP.finditer(plain)] or [plain]
    number = last_number(text)
    if _UNREADABLE.search(_words_left_out(parts[-1])):
        raise ValueError(
            f"the right answer {text!r} holds something that the verifier numeric cannot read; write it as a decimal "
            "number or a fraction"
        )
    if number is None or not math.isfinite(number):
        raise ValueError(f"the right answer {text!r} holds no number, which the verifier numeric needs")
    if parts[-1] is plain and len(numbers := _numbers(plain)) > 1:  # which one is meant is anybody's guess
        raise ValueError(
            f"the right answer {text!r} holds {len(numbers)} numbers; write one number without spaces in it, or mark "
            "the one that counts with #### or \\boxed{}"
        )
    return number


def _plain(text: str) -> str:
    """Full-width characters as ASCII, and fractions as a/b."""
    text = re.sub(r"，(?![０-９]{3}(?![０-９]))|(?<![０-９])，", " ", text).translate(_WIDE)
    text = text.replace("{,}", ",")  # how LaTeX writes 1,000

    def fraction(found: re.Match[str]) -> str:
        above, below = found[2] or found[3], found[4] or found[5]
        return f"{found[1]} {above}/{below}" if found[1] else f"{above}/{below}"

    return _FRACTION.sub(fraction, text)


def _words_left_out(text: str) -> str:
    return _HARMLESS.sub(" ", _WORDS.sub(" ", text))


def _boxes(text: str) -> Iterator[tuple[int, str]]:
    """Place and content of every box, up to the brace that closes it."""
    for match in _BOX.finditer(text):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if not depth:
            yield match.start(), text[match.end() : end - 1]


def _numbers(text: str) -> list[float]:
    return [value for match in _NUMBER.finditer(text) if (value := _value(match)) is not None]


def _value(match: re.Match[str]) -> float | None:
    value = float(match["digits"].replace(",", ""))
    if match["below"] is not None:
        below = float(match["below"])
        if not below:
            return None
        value /= below
    if match["whole"] is not None:
        value += float(match["whole"])
    return -value if match["sign"] == "-" else value
