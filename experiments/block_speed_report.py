"""The report of the speed of block decoding: who is faster than AR at equal exact match, tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.grid import Metrics, Result, markdown_table, write_page
from experiments.options import BlockSpeed

POINT = 0.01  # exact match that may be lost without being called worse


def write_report(results: Sequence[Result], folder: Path, questions: int, options: BlockSpeed) -> None:
    """README.md with a verdict and a table a batch size, and curves.png."""
    text = [
        "# Cached block decoding against cached AR decoding\n",
        f"`{results[0].command}`, on {results[0].hardware}\n",
        f"The ablation's fine-tuned AR model (seed 0), fine-tuned for {options.ar_steps} steps more, and its model "
        f"with blocks of 32, for {options.steps} more, after which each size is taught for "
        f"{max(1, options.steps // 6)}; the block models began as the same AR model, so they have seen several times "
        "its training. Both decoders keep a cache, take the likeliest token, write at most 16, and answer the same "
        f"{questions} held-out questions in the same batches, in turns in one process. Tokens count up to the end of "
        "an answer. The ratio is block decoding's tokens a second over AR's: the repeat in the middle, in brackets the "
        "lowest and the highest. The difference is that of exact match in points, with a 95 % interval over questions. "
        "TPF: tokens per forward pass of an answer. A setting wins if it is faster in every repeat and its exact match "
        "is at most one point below AR's.\n",
    ]
    for batch in _batches(results):
        found = [result.metrics for result in results if result.metrics["batch_size"] == batch]
        columns = (
            "block size",
            "threshold",
            "tokens/s",
            "AR",
            "ratio",
            "exact match",
            "AR",
            "difference",
            "TPF",
            "verdict",
        )
        text += [
            f"## Batch size {batch}\n",
            f"{summary(found)}\n",
            markdown_table(columns, [_row(metrics) for metrics in found]),
        ]
    text.append("![ratio against threshold](curves.png)\n")
    write_page(folder, "\n".join(text))
    _plot(results, folder / "curves.png")


def ratio(metrics: Metrics) -> float:
    """How many times as many tokens a second as AR."""
    return float(metrics["tokens_per_second"] / metrics["tokens_per_second_ar"])


def as_right(metrics: Metrics) -> bool:
    """Whether exact match is at most one point below AR's."""
    return bool(metrics["exact_match"] >= metrics["exact_match_ar"] - POINT - 1e-9)


def verdict(metrics: Metrics) -> str:
    """Who wins a setting, and by how much."""
    if metrics["ratio_high"] < 1:
        return "slower"
    if metrics["ratio_low"] <= 1:
        return "no difference in speed"
    return f"**wins by {ratio(metrics) - 1:.0%}**" if as_right(metrics) else "faster, but less often right"


def summary(found: Sequence[Metrics]) -> str:
    """One sentence on the settings of a batch size."""
    winners = sorted((m for m in found if m["ratio_low"] > 1 and as_right(m)), key=ratio, reverse=True)
    if winners:
        return f"{len(winners)} of {len(found)} settings win; the fastest is {_named(winners[0])}."
    equal = sorted(filter(as_right, found), key=ratio, reverse=True)
    if equal:
        return f"None of {len(found)} settings wins. The fastest that is right as often as AR is {_named(equal[0])}."
    best = max(found, key=lambda m: float(m["exact_match"]))
    return f"None of {len(found)} settings wins, nor is one right as often as AR; the rightest is {_named(best)}."


def _named(metrics: Metrics) -> str:
    return (
        f"block size {metrics['block_size']} at threshold {metrics['threshold']:g}: {_spread(metrics)} times AR's "
        f"tokens a second, exact match {metrics['exact_match']:.1%} against {metrics['exact_match_ar']:.1%}"
    )


def _spread(metrics: Metrics) -> str:
    return f"{ratio(metrics):.2f} ({metrics['ratio_low']:.2f}-{metrics['ratio_high']:.2f})"


def _points(metrics: Metrics) -> str:
    return f"[{100 * metrics['difference_low']:+.1f}, {100 * metrics['difference_high']:+.1f}]"


def _row(metrics: Metrics) -> list[object]:
    return [
        metrics["block_size"],
        f"{metrics['threshold']:g}",
        f"{metrics['tokens_per_second']:,.0f}",
        f"{metrics['tokens_per_second_ar']:,.0f}",
        _spread(metrics),
        f"{metrics['exact_match']:.1%}",
        f"{metrics['exact_match_ar']:.1%}",
        f"{100 * (metrics['exact_match'] - metrics['exact_match_ar']):+.1f} {_points(metrics)}",
        f"{metrics['tpf']:.2f}",
        verdict(metrics),
    ]


def _batches(results: Sequence[Result]) -> list[int]:
    return sorted({int(result.metrics["batch_size"]) for result in results})


def _plot(results: Sequence[Result], path: Path) -> None:
    """Ratio against threshold, thresholds evenly spaced; filled where exact match is at most a point below AR's."""
    from matplotlib.figure import Figure

    batches, thresholds = _batches(results), sorted({result.metrics["threshold"] for result in results})
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    panels = figure.subplots(1, len(batches), squeeze=False)[0]
    for axes, batch in zip(panels, batches, strict=True):
        found = [result.metrics for result in results if result.metrics["batch_size"] == batch]
        for number, size in enumerate(sorted({m["block_size"] for m in found})):
            mine = sorted((m for m in found if m["block_size"] == size), key=lambda m: float(m["threshold"]))
            places, ratios = [thresholds.index(m["threshold"]) for m in mine], [ratio(m) for m in mine]
            errors = [[r - m["ratio_low"] for r, m in zip(ratios, mine, strict=True)]]
            errors += [[m["ratio_high"] - r for r, m in zip(ratios, mine, strict=True)]]
            axes.errorbar(places, ratios, errors, color=f"C{number}", linewidth=1, capsize=2, label=f"block {size}")
            fills = [f"C{number}" if as_right(m) else "white" for m in mine]
            axes.scatter(places, ratios, c=fills, edgecolors=f"C{number}", zorder=3)
        axes.axhline(1, color="black", linewidth=1)
        axes.set_xticks(range(len(thresholds)), [f"{threshold:g}" for threshold in thresholds])
        axes.set(xlabel="threshold", ylabel="tokens/s over AR's", title=f"batch size {batch}")
        axes.grid(alpha=0.3)
    panels[0].legend(title="filled: exact match at most a point below AR's", fontsize=8, title_fontsize=8)
    figure.savefig(path, dpi=110)
