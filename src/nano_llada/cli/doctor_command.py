"""`nano-llada doctor`: what this machine will use, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nano_llada.cli.options import parse
from nano_llada.config.checks import Threads, check_numbers


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """CPU threads; default: PyTorch's choice."""

    def __post_init__(self) -> None:
        check_numbers(self)


def main(arguments: Sequence[str]) -> int:
    """Print the report; gives the exit status."""
    options = parse(Options, arguments, command="doctor", about="What this machine will use for a run, and why.")
    from nano_llada.core.doctor import findings

    rows = findings(options.device, options.threads)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return 0
