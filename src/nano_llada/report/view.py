"""The one view of records and training runs that all forms of a report are made from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from nano_llada.evaluation.record import Record
from nano_llada.evaluation.results import SURE, Results
from nano_llada.evaluation.suites import SuiteOf
from nano_llada.report.parts import Cell, Row, Section, Table, row
from nano_llada.report.plots import suite_plots, training_plots
from nano_llada.report.tables import suite_tables
from nano_llada.report.training_run import TrainingRun
from nano_llada.report.words import summary

ANSWERED = "generation"  # the suite whose answers are shown
TRACES = 2  # questions of each language whose answers are shown pass by pass


def sections(
    records: Sequence[Record], results: Results, suite_of: SuiteOf, training: Sequence[TrainingRun]
) -> Iterator[Section]:
    """Summary, suites, traces, answers, training, notes; each where there is something to show."""
    points = (*summary(results, suite_of), *_training_summary(training))
    none = () if points else ("No model is ahead: the metrics have no better end, or there is one run of each kind.",)
    yield Section("summary", "Summary", none, points)
    for suite in results.metrics:
        about = suite_of(suite)
        uneven = "The models did not all get the same examples: differences are over the common ones."
        paragraphs = (about.explanation, uneven if suite in results.uneven else "")
        plots, tables = suite_plots(records, results, suite), suite_tables(results, suite)
        yield Section(suite, about.title, tuple(filter(None, paragraphs)), (), tuple(plots), tuple(tables))
    if traces := _traced(records):
        text = "Every token with the forward pass that wrote it; the darker, the later."
        yield Section("traces", "Decoding, pass by pass", (text,), traces=traces)
    if answers := answers_of(records):
        text = "The first question of each task and language, and every prompt without a reference answer."
        yield Section("answers", "Answers", (text,), answers=answers)
    if training:
        text = (
            "The loss of a diffusion model is a bound and depends on its block size. Compare losses only between runs "
            "of the same kind, with the same tokenizer and validation data. Time is that of the optimizer steps alone."
        )
        plots = training_plots(training)
        yield Section("training", "Training", (text,), (), tuple(plots), tuple(_training_tables(training)))
    if records:
        meanings = [(f"{suite_of(suite).title}, {metric.name}", suite_of(suite).meanings.get(metric.name, ""))
                    for suite, metrics in results.metrics.items() for metric in metrics]  # fmt: skip
        points = tuple(pair for pair in meanings if pair[1])
        yield Section("reading", "How to read this report", tuple(_notes(results)), points)


def answers_of(records: Sequence[Record]) -> tuple[tuple[Record, ...], ...]:
    """The models' answers to the first question of each task and language, and to all that have no reference."""
    first: dict[tuple[str, str, str], str] = {}
    answers: dict[tuple[str, str, str], dict[tuple[str, str], Record]] = {}
    for record in records:
        if record.suite == ANSWERED and {"prompt", "answer"} <= set(record.detail):
            kind = (record.task, record.language, "" if "right" in record.values else record.item)
            question = (record.task, record.language, first.setdefault(kind, record.item))
            if record.item == question[2]:  # of several runs the first
                answers.setdefault(question, {}).setdefault((record.model, record.decoder), record)
    return tuple(tuple(answers[question].values()) for question in sorted(answers))


def _traced(records: Sequence[Record]) -> tuple[Record, ...]:
    """The longest answers of each language, of every model that answered the same questions."""
    known = [record for record in records if _is_traced(record)]
    chosen: dict[str, dict[tuple[str, str, str], None]] = {}
    for record in sorted(known, key=lambda record: -len(record.detail["pieces"])):
        mine = chosen.setdefault(record.language, {})
        if len(mine) < TRACES:
            mine[record.language, record.task, record.item] = None
    shown: dict[tuple[str, ...], Record] = {}
    for question in (question for _, some in sorted(chosen.items()) for question in some):
        for record in known:
            if (record.language, record.task, record.item) == question:
                shown.setdefault((*question, record.model, record.decoder), record)  # of several runs the first
    return tuple(shown.values())


def _is_traced(record: Record) -> bool:
    order, pieces = record.detail.get("order"), record.detail.get("pieces")
    if not (isinstance(order, list) and isinstance(pieces, list)):
        return False
    return 0 < len(order) == len(pieces) and all(isinstance(number, int) and number >= 0 for number in order)


def _training_summary(runs: Sequence[TrainingRun]) -> Iterator[tuple[str, str]]:
    """Of each kind, the run that ended with the lowest loss."""
    for kind in dict.fromkeys(run.kind for run in runs):
        ends = [(run.final("validation_loss"), run.name) for run in runs if run.kind == kind]
        ranked = sorted((value, name) for value, name in ends if value is not None)
        if len(ranked) > 1:
            (best, name), *others = ranked
            rest = ", ".join(f"{other} {value:.4f}" for value, other in others)
            yield f"Training, {kind}", f"{name} ends with the lowest validation loss, {best:.4f} (others: {rest})."


def _training_tables(runs: Sequence[TrainingRun]) -> Iterator[Table]:
    yield _training_table(runs)
    mixed = [(run, source, share) for run in runs for source, share in run.sources.items()]
    if mixed:
        rows = [
            row(run.name, source, f"{share:.1%}", f"{share * (run.tokens or 0):,.0f}") for run, source, share in mixed
        ]
        yield Table("Sources of mixtures", ("run", "source", "share of tokens", "tokens"), tuple(rows), labels=2)


def _training_table(runs: Sequence[TrainingRun]) -> Table:
    losses = ("final validation loss", "lowest", "final training loss")
    head = ("run", "kind", *(f"{name} (nats/token)" for name in losses), "tokens", "parameters", "time (min)")
    rows: list[Row] = []
    for run in runs:
        final = run.final("validation_loss")
        others = [other.final("validation_loss") for other in runs if other.kind == run.kind and other is not run]
        ends = [value for value in others if value is not None]
        best = final is not None and bool(ends) and final <= min(ends)
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
        yield (
            f"Differences are paired, example by example: best minus other. There are {results.comparisons} "
            "comparisons, and p-values are not corrected for that: about "
            f"{results.comparisons * SURE:.1f} of them would have p below {SURE} if the models did not differ at all. "
            "The best model was chosen on the same examples, which favours it."
        )
    if any(len(figure.runs) > 1 for figure in results.figures):
        yield (
            "Several runs (seeds) of a model are pooled, and the value of each run is shown. How much those differ "
            "says more about another training than the interval, which is over examples alone."
        )


def verdict(record: Record) -> str:
    """Either "right", "wrong", or nothing for an answer without a judge."""
    return {1.0: "right", 0.0: "wrong"}.get(record.values.get("right", math.nan), "")


def references(record: Record) -> list[str]:
    """The right answers to the question of a record."""
    return [str(text) for text in record.detail.get("references", [record.detail.get("reference", "")]) if text]
