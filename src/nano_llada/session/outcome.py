"""outcome.json of a run folder: read and written."""

from __future__ import annotations

from pathlib import Path

from nano_llada.config.outcome import Outcome
from nano_llada.config.record import from_plain, read_config, to_plain
from nano_llada.core.errors import UserError
from nano_llada.core.files import write_json

FILE = "outcome.json"


def write_outcome(run: Path, outcome: Outcome) -> None:
    """Record how a run stands. Raises UserError if its folder cannot be written."""
    try:
        write_json(run / FILE, to_plain(outcome))
    except OSError as error:
        raise UserError(f"cannot write {run / FILE}: {error.strerror}") from error


def read_outcome(run: Path) -> Outcome | None:
    """How a run stands; None for a folder without outcome.json, such as one that version 0.1.0 wrote.

    Raises:
        UserError: if the file is broken.
    """
    path = run / FILE
    return from_plain(Outcome, read_config(path), where=str(path)) if path.is_file() else None
