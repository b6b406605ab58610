"""What a report consists of, as plain data without markup: sections of tables, plots, traces and answers."""

from __future__ import annotations

from dataclasses import dataclass

from nano_llada.evaluation.record import Record


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
class Table:
    """Rows under column headings; the first `labels` columns say what a row is about."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    labels: int = 1
    folded: bool = False  # to be shown on request, where the medium can do that


@dataclass(frozen=True)
class Plot:
    """A picture: SVG for inside a page, PNG for anywhere else."""

    name: str
    caption: str
    alt: str  # the content in words
    svg: str
    png: bytes


@dataclass(frozen=True)
class Section:
    """A part of a report with an entry in its table of contents."""

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    points: tuple[tuple[str, str], ...] = ()  # a list: what each is about, and the text
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    traces: tuple[Record, ...] = ()  # answers to be shown pass by pass
    answers: tuple[tuple[Record, ...], ...] = ()  # all models' answers to one question each


def row(*cells: Cell | str) -> Row:
    """Cells of which some are text alone."""
    return tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)
