"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nano_llada.evaluation.record import Record


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print a head row and the rows under it, as wide as they need."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table()
    for cell in rows[0]:
        table.add_column(Text(cell))
    for row in rows[1:]:
        table.add_row(*[Text(cell) for cell in row])
    console.print(table)


def print_comparison(records: Sequence[Record]) -> None:
    """Print the figures of models side by side, how often each was right at what, and what they wrote."""
    from nano_llada.evaluation.page_tables import WRITTEN, figure_rows, task_rows, written_table
    from nano_llada.evaluation.suites import metrics_of

    for suite in dict.fromkeys(record.suite for record in records):
        print_table(figure_rows(records, suite, metrics_of(suite)))
    if any("right" in record.values for record in records):
        print_table(task_rows(records, WRITTEN, metrics_of(WRITTEN)[0]))
    if (written := written_table(records)) is not None:
        print_table(written.rows)
