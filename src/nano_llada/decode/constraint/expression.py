"""What a language of texts is made of: regular expressions, templates and schemas are read into these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LAST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)  # no text contains them
_LENGTHS = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, LAST))  # code points of 1, 2, 3 and 4 bytes

Ranges = tuple[tuple[int, int], ...]  # code points from first to last, ordered, none touching the next


@dataclass(frozen=True)
class Characters:
    """Any one character of some ranges."""

    ranges: Ranges


@dataclass(frozen=True)
class Literal:
    """These characters."""

    text: str


@dataclass(frozen=True)
class Joined:
    """One after the other."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Either:
    """One of several."""

    options: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeated:
    """From `least` to `most` times (None: any number of times), with something in between."""

    part: Expression
    least: int = 0
    most: int | None = None
    between: Expression | None = None


@dataclass(frozen=True)
class Both:
    """What is in two languages at once."""

    first: Expression
    second: Expression


Expression = Characters | Literal | Joined | Either | Repeated | Both

NOTHING = Either(())  # no text at all
EMPTY = Literal("")


def optional(part: Expression) -> Expression:
    """Once or not at all."""
    return Repeated(part, 0, 1)


def ranges(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """Some ranges, in order, joined where they touch, without surrogates."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(_without_surrogates(pairs)):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def _without_surrogates(pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    low, high = SURROGATES
    for first, last in pairs:
        if first < low:
            yield first, min(last, low - 1)
        if last > high:
            yield max(first, high + 1), last


def others(pairs: Ranges) -> Ranges:
    """All characters that are not in some ranges."""
    found, after = [], 0
    for first, last in pairs:
        if first > after:
            found.append((after, first - 1))
        after = last + 1
    return ranges([*found, (after, LAST)] if after <= LAST else found)


def one_of(characters: str) -> Characters:
    """One of these characters."""
    return Characters(ranges((ord(c), ord(c)) for c in characters))


def none_of(characters: str) -> Characters:
    """Any character but these."""
    return Characters(others(ranges((ord(c), ord(c)) for c in characters)))


ANY = Characters(ranges([(0, LAST)]))
TEXT = Repeated(ANY)  # any text at all


def utf8(pairs: Ranges) -> Iterator[tuple[tuple[int, int], ...]]:
    """UTF-8 of ranges of characters, as sequences of ranges of bytes; each character is in exactly one of them."""
    for first, last in pairs:
        for low, high in _LENGTHS:
            if first <= high and last >= low:
                yield from _sequences(max(first, low), min(last, high))


def _sequences(first: int, last: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Of characters with equally many bytes: cut until all bytes behind the first different one are free."""
    one, other = chr(first).encode(), chr(last).encode()
    for i in range(len(one) - 1):
        size = 64 ** (len(one) - 1 - i)  # characters that share the first i + 1 bytes
        if one[: i + 1] != other[: i + 1]:
            if first % size:
                cut = first - first % size + size
                yield from _sequences(first, cut - 1)
                yield from _sequences(cut, last)
                return
            if (last + 1) % size:
                cut = last - last % size
                yield from _sequences(first, cut - 1)
                yield from _sequences(cut, last)
                return
    yield tuple(zip(one, other, strict=True))
