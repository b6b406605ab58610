"""Draws the pictures of the documentation from the library's own objects: `python docs/pictures.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from nano_llada.config.objectives import BlockSizeSchedule
from nano_llada.core.pattern import AttentionPattern
from nano_llada.diffusion.noise import make_noise
from nano_llada.training.schedule import learning_rate_scale

CASES = (
    ("block_causal: how a block model writes", "block_causal", (8,), 4),
    ("two_stream: how it is trained, one document", "two_stream", (8,), 4),
    ("two_stream: two packed documents", "two_stream", (5, 3), 2),
)


def masks(path: Path) -> None:
    """Who sees whom, for three rows of eight tokens."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    for axes, (title, kind, lengths, size) in zip(figure.subplots(1, 3), CASES, strict=True):
        docs = torch.tensor([[doc for doc, length in enumerate(lengths) for _ in range(length)]])
        positions = torch.tensor([[place for length in lengths for place in range(length)]])
        pattern = AttentionPattern.blocks(kind, docs, positions, size)  # type: ignore[arg-type]
        width = docs.shape[1] * (2 if kind == "two_stream" else 1)
        dense = pattern.dense(width, width, torch.device("cpu"))
        axes.imshow(dense[0, 0].int(), cmap=ListedColormap(["#f2f2f2", "#2b6cb0"]))  # type: ignore[index]
        axes.set(title=f"{title}\nblocks of {size}", xlabel="key", ylabel="query", xticks=[], yticks=[])
        if kind == "two_stream":
            half = docs.shape[1] - 0.5
            axes.axhline(half, color="#c53030", linewidth=1)
            axes.axvline(half, color="#c53030", linewidth=1)
            axes.set(xlabel="key: noisy | clean", ylabel="query: clean | noisy")
    figure.savefig(path, dpi=110)


def curriculum(path: Path) -> None:
    """Block size and learning rate over a run."""
    schedule = BlockSizeSchedule(32, block_warmup=(1, 4, 32, 64, 128), block_decay=(128, 64, 32))
    steps = range(1000)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.step(steps, [schedule.at(step / 1000) or 256 for step in steps], where="post", label="block size")
    axes.set(xlabel="step of 1000", ylabel="block size, rows of 256", yscale="log")
    axes.set_yticks([1, 4, 32, 64, 128, 256], ["1", "4", "32", "64", "128", "row"])
    axes.grid(alpha=0.3)
    rate = [learning_rate_scale("wsd", s, total=1000, warmup=50, decay_share=0.3, floor=0.05) for s in steps]
    right = axes.twinx()
    right.plot(steps, rate, color="0.6", label="learning rate")
    right.set_ylabel("learning rate (share of its peak)", color="0.4")
    figure.savefig(path, dpi=110)


def noise(path: Path) -> None:
    """Mask rate and weight of both schedules."""
    t = torch.linspace(0.02, 1, 200)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in ("linear", "cosine"):
        left.plot(t, make_noise(name).rate(t), label=name)  # type: ignore[arg-type]
        right.plot(t, make_noise(name).weight(t), label=name)  # type: ignore[arg-type]
    left.set(xlabel="t", ylabel="share of tokens hidden", title="1 - alpha(t)")
    right.set(xlabel="t", ylabel="weight of a hidden token", title="-alpha'(t) / (1 - alpha(t))", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


def main() -> int:
    """Draw all of them."""
    folder = Path(__file__).parent / "images"
    folder.mkdir(exist_ok=True)
    for draw in (masks, curriculum, noise):
        draw(folder / f"{draw.__name__}.png")
        print(folder.name, draw.__name__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
