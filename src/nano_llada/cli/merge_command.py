"""`nano-llada merge`: several checkpoints become one, the mean of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nano_llada.cli.options import parse
from nano_llada.config.checks import Count, check_numbers
from nano_llada.core.errors import UserError


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoints: tuple[Path, ...]
    """Checkpoint folders of one model (of a run folder its best checkpoint); with --top-k, one run folder."""
    out: Path
    """Folder to write; it must not exist yet."""
    top_k: Count | None = None
    """Merge the K checkpoints of lowest validation loss that the run kept."""

    def __post_init__(self) -> None:
        check_numbers(self)


def read(arguments: Sequence[str]) -> Options:
    """The options of a command line. Raises UserError for a number of folders that does not fit."""
    options = parse(
        Options,
        arguments,
        command="merge",
        about="Average the weights of several checkpoints, or of the K best of a run.",
        leading="checkpoints",
        old={"output": "out"},
    )
    given = options.checkpoints
    if options.top_k is not None and len(given) != 1:
        raise UserError(f"--top-k chooses among the checkpoints of one run, but {len(given)} folders are given")
    if options.top_k is None and len(given) == 1:
        raise UserError(f"{given[0]} is only one checkpoint: give several, or --top-k K for a run")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = read(arguments)
    given = options.checkpoints
    from nano_llada.checkpoint.files import read_description
    from nano_llada.checkpoint.merge import best_checkpoints, merge_checkpoints

    folders = given if options.top_k is None else best_checkpoints(given[0], options.top_k)
    merged = merge_checkpoints(folders, options.out)
    for part in read_description(merged).card.merged_from:
        loss = "not validated" if part.validation_loss is None else f"validation loss {part.validation_loss:.4f}"
        print(f"  {part.name}: {loss}")
    print(f"the mean of these {len(folders)} is in {merged}")
    return 0
