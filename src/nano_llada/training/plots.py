"""The loss curve of a run, as a picture where people look for one."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nano_llada.core.files import write_bytes


def plot_losses(metrics: Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """Training and validation loss (nats) over steps, the learning rate behind them, and block sizes, as PNG.

    Raises:
        OSError: if the file cannot be written; one that was there before is unchanged.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    name = "reward" if any("reward" in m for m in metrics) else "loss"  # what is drawn is rewarded, not likely
    train = [(m["step"], m[name]) for m in metrics if name in m]
    valid = [(m["step"], m["validation_loss"]) for m in metrics if "validation_loss" in m]
    rates = [(m["step"], m["learning_rate"]) for m in metrics if "learning_rate" in m]
    if train:
        axes.plot(*zip(*train, strict=True), color="tab:blue", alpha=0.5, linewidth=1, label="training")
    if valid:
        axes.plot(*zip(*valid, strict=True), color="tab:red", marker="o", markersize=3, label="validation")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)" if name == "loss" else "mean reward", title=title)
    if name == "loss":
        axes.set_yscale("log")  # the first steps would flatten all the others
    axes.grid(alpha=0.3, which="both")
    if train or valid:
        axes.legend(loc="upper right")
    if rates:
        right = axes.twinx()
        right.plot(*zip(*rates, strict=True), color="0.7", linewidth=1)
        right.set_ylabel("learning rate", color="0.5")
        right.tick_params(colors="0.5")
    if sizes := [(m["step"], m["block_size"]) for m in metrics if "block_size" in m]:
        _mark_blocks(axes, sizes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a run may have a Chinese name
        picture = io.BytesIO()
        figure.savefig(picture, dpi=110, format="png")
    write_bytes(path, picture.getvalue())


def _mark_blocks(axes: Any, sizes: Sequence[tuple[float, float]]) -> None:
    """A dotted line wherever the block size changes, and the size that begins there."""
    last = None
    for step, size in sizes:
        if size != last:
            axes.axvline(step, color="tab:green", linestyle=":", linewidth=1)
            axes.text(step, 0.02, f" {size:.0f}", color="tab:green", fontsize=8, transform=axes.get_xaxis_transform())
        last = size
