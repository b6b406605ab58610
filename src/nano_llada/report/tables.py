"""Tables of figures and differences, for pages and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from nano_llada.evaluation.figures import ALL, BOTH, Difference, Figure, Way
from nano_llada.evaluation.metric import Metric
from nano_llada.evaluation.results import Results
from nano_llada.report.parts import Cell, Row, Table, row
from nano_llada.report.words import ARROWS, amount, change, heading, interval, name_of, p_value, spread, verdict

OPEN = 2  # metrics of a suite whose tables are not folded


def suite_tables(results: Results, suite: str) -> Iterator[Table]:
    """Tables by metric, the best against the others, and both by task where there are several tasks."""
    tasks, whole = results.tasks(suite), results.whole(suite)
    metrics = results.metrics[suite]
    of = ", all tasks" if whole == ALL else f", {whole}"
    tables = [_figures(results, suite, metric, [whole], of, folded=n >= OPEN) for n, metric in enumerate(metrics)]
    pairs = [(heading(metric.name, metric), whole, metric) for metric in metrics]
    tables.append(_differences(results, suite, "The best model against each other one", "metric", pairs))
    for metric in metrics if len(tasks) > 1 else ():
        tables.append(_figures(results, suite, metric, tasks, " by task", folded=True, by_task=True))
        pairs = [(task, task, metric) for task in tasks]
        caption = f"{heading(metric.name, metric)} by task: the best model against the others"
        tables.append(_differences(results, suite, caption, "task", pairs))
    yield from (table for table in tables if table.rows)


def figure_rows(results: Results, suite: str) -> list[list[str]]:
    """A suite's figures over all tasks (where they are not pooled: the first) for a terminal, headings first.

    The interval is that of the last language, which is the mean where there are two.
    """
    languages = results.languages(suite)
    rows = [[suite, "model", *languages, "95 %", "n"]]
    for metric in results.metrics[suite]:
        for way in results.ways(suite):
            found = results.row(way, suite, results.whole(suite), metric.name)
            if found:
                last = found[[language for language in languages if language in found][-1]]
                values = [amount(found[name].value, metric) if name in found else "–" for name in languages]
                label = heading(metric.name, metric) + ARROWS[metric.better][:2]
                rows.append([label, name_of(way), *values, interval(last.low, last.high, metric), str(last.items)])
    return rows


def task_rows(results: Results, suite: str, metric: Metric) -> list[list[str]]:
    """A metric by task and language for a terminal, a column for each model, headings first."""
    ways = results.ways(suite)
    rows = [[heading(metric.name, metric), "language", *map(name_of, ways)]]
    for task in results.tasks(suite):
        for language in results.languages(suite):
            found = [results.row(way, suite, task, metric.name).get(language) for way in ways]
            if language != BOTH and any(found):
                rows.append([task, language, *("–" if f is None else amount(f.value, metric) for f in found)])
    return rows


def headline_rows(results: Results, shown: Iterable[tuple[str, str]]) -> list[list[str]]:
    """A row for each model with a few figures (suite, metric) for a terminal, headings first."""
    wanted = [(suite, metric) for suite, name in shown for metric in results.metrics[suite] if metric.name == name]
    found = {
        (way, number): figure
        for way in results.ways()
        for number, (suite, metric) in enumerate(wanted)
        if (figure := results.middle(way, suite, results.whole(suite), metric.name)) is not None
    }
    columns = [number for number in range(len(wanted)) if any((way, number) in found for way in results.ways())]
    named = (heading(wanted[n][1].name.replace("_", " "), wanted[n][1]) for n in columns)  # may break between words
    rows = [["model", *named]]
    for way in results.ways():
        figures = [found.get((way, number)) for number in columns]
        values = [amount(f.value, wanted[n][1]) if f else "–" for n, f in zip(columns, figures, strict=True)]
        rows.append([name_of(way), *values])
    return rows


def _figures(
    results: Results, suite: str, metric: Metric, tasks: Sequence[str], of: str, *, folded: bool, by_task: bool = False
) -> Table:
    languages = results.languages(suite)
    seeds = not by_task and any(len(f.runs) > 1 for f in results.figures if f.suite == suite)
    rows: list[Row] = []
    for task in tasks:
        ways = {way: results.row(way, suite, task, metric.name) for way in results.ways(suite)}
        for labels in _figure_rows({way: found for way, found in ways.items() if found}, metric, languages, seeds):
            rows.append((Cell(task), *labels) if by_task else labels)
    head = (*(("task",) if by_task else ()), "model", "decoder", *(heading(name, metric) for name in languages))
    head += ("examples", *((heading("each run", metric),) if seeds else ()))
    caption = f"{heading(metric.name, metric)}{of}{ARROWS[metric.better]}"
    return Table(caption, head, tuple(rows), labels=3 if by_task else 2, folded=folded)


def _figure_rows(
    ways: Mapping[Way, Mapping[str, Figure]], metric: Metric, languages: Sequence[str], seeds: bool
) -> Iterator[Row]:
    every = [figure for found in ways.values() for figure in found.values()]
    ends = [end for figure in every for end in (figure.low, figure.value, figure.high) if math.isfinite(end)]
    sign = -1 if metric.better == "low" else 1
    best: dict[str, float] = {}
    for figure in every if metric.better and len(ways) > 1 else ():
        best[figure.language] = max(sign * figure.value, best.get(figure.language, -math.inf))
    for way, found in ways.items():
        cells: list[Cell | str] = [way[0], way[1] or "–"]
        for language in languages:
            one = found.get(language)
            star = one is not None and sign * one.value == best.get(language)
            cells.append("–" if one is None else _figure(one, metric, star, min(ends), max(ends)))
        middle = found.get(BOTH) or next(iter(found.values()))
        cells.append(str(middle.items))
        if seeds:
            cells.append(", ".join(amount(value, metric) for value in middle.runs) if len(middle.runs) > 1 else "–")
        yield row(*cells)


def _figure(figure: Figure, metric: Metric, best: bool, least: float, most: float) -> Cell:
    span = None
    if most > least:
        low, high = (end if math.isfinite(end) else figure.value for end in (figure.low, figure.high))
        first, middle, last = ((end - least) / (most - least) for end in (low, figure.value, high))
        span = (first, middle, last)
    return Cell(amount(figure.value, metric), (interval(figure.low, figure.high, metric),), best, span)


def _differences(
    results: Results, suite: str, caption: str, label: str, named: Sequence[tuple[str, str, Metric]]
) -> Table:
    """Rows for (label, task, metric)."""
    languages = results.languages(suite)
    rows: list[Row] = []
    for name, task, metric in named:
        pairs: dict[tuple[Way, Way], dict[str, Difference]] = {}
        for found in results.against(suite, task, metric.name):
            pairs.setdefault((found.first, found.second), {})[found.language] = found
        for (best, other), by in pairs.items():
            cells = [_difference(by[language], metric) if language in by else Cell("–") for language in languages]
            items = str((by.get(BOTH) or next(iter(by.values()))).items)
            rows.append(row(name, f"★ {name_of(best)}", name_of(other), *cells, items))
    head = (label, "best", "minus", *languages, "examples")
    return Table(caption, head, tuple(rows), labels=3, folded=True)


def _difference(found: Difference, metric: Metric) -> Cell:
    if not math.isfinite(found.value):
        return Cell("–", (verdict(found, metric),))
    return Cell(change(found.value, metric), (spread(found, metric), p_value(found.p), verdict(found, metric)))
