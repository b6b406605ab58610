"""The plots of an evaluation report, each where there are records for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nano_llada.evaluation.figures import BOTH, Figure, Way, figures
from nano_llada.evaluation.likelihood import BUCKET
from nano_llada.evaluation.metric import Ratio
from nano_llada.evaluation.page_parts import Plot
from nano_llada.evaluation.page_picture import canvas, label, legend, picture, style
from nano_llada.evaluation.page_results import Results, pooled
from nano_llada.evaluation.page_words import name_of
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import ALL


def plots(records: Sequence[Record], results: Results) -> dict[str, list[Plot]]:
    """All plots that can be drawn, by the suite they belong to."""
    found = {
        "generation": (_frontier(results), _skills(results)),
        "likelihood": (_positions(records, results),),
        "calibration": (_reliability(records, results),),
        "infilling": (_spans(results),),
    }
    return {suite: [plot for plot in some if plot is not None] for suite, some in found.items()}


def _bars(found: Sequence[Figure]) -> list[list[float]]:
    """How far intervals reach below and above the values; nowhere where there is none."""
    return [[max(0.0, f.value - f.low) for f in found], [max(0.0, f.high - f.value) for f in found]]


def _frontier(results: Results) -> Plot | None:
    task = results.whole("generation")
    lines: dict[str, list[tuple[float, Figure]]] = {}
    for way in results.ways("generation"):
        match, tpf = (results.middle(way, "generation", task, metric) for metric in ("exact_match", "tpf"))
        if match is not None and tpf is not None:
            lines.setdefault(way[0], []).append((tpf.value, match))
    if not lines:
        return None
    figure, axes = canvas()
    told = []
    for model, points in lines.items():
        points.sort(key=lambda point: point[0])
        xs, found = [x for x, _ in points], [f for _, f in points]
        looks = style([(name, "") for name, _ in results.ways()], (model, ""))
        axes[0].errorbar(xs, [f.value for f in found], _bars(found), capsize=3, label=label(model), **looks)
        for x, each in points:
            name = label(each.decoder)
            axes[0].annotate(name, (x, each.value), xytext=(6, 6), textcoords="offset points", fontsize=8)
        told.append(f"{model}: " + ", ".join(f"{f.value:.1%} at {x:.2f} ({f.decoder})" for x, f in points))
    axes[0].set(xlabel="tokens per forward pass: further right is faster", ylabel="exact match", ylim=(-0.03, 1.03))
    axes[0].margins(x=0.15)
    legend(figure, axes)
    caption = "Right answers against speed: a line a model, a point a decoder. Best is the upper right."
    return picture(figure, "frontier", caption, f"Exact match by tokens per forward pass. {'; '.join(told)}.")


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
            found = [(place + number * thick, f) for place, f in enumerate(rows) if f is not None]
            values, bars = [f.value for _, f in found], _bars([f for _, f in found])
            alone = [other for other in ways if other[0] == way[0]]
            looks = {"color": style(results.ways(), way)["color"], "alpha": 1 - 0.65 * alone.index(way) / len(alone)}
            looks |= {"label": label(name_of(way)), "error_kw": {"elinewidth": 0.8, "ecolor": "0.5"}}
            panel.barh([y for y, _ in found], values, thick * 0.9, xerr=bars, **looks)
        panel.set(title=language, xlim=(0, 1.02), xlabel="exact match")
        panel.set_yticks([place + 0.4 - thick / 2 for place in range(len(tasks))], map(label, tasks))
        panel.tick_params(axis="y", labelleft=panel is axes[0])
        panel.invert_yaxis()
        panel.grid(visible=False, axis="y")
    legend(figure, axes)
    alt = f"Bars of exact match for {len(tasks)} tasks ({', '.join(tasks)}); the table by task has the same figures."
    return picture(figure, "skills", "Right answers by skill and language, with 95 % intervals.", alt)


def _positions(records: Sequence[Record], results: Results) -> Plot | None:
    ours = pooled(record for record in records if record.suite == "likelihood")
    numbers = sorted({int(m[1]) for r in ours for name in r.values if (m := re.fullmatch(r"nats_p(\d+)", name))})
    if not numbers:
        return None
    metrics = [Ratio(str(number), f"nats_p{number}", f"tokens_p{number}") for number in numbers]
    languages = [language for language in results.languages("likelihood") if language != BOTH]
    lines: dict[tuple[str, Way], list[Figure]] = {}
    for found in figures(ours, lambda _: metrics):
        if found.value == found.value:
            lines.setdefault((found.language, (found.model, found.decoder)), []).append(found)
    figure, axes = canvas(len(languages))
    for panel, language in zip(axes, languages, strict=True):
        for way in results.ways("likelihood"):
            mine = lines.get((language, way), [])
            xs = [BUCKET * int(f.metric) for f in mine]
            looks = style(results.ways(), way)
            panel.plot(xs, [f.value for f in mine], label=label(name_of(way)), markersize=4, **looks)
            panel.fill_between(xs, [f.low for f in mine], [f.high for f in mine], color=looks["color"], alpha=0.15)
        panel.set(title=language, xlabel=f"position in the window, from token (groups of {BUCKET})")
    axes[0].set_ylabel("nats per token: lower is better")
    legend(figure, axes)
    told = [f"{name_of(way)} {lang}: {f[0].value:.3g} at the start, {f[-1].value:.3g} at the end"
            for (lang, way), f in lines.items() if lang != BOTH]  # fmt: skip
    caption = "How surprising a token is, by its position in the window, with 95 % intervals."
    return picture(figure, "positions", caption, f"Negative log-likelihood by position. {'; '.join(told)}.")


def _reliability(records: Sequence[Record], results: Results) -> Plot | None:
    bins: dict[Way, dict[int, list[float]]] = {}
    for record in records:
        if record.suite == "calibration":
            _count(bins.setdefault((record.model, record.decoder), {}), record.values)
    lines = {way: [some[b] for b in sorted(some) if some[b][0]] for way, some in bins.items()}
    if not any(lines.values()):
        return None
    figure, axes = canvas(height=4.8)
    axes[0].plot((0, 1), (0, 1), color="0.6", linewidth=1, label="as right as sure")
    for way, points in lines.items():
        looks = style(results.ways(), way)
        xs, ys = [sure / count for count, _, sure in points], [right / count for count, right, _ in points]
        total = sum(count for count, _, _ in points)
        axes[0].plot(xs, ys, color=looks["color"], linestyle=looks["linestyle"], label=label(name_of(way)))
        sizes = [12 + 240 * count / total for count, _, _ in points]
        axes[0].scatter(xs, ys, sizes, color=looks["color"], marker=looks["marker"], alpha=0.75)
    axes[0].set(xlabel="how sure the model is", ylabel="how often it is right", xlim=(0, 1.03), ylim=(0, 1.03))
    legend(figure, axes)
    caption = "Confidence against accuracy of tokens; the larger a mark, the more tokens. Below the line: too sure."
    told = [f"{name_of(way)}: right {p[-1][1] / p[-1][0]:.0%} of the time where it is {p[-1][2] / p[-1][0]:.0%} sure"
            for way, p in lines.items() if p]  # fmt: skip
    return picture(figure, "reliability", caption, f"Reliability diagram. {'; '.join(told)}.")


def _count(bins: dict[int, list[float]], values: Mapping[str, float]) -> None:
    """Add what a record holds: for each bin tokens, right ones, and the sum of confidences."""
    for name in values:
        if (found := re.fullmatch(r"count_(\d+)", name)) is None:
            continue
        held = [values.get(f"{what}_{found[1]}", 0.0) for what in ("count", "right", "confidence")]
        bins[int(found[1])] = [a + b for a, b in zip(bins.get(int(found[1]), [0.0] * 3), held, strict=True)]


def _spans(results: Results) -> Plot | None:
    spans = {int(m[0]): task for task in results.tasks("infilling") if (m := re.search(r"\d+$", task)) and task != ALL}
    metrics = [m.name for m in results.metrics.get("infilling", ()) if m.name in ("exact_match", "token_accuracy")]
    if not spans or not metrics:
        return None
    figure, axes = canvas(len(metrics))
    told = []
    for panel, metric in zip(axes, metrics, strict=True):
        for way in results.ways("infilling"):
            found = [(span, results.middle(way, "infilling", spans[span], metric)) for span in sorted(spans)]
            points = [(span, f) for span, f in found if f is not None]
            values = [f.value for _, f in points]
            bars = _bars([f for _, f in points])
            panel.errorbar([span for span, _ in points], values, bars, capsize=3, label=label(name_of(way)),
                           **style(results.ways(), way))  # fmt: skip
            told.append(f"{name_of(way)}, {metric}: " + ", ".join(f"{v:.1%}" for v in values))
        panel.set(xlabel="length of the gap", ylabel=metric.replace("_", " "), ylim=(-0.03, 1.03))
        panel.set_xticks(sorted(spans))
    legend(figure, axes)
    caption = "How well gaps are filled, by their length, with 95 % intervals."
    return picture(figure, "spans", caption, f"Infilling by length of the gap. {'; '.join(told)}.")
