"""A training run as a report shows it: the lines of its metrics, and the size of its model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from nano_llada.checkpoint.files import ADAPTER, WEIGHTS, read_description, step_folders
from nano_llada.config.record import read_config, read_record
from nano_llada.config.run import STAGES, RunConfig
from nano_llada.core.errors import UserError
from nano_llada.core.files import regular
from nano_llada.core.text import printable
from nano_llada.training.log import METRICS

SHARE = "share_"  # begins the metrics of a mixture, with a source behind it
Points = tuple[list[float], list[float]]


@dataclass(frozen=True)
class TrainingRun:
    """The metrics that a run wrote while it trained."""

    name: str
    kind: str  # such as "pretrain diffusion": losses are comparable within a kind
    metrics: Sequence[Mapping[str, float]]  # the lines of metrics.jsonl
    parameters: int | None = None  # None: no checkpoint is left

    @property
    def tokens(self) -> float | None:
        """Tokens trained on."""
        return max((line["tokens"] for line in self.metrics if "tokens" in line), default=None)

    @property
    def seconds(self) -> float | None:
        """Time of all steps, from the tokens of each window and its rate."""
        lines = [line for line in self.metrics if {"tokens", "tokens_per_second"} <= line.keys()]
        ends = [0.0, *(line["tokens"] for line in lines)]
        spent = [(b - a) / line["tokens_per_second"] for a, b, line in zip(ends, ends[1:], lines, strict=False)]
        return sum(spent) if spent else None

    @property
    def sources(self) -> dict[str, float]:
        """By source of a mixture, its share of the tokens trained on; {} where none are mixed."""
        lines = [line for line in self.metrics if any(name.startswith(SHARE) for name in line)]
        ends = [0.0, *(line["tokens"] for line in lines)]
        found: dict[str, float] = {}
        for before, line in zip(ends, lines, strict=False):
            for name in line:
                if name.startswith(SHARE):
                    source = name.removeprefix(SHARE)
                    found[source] = found.get(source, 0.0) + line[name] * (line["tokens"] - before)
        return {name: tokens / ends[-1] for name, tokens in found.items()}

    def curve(self, name: str) -> Points:
        """Tokens seen, and the values of a metric there."""
        known = [(line["step"], line["tokens"]) for line in self.metrics if {"step", "tokens"} <= line.keys()]
        found = [(line["step"], line[name]) for line in self.metrics if {"step", name} <= line.keys()]
        if not known or not found:
            return [], []
        steps, tokens = zip(*[(0.0, 0.0), *sorted(known)], strict=True)
        return [float(np.interp(step, steps, tokens)) for step, _ in found], [value for _, value in found]

    def final(self, name: str) -> float | None:
        """The last value of a metric."""
        return next(iter(self.curve(name)[1][-1:]), None)


def read_run(path: Path, name: str) -> TrainingRun | None:
    """A run folder under a name of its own; None for a folder that is not one.

    Raises:
        UserError: if its config or metrics cannot be read.
    """
    if not (path / METRICS).is_file():
        return None
    return TrainingRun(name, _kind(path), _metrics(path / METRICS), _parameters(path))


def _kind(path: Path) -> str:
    """Stage, track, and the name of an objective of the user's own. The config is read as plain values: a report never
    runs the code that a run folder names."""
    where = path / "config.json"
    plain = read_config(where)
    data, objective = plain.get("data"), plain.get("objective")
    own = str(objective.get("type", "")) if isinstance(objective, dict) else ""
    if ":" not in own:
        config = read_record(RunConfig, where)
        return config.kind
    stage = STAGES.get(str(data.get("format", "text")) if isinstance(data, dict) else "text", "pretrain")
    saved = step_folders(path)
    track = f" {read_description(saved[-1]).card.track}" if saved else ""
    return f"{stage}{track}, {printable(own)}"


def _metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics, without a last one that is still being written."""
    lines = path.read_bytes().splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines, 1):
        try:
            row = {str(name): float(value) for name, value in json.loads(line).items()}
            found.append({"step": row["step"], **row})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise UserError(f"{path}:{number}: not a line of metrics ({type(error).__name__}: {error})") from error
    if not found:
        raise UserError(f"{path} has no line yet: the run has made too few steps")
    return found


def _parameters(run: Path) -> int | None:
    """Weights in the last checkpoint of a run, counted without loading them."""
    for folder in reversed(step_folders(run)):
        try:
            if (folder / ADAPTER).is_file():  # the weights are elsewhere
                return read_description(folder).config.parameters
            with safe_open(regular(folder / WEIGHTS), framework="np") as file:
                return int(sum(prod(file.get_slice(name).get_shape()) for name in file.keys()))  # noqa: SIM118
        except (OSError, SafetensorError, UserError):
            continue  # removed by hand, or cut off
    return None
