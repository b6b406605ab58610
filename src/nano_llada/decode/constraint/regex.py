"""Regular expressions and templates as text, read into expressions. The syntax is Python's, with ASCII classes.

What a finite automaton cannot do, or what has no place in a pattern that a whole text must match, is refused by name:
look-around, back references, word boundaries, anchors inside a pattern, flags.
"""

from __future__ import annotations

from nano_llada.core.errors import UserError
from nano_llada.decode.constraint.expression import (
    TEXT,
    Characters,
    Either,
    Expression,
    Joined,
    Literal,
    Ranges,
    Repeated,
    none_of,
    one_of,
    others,
    ranges,
)

GAP = "___"
MOST_REPEATS = 10_000
MOST_GROUPS = 100  # groups inside one another

_DIGITS, _SPACES = one_of("0123456789"), one_of(" \t\n\r\f\v")
_WORD = Characters(ranges([(48, 57), (65, 90), (95, 95), (97, 122)]))
_CLASSES = {"d": _DIGITS, "s": _SPACES, "w": _WORD}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_HEX = {"x": 2, "u": 4, "U": 8}
_NO_NEWLINE = none_of("\n")


def read_regex(pattern: str) -> Expression:
    """The texts that a pattern matches as a whole.

    Raises:
        UserError: for wrong syntax, or what an automaton cannot do, with the place in the pattern.
    """
    return _Reader(pattern, "regex").anchored()


def read_search(pattern: str) -> Expression:
    """The texts in which a pattern matches somewhere, as `pattern` of a JSON schema means it; ^ and $ are the ends.

    Raises:
        UserError: as `read_regex`.
    """
    begins, ends = pattern.startswith("^"), _ends_with_anchor(pattern)
    inner = _Reader(pattern, "pattern").anchored()
    if (begins or ends) and _has_alternatives(pattern):
        raise UserError(f"pattern {pattern!r}: put parentheses around what is between ^ and $")
    return Joined((*(() if begins else (TEXT,)), inner, *(() if ends else (TEXT,))))


def read_template(text: str) -> Expression:
    """A text with gaps: ``___`` (one or more characters but no line break), ``___{3}`` or ``___{1,20}`` (so many), and
    ``___(REGEX)``.

    Raises:
        UserError: for no gap, or as `read_regex`.
    """
    if GAP not in text:
        raise UserError(f"the template has no gap: mark one with {GAP}, {GAP}{{1,20}} or {GAP}(REGEX)")
    reader = _Reader(text, "template")
    parts: list[Expression] = []
    while (gap := text.find(GAP, reader.place)) >= 0:
        parts.append(Literal(text[reader.place : gap]))
        reader.place = gap + len(GAP)
        parts.append(reader.gap())
    return Joined((*parts, Literal(text[reader.place :])))


def _ends_with_anchor(pattern: str) -> bool:
    """Whether the last character is a $ that no backslash stands before."""
    before = pattern[:-1]
    return pattern.endswith("$") and (len(before) - len(before.rstrip("\\"))) % 2 == 0


def _has_alternatives(pattern: str) -> bool:
    """Whether a | stands outside all groups and classes."""
    depth, inside, skip = 0, False, False
    for mark in pattern:
        if skip:
            skip = False
        elif mark == "\\":
            skip = True
        elif inside or mark == "[":
            inside = mark != "]"
        elif mark in "()":
            depth += 1 if mark == "(" else -1
        elif mark == "|" and not depth:
            return True
    return False


class _Reader:
    """A recursive-descent parser; `place` is where it is in the text."""

    def __init__(self, text: str, what: str) -> None:
        self.text, self.what, self.place, self.end, self._depth = text, what, 0, len(text), 0

    def anchored(self) -> Expression:
        """The whole text; a ^ at its start and a $ at its end are left out."""
        if self.text.startswith("^"):
            self.place = 1
        if _ends_with_anchor(self.text):
            self.end -= 1
        found = self._alternatives()
        if self.place < self.end:
            raise self._wrong("a closing parenthesis too many")
        return found

    def gap(self) -> Expression:
        """What follows the mark of a gap: a number of characters, an expression, or nothing."""
        if self._peek() == "(":
            self.place += 1
            return self._group_body()
        if (counts := self._counts()) is not None:
            return Repeated(_NO_NEWLINE, *counts)
        return Repeated(_NO_NEWLINE, 1)

    def _wrong(self, problem: str) -> UserError:
        return UserError(f"{self.what} {self.text!r}, at character {self.place + 1}: {problem}")

    def _peek(self) -> str:
        return self.text[self.place] if self.place < self.end else ""

    def _take(self) -> str:
        mark = self._peek()
        if not mark:
            raise self._wrong("it ends too early")
        self.place += 1
        return mark

    def _alternatives(self) -> Expression:
        options = [self._sequence()]
        while self._peek() == "|":
            self.place += 1
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Either(tuple(options))

    def _sequence(self) -> Expression:
        parts: list[Expression] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._quantified(self._atom()))
        return parts[0] if len(parts) == 1 else Joined(tuple(parts))

    def _atom(self) -> Expression:
        mark = self._take()
        if mark == "(":
            return self._group()
        if mark == "[":
            return self._class()
        if mark == ".":
            return _NO_NEWLINE
        if mark == "\\":
            return self._escape(in_class=False)
        self.place -= 1
        if mark in "^$":
            raise self._wrong("^ and $ may only be the first and the last character: the whole text must match")
        if mark in "*+?":
            raise self._wrong(f"{mark} has nothing to repeat")
        self.place += 1
        return Literal(mark)

    def _group(self) -> Expression:
        if self._peek() != "?":
            return self._group_body()
        self.place += 1
        kind = self._take()
        if kind == ":":
            return self._group_body()
        if kind == "P" and self._peek() == "<":
            end = self.text.find(">", self.place, self.end)
            if end < 0:
                raise self._wrong("the name of a group has no end")
            self.place = end + 1
            return self._group_body()
        names = dict.fromkeys("=!", "look-ahead") | {
            "<": "look-behind",
            "P": "a back reference",
            ">": "an atomic group",
        }
        raise self._wrong(f"{names.get(kind, f'(?{kind}')} cannot be used in a constraint")

    def _group_body(self) -> Expression:
        self._depth += 1
        if self._depth > MOST_GROUPS:
            raise self._wrong(f"more than {MOST_GROUPS} groups inside one another")
        found = self._alternatives()
        if self._peek() != ")":
            raise self._wrong("a closing parenthesis is missing")
        self.place += 1
        self._depth -= 1
        return found

    def _quantified(self, atom: Expression) -> Expression:
        simple = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._peek())
        if simple is not None:
            self.place += 1
        counts = simple if simple is not None else self._counts()
        if counts is None:
            return atom
        if self._peek() == "?":  # lazy: which match is found first does not matter, all of them are allowed
            self.place += 1
        if self._peek() and self._peek() in "*+?":
            raise self._wrong("a repetition of a repetition, or a possessive one: use parentheses")
        return Repeated(atom, *counts)

    def _counts(self) -> tuple[int, int | None] | None:
        """``{m}``, ``{m,}``, ``{,n}`` or ``{m,n}``; None, and nothing is read, if there is something else."""
        close = self.text.find("}", self.place, self.end)
        if self._peek() != "{" or close < 0:
            return None
        low, comma, high = self.text[self.place + 1 : close].partition(",")
        if not (low + high).isascii() or not all(part.isdigit() or (comma and not part) for part in (low, high or low)):
            return None
        if not low and not high:
            return None
        least = int(low or 0)
        most = (int(high) if high else None) if comma else least
        if most is not None and most < least:
            raise self._wrong(f"the repetition {self.text[self.place : close + 1]} has its numbers in the wrong order")
        if max(least, most or 0) > MOST_REPEATS:
            raise self._wrong(f"more than {MOST_REPEATS} repetitions")
        self.place = close + 1
        return least, most

    def _escape(self, *, in_class: bool) -> Characters:
        mark = self._take()
        if mark in _HEX:
            return self._code(mark)
        if mark in _CONTROLS and not (mark == "0" and self._peek().isdigit()):
            return one_of(_CONTROLS[mark])
        if mark == "b" and in_class:
            return one_of("\b")
        if mark.lower() in _CLASSES:
            found = _CLASSES[mark.lower()]
            return found if mark.islower() else Characters(others(found.ranges))
        if mark.isascii() and mark.isalnum():
            self.place -= 1
            names = dict.fromkeys("bB", "a word boundary") | dict.fromkeys("pP", "a Unicode property")
            names |= dict.fromkeys("AZ", "an anchor") | dict.fromkeys("123456789", "a back reference")
            raise self._wrong(f"{names.get(mark, 'the escape')} \\{mark} cannot be used in a constraint")
        return one_of(mark)

    def _code(self, kind: str) -> Characters:
        digits = self.text[self.place : min(self.place + _HEX[kind], self.end)]
        try:
            found = ranges([(int(digits, 16),) * 2]) if len(digits) == _HEX[kind] and digits.isalnum() else ()
        except ValueError:
            found = ()
        if not found or found[0][0] > 0x10FFFF:
            raise self._wrong(f"\\{kind} needs {_HEX[kind]} hexadecimal digits that are a character")
        self.place += len(digits)
        return Characters(found)

    def _class(self) -> Characters:
        negated = self._peek() == "^"
        self.place += negated
        pairs: list[tuple[int, int]] = []
        first = True
        while first or self._peek() != "]":
            first = False
            pairs += self._class_item()
        self.place += 1
        found: Ranges = ranges(pairs)
        return Characters(others(found) if negated else found)

    def _class_item(self) -> list[tuple[int, int]]:
        low = self._class_character()
        if self._peek() != "-" or self.text[self.place + 1 : self.end][:1] in ("]", ""):
            return list(low.ranges)
        self.place += 1
        high = self._class_character()
        if not _single(low) or not _single(high):
            raise self._wrong("a range in a class needs one character at each end")
        if low.ranges[0][0] > high.ranges[0][0]:
            raise self._wrong("a range in a class has its ends in the wrong order")
        return [(low.ranges[0][0], high.ranges[0][0])]

    def _class_character(self) -> Characters:
        mark = self._take()
        return self._escape(in_class=True) if mark == "\\" else one_of(mark)


def _single(found: Characters) -> bool:
    return len(found.ranges) == 1 and found.ranges[0][0] == found.ranges[0][1]
