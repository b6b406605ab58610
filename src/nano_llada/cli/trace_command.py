"""`nano-llada trace FILE`: how an answer was written, pass by pass, from a saved trace. Needs no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from nano_llada.cli.options import parse
from nano_llada.config.checks import CountOrZero, Range, check_numbers
from nano_llada.core.files import write_text
from nano_llada.serve.replay import write_replay
from nano_llada.serve.trace import read_trace


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    file: Path
    """A trace that the studio saved (JSON)."""
    at: CountOrZero | None = None
    """Show the text after this pass only."""
    speed: Annotated[float, Range(0.01, 1000)] = 4.0
    """Passes a second, on a terminal; to a file or a pipe all are printed at once."""
    html: Path | None = None
    """Write a replay to this file instead: one HTML page that needs no server."""

    def __post_init__(self) -> None:
        check_numbers(self)


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="trace",
        about="Show how an answer was written, pass by pass, from a saved trace.",
        leading="file",
    )
    trace = read_trace(options.file)
    if options.html is not None:
        write_text(options.html, write_replay(json.loads(options.file.read_text(encoding="utf-8-sig"))))
        print(f"the replay is {options.html}")
        return 0
    from rich.console import Console

    from nano_llada.cli.trace_view import show_trace  # rich would slow --help down

    show_trace(trace, Console(highlight=False), options.speed, options.at)
    return 0
