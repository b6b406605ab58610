"""Finished training runs beside each other: their curves in one plot, and where they ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nano_llada.evaluation.page_parts import Cell, Part, Plot, Row, Section, Table
from nano_llada.evaluation.page_picture import canvas, label, legend, picture, style

Points = tuple[list[float], list[float]]
NOTE = (
    "The loss of a diffusion model is a bound, and depends on its block size; compare losses only between runs of the "
    "same kind, with the same tokenizer and the same validation data. Time is that of optimizer steps alone."
)


@dataclass(frozen=True)
class TrainingRun:
    """What a run wrote down while it trained."""

    name: str
    kind: str  # such as "pretrain diffusion": whose losses are of one sort
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

    def curve(self, name: str) -> Points:
        """Tokens seen, and the values of a metric there."""
        known = [(line["step"], line["tokens"]) for line in self.metrics if {"step", "tokens"} <= line.keys()]
        found = [(line["step"], line[name]) for line in self.metrics if {"step", name} <= line.keys()]
        if not known or not found:
            return [], []
        steps, tokens = zip(*[(0.0, 0.0), *sorted(known)], strict=True)
        return [float(np.interp(step, steps, tokens)) for step, _ in found], [value for _, value in found]


def training_section(runs: Sequence[TrainingRun]) -> Section:
    """Table and plots."""
    parts: list[Part] = [_table(runs)]
    parts += [plot for name in ("loss", "reward") if (plot := _plot(runs, name)) is not None]
    return Section("training", "Training", (NOTE,), (), tuple(parts))


def training_summary(runs: Sequence[TrainingRun]) -> tuple[str, ...]:
    """Of each kind, the run that ended lowest."""
    told = []
    for kind in dict.fromkeys(run.kind for run in runs):
        ends = [(run.curve("validation_loss")[1], run.name) for run in runs if run.kind == kind]
        ranked = sorted((values[-1], name) for values, name in ends if values)
        if len(ranked) > 1:
            rest = ", ".join(f"{name} {value:.4f}" for value, name in ranked[1:])
            best, name = ranked[0]
            told.append(f"Training, {kind}: {name} ends with the lowest validation loss, {best:.4f} (others: {rest}).")
    return tuple(told)


def _table(runs: Sequence[TrainingRun]) -> Table:
    head = ("run", "kind", "final validation loss", "lowest", "final training loss", "tokens", "parameters", "time")
    lowest: dict[str, list[float]] = {}
    for run in runs:
        if values := run.curve("validation_loss")[1]:
            lowest.setdefault(run.kind, []).append(values[-1])
    rows: list[Row] = []
    for run in runs:
        valid, train = run.curve("validation_loss")[1], run.curve("loss")[1]
        best = bool(valid) and len(lowest[run.kind]) > 1 and valid[-1] == min(lowest[run.kind])
        final = Cell(f"{valid[-1]:.4f}", best=best) if valid else "-"
        told = (f"{min(valid):.4f}" if valid else "-", f"{train[-1]:.4f}" if train else "-")
        sizes = tuple("-" if number is None else f"{number:,.0f}" for number in (run.tokens, run.parameters))
        rows.append((run.name, run.kind, final, *told, *sizes, _time(run.seconds)))
    return Table("Runs (★ lowest final validation loss of its kind)", head, (("", tuple(rows)),), labels=2)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _plot(runs: Sequence[TrainingRun], name: str) -> Plot | None:
    """Training faint, validation with marks; of runs that are rewarded, the reward instead."""
    rewarded = {run.name for run in runs if run.curve("reward")[0]}
    drawn = [run for run in runs if run.curve(name)[0] and (run.name in rewarded) == (name == "reward")]
    if not drawn:
        return None
    figure, (axes,) = canvas(height=4.4)
    for run in drawn:
        looks = style([(other.name, "") for other in runs], (run.name, ""))
        valid = run.curve("validation_loss") if name == "loss" else ([], [])
        shown = label(f"{run.name} ({run.kind})")
        axes.plot(*run.curve(name), color=looks["color"], alpha=0.45, linewidth=1, label=None if valid[0] else shown)
        if valid[0]:
            axes.plot(*valid, markersize=4, label=shown, **looks)
    axes.set(xlabel="tokens", ylabel="loss (nats per token)" if name == "loss" else "mean reward")
    if name == "loss":
        axes.set_yscale("log")  # the first steps would flatten all the others
    legend(figure, [axes])
    told = "; ".join(f"{run.name} ends at {run.curve(name)[1][-1]:.4g}" for run in drawn)
    caption = {"loss": "Loss against tokens: faint while training, marked on validation data.", "reward": "Reward."}
    return picture(figure, f"training-{name}", caption[name], f"Training {name} against tokens. {told}.")
