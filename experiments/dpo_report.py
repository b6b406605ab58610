"""What the experiment on preferences found: its table and its curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.grid import Result, markdown_table, write_page


def write_report(results: Sequence[Result], folder: Path) -> None:
    """README.md with the table, curves.png and, for pairs of one's own, own.png."""
    columns = (
        "reward_accuracy_before",
        "reward_accuracy_after",
        "whole_accuracy_after",
        "length_accuracy",
        "exact_match_before",
        "exact_match_after",
        "choices_before",
        "choices_after",
        "score_variance_shared",
        "score_variance_independent",
        "gradient_variance_shared",
        "gradient_variance_independent",
    )
    shown = [name for name in columns if any(name in result.metrics for result in results)]
    rows = [[r.variant, *(r.metrics.get(name, "") for name in shown)] for r in results]
    commands = "\n\n".join(f"`{command}`" for command in dict.fromkeys(result.command for result in results))
    own = [result for result in results if result.variant.endswith("-own")]
    text = (
        f"# Preference optimisation\n\n{commands}\n\n"
        "Reward accuracy: share of held-out pairs whose better answer gained more likelihood, against the model that "
        "training started from; a half by definition before the first step. On own pairs a gain is counted per token "
        "of the answer, in training too (length-normalised DPO); whole accuracy is that of whole answers, length "
        "accuracy the share that a preference for the longer answer gets right. Exact match: held-out questions of "
        "the small world, or those given with --own-questions; choices: multiple choice given with --own-choices. "
        "Variances of one draw: of the gain in likelihood, and of the gradient relative to its mean's square, "
        "with the same masks for model and reference and with other ones. `-own`: pairs given with --data.\n\n"
        f"{markdown_table(('variant', *shown), rows)}"
    )
    world = [result for result in results if result not in own]
    for name, some in (("curves.png", world), ("own.png", own)):
        if _plot([result for result in some if "curve" in result.metrics], folder / name):
            text += f"\n![reward accuracy]({name})\n"
    write_page(folder, text)


def _plot(results: Sequence[Result], path: Path) -> bool:
    """Whether there is a plot: of these results, or an old one if there are none (older lines hold no curves)."""
    if not results:
        return path.is_file()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for result in results:
        axes.plot(*zip(*result.metrics["curve"], strict=True), marker="o", label=result.variant)
    axes.set(xlabel="optimizer step", ylabel="reward accuracy on held-out pairs", ylim=(0.4, 1.0))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
    return True
