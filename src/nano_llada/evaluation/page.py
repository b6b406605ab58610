"""The report of an evaluation from its records alone: Markdown, JSON, and one HTML page that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.evaluation.figures import Metrics
from nano_llada.evaluation.page_html import to_html
from nano_llada.evaluation.page_parts import Part, Plot, Section, Trace, to_markdown
from nano_llada.evaluation.page_plots import plots
from nano_llada.evaluation.page_results import SURE, Results, measure
from nano_llada.evaluation.page_tables import difference_tables, figure_rows, suite_table, task_tables, written_table
from nano_llada.evaluation.page_training import TrainingRun, training_section, training_summary
from nano_llada.evaluation.page_words import SUITES, meanings, name_of, summary
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suites import metrics_of

__all__ = ["figure_rows", "write_evaluation"]
TRACES = 2  # questions of each language that are shown being answered


def write_evaluation(
    records: Sequence[Record],
    folder: Path,
    title: str,
    metrics: Metrics = metrics_of,
    training: Sequence[TrainingRun] = (),
) -> Path:
    """Write report.md, report.json, report.html and the plots into a folder; gives the HTML file.

    Args:
        metrics: of a suite, by its name.
        training: finished runs to compare besides, or alone.

    Raises:
        UserError: if there is nothing to report, a suite is unknown, or the folder cannot be written.
    """
    if not records and not training:
        raise UserError("nothing to report: neither records of an evaluation nor training runs")
    results = measure(records, metrics)
    sections = list(_sections(records, results, training))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for plot in (part for section in sections for part in section.parts if isinstance(part, Plot)):
            (folder / f"{plot.name}.png").write_bytes(plot.png)
        (folder / "report.json").write_text(_json(results, title, training), encoding="utf-8")
        (folder / "report.md").write_text(to_markdown(title, sections), encoding="utf-8")
        page = folder / "report.html"
        page.write_text(to_html(title, sections), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the report to {folder}: {error.strerror}") from error
    return page


def _sections(records: Sequence[Record], results: Results, training: Sequence[TrainingRun]) -> Iterator[Section]:
    points = (*summary(results), *training_summary(training))
    words = () if points else ("Nothing here has a better end, or several runs of one kind: see the tables.",)
    yield Section("summary", "In short", words, points)
    drawn = plots(records, results)
    for suite in results.metrics:
        yield _suite(results, suite, drawn.get(suite, []))
    if traces := _traces(records):
        words = ("Every token with the forward pass that wrote it; the darker, the later.",)
        yield Section("traces", "How answers were written", words, (), tuple(traces))
    if written := written_table(records):
        yield Section("answers", "What they wrote", (), (), (written,))
    if training:
        yield training_section(training)
    if records:
        yield Section("reading", "How to read this", _notes(results), meanings(results))


def _suite(results: Results, suite: str, drawn: Sequence[Plot]) -> Section:
    title, text = SUITES.get(suite, (suite, ""))
    words = [text] if text else []
    if suite in results.uneven:
        words.append("Not all models were given the same examples here: differences are over those both were given.")
    parts: list[Part] = [suite_table(results, suite), *drawn]
    parts += [*difference_tables(results, suite), *task_tables(results, suite)]
    return Section(suite, title, tuple(words), (), tuple(parts))


def _notes(results: Results) -> tuple[str, ...]:
    notes = [
        "A figure stands before its 95 % interval: of intervals made like this from examples like these, about 95 in "
        "100 hold the true value. Intervals of shares are Wilson's, all others a bootstrap over examples. Mean is "
        "that of both languages. ★ marks the best value, even where it is not distinguishable from others."
    ]
    if results.comparisons:
        expected = results.comparisons * SURE
        notes.append(
            f"Differences are paired: example by example, best minus other. {results.comparisons} comparisons were "
            f"made, and p-values are not corrected for that: about {expected:.1f} of so many would have p below "
            f"{SURE} if no models differed at all. The best was chosen by the same examples, which flatters it."
        )
    if any(len(figure.runs) > 1 for figure in results.figures):
        notes.append(
            "Several runs (seeds) of a model are counted together, each run's own value stands beside: how far those "
            "lie apart says more about another training than the interval, which is over examples alone."
        )
    return tuple(notes)


def _traces(records: Sequence[Record]) -> list[Trace]:
    """The longest answers of each language, of every model that wrote the same questions."""
    told = [record for record in records if _traced(record)]
    chosen: dict[str, list[tuple[str, str]]] = {}
    for record in sorted(told, key=lambda record: -len(record.detail["pieces"])):
        mine = chosen.setdefault(record.language, [])
        if len(mine) < TRACES and (record.task, record.item) not in mine:
            mine.append((record.task, record.item))
    shown: dict[tuple[str, ...], Trace] = {}
    for language, items in sorted(chosen.items()):
        for task, item in items:
            for record in told:
                if (record.language, record.task, record.item) == (language, task, item):
                    who = f"{name_of((record.model, record.decoder))}, {task}, {language}"
                    shown.setdefault((who, item), _trace(record, who))  # of several runs the first
    return list(shown.values())


def _traced(record: Record) -> bool:
    order, pieces = record.detail.get("order"), record.detail.get("pieces")
    if not (isinstance(order, list) and isinstance(pieces, list)):
        return False
    return 0 < len(order) == len(pieces) and all(isinstance(number, int) and number >= 0 for number in order)


def _trace(record: Record, who: str) -> Trace:
    right = {1.0: True, 0.0: False}.get(record.values.get("right", math.nan))
    pieces = tuple(str(piece) for piece in record.detail["pieces"])
    return Trace(who, str(record.detail.get("prompt", "")), right, pieces, tuple(record.detail["order"]))


def _json(results: Results, title: str, training: Sequence[TrainingRun]) -> str:
    """Everything the report shows in numbers; null where there is no number."""
    runs = [
        {"name": run.name, "kind": run.kind, "tokens": run.tokens, "parameters": run.parameters, "seconds": run.seconds}
        | {f"final_{name}": next(iter(run.curve(name)[1][-1:]), None) for name in ("validation_loss", "loss", "reward")}
        for run in training
    ]
    report = {
        "title": title,
        "figures": [asdict(figure) for figure in results.figures],
        "differences": [asdict(difference) for difference in results.differences],
        "comparisons": results.comparisons,
        "training": runs,
    }
    return json.dumps(_finite(report), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
