"""The tables of an evaluation report: figures, differences, and what the models wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nano_llada.evaluation.figures import BOTH, CONDITIONS, Difference, Figure, Way, figures
from nano_llada.evaluation.metric import Metric
from nano_llada.evaluation.page_parts import Cell, Row, Table
from nano_llada.evaluation.page_results import Results, pooled
from nano_llada.evaluation.page_words import amount, chance_of, change, interval, name_of, spread, verdict
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import ALL

ARROWS = {"high": " ↑ more is better", "low": " ↓ less is better", "": ""}
SIGNS = {"high": " ↑", "low": " ↓", "": ""}
WRITTEN = "generation"


def suite_table(results: Results, suite: str) -> Table:
    """Model by decoder, with a column a language; a group of rows for each metric."""
    task = results.whole(suite)
    seeds = any(len(f.runs) > 1 for f in results.figures if f.suite == suite)
    named = [(metric.name + ARROWS[metric.better], task, metric) for metric in results.metrics[suite]]
    caption = "All tasks together" if task == ALL else f"Task: {task}"
    return _figures(results, suite, caption, named, seeds=seeds)


def figure_rows(records: Sequence[Record], suite: str, metrics: Sequence[Metric]) -> list[list[str]]:
    """A suite's figures over all tasks (of conditions: the first) for a terminal: a head row, then a row a metric.

    The interval stands behind the last language alone, which is the mean where there are two.
    """
    ours = [record for record in records if record.suite == suite]
    found = figures(ours if suite in CONDITIONS else pooled(ours), lambda _: metrics)
    results = Results(tuple(found), (), {suite: metrics})
    languages = results.languages(suite)
    rows = [[suite, "model", *languages, "95 %", "n"]]
    for metric in metrics:
        for way in results.ways(suite):
            row = results.row(way, suite, results.whole(suite), metric.name)
            if not row:
                continue
            last = row[[language for language in languages if language in row][-1]]
            values = [amount(row[name].value, metric) if name in row else "-" for name in languages]
            told = interval(last.low, last.high, metric)
            rows.append([f"{metric.name}{SIGNS[metric.better]}", name_of(way), *values, told, str(last.items)])
    return rows


def task_rows(records: Sequence[Record], suite: str, metric: Metric) -> list[list[str]]:
    """A figure by task and language for a terminal: a head row, then rows with a column a model."""
    ours = [record for record in records if record.suite == suite]
    results = Results(tuple(figures(ours, lambda _: (metric,))), (), {suite: (metric,)})
    rows = [[metric.name, "language", *map(name_of, results.ways(suite))]]
    for task in results.tasks(suite):
        for language in results.languages(suite):
            found = [results.row(way, suite, task, metric.name).get(language) for way in results.ways(suite)]
            if language != BOTH and any(found):
                rows.append([task, language, *("-" if f is None else amount(f.value, metric) for f in found)])
    return rows


def task_tables(results: Results, suite: str) -> list[Table]:
    """For each metric, a table with a group of rows for each task; none for a suite of one task."""
    tasks = results.tasks(suite)
    tables = []
    for metric in results.metrics[suite] if len(tasks) > 1 else ():
        named = [(task, task, metric) for task in tasks]
        tables.append(_figures(results, suite, f"{metric.name} by task{ARROWS[metric.better]}", named, folded=True))
    return [table for table in tables if table.groups]


def difference_tables(results: Results, suite: str) -> list[Table]:
    """The best of all tasks together against the others; then the best of each task."""
    tasks = results.tasks(suite)
    named = [(metric.name, results.whole(suite), metric) for metric in results.metrics[suite]]
    tables = [_differences(results, suite, "The best against each other model", named)]
    for metric in results.metrics[suite] if len(tasks) > 1 else ():
        caption = f"{metric.name}: the best of each task against the others"
        tables.append(_differences(results, suite, caption, [(task, task, metric) for task in tasks], folded=True))
    return [table for table in tables if table.groups]


def written_table(records: Sequence[Record]) -> Table | None:
    """What each model answered to the first question of each task and language, and to all that have no right answer.

    None if the records do not tell.
    """
    told = [record for record in records if record.suite == WRITTEN and {"prompt", "answer"} <= set(record.detail)]
    if not told:
        return None
    ways = list(dict.fromkeys((record.model, record.decoder) for record in told))
    first: dict[tuple[str, str, str], Record] = {}
    answers: dict[tuple[str, str, str, Way], str] = {}
    for record in told:
        first.setdefault((record.task, record.language, "" if "right" in record.values else record.item), record)
        place = (record.task, record.language, record.item, (record.model, record.decoder))
        answers.setdefault(place, _judged(record))
    rows: list[Row] = []
    for (task, language, _), record in sorted(first.items(), key=lambda found: found[0]):
        theirs = [answers.get((task, language, record.item, way), "-") for way in ways]
        known = record.detail.get("references", [record.detail.get("reference", "")])
        right = " / ".join(map(str, known)) if isinstance(known, list) else str(known)
        rows.append((task, str(record.detail["prompt"]), right, *theirs))
    head = ("task", "prompt", "right answer", *map(name_of, ways))
    caption = "One question of each task and language, and all without a right answer"
    return Table(caption, head, (("", tuple(rows)),), folded=True)


Named = tuple[str, str, Metric]  # the heading of a group of rows, the task and the metric that they show


def _figures(
    results: Results, suite: str, caption: str, named: Sequence[Named], *, seeds: bool = False, folded: bool = False
) -> Table:
    languages = results.languages(suite)
    groups = []
    for label, task, metric in named:
        ways = {way: results.row(way, suite, task, metric.name) for way in results.ways(suite)}
        rows = {way: row for way, row in ways.items() if row}
        if rows:
            groups.append((label, _figure_rows(rows, metric, languages, seeds)))
    head = ("model", "decoder", *languages, "examples", *(("each run",) if seeds else ()))
    return Table(caption, head, tuple(groups), labels=2, folded=folded)


def _figure_rows(
    rows: Mapping[Way, Mapping[str, Figure]], metric: Metric, languages: Sequence[str], seeds: bool
) -> tuple[Row, ...]:
    every = [figure for row in rows.values() for figure in row.values()]
    ends = [end for f in every for end in (f.low, f.value, f.high) if math.isfinite(end)]
    sign = -1 if metric.better == "low" else 1
    best = {}
    for language in languages if metric.better and len(rows) > 1 else ():
        best[language] = max((sign * row[language].value for row in rows.values() if language in row), default=None)
    made: list[Row] = []
    for way, row in rows.items():
        middle = row.get(BOTH) or next(iter(row.values()))
        cells: list[Cell | str] = [way[0], way[1] or "-"]
        for language in languages:
            figure = row.get(language)
            star = figure is not None and sign * figure.value == best.get(language)
            cells.append("-" if figure is None else _cell(figure, metric, star, (min(ends), max(ends))))
        cells.append(str(middle.items))
        if seeds:
            cells.append(", ".join(amount(value, metric) for value in middle.runs) if len(middle.runs) > 1 else "-")
        made.append(tuple(cells))
    return tuple(made)


def _cell(figure: Figure, metric: Metric, best: bool, ends: tuple[float, float]) -> Cell:
    span, width = None, ends[1] - ends[0]
    if width > 0:
        low = figure.low if math.isfinite(figure.low) else figure.value
        high = figure.high if math.isfinite(figure.high) else figure.value
        span = ((low - ends[0]) / width, (figure.value - ends[0]) / width, (high - ends[0]) / width)
    return Cell(amount(figure.value, metric), (interval(figure.low, figure.high, metric),), best, span)


def _differences(results: Results, suite: str, caption: str, named: Sequence[Named], *, folded: bool = False) -> Table:
    languages = results.languages(suite)
    groups = []
    for label, task, metric in named:
        pairs: dict[tuple[Way, Way], dict[str, Difference]] = {}
        for found in results.against(suite, task, metric.name):
            pairs.setdefault((found.first, found.second), {})[found.language] = found
        rows = []
        for (best, other), row in pairs.items():
            cells = [_difference(row[language], metric) if language in row else "-" for language in languages]
            items = str((row.get(BOTH) or next(iter(row.values()))).items)
            rows.append((f"★ {name_of(best)}", name_of(other), *cells, items))
        if rows:
            groups.append((label, tuple(rows)))
    head = ("best", "minus", *languages, "examples")
    return Table(caption, head, tuple(groups), labels=2, folded=folded)


def _difference(found: Difference, metric: Metric) -> Cell:
    if not math.isfinite(found.value):
        return Cell("-", (verdict(found, metric),))
    p = chance_of(found.p) if math.isfinite(found.p) else ""
    return Cell(change(found.value, metric), (spread(found, metric), p, verdict(found, metric)))


def _judged(record: Record) -> str:
    mark = {1.0: "✓ ", 0.0: "✗ "}.get(record.values.get("right", math.nan), "")
    return f"{mark}{record.detail['answer']}"
