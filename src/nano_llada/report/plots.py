"""The plots of a report, each where there are records for it: one look, and SVG for light and dark pages."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from nano_llada.evaluation.figures import ALL, BOTH, Figure, Way, figures
from nano_llada.evaluation.likelihood import BUCKET
from nano_llada.evaluation.metric import Ratio
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.results import Results, pooled
from nano_llada.report.parts import Plot
from nano_llada.report.training_run import TrainingRun
from nano_llada.report.words import name_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

# distinguishable with colour-blind eyes, and on light and dark paper
COLOURS = ("#1f83c4", "#d55e00", "#0a9b73", "#c8649a", "#d39200", "#56b4e9", "#8c6bb1", "#999933")
MARKERS, LINES = "osD^vPX*", ("-", "--", ":", "-.")


def suite_plots(records: Sequence[Record], results: Results, suite: str) -> list[Plot]:
    """All plots that can be drawn for a suite."""
    makers = {"generation": (_frontier, _skills), "infilling": (_spans,)}
    readers = {"likelihood": (_positions,), "calibration": (_reliability,)}
    found = [*(make(results) for make in makers.get(suite, ())), *(r(records, results) for r in readers.get(suite, ()))]
    return [plot for plot in found if plot is not None]


def training_plots(runs: Sequence[TrainingRun]) -> list[Plot]:
    """Training loss faint, validation loss with marks; for runs with a reward, the reward instead."""
    return [plot for name in ("loss", "reward") if (plot := _training(runs, name)) is not None]


def _training(runs: Sequence[TrainingRun], name: str) -> Plot | None:
    drawn = [run for run in runs if run.curve(name)[0] and bool(run.curve("reward")[0]) == (name == "reward")]
    if not drawn:
        return None
    figure, (axes,) = canvas(height=4.4)
    for run in drawn:
        looks = _style([(other.name, "") for other in runs], (run.name, ""))
        valid = run.curve("validation_loss") if name == "loss" else ([], [])
        label = _label(f"{run.name} ({run.kind})")
        axes.plot(*run.curve(name), color=looks["color"], alpha=0.45, linewidth=1, label=None if valid[0] else label)
        if valid[0]:
            axes.plot(*valid, markersize=4, label=label, **looks)
    axes.set(xlabel="training tokens", ylabel="loss (nats/token)" if name == "loss" else "mean reward")
    if name == "loss":
        axes.set_yscale("log")  # the first steps would flatten all the others
    alt = "; ".join(f"{run.name} ends at {run.curve(name)[1][-1]:.4g}" for run in drawn)
    caption = {"loss": "Loss against tokens: training loss faint, validation loss with marks.", "reward": "Reward."}
    return plot_of(figure, f"training-{name}", caption[name], f"Training {name} against tokens. {alt}.")


def _frontier(results: Results) -> Plot | None:
    task = results.whole("generation")
    lines: dict[str, list[tuple[float, Figure]]] = {}
    for way in results.ways("generation"):
        match, tpf = (results.middle(way, "generation", task, metric) for metric in ("exact_match", "tpf"))
        if match is not None and tpf is not None:
            lines.setdefault(way[0], []).append((tpf.value, match))
    if not lines:
        return None
    figure, (axes,) = canvas()
    for model, points in lines.items():
        points.sort(key=lambda point: point[0])
        looks = _style([(name, "") for name, _ in results.ways()], (model, ""))
        _error_bars(axes, [x for x, _ in points], [f for _, f in points], model, looks)
        for x, each in points:
            place = {"xytext": (6, 6), "textcoords": "offset points", "fontsize": 8}
            axes.annotate(_label(each.decoder), (x, each.value), **place)
    axes.set(xlabel="tokens per forward pass (higher is faster)", ylabel="exact match", ylim=(-0.03, 1.03))
    axes.margins(x=0.15)
    caption = "Exact match against tokens per forward pass; a line for each model, a point for each decoder."
    alt = [f"{model}: " + ", ".join(f"{f.value:.1%} at {x:.2f} ({f.decoder})" for x, f in points)
           for model, points in lines.items()]  # fmt: skip
    return plot_of(figure, "frontier", caption, f"Exact match by tokens per forward pass. {'; '.join(alt)}.")


def _skills(results: Results) -> Plot | None:
    judged = [f for f in results.figures if (f.suite, f.metric) == ("generation", "exact_match")]
    tasks = [task for task in results.tasks("generation") if any(f.task == task for f in judged)]
    languages = [language for language in results.languages("generation") if language != BOTH]
    ways = list(dict.fromkeys((f.model, f.decoder) for f in judged))
    if len(tasks) < 2 or not ways:
        return None
    figure, axes = canvas(len(languages), height=1.2 + len(tasks) * (0.2 + 0.16 * len(ways)))
    thick = 0.8 / len(ways)
    for panel, language in zip(axes, languages, strict=True):
        for number, way in enumerate(ways):
            rows = [results.row(way, "generation", task, "exact_match").get(language) for task in tasks]
            found = {place + number * thick: f for place, f in enumerate(rows) if f is not None}
            of_model = [other for other in ways if other[0] == way[0]]
            shade = {"color": _style(results.ways(), way)["color"], "label": _label(name_of(way))}
            shade["alpha"] = 1 - 0.65 * of_model.index(way) / len(of_model)
            bars = {"xerr": _reach(list(found.values())), "error_kw": {"elinewidth": 0.8, "ecolor": "0.5"}}
            panel.barh(list(found), [f.value for f in found.values()], thick * 0.9, **bars, **shade)
        panel.set(title=language, xlim=(0, 1.02), xlabel="exact match")
        panel.set_yticks([place + 0.4 - thick / 2 for place in range(len(tasks))], map(_label, tasks))
        panel.tick_params(axis="y", labelleft=panel is axes[0])
        panel.invert_yaxis()
        panel.grid(visible=False, axis="y")
    alt = f"Bars of exact match for {len(tasks)} tasks ({', '.join(tasks)}); the table by task has the same figures."
    return plot_of(figure, "skills", "Exact match by task and language, with 95 % intervals.", alt)


def _positions(records: Sequence[Record], results: Results) -> Plot | None:
    ours = pooled(record for record in records if record.suite == "likelihood")
    numbers = sorted({int(m[1]) for r in ours for name in r.values if (m := re.fullmatch(r"nats_p(\d+)", name))})
    if not numbers:
        return None
    metrics = [Ratio(str(number), f"nats_p{number}", f"tokens_p{number}") for number in numbers]
    languages = [language for language in results.languages("likelihood") if language != BOTH]
    lines: dict[tuple[str, Way], list[Figure]] = {}
    for found in figures(ours, lambda _: metrics):
        if found.value == found.value and found.language != BOTH:
            lines.setdefault((found.language, (found.model, found.decoder)), []).append(found)
    figure, axes = canvas(len(languages))
    for panel, language in zip(axes, languages, strict=True):
        for way in results.ways("likelihood"):
            mine = lines.get((language, way), [])
            xs, looks = [BUCKET * int(f.metric) for f in mine], _style(results.ways(), way)
            panel.plot(xs, [f.value for f in mine], label=_label(name_of(way)), markersize=4, **looks)
            panel.fill_between(xs, [f.low for f in mine], [f.high for f in mine], color=looks["color"], alpha=0.15)
        panel.set(title=language, xlabel=f"position in the window (tokens, groups of {BUCKET})")
    axes[0].set_ylabel("nats/token (lower is better)")
    alt = [f"{name_of(way)} {language}: {f[0].value:.3g} at the start, {f[-1].value:.3g} at the end"
           for (language, way), f in lines.items()]  # fmt: skip
    caption = "Negative log-likelihood of a token by its position in the window, with 95 % intervals."
    return plot_of(figure, "positions", caption, f"Negative log-likelihood by position. {'; '.join(alt)}.")


def _reliability(records: Sequence[Record], results: Results) -> Plot | None:
    bins: dict[Way, dict[int, list[float]]] = {}
    for record in records:
        if record.suite == "calibration":
            mine = bins.setdefault((record.model, record.decoder), {})
            for number, held in _binned(record.values):
                mine[number] = [a + b for a, b in zip(mine.get(number, [0.0] * 3), held, strict=True)]
    lines = {way: [some[b] for b in sorted(some) if some[b][0]] for way, some in bins.items()}
    if not any(lines.values()):
        return None
    figure, (axes,) = canvas(height=4.8)
    axes.plot((0, 1), (0, 1), color="0.6", linewidth=1, label="perfectly calibrated")
    for way, points in lines.items():
        looks = _style(results.ways(), way)
        marker, total = looks.pop("marker"), sum(count for count, _, _ in points)
        xs, ys = [sure / count for count, _, sure in points], [right / count for count, right, _ in points]
        axes.plot(xs, ys, label=_label(name_of(way)), **looks)
        sizes = [12 + 240 * count / total for count, _, _ in points]
        axes.scatter(xs, ys, sizes, color=looks["color"], marker=marker, alpha=0.75)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.03))
    caption = "Accuracy of tokens against confidence; mark size by number of tokens. Below the line: overconfident."
    alt = [f"{name_of(way)}: accuracy {p[-1][1] / p[-1][0]:.0%} at confidence {p[-1][2] / p[-1][0]:.0%}"
           for way, p in lines.items() if p]  # fmt: skip
    return plot_of(figure, "reliability", caption, f"Reliability diagram. {'; '.join(alt)}.")


def _binned(values: Mapping[str, float]) -> Iterator[tuple[int, list[float]]]:
    """The bins of a record: number; tokens, right ones, sum of confidences."""
    for name in values:
        if found := re.fullmatch(r"count_(\d+)", name):
            yield int(found[1]), [values.get(f"{what}_{found[1]}", 0.0) for what in ("count", "right", "confidence")]


def _spans(results: Results) -> Plot | None:
    spans = {int(m[0]): task for task in results.tasks("infilling") if (m := re.search(r"\d+$", task)) and task != ALL}
    metrics = [m.name for m in results.metrics.get("infilling", ()) if m.name in ("exact_match", "token_accuracy")]
    if not spans or not metrics:
        return None
    figure, axes = canvas(len(metrics))
    alt = []
    for panel, metric in zip(axes, metrics, strict=True):
        for way in results.ways("infilling"):
            found = {span: results.middle(way, "infilling", spans[span], metric) for span in sorted(spans)}
            points = {span: f for span, f in found.items() if f is not None}
            _error_bars(panel, list(points), list(points.values()), name_of(way), _style(results.ways(), way))
            alt.append(f"{name_of(way)}, {metric}: " + ", ".join(f"{f.value:.1%}" for f in points.values()))
        panel.set(xlabel="length of the gap (tokens)", ylabel=metric.replace("_", " "), ylim=(-0.03, 1.03))
        panel.set_xticks(sorted(spans))
    caption = "Infilling by length of the gap, with 95 % intervals."
    return plot_of(figure, "spans", caption, f"Infilling by length of the gap. {'; '.join(alt)}.")


def canvas(panels: int = 1, height: float = 4.0) -> tuple[Canvas, list[Any]]:
    """An empty figure and its axes, side by side."""
    from matplotlib.figure import Figure as Canvas  # importing it makes folders in the user's home

    figure = Canvas(figsize=(7.2, height), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False).flat)
    for each in axes:
        each.grid(alpha=0.3)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _style(ways: Sequence[Way], way: Way) -> dict[str, Any]:
    """The looks of a model (colour) and its decoder (line and marker), the same in all plots."""
    models = list(dict.fromkeys(model for model, _ in ways))
    decoders = list(dict.fromkeys(other for model, other in ways if model == way[0] and other))
    decoder, number = decoders.index(way[1]) if way[1] else 0, models.index(way[0])
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[decoder % len(LINES)],
        "marker": MARKERS[(number + decoder) % len(MARKERS)],
    }


def _label(text: str) -> str:
    """A name as matplotlib shows it: no formula, and never hidden for its first letter."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _error_bars(axes: Any, xs: Sequence[float], found: Sequence[Figure], name: str, looks: Mapping[str, Any]) -> None:
    """Figures as points with their intervals."""
    axes.errorbar(xs, [f.value for f in found], _reach(found), capsize=3, label=_label(name), **looks)


def _reach(found: Sequence[Figure]) -> list[list[float]]:
    """How far intervals reach below and above the values; not at all where there is none."""
    return [[max(0.0, f.value - f.low) for f in found], [max(0.0, f.high - f.value) for f in found]]


def plot_of(figure: Canvas, name: str, caption: str, alt: str) -> Plot:
    """The figure with a legend above it, as PNG, and as SVG with the colour of the page and without addresses."""
    import matplotlib  # see `canvas`

    named: dict[str, Any] = {}
    for axes in figure.axes:
        named |= {text: handle for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    columns = max(1, min(len(named), 80 // (max(map(len, named), default=1) + 6)))
    figure.legend(list(named.values()), list(named), loc="outside upper left", ncols=columns, frameon=False)
    png, svg = io.BytesIO(), io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # names may be Chinese
        figure.savefig(png, format="png", dpi=110)
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    opening, _, body = svg.getvalue().partition("<svg")[2].partition(">")
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = body.replace("#000000", "currentColor").replace("xlink:href=", "href=")
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)  # a page has several pictures
    box = re.search(r'viewBox="[^"]*"', opening)
    head = f'<svg role="img" aria-label="{escape(alt)}" {box[0] if box else ""}>'
    return Plot(name, caption, alt, head + body.strip(), png.getvalue())
