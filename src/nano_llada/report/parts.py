"""What a report consists of, as plain data: every text as it was, no markup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


class Part:
    """Something in a section; `kind` names the macro that renders it."""

    kind: ClassVar[str]

    @property
    def files(self) -> Mapping[str, bytes]:
        """Files that belong beside the report, by name."""
        return {}


@dataclass(frozen=True)
class Cell:
    """A cell of a table. `span`: positions of low, value and high between the extremes of the figures beside it."""

    text: str
    notes: tuple[str, ...] = ()  # interval, p-value: in small print
    best: bool = False
    span: tuple[float, float, float] | None = None

    @property
    def plain(self) -> str:
        """The cell as text alone."""
        return " ".join(part for part in (self.text, *self.notes, "★" if self.best else "") if part)


Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Table(Part):
    """Rows under column headings; the first `labels` columns say what a row is about."""

    kind = "table"

    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    labels: int = 1
    folded: bool = False  # to be shown on request, where the medium can do that

    @property
    def plain(self) -> list[list[str]]:
        """The table as text: the headings, then all rows."""
        return [list(self.head), *([cell.plain for cell in one] for one in self.rows)]


@dataclass(frozen=True)
class Plot(Part):
    """A picture: SVG for inside a page, PNG for anywhere else."""

    kind = "plot"

    name: str
    caption: str
    alt: str  # the content in words
    svg: str
    png: bytes

    @property
    def files(self) -> Mapping[str, bytes]:
        return {f"{self.name}.png": self.png}


@dataclass(frozen=True)
class Trace(Part):
    """The answer to a prompt, token by token, each with the forward pass (from 0) that wrote it."""

    kind = "trace"

    model: str
    prompt: str
    verdict: str  # "right", "wrong", or "" without a judge
    tokens: tuple[tuple[str, int], ...]

    @property
    def last(self) -> int:
        """The number of the last pass."""
        return max(number for _, number in self.tokens)


@dataclass(frozen=True)
class Answer:
    """What one model wrote."""

    model: str
    text: str
    verdict: str  # as in `Trace`


@dataclass(frozen=True)
class Answers(Part):
    """What the models wrote to one prompt."""

    kind = "answers"

    task: str
    prompt: str
    references: tuple[str, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Section:
    """A part of a report with an entry in its table of contents."""

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    points: tuple[tuple[str, str], ...] = ()  # a list: what each is about ("" for nothing), and the text
    parts: tuple[Part, ...] = ()

    @property
    def kinds(self) -> set[str]:
        """The kinds of its parts."""
        return {part.kind for part in self.parts}


def row(*cells: Cell | str) -> Row:
    """Cells of which some are text alone."""
    return tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)
