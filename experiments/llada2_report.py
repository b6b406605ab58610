"""The report of the LLaDA 2.0 ablation: a table for each question, intervals, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.grid import Result, markdown_table, write_page
from nano_llada.evaluation.figures import BOTH, differences, figures
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.statistics import wilson
from nano_llada.evaluation.suites.generation import Generation

METRICS = Generation.metrics[:2]  # exact match, TPF
QUESTIONS = (
    ("a", "From AR weights: straight to whole rows, or through the curriculum of block sizes", ("direct", "wsd")),
    ("b", "Document mask in packed rows: on, off", ("wsd", "no-document-mask")),
    ("c", "Fine-tuning with complementary pairs: off, on", ("wsd", "complementary")),
    ("d", "Band of mask rates in fine-tuning", ("wsd", "band-0.05-0.95", "band-0.3-0.8")),
    ("e", "Which weights: the last, the best, the mean of the three best", ("wsd", "best", "merged")),
    ("f", "Weight of the confidence loss (CAP): 0, 0.1, 0.5, 2", ("wsd", "cap-0.1", "cap-0.5", "cap-2")),
    ("g", "Block size, the same from the first step on", ("mdlm", "bdlm-32", "bdlm-16", "bdlm-8", "bdlm-4")),
)


def write_report(
    results: Sequence[Result],
    folder: Path,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    records: Sequence[Record],
) -> None:
    """README.md with a table a question, curves.png and frontier.png."""
    text = [
        "# LLaDA 2.0, one idea at a time\n",
        f"`{results[0].command}`\n",
        "Exact match over held-out questions of six small-world skills in both languages, all seeds together, with "
        "Wilson's 95 % interval over questions; beside it the seeds one by one, which tell more. TPF: tokens per "
        "forward pass at threshold 0.95. Bits per byte: the bound on held-out documents after pretraining. Two "
        "variants are compared question by question over the seeds that both have, p by exchanging their answers; one "
        "helps or hurts where p is below 0.05 and every seed says so. p-values are not corrected for their number.\n",
    ]
    for letter, question, variants in QUESTIONS:
        rows = [_row(results, variant) for variant in variants]
        columns = ("variant", "seeds", "exact match", "each seed", "TPF", "bits per byte")
        text += [f"## ({letter}) {question}\n", markdown_table(columns, [row for row in rows if row])]
        text += [verdict(records, variants[0], variant) + "\n" for variant in variants[1:]]
    text.append("![validation loss while pretraining](curves.png)\n\n![exact match against TPF](frontier.png)\n")
    write_page(folder, "\n".join(text))
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


def verdict(records: Sequence[Record], base: str, variant: str) -> str:
    """In words, whether a variant is more exact than another, over the seeds that both have."""
    seeds = sorted({r.run for r in records if r.model == base} & {r.run for r in records if r.model == variant})
    if not seeds:
        return f"- **{variant}** cannot be compared with {base}: no seed has both."
    some = [replace(r, task="") for r in records if r.model in (base, variant) and r.run in seeds]
    found = {d.metric: d for d in differences(some, lambda _: METRICS, (variant, ""), (base, "")) if d.language == BOTH}
    changes = []
    for seed in seeds:
        mine = {
            f.model: f.value
            for f in figures([r for r in some if r.run == seed], lambda _: METRICS[:1])
            if f.language == BOTH
        }
        changes.append(mine[variant] - mine[base])
    right, passes = found["exact_match"], found["tpf"]
    word = "no difference shown"
    if right.p < 0.05 and len({change > 0 for change in changes}) == 1:
        word = "it helps" if right.value > 0 else "it hurts"
    return (
        f"- **{variant}** against {base}: exact match {100 * right.value:+.1f} points "
        f"[{100 * right.low:+.1f}, {100 * right.high:+.1f}], p = {right.p:.3f} "
        f"(seeds {', '.join(f'{100 * change:+.1f}' for change in changes)}): **{word}**. TPF {passes.value:+.2f} "
        f"[{passes.low:+.2f}, {passes.high:+.2f}], p = {passes.p:.3f}."
    )


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
