"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nano_llada.core.text import printable

if TYPE_CHECKING:
    from nano_llada.evaluation.record import Record
    from nano_llada.evaluation.results import Results

MARKS = {"right": "✓ ", "wrong": "✗ ", "": ""}
HEADLINES = (
    ("generation", "exact_match"),
    ("generation", "tpf"),
    ("speed", "tokens_per_second"),
    ("speed", "latency_p50"),
)


def print_table(rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Print headings and the rows under them. A cell that is too wide is wrapped, never cut, Chinese text too.

    No text is read as markup, and control characters are shown instead of sent to the terminal.
    """
    table = Table(title=title and Text(printable(title)), title_justify="left", title_style="bold")
    for cell in rows[0]:
        table.add_column(Text(printable(cell)), overflow="fold")
    for row in rows[1:]:
        table.add_row(*[Text(printable(cell)) for cell in row])
    Console().print(table)


def print_comparison(records: Sequence[Record], results: Results) -> None:
    """Print what models answered, then a few figures of each, then how often each was right at which task."""
    # torch and matplotlib behind these would slow --help down
    from nano_llada.report.tables import headline_rows, task_rows
    from nano_llada.report.view import answers_of, references, verdict
    from nano_llada.report.words import name_of

    for first, *others in answers_of(records):
        rows = [["model", "answer"], *(["reference", text] for text in references(first))]
        for record in (first, *others):
            answer = MARKS[verdict(record)] + str(record.detail["answer"])
            rows.append([name_of((record.model, record.decoder)), answer])
        print_table(rows, title=f"{first.task}: {first.detail['prompt']}")
    print_table(headline_rows(results, [one for one in HEADLINES if one[0] in results.metrics]))
    if any("right" in record.values for record in records):
        print_table(task_rows(results, "generation", results.metrics["generation"][0]))
