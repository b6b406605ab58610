"""outcome.json of a run folder: read and written."""

from __future__ import annotations

from pathlib import Path

from nano_llada.checkpoint.checksums import read_json
from nano_llada.config.outcome import Outcome
from nano_llada.config.record import from_plain, to_plain
from nano_llada.core.errors import UserError
from nano_llada.core.files import write_json, writing

FILE = "outcome.json"


def write_outcome(run: Path, outcome: Outcome) -> None:
    """Record how a run stands. Raises UserError if its folder cannot be written."""
    with writing(f"{run / FILE}", "its checkpoints are untouched: continue with `nano-llada resume {run}`"):
        write_json(run / FILE, to_plain(outcome))


def read_outcome(run: Path) -> Outcome | None:
    """How a run stands; None for a folder without outcome.json, such as one that version 0.1.0 wrote.

    Raises:
        UserError: if the file is broken.
    """
    path = run / FILE
    if not path.is_file():
        return None
    try:
        outcome = from_plain(Outcome, read_json(path), where=str(path))
    except (UserError, ValueError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{error}; delete {path}: --resume writes it again") from error
    if not 0 <= outcome.step <= outcome.total_steps:
        raise UserError(
            f"{path}: step {outcome.step} is not between 0 and total_steps {outcome.total_steps}; "
            f"delete {path}: --resume writes it again"
        )
    return outcome
