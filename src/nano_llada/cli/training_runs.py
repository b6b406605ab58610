"""Run folders as what a report shows of training: the lines of their metrics, read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from nano_llada.core.errors import UserError

if TYPE_CHECKING:
    from nano_llada.evaluation.page_training import TrainingRun

METRICS = "metrics.jsonl"


def training_run(path: Path, name: str) -> TrainingRun | None:
    """A run folder under a name of its own; None for a folder that is none.

    Raises:
        UserError: if its config or metrics cannot be read.
    """
    if not (path / METRICS).is_file():
        return None
    from nano_llada.config.record import from_plain, read_config
    from nano_llada.config.run import RunConfig
    from nano_llada.evaluation.page_training import TrainingRun

    place = path / "config.json"
    try:
        config = from_plain(RunConfig, read_config(place), where=str(place))
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error
    own = config.objective.saved_name()
    kind = f"{config.stage} {config.track}" + (f", {own}" if ":" in own else "")
    return TrainingRun(name, kind, _metrics(path / METRICS), _parameters(path))


def _metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics; a last one that is being written at this moment is left out."""
    lines = path.read_bytes().splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines, 1):
        try:
            row = {str(name): float(value) for name, value in json.loads(line).items()}
            found.append({"step": row["step"], **row})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise UserError(f"{path}:{number}: no line of a run's metrics ({type(error).__name__}: {error})") from error
    if not found:
        raise UserError(f"{path} has no line yet: the run has made too few steps")
    return found


def _parameters(run: Path) -> int | None:
    """Weights in the last checkpoint of a run, counted without loading them."""
    from math import prod

    from safetensors import SafetensorError, safe_open

    from nano_llada.checkpoint.files import WEIGHTS, step_folders

    for folder in reversed(step_folders(run)):
        try:
            with safe_open(folder / WEIGHTS, framework="np") as file:
                return int(sum(prod(file.get_slice(name).get_shape()) for name in file.keys()))  # noqa: SIM118
        except (OSError, SafetensorError):
            continue  # removed by hand, or cut off
    return None
