"""The report of the editing experiment: what was measured, and in words whether editing did what it is meant to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from experiments.grid import Metrics, Result, markdown_table, write_page
from experiments.shared_questions import Shares

SEARCHED = ("2.0", "2.1-off", "2.1-q", "2.1-s", "2.1-s-reread")
AIM = 2 / 3  # share of the 2.0 model's passes that the 2.1 model may need to be as often right
COLUMNS = "variant,threshold,edit threshold,reread threshold,exact match,each seed,zh,en,TPF,passes,edits,fixed,broken"
ABOUT = """2.0: the ablation's model (warm-up, stable, decay, fine-tuned in blocks). 2.1: the same runs from the same \
AR model, with editing learnt in both. Exact match: over held-out questions of six small-world skills in both \
languages, the mean over seeds, with a 95 % interval by bootstrap over questions (one is drawn with its wordings in \
both languages and the answers of all seeds). It says nothing about other seeds of training: for those see the seeds \
one by one. TPF: tokens up to the end per forward pass, and passes an answer; passes that only edit are counted. \
Edits: tokens changed for 100 tokens of answers (changes after an answer's end count, too). Fixed and broken: of 100 \
answers, those that were wrong as first written and right in the end, and the reverse. `q`, `s`: LLaDA 2.1's presets. \
`mbe`: the block before the current one may be edited; an answer of 16 tokens at most reaches into one other block of \
32, and most do not. `reread` is ours and not in LLaDA 2.1: a full block is looked at again only if the last look was \
not surer than the reread threshold of all its tokens.
"""
CHOSEN = """Below, ways of writing with the 2.1 model are chosen among many by the questions that they are judged by, \
which flatters them; the 2.0 model is given the same choice wherever it is named with a threshold.
"""


@dataclass(frozen=True)
class Point:
    """One way of writing, all seeds together."""

    variant: str
    seeds: Sequence[Metrics]

    @property
    def questions(self) -> int:
        """Answers that were judged."""
        return sum(int(m["questions"]) for m in self.seeds)

    @property
    def passes(self) -> float:
        """Forward passes an answer, each answer's counted by itself."""
        return sum(int(m["forwards"]) for m in self.seeds) / self.questions

    @cached_property
    def shares(self) -> Shares:
        """How often each question is answered rightly."""
        return Shares.of([m["right"] for m in self.seeds])

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of exact match, over questions."""
        return self.shares.interval

    def mean(self, name: str) -> float:
        """Of a metric, over seeds."""
        return sum(float(m[name]) for m in self.seeds) / len(self.seeds)

    def told(self) -> str:
        """Exact match and its interval."""
        low, high = self.interval
        return f"{self.shares.mean:.1%} [{low:.1%}, {high:.1%}]"


def points_of(results: Sequence[Result]) -> dict[str, Point]:
    """Results by variant."""
    names = dict.fromkeys(result.variant for result in results)
    return {name: Point(name, [r.metrics for r in results if r.variant == name]) for name in names}


def write_report(results: Sequence[Result], folder: Path, others: Sequence[Result] = ()) -> None:
    """README.md with the tables and what they say, and frontier.png; `others` were trained with other settings."""
    points = points_of(results)
    text = [
        "# Editing\n",
        f"`{results[0].command}`\n",
        ABOUT,
        cost(points) + "\n",
        "## Two models at their presets\n",
        markdown_table(COLUMNS.split(","), [_row(point) for name, point in points.items() if "@" not in name]),
        "## In words\n",
        CHOSEN,
        fewer_passes(points) + "\n",
        more_exact(points) + "\n",
        "The same of those ways of writing with the 2.1 model that never edit, which is what its training alone is "
        "worth:\n",
        fewer_passes(without_editing(points)) + "\n",
        more_exact(without_editing(points)) + "\n",
        "For each threshold of the 2.0 model, the rightest way of writing with the 2.1 model that writes at least as "
        "many tokens per pass: of all ways, then of those that never edit. The difference is taken question by "
        "question, with its interval.\n",
        markdown_table(
            ("2.0 at threshold", "TPF", "exact match", "2.1", "TPF", "exact match", "difference", "intervals"),
            [_pair_row(*pair) for some in (points, without_editing(points)) for pair in pairs(some)],
        ),
        *_search(results, others),
        "## The frontier\n",
        markdown_table(COLUMNS.split(","), [_row(point) for name, point in points.items() if "@" in name]),
        "![exact match against tokens per forward](frontier.png)\n",
    ]
    write_page(folder, "\n".join(text))
    _plot(points, folder / "frontier.png")


def without_editing(points: Mapping[str, Point]) -> dict[str, Point]:
    """The 2.0 model's ways of writing, and those of the 2.1 model that never edit."""
    return {name: point for name, point in points.items() if point.seeds[0]["edit_threshold"] is None}


def _search(results: Sequence[Result], others: Sequence[Result]) -> list[str]:
    """What other settings of training came to, on the seeds that all were tried with."""
    if not others:
        return []
    everything = [*results, *others]
    commands = dict.fromkeys(result.command for result in everything)
    shared = set.intersection(*({r.seed for r in everything if r.command == command} for command in commands))
    rows = []
    for command in commands:
        found = points_of([r for r in everything if r.command == command and r.seed in shared])
        for at in (found[name] for name in SEARCHED if name in found):
            rows.append([command.partition("editing ")[2], at.variant, at.told(), at.mean("tpf"), f"{at.passes:.2f}"])
            rows[-1] += [f"{at.mean(metric):.1f}" for metric in ("edits_per_100", "edits_fixed", "edits_broken")]
    return [
        "## Other settings of training\n",
        f"Seeds {', '.join(map(str, sorted(shared)))} alone, judged by the questions of the tables above. One seed of "
        "the 2.0 model differs from another by some points, so small differences here mean little.\n",
        markdown_table(("training", "written", "exact match", "TPF", "passes", "edits", "fixed", "broken"), rows),
    ]


def cost(points: Mapping[str, Point]) -> str:
    """What training took, from what was recorded."""
    before, after = (points[name].mean("train_tokens") for name in ("2.0", "2.1-off"))
    passes = points["2.1-off"].mean("draft_passes")
    tokens = "the same" if before == after else "not the same"
    text = f"Both were trained on {tokens} number of tokens after AR: {before:,.0f} and {after:,.0f} (mean over seeds)."
    if passes:
        text += (
            f" That is not the same amount of computing: in each of its steps the 2.1 model looked at the drafted "
            f"rows once more, without gradient, in all as much as {passes:,.0f} forward passes over a whole batch. A "
            "forward and a backward pass being three times a forward one, that is a third more at a draft rate of 1."
        )
    return text


def fewer_passes(points: Mapping[str, Point]) -> str:
    """Whether the 2.1 model is as often right as the 2.0 model with at most two thirds of its forward passes."""
    base = points["2.0"]
    if not base.shares.mean:
        return "The 2.0 model answers no question rightly, so there is nothing to hold the 2.1 model's passes against."
    ours = [point for name, point in points.items() if name.startswith("2.1")]
    able = [point for point in ours if point.shares.mean >= base.shares.mean]
    if not able:
        best = max(ours, key=lambda point: point.shares.mean)
        return (
            f"**Fewer passes: missed.** No way of writing with the 2.1 model is right as often as the 2.0 model at its "
            f"own threshold, {base.told()}; the nearest is {best.variant}, {best.told()}, with "
            f"{best.passes / base.passes:.0%} of its passes."
        )
    best = min(able, key=lambda point: point.passes)
    theirs = [p for name, p in points.items() if name.startswith("2.0") and p.shares.mean >= base.shares.mean]
    quick = min(theirs, key=lambda point: point.passes)
    verdict = "holds" if best.passes / base.passes <= AIM else "missed"
    return (
        f"**Fewer passes: {verdict}.** Of the ways of writing with the 2.1 model that are right at least as often as "
        f"the 2.0 model at its own threshold ({base.told()}), {best.variant} ({best.told()}) needs the fewest passes: "
        f"{best.passes / base.passes:.0%} of the 2.0 model's, where two thirds were the aim. Of the 2.0 model's own "
        f"ways that are right as often, {quick.variant} needs the fewest, {quick.passes / base.passes:.0%}."
    )


def pairs(points: Mapping[str, Point]) -> list[tuple[Point, Point | None, str]]:
    """Each point of the 2.0 model's frontier, the rightest 2.1 one that is no slower, and how it compares."""
    found: list[tuple[Point, Point | None, str]] = []
    for base in (point for name, point in points.items() if name.startswith("2.0@")):
        fast = [p for name, p in points.items() if name.startswith("2.1") and p.mean("tpf") >= base.mean("tpf")]
        if not fast:
            found.append((base, None, "never as fast"))
            continue
        best = max(fast, key=lambda point: point.shares.mean)
        (low, high), (below, above) = best.interval, base.interval
        found.append((base, best, "higher" if low > above else "lower" if high < below else "overlapping"))
    return found


def more_exact(points: Mapping[str, Point]) -> str:
    """Whether the 2.1 model is more often right at equal TPF, with intervals that do not overlap."""
    verdicts = [verdict for _, _, verdict in pairs(points)]
    higher, lower = verdicts.count("higher"), verdicts.count("lower")
    word = "holds" if verdicts and higher == len(verdicts) else "holds in part" if higher else "missed"
    return (
        f"**More exact at equal TPF: {word}.** At {higher} of the 2.0 model's {len(verdicts)} thresholds the 2.1 model "
        f"is right more often with at least as many tokens per pass and an interval that does not overlap; at {lower} "
        f"it is lower with intervals apart, and at {len(verdicts) - higher - lower} they overlap or nothing is as fast."
    )


def _pair_row(base: Point, best: Point | None, verdict: str) -> list[object]:
    ours: list[object] = ["", "", "", ""]
    if best is not None:
        apart = best.shares.less(base.shares)
        low, high = (100 * end for end in apart.interval)
        ours = [best.variant, best.mean("tpf"), best.told(), f"{100 * apart.mean:+.1f} [{low:+.1f}, {high:+.1f}]"]
    return [f"{base.mean('threshold'):g}", base.mean("tpf"), base.told(), *ours, verdict]


def _row(point: Point) -> list[object]:
    edit = point.seeds[0]["edit_threshold"]
    shown: list[object] = [
        point.variant,
        f"{point.mean('threshold'):g}",
        "never" if edit is None else f"{edit:g}",
        "" if edit is None else f"{point.seeds[0].get('reread_threshold', 1.0):g}",
        point.told(),
        ", ".join(f"{m['exact_match']:.1%}" for m in point.seeds),
    ]
    shown += [f"{point.mean(f'exact_match_{language}'):.1%}" for language in ("zh", "en")]
    shown += [point.mean("tpf"), f"{point.passes:.2f}"]
    return shown + [f"{point.mean(name):.1f}" for name in ("edits_per_100", "edits_fixed", "edits_broken")]


def _plot(points: Mapping[str, Point], path: Path) -> None:
    """Means as lines over thresholds, seeds as dots."""
    from matplotlib.figure import Figure

    def family(name: str) -> str:
        model, at, setting = name.partition("@")
        edit = setting.partition("/")[2]
        return name if not at else f"{model}, edit/reread threshold {edit}" if edit else model

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    shown = {name: point for name, point in points.items() if "@" in name or name == "2.1-s-mbe"}
    for number, label in enumerate(dict.fromkeys(map(family, shown))):
        some = [point for name, point in shown.items() if family(name) == label]
        means = [(point.mean("tpf"), point.mean("exact_match")) for point in some]
        axes.plot(*zip(*means, strict=True), "x-", color=f"C{number}", linewidth=1, label=label)
        dots = [(m["tpf"], m["exact_match"]) for point in some for m in point.seeds]
        axes.plot(*zip(*dots, strict=True), "o", color=f"C{number}", markersize=3)
    axes.set(xlabel="tokens per forward pass", ylabel="exact match", title="each dot is a seed, each cross their mean")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
