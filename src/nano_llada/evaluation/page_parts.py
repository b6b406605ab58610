"""What an evaluation report is made of, before it becomes Markdown or HTML: sections of tables, plots and traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A figure in a table. `span` is where low, value and high lie between the least and the greatest of their kind."""

    text: str
    notes: tuple[str, ...] = ()  # interval, p-value: in small print under it
    best: bool = False
    span: tuple[float, float, float] | None = None

    @property
    def plain(self) -> str:
        """As text alone."""
        return " ".join(part for part in (self.text, *self.notes, "★" if self.best else "") if part)


Row = tuple[Cell | str, ...]


@dataclass(frozen=True)
class Table:
    """Rows in groups that each have a heading; the first `labels` columns say what a row is about."""

    caption: str
    head: tuple[str, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    labels: int = 1
    folded: bool = False  # shown when asked for, where that can be

    @property
    def rows(self) -> list[list[str]]:
        """As text: a head row and all others, with the groups' headings as a first column where there are any."""
        named = any(name for name, _ in self.groups)
        rows = [["", *self.head] if named else list(self.head)]
        for name, group in self.groups:
            for row in group:
                cells = [cell if isinstance(cell, str) else cell.plain for cell in row]
                rows.append([name, *cells] if named else cells)
        return rows

    @property
    def markdown(self) -> str:
        """Caption and rows."""
        return f"**{self.caption}**\n\n{text_table(self.rows)}"


@dataclass(frozen=True)
class Plot:
    """A picture: SVG to stand inside a page, PNG for anywhere else."""

    name: str
    caption: str
    alt: str  # what it shows, for those who do not see it
    svg: str
    png: bytes

    @property
    def markdown(self) -> str:
        """By the name of the PNG file."""
        alt = self.alt.translate({ord(mark): f"\\{mark}" for mark in "[]"})
        return f"![{alt}]({self.name}.png)\n\n*{self.caption}*\n"


@dataclass(frozen=True)
class Trace:
    """The text that a model wrote to a prompt, token by token, with the forward pass (from 0) that wrote each."""

    who: str
    prompt: str
    right: bool | None  # None: nobody judged it
    pieces: tuple[str, ...]
    passes: tuple[int, ...]

    @property
    def markdown(self) -> str:
        """Passes as numbers from 1."""
        order = ", ".join(str(number + 1) for number in self.passes)
        text = "".join(self.pieces).replace("\n", " ⏎ ").replace("`", "'")
        return f"- {self.who}: `{text}` in passes {order}\n"


Part = Table | Plot | Trace


@dataclass(frozen=True)
class Section:
    """A part of a report with a line in its table of contents."""

    key: str
    title: str
    words: tuple[str, ...] = ()  # paragraphs
    points: tuple[str, ...] = ()  # a list
    parts: tuple[Part, ...] = ()


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ⏎ ") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """The whole report, with pictures by name."""
    blocks = [f"# {title}\n"]
    for section in sections:
        blocks += [f"## {section.title}\n", *(f"{text}\n" for text in section.words)]
        if section.points:
            blocks.append("".join(f"- {text}\n" for text in section.points))
        blocks += [part.markdown for part in section.parts]
    return "\n".join(blocks)
