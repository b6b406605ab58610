"""Draws the pictures of the documentation from the library's own objects: `python docs/pictures.py`."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from PIL import Image
from torch import Tensor

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


HIDDEN, TEXT, NEW, HELD, UNOPENED = "#8a94a3", "#dbe7f5", "#9fd8b0", "#2b6cb0", "#f4f5f7"
SENTENCE = ("the", "cat", "sleeps", "on", "the", "warm", "stone", "wall")
CERTAINTY = (0.93, 0.71, 0.62, 0.88, 0.96, 0.40, 0.55, 0.79)  # an example: which token the model is surest of


def process(path: Path) -> None:
    """The forward process hides more and more of a sentence; the reverse process writes it, most confident first."""
    noise = torch.rand(len(SENTENCE), generator=torch.Generator().manual_seed(32))
    order = sorted(range(len(SENTENCE)), key=lambda place: -CERTAINTY[place])
    figure = Figure(figsize=(11.5, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    for row, t in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        _tokens(left, row, f"t = {t:g}", [HIDDEN if bool(noise[place] < t) else TEXT for place in range(len(SENTENCE))])
    for row in range(5):
        written, before = set(order[: 2 * row]), set(order[: 2 * (row - 1)]) if row else set()
        colours = [NEW if i in written - before else TEXT if i in written else HIDDEN for i in range(len(SENTENCE))]
        _tokens(right, row, f"pass {row}" if row else "start", colours)
    left.set_title("forward process: mask each token with probability t  (training)", fontsize=10)
    right.set_title("reverse process: commit the most confident tokens  (sampling)", fontsize=10)
    for axes in (left, right):
        axes.set(xlim=(-1.25, len(SENTENCE)), ylim=(4.6, -0.6))
        axes.axis("off")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """A PNG of few colours, so that it is small, on white, so that it is readable on a dark page, too."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    Image.open(buffer).convert("RGB").quantize(48, dither=Image.Dither.NONE).save(path, optimize=True)


def _tokens(axes: Axes, row: int, label: str, colours: list[str]) -> None:
    """One row of boxes; a hidden token shows no word."""
    axes.text(-0.2, row, label, ha="right", va="center", fontsize=9)
    for place, (word, colour) in enumerate(zip(SENTENCE, colours, strict=True)):
        box = FancyBboxPatch(
            (place - 0.04, row - 0.34), 0.88, 0.68, "round,pad=0,rounding_size=0.1", fc=colour, ec="none"
        )
        axes.add_patch(box)
        hidden = colour == HIDDEN
        axes.text(
            place + 0.4,
            row,
            "MASK" if hidden else word,
            ha="center",
            va="center",
            fontsize=8,
            color="white" if hidden else "black",
        )


def attention(path: Path) -> None:
    """The patterns side by side, for eight tokens in blocks of four: all that distinguishes the models."""
    tokens, size = 8, 4
    docs, positions = torch.zeros(1, tokens, dtype=torch.int64), torch.arange(tokens)[None]
    shown = (
        ("causal\nautoregressive", AttentionPattern.packed("causal", docs), tokens),
        ("full\nLLaDA 1.0", AttentionPattern.packed("full", docs), tokens),
        ("block-causal\nLLaDA 2.0, sampling", AttentionPattern.blocks("block_causal", docs, positions, size), tokens),
        ("two streams\nLLaDA 2.0, training", AttentionPattern.blocks("two_stream", docs, positions, size), 2 * tokens),
    )
    figure = Figure(figsize=(11.5, 3.4), layout="constrained")
    for axes, (title, pattern, width) in zip(figure.subplots(1, 4), shown, strict=True):
        dense = pattern.dense(width, width, torch.device("cpu"))
        allowed = torch.ones(width, width) if dense is None else dense[0, 0].float()
        axes.imshow(allowed, cmap=ListedColormap([UNOPENED, HELD]), vmin=0, vmax=1)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(torch.arange(width + 1) - 0.5, [])
        axes.set_yticks(torch.arange(width + 1) - 0.5, [])
        axes.grid(color="white", linewidth=0.8)
        axes.tick_params(length=0)
        axes.set(xlabel="key" if width == tokens else "key: noisy | clean")
        axes.set(ylabel="query" if width == tokens else "query: clean | noisy")
        if width > tokens:
            axes.axhline(tokens - 0.5, color="#c53030", linewidth=1.5)
            axes.axvline(tokens - 0.5, color="#c53030", linewidth=1.5)
    _save(figure, path)


def blocks(path: Path) -> None:
    """Writing in blocks, pass by pass: what is hidden, just written, written, and cached."""
    rows, size, count = _timeline(blocks=3, size=8)
    kinds = ("not opened yet", "MASK", "committed in this pass", "text of the current block", "finished block, cached")
    palette = [UNOPENED, HIDDEN, NEW, TEXT, HELD]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(rows, cmap=ListedColormap(palette), vmin=0, vmax=len(palette) - 1, aspect="auto")
    axes.set_xticks(torch.arange(count + 1) - 0.5, [])
    axes.set_yticks(torch.arange(len(rows)), [str(number) for number in range(1, len(rows) + 1)], fontsize=8)
    axes.set_yticks(torch.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(color="white", linewidth=0.8, axis="x")
    axes.grid(color="white", linewidth=0.8, axis="y", which="minor")
    axes.tick_params(length=0, which="both")
    for edge in range(size, count, size):
        axes.axvline(edge - 0.5, color="#c53030", linewidth=1.5)
    axes.set(xlabel=f"position, {count // size} blocks of {size} tokens", ylabel="forward pass")
    axes.set_title(f"{count} tokens in {len(rows)} forward passes: TPF = {count / len(rows):.1f}", fontsize=10)
    handles = [
        Patch(facecolor=colour, edgecolor="#c8ccd2", label=kind) for colour, kind in zip(palette, kinds, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    _save(figure, path)


def _timeline(blocks: int, size: int) -> tuple[Tensor, int, int]:
    """(passes, positions) kinds of token after each pass, for random confidences and a threshold of 0.9."""
    rng, rows = torch.Generator().manual_seed(3), []
    state = torch.zeros(blocks * size, dtype=torch.int64)
    for begin in range(0, blocks * size, size):
        block = state[begin : begin + size]
        state[:begin] = 4
        block[:] = 1
        while bool((block == 1).any()):
            block[block == 2] = 3
            known = float((block != 1).float().mean())
            # the more of a block is written, the surer a model is of the rest
            confidence = torch.rand(size, generator=rng) ** (0.25 * (1 - known))
            confidence[block != 1] = -1
            sure = confidence > 0.9
            sure[confidence.argmax()] = True
            block[sure] = 2
            rows.append(state.clone())
    return torch.stack(rows), size, blocks * size


def weights(path: Path) -> None:
    """What a masked token weighs, and why an exact count makes the loss less noisy."""
    length, draws, rng = 16, 300, torch.Generator().manual_seed(0)
    t = torch.linspace(0.04, 1, 200)
    k = torch.arange(1, length + 1)
    figure = Figure(figsize=(10, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(t, make_noise("linear").weight(t), color=HELD, label="Bernoulli: 1/t")
    left.plot(k / length, length / k, "o", color="#c05621", markersize=4, label=f"exact count: L/k, L = {length}")
    left.set(xlabel="share of tokens that are masked: t, or k/L", yscale="log")
    left.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    left.set_title("weight of one masked token", fontsize=10)
    times = 0.02 + 0.98 * torch.rand(draws, generator=rng)
    masked = (torch.rand(draws, length, generator=rng) < times[:, None]).sum(1)
    right.plot(times, masked / (times * length), ".", color=HELD, alpha=0.5, label="Bernoulli")
    right.plot(k / length, torch.ones(length), "o", color="#c05621", markersize=4, label="exact count: always 1")
    right.set(xlabel="t, or k/L", ylim=(-0.1, 4.1))
    right.set_title("weight of all masked tokens of a row / L: 1 on average", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, path)


def main() -> int:
    """Draw all of them."""
    folder = Path(__file__).parent / "images"
    folder.mkdir(exist_ok=True)
    for draw in (masks, curriculum, noise, process, attention, blocks, weights):
        draw(folder / f"{draw.__name__}.png")
        print(folder.name, draw.__name__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
