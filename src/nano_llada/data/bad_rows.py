"""Records as they stand in their files: where each is, which cannot be used, and which fields nothing reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from nano_llada.core.errors import UserError
from nano_llada.core.text import printable


@dataclass(frozen=True)
class Where:
    """A place to send a person to; `line` counts from 1 and is the row's number in parquet and hf sources."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{printable(self.file)}:{self.line}"


@dataclass(frozen=True)
class Row:
    """One record as it stood in its file."""

    where: Where
    value: dict[str, object]


@dataclass(frozen=True)
class BadRow:
    """A record that could not be read, and why; reading continues behind it."""

    where: Where
    reason: str


class BadRows:
    """What to do about rows that cannot be used: stop at the first one, or skip them and keep count."""

    def __init__(self, policy: Literal["stop", "skip"]) -> None:
        self.policy = policy
        self.count = 0
        self.kinds: dict[str, tuple[int, list[Where], str]] = {}  # kind -> rows, first places, first reason

    def report(self, where: Where, reason: str) -> None:
        """Count a bad row. Raises UserError under "stop"."""
        reason = printable(reason)
        if self.policy == "stop":
            raise UserError(f"{where}: {reason}\nWith `--on-bad-row skip` such rows are skipped and counted.")
        self.count += 1
        # Reasons that differ in a number only are one kind, or a million rows would keep a million reasons.
        kind = re.sub(r"0x[0-9a-f]+|\\u[0-9a-f]{4}|\d+", "#", reason)
        seen, places, first = self.kinds.get(kind, (0, [], reason))
        self.kinds[kind] = (seen + 1, [*places, where][:5], first)

    def add(self, other: BadRows) -> None:
        """Count what was skipped elsewhere, in rows that follow."""
        self.count += other.count
        for kind, (seen, places, first) in other.kinds.items():
            before, earlier, reason = self.kinds.get(kind, (0, [], first))
            self.kinds[kind] = (before + seen, [*earlier, *places][:5], reason)

    def summary(self) -> str:
        """The total, then a line per kind of reason, as the first of its rows gives it; '' without bad rows."""
        lines = [f"bad rows skipped: {self.count}"] if self.count else []
        for seen, places, first in sorted(self.kinds.values(), key=lambda item: -item[0]):
            more = ", ..." if seen > len(places) else ""
            lines.append(f"  {seen} x {first} ({', '.join(map(str, places))}{more})")
        return "\n".join(lines)


class Unread:
    """Counts, over a set of files, the fields of rows that nothing reads."""

    MOST = 20  # names shown; files whose rows have names of their own would print a page

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, names: Iterable[str]) -> None:
        """The unread fields of one row."""
        for name in names:
            if name in self.counts or len(self.counts) < 10_000:
                self.counts[name] = self.counts.get(name, 0) + 1

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """The unread fields of many rows."""
        for name, count in counts.items():
            if name in self.counts or len(self.counts) < 10_000:
                self.counts[name] = self.counts.get(name, 0) + count

    def summary(self) -> str:
        """For example "fields not read: notes (12 rows), url (3 rows)"; '' if everything was read."""
        if not self.counts:
            return ""
        often = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{printable(name)[:60]} ({seen:,} row{'s' * (seen != 1)})" for name, seen in often[: self.MOST]]
        more = f", and {len(often) - self.MOST:,} more" if len(often) > self.MOST else ""
        return f"fields not read: {', '.join(named)}{more}"


def parse_row(where: Where, data: bytes) -> Row | BadRow:
    """The row in the bytes of one JSON object, or what is wrong with them."""
    try:
        value = json.loads(data.decode())
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        return BadRow(where, bad_byte(error))
    except UnicodeEncodeError as error:
        return BadRow(where, f"the escape \\u{ord(error.object[error.start]):x} is half a character")
    except json.JSONDecodeError as error:
        return BadRow(where, f"broken JSON: {error.msg} (column {error.colno})")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or thousands of brackets
        return BadRow(where, f"JSON that cannot be read: {error}")
    if not isinstance(value, dict):
        return BadRow(where, f"the row is {kind_of(value)}, expected an object")
    return Row(where, value)


def bad_byte(error: UnicodeDecodeError) -> str:
    """The reason of a `BadRow` that is not UTF-8; bytes count from 1."""
    return f"byte {error.start + 1} (0x{error.object[error.start]:02x}) is not valid UTF-8"


def kind_of(value: object) -> str:
    """What JSON calls a value, in words: "a number", "a list", "null"."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number"}
    names |= {str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")
