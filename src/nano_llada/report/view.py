"""The one view of records and training runs that all forms of a report are made from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nano_llada.evaluate.figures import Way
from nano_llada.evaluate.record import Record
from nano_llada.evaluate.results import SURE, Results
from nano_llada.evaluate.suites import SuiteOf
from nano_llada.report.parts import Answer, Answers, Cell, Row, Section, Table, Trace, row
from nano_llada.report.plots import suite_plots, training_plot
from nano_llada.report.tables import suite_tables
from nano_llada.report.training_run import TrainingRun
from nano_llada.report.words import name_of, summary

ANSWERED = "generation"  # the suite whose answers are shown
TRACES = 2  # questions of each language whose answers are shown pass by pass
TRAINING_NOTE = (
    "The loss of a diffusion model is a bound and depends on its block size. Compare losses only between runs of the "
    "same kind, with the same tokenizer and the same validation data. Time is that of the optimizer steps alone."
)


@dataclass(frozen=True)
class Report:
    """A title and sections, as plain data."""

    title: str
    sections: tuple[Section, ...]


def make_view(
    records: Sequence[Record], results: Results, suite_of: SuiteOf, training: Sequence[TrainingRun], title: str
) -> Report:
    """The sections of a report: summary, suites, traces, answers, training, notes; each where there is something."""
    return Report(title, tuple(_sections(records, results, suite_of, training)))


def _sections(
    records: Sequence[Record], results: Results, suite_of: SuiteOf, training: Sequence[TrainingRun]
) -> Iterator[Section]:
    points = (*summary(results, suite_of), *_training_summary(training))
    none = () if points else ("No model is ahead: the metrics have no better end or there is one run of a kind.",)
    yield Section("summary", "Summary", none, points)
    for suite in results.metrics:
        about = suite_of(suite)
        paragraphs = [about.explanation] if about.explanation else []
        if suite in results.uneven:
            paragraphs.append("The models did not all get the same examples: differences are over the common ones.")
        tables = list(suite_tables(results, suite))
        first = [table for table in tables if not table.folded]
        parts = (*first[:1], *suite_plots(records, results, suite), *first[1:], *(t for t in tables if t.folded))
        yield Section(suite, about.title, tuple(paragraphs), (), parts)
    if traces := _traces(records):
        paragraphs = ["Every token with the forward pass that wrote it; the darker, the later."]
        yield Section("traces", "Decoding, pass by pass", tuple(paragraphs), (), traces)
    if answers := answers_of(records):
        paragraphs = ["The first question of each task and language, and every prompt without a reference answer."]
        yield Section("answers", "Answers", tuple(paragraphs), (), answers)
    if training:
        plots = (plot for name in ("loss", "reward") if (plot := training_plot(training, name)) is not None)
        yield Section("training", "Training", (TRAINING_NOTE,), (), (_training_table(training), *plots))
    if records:
        shown = {suite: {metric.name for metric in metrics} for suite, metrics in results.metrics.items()}
        words = [(f"{suite_of(suite).title}, {name}", text) for suite, names in shown.items()
                 for name, text in suite_of(suite).meanings.items() if name in names]  # fmt: skip
        yield Section("reading", "How to read this report", tuple(_notes(results)), tuple(words))


def answers_of(records: Sequence[Record]) -> tuple[Answers, ...]:
    """Each model's answer to the first question of each task and language, and to all that have no reference."""
    known = [record for record in records if record.suite == ANSWERED and {"prompt", "answer"} <= set(record.detail)]
    ways = list(dict.fromkeys((record.model, record.decoder) for record in known))
    first: dict[tuple[str, str, str], Record] = {}
    answers: dict[tuple[str, str, str, Way], Answer] = {}
    for record in known:
        first.setdefault((record.task, record.language, "" if "right" in record.values else record.item), record)
        way = (record.model, record.decoder)
        answer = Answer(name_of(way), str(record.detail["answer"]), _verdict(record))
        answers.setdefault((record.task, record.language, record.item, way), answer)
    found = []
    for (task, language, _), record in sorted(first.items(), key=lambda pair: pair[0]):
        theirs = [answers.get((task, language, record.item, way)) for way in ways]
        references = record.detail.get("references", [record.detail.get("reference", "")])
        right = tuple(str(one) for one in references if one)
        found.append(Answers(task, str(record.detail["prompt"]), right, tuple(one for one in theirs if one)))
    return tuple(found)


def _traces(records: Sequence[Record]) -> tuple[Trace, ...]:
    """The longest answers of each language, of every model that answered the same questions."""
    known = [record for record in records if _is_traced(record)]
    chosen: dict[str, list[tuple[str, str]]] = {}
    for record in sorted(known, key=lambda record: -len(record.detail["pieces"])):
        mine = chosen.setdefault(record.language, [])
        if len(mine) < TRACES and (record.task, record.item) not in mine:
            mine.append((record.task, record.item))
    shown: dict[tuple[str, ...], Trace] = {}
    for language, items in sorted(chosen.items()):
        for task, item in items:
            for record in known:
                if (record.language, record.task, record.item) == (language, task, item):
                    model = f"{name_of((record.model, record.decoder))}, {task}, {language}"
                    shown.setdefault((model, item), _trace(record, model))  # of several runs the first
    return tuple(shown.values())


def _is_traced(record: Record) -> bool:
    order, pieces = record.detail.get("order"), record.detail.get("pieces")
    if not (isinstance(order, list) and isinstance(pieces, list)):
        return False
    return 0 < len(order) == len(pieces) and all(isinstance(number, int) and number >= 0 for number in order)


def _trace(record: Record, model: str) -> Trace:
    tokens = zip(map(str, record.detail["pieces"]), record.detail["order"], strict=True)
    return Trace(model, str(record.detail.get("prompt", "")), _verdict(record), tuple(tokens))


def _verdict(record: Record) -> str:
    return {1.0: "right", 0.0: "wrong"}.get(record.values.get("right", math.nan), "")


def _training_summary(runs: Sequence[TrainingRun]) -> Iterator[tuple[str, str]]:
    """Of each kind, the run that ended with the lowest loss."""
    for kind in dict.fromkeys(run.kind for run in runs):
        ends = [(run.final("validation_loss"), run.name) for run in runs if run.kind == kind]
        ranked = sorted((value, name) for value, name in ends if value is not None)
        if len(ranked) > 1:
            (best, name), *others = ranked
            rest = ", ".join(f"{other} {value:.4f}" for value, other in others)
            yield f"Training, {kind}", f"{name} ends with the lowest validation loss, {best:.4f} (others: {rest})."


def _training_table(runs: Sequence[TrainingRun]) -> Table:
    losses = ("final validation loss", "lowest", "final training loss")
    head = ("run", "kind", *(f"{name} (nats/token)" for name in losses), "tokens", "parameters", "time (min)")
    ends: dict[str, list[float]] = {}
    for run in runs:
        if (value := run.final("validation_loss")) is not None:
            ends.setdefault(run.kind, []).append(value)
    rows: list[Row] = []
    for run in runs:
        final, same = run.final("validation_loss"), ends.get(run.kind, [])
        best = len(same) > 1 and final == min(same)
        lowest = min(run.curve("validation_loss")[1], default=None)
        shown = [_number(value, ".4f") for value in (lowest, run.final("loss"))]
        shown += [_number(value, ",.0f") for value in (run.tokens, run.parameters)]
        minutes = None if run.seconds is None else run.seconds / 60
        rows.append(row(run.name, run.kind, Cell(_number(final, ".4f"), best=best), *shown, _number(minutes, ".1f")))
    return Table("Runs (★ lowest final validation loss of its kind)", head, tuple(rows), labels=2)


def _number(value: float | None, how: str) -> str:
    return "–" if value is None else format(value, how)


def _notes(results: Results) -> Iterator[str]:
    yield (
        "Brackets hold 95 % intervals: about 95 in 100 intervals made like this from such examples contain the true "
        "value. Intervals of shares are Wilson's, all others a bootstrap over examples. Mean is the mean of both "
        "languages. ★ marks the best value, even where the difference to others is not significant."
    )
    if results.comparisons:
        expected = results.comparisons * SURE
        yield (
            f"Differences are paired, example by example: best minus other. There are {results.comparisons} "
            f"comparisons, and p-values are not corrected for that: about {expected:.1f} of them would have p below "
            f"{SURE} if the models did not differ at all. The best model was chosen on the same examples, which "
            "favours it."
        )
    if any(len(figure.runs) > 1 for figure in results.figures):
        yield (
            "Several runs (seeds) of a model are pooled; the value of each run is shown beside. The distance between "
            "those says more about another training than the interval, which is over examples alone."
        )
