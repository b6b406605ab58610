"""Ranges of numbers: every number of every record has one, and a number outside it is refused by name.

A record declares the range of a field in its annotation, `dropout: BelowOne = 0.0`, and its `__post_init__` calls
`check_numbers(self)`. A number without a declared range must lie in `USUAL`. No range contains nan or infinity.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; `above` and `below` leave out the end itself."""

    low: float = 0
    high: float = 1e12
    above: bool = False
    below: bool = False

    def problem(self, value: float) -> str | None:
        """What is wrong with a finite number; None if nothing is."""
        if (value <= self.low if self.above else value < self.low) or (
            value >= self.high if self.below else value > self.high
        ):
            return f"must be {self.words(value)}"
        return None

    def words(self, value: float) -> str:
        """The range in words, as an answer to `value` outside it."""
        if self.high <= 1:  # both ends mean something
            return f"in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"
        if value > self.low:
            return f"{'below' if self.below else 'at most'} {self.high:,.15g}"
        if self.above:
            return "positive" if self.low == 0 else f"above {self.low:g}"
        return f"at least {self.low:g}"


USUAL = Range()

Share = Annotated[float, Range(0, 1)]
BelowOne = Annotated[float, Range(0, 1, below=True)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]
Positive = Annotated[float, Range(0, 1e9, above=True)]
NotNegative = Annotated[float, Range(0, 1e9)]
Count = Annotated[int, Range(1, 10**9)]
CountOrZero = Annotated[int, Range(0, 10**9)]
Tokens = Annotated[int, Range(1, 2**24)]
TokensOrZero = Annotated[int, Range(0, 2**24)]
Rows = Annotated[int, Range(1, 2**20)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
Threads = Annotated[int, Range(1, 4096)]


def check_numbers(config: object) -> None:
    """Check each number of a record, also in its tuples, against its range; None and other values pass.

    Raises:
        ValueError: naming the field, the range and the value.
    """
    for name, (kind, allowed) in _numbers_of(type(config)).items():  # type: ignore[arg-type]
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            _check(name, number, kind, allowed)


def _check(name: str, number: Any, kind: type, allowed: Range) -> None:
    if number is None or isinstance(number, str):  # a string of `int | str`; a parser has checked the type
        return
    if isinstance(number, bool) or not isinstance(number, Integral if kind is int else Real):
        raise ValueError(f"{name} must be a {'whole ' if kind is int else ''}number, got {number!r}")
    if not isinstance(number, Integral) and not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {number}")
    if (problem := allowed.problem(number)) is not None:  # type: ignore[arg-type]
        raise ValueError(f"{name} {problem}, got {_short(number)}")


def _short(number: Any) -> str:
    """A number as text, of which a long one shows its size alone."""
    if isinstance(number, Integral) and abs(int(number)) > 10**30:
        return "a number of more than 30 digits"
    return str(number)


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """The types of a record's fields, without their ranges."""
    return typing.get_type_hints(cls)


@cache
def _numbers_of(cls: type) -> dict[str, tuple[type, Range]]:
    """Kind and range of each field of a record that holds numbers."""
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls)]
    found = {name: next(_numbers_in(hints[name]), None) for name in names}
    return {name: number for name, number in found.items() if number is not None}


def _numbers_in(hint: Any, allowed: Range = USUAL) -> Iterator[tuple[type, Range]]:
    if hint in (int, float):
        yield hint, allowed
    elif typing.get_origin(hint) is Annotated:
        inner, *extras = typing.get_args(hint)
        yield from _numbers_in(inner, next((extra for extra in extras if isinstance(extra, Range)), allowed))
    elif typing.get_origin(hint) is not typing.Literal:
        for inner in typing.get_args(hint):
            yield from _numbers_in(inner, allowed)


def at_least(config: object, low: float, *names: str) -> None:
    """Check that each named field is None or at least `low`. Raises ValueError."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
