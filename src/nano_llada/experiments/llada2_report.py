"""The report of the LLaDA 2.0 ablation: a table for each question, intervals, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nano_llada.evaluate.statistics import wilson
from nano_llada.experiments.grid import Result, markdown_table

QUESTIONS = (
    ("a", "From AR weights: straight to whole rows, or through the curriculum of block sizes", ("direct", "wsd")),
    ("b", "Document mask in packed rows: on, off", ("wsd", "no-document-mask")),
    ("c", "Fine-tuning with complementary pairs: off, on", ("wsd", "complementary")),
    ("d", "Band of mask rates in fine-tuning", ("wsd", "band-0.05-0.95", "band-0.3-0.8")),
    ("e", "Which weights: the last, the best, the mean of the three best", ("wsd", "best", "merged")),
    ("f", "Weight of the confidence loss (CAP): 0, 0.1, 0.5, 2", ("wsd", "cap-0.1", "cap-0.5", "cap-2")),
    ("g", "Block size, the same from the first step on", ("mdlm", "bdlm-32", "bdlm-16", "bdlm-8", "bdlm-4")),
)


def write_report(results: Sequence[Result], folder: Path, curves: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """README.md with a table a question, curves.png and frontier.png."""
    text = [
        "# LLaDA 2.0, one idea at a time\n",
        f"`{results[0].command}`\n",
        "Exact match over held-out questions of six small-world skills in both languages, all seeds together, with "
        "Wilson's 95 % interval over questions; beside it the seeds one by one, which tell more. TPF: tokens per "
        "forward pass at threshold 0.95. Bits per byte: the bound on held-out documents after pretraining. A variant "
        "helps or hurts where the two intervals are apart and every seed says so; anything else is no difference.\n",
    ]
    for letter, question, variants in QUESTIONS:
        rows = [_row(results, variant) for variant in variants]
        columns = ("variant", "seeds", "exact match", "each seed", "TPF", "bits per byte")
        text += [f"## ({letter}) {question}\n", markdown_table(columns, [row for row in rows if row])]
        text += [verdict(results, variants[0], variant) + "\n" for variant in variants[1:]]
    text.append("![validation loss while pretraining](curves.png)\n\n![exact match against TPF](frontier.png)\n")
    (folder / "README.md").write_text("\n".join(text), encoding="utf-8")
    _plot_curves(curves, folder / "curves.png")
    _plot_frontier(results, folder / "frontier.png")


def _row(results: Sequence[Result], variant: str) -> list[object]:
    found = [r.metrics for r in sorted(results, key=lambda r: r.seed) if r.variant == variant]
    if not found:
        return []
    questions = sum(m["questions"] for m in found)
    right = round(sum(m["exact_match"] * m["questions"] for m in found))
    low, high = wilson(right / questions, questions)
    return [
        variant,
        len(found),
        f"{right / questions:.1%} [{low:.1%}, {high:.1%}]",
        ", ".join(f"{m['exact_match']:.1%}" for m in found),
        sum(m["tpf"] for m in found) / len(found),
        sum(m["bits_per_byte"] for m in found) / len(found),
    ]


def verdict(results: Sequence[Result], base: str, variant: str) -> str:
    """In words, whether a variant is more exact than another, over the seeds that both have."""
    first, second = (
        {r.seed: r.metrics for r in results if r.variant == name and r.metrics["questions"]} for name in (base, variant)
    )
    seeds = sorted(set(first) & set(second))
    if not seeds:
        return f"- **{variant}** cannot be compared with {base}: no seed has both."
    changes = [second[seed]["exact_match"] - first[seed]["exact_match"] for seed in seeds]
    (low, high), (other_low, other_high) = (_interval([some[seed] for seed in seeds]) for some in (second, first))
    apart = low > other_high or high < other_low
    word = "no difference shown"
    if apart and len({change > 0 for change in changes}) == 1:
        word = "it helps" if changes[0] > 0 else "it hurts"
    passes = sum(second[seed]["tpf"] for seed in seeds) / sum(first[seed]["tpf"] for seed in seeds)
    return (
        f"- **{variant}** against {base}: exact match {100 * sum(changes) / len(changes):+.1f} points (seeds "
        f"{', '.join(f'{100 * change:+.1f}' for change in changes)}; intervals {'apart' if apart else 'overlap'}): "
        f"**{word}**. TPF x {passes:.2f}."
    )


def _interval(metrics: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    questions = sum(m["questions"] for m in metrics)
    right = sum(m["exact_match"] * m["questions"] for m in metrics)
    return wilson(right / questions, int(questions))


def _plot_curves(curves: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, metrics in curves.items():
        points = [(m["step"], m["loss"]) for m in metrics if "loss" in m]
        axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
    axes.set(xlabel="pretraining step", ylabel="training loss at the block size of the step (nats per token)")
    axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=110)


def _plot_frontier(results: Sequence[Result], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, variant in enumerate(dict.fromkeys(result.variant for result in results)):
        found = [result.metrics for result in results if result.variant == variant]
        points = [m["tpf"] for m in found], [m["exact_match"] for m in found]
        axes.plot(*points, "os^"[number // 10 % 3], color=f"C{number % 10}", label=variant, markersize=5)
    axes.set(xlabel="tokens per forward at threshold 0.95", ylabel="exact match", title="each dot is a seed")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=110)
