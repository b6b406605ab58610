"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence


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
