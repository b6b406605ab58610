"""The report of the reinforcement experiment: before and after, what the other skills lost, and reward curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.grid import Metrics, Result, markdown_table, write_page
from nano_llada.evaluation.statistics import wilson

COLUMNS = ("variant", "before", "after", "each seed", "worst other skill", "reward first", "reward last")


def write_report(results: Sequence[Result], folder: Path, others: Sequence[Result] = ()) -> None:
    """README.md with a table and a sentence a skill, and rewards.png; `others` were made with other settings."""
    skills = list(dict.fromkeys(str(result.metrics["skill"]) for result in results))
    rollouts = sorted({int(result.metrics["rollouts"]) for result in results})
    text = [
        "# Reinforcement from verifiable rewards\n",
        "\n\n".join(f"`{line}`" for line in dict.fromkeys(result.command for result in results)) + "\n",
        "`ebpo` reinforces the ablation's block-diffusion model, `grpo` its fine-tuned AR model; the diffusion model "
        "was trained on from the AR model, so there is more training in it. Each run reinforces one skill (with "
        "`--together` all that are named there), on questions of the training split, drawn with another seed than the "
        "conversations of fine-tuning (in so small a "
        "world some coincide). Both tracks draw the same number of answers in a run "
        f"({', '.join(f'{count:,}' for count in rollouts)}), to the same questions in the same order. A reward is 1 "
        "for an answer that the verifier accepts. Where the command says `--negative-weight 0`, answers worse than "
        "their group's mean teach nothing: that is less than EBPO and GRPO are elsewhere.\n",
        "Exact match: held-out questions of the skill, the likeliest tokens being written, mean over seeds, with "
        "Wilson's 95 % interval over the questions, which are the same for all seeds; it says nothing about other "
        "seeds, for which see the seeds one by one. Worst other skill: the largest loss (or least gain) of exact match "
        "among the five other skills, in points, of the mean over seeds, and of each seed; the least of five noisy "
        "changes is below 0 even if nothing changed. Reward: mean of the first and of the last steps of the curve, of "
        "answers drawn at temperature 1.\n",
    ]
    for skill in skills:
        found = {variant: _of(results, skill, variant) for variant in ("ebpo", "grpo")}
        text += [
            f"## {skill}\n",
            " ".join(verdict(variant, some) for variant, some in found.items()) + "\n",
            markdown_table(COLUMNS, [_row(variant, some) for variant, some in found.items()]),
        ]
    text += [*_others(others), "![rewards](rewards.png)\n"]
    write_page(folder, "\n".join(text))
    _plot([*results, *others], folder / "rewards.png")


def _others(results: Sequence[Result]) -> list[str]:
    """Runs with other settings."""
    if not results:
        return []
    rows = []
    for command, variant in dict.fromkeys((result.command, result.variant) for result in results):
        found = [r.metrics for r in results if (r.command, r.variant) == (command, variant)]
        rows.append([command.partition(" rl ")[2], *_row(variant, found)])
    return ["## Other settings\n", markdown_table(("run", *COLUMNS), rows)]


def _of(results: Sequence[Result], skill: str, variant: str) -> list[Metrics]:
    return [r.metrics for r in results if r.metrics["skill"] == skill and r.variant == variant]


def share(found: Sequence[Metrics], name: str) -> tuple[float, float, float]:
    """A share of right answers over all seeds, and its interval over the questions, which all seeds are asked."""
    right = sum(m[name] for m in found) / len(found)
    return (right, *wilson(right, found[0]["questions"]))


def verdict(variant: str, found: Sequence[Metrics]) -> str:
    """Whether the skill was improved, and at what cost to the others, in one or two sentences."""
    (before, below, above), (after, low, high) = (share(found, f"exact_match_{when}") for when in ("before", "after"))
    seeds = sum(m["exact_match_after"] > m["exact_match_before"] for m in found)
    told = "improved the skill" if low > above else "made the skill worse" if high < below else "changed nothing clear"
    name, worst = worst_other(found)
    cost = f"is {name}, which lost {-100 * worst:.1f} points" if worst < 0 else "lost nothing"
    if worst < 0 and share(found, f"after_{name}")[2] >= share(found, f"before_{name}")[1]:
        cost += " (intervals overlap)"
    return (
        f"`{variant}` {told}: {before:.1%} before, {after:.1%} after, with intervals that "
        f"{'overlap' if told == 'changed nothing clear' else 'do not overlap'}; better with {seeds} of {len(found)} "
        f"seeds. Of the other skills the one that came off worst, over all seeds together, {cost}."
    )


def worst_other(found: Sequence[Metrics]) -> tuple[str, float]:
    """The skill other than the reinforced one that changed for the worse by most, over all seeds, and its change."""
    others = [name.removeprefix("after_") for name in found[0] if name.startswith("after_")]
    others.remove(str(found[0]["skill"]))
    changes = {name: sum(m[f"after_{name}"] - m[f"before_{name}"] for m in found) / len(found) for name in others}
    return min(changes.items(), key=lambda item: item[1])


def _row(variant: str, found: Sequence[Metrics]) -> list[object]:
    told = ["{:.1%} [{:.1%}, {:.1%}]".format(*share(found, f"exact_match_{when}")) for when in ("before", "after")]
    each = ", ".join(f"{m['exact_match_before']:.1%} to {m['exact_match_after']:.1%}" for m in found)
    each_worst = ", ".join(f"{100 * m['worst_other_skill_change']:+.1f}" for m in found)
    worst = f"{worst_other(found)[0]} {100 * worst_other(found)[1]:+.1f} ({each_worst})"
    rewards = [sum(float(m[name]) for m in found) / len(found) for name in ("reward_first", "reward_last")]
    return [variant, *told, each, worst, *rewards]


def _plot(results: Sequence[Result], path: Path) -> None:
    """A panel for each set of skills and number of answers, a line for each run."""
    from matplotlib.figure import Figure

    runs: dict[str, dict[tuple[str, int], Sequence[Sequence[float]]]] = {}
    for r in results:  # a run that reinforces several skills has a line for each of them in the results
        title = f"{r.metrics['asked']}\n{r.metrics['rollouts']:,} answers"
        runs.setdefault(title, {})[r.variant, r.seed] = r.metrics["rewards"]
    figure = Figure(figsize=(5 * len(runs), 4), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for axes, (title, found) in zip(panels, runs.items(), strict=True):
        colours = {variant: f"C{i}" for i, variant in enumerate(dict.fromkeys(variant for variant, _ in found))}
        for (variant, _), points in found.items():
            axes.plot(*zip(*points, strict=True), marker=".", color=colours[variant], linewidth=1, label=variant)
        axes.set(xlabel="optimizer step", ylabel="mean reward", ylim=(0, 1), title=title)
        axes.grid(alpha=0.3)
        handles, labels = axes.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))  # one entry for all seeds
        axes.legend(shown.values(), shown.keys())
    figure.savefig(path, dpi=110)
