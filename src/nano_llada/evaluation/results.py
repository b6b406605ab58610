"""All numbers of a report: figures, and for each of them the best model against all others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nano_llada.evaluation.figures import ALL, BOTH, Difference, Figure, Metrics, Way, differences, figures
from nano_llada.evaluation.metric import Metric
from nano_llada.evaluation.record import Record

SURE = 0.05  # a difference with a greater p-value is not significant


@dataclass(frozen=True)
class Results:
    """Figures of some records, and what the best of each differs from the others by."""

    figures: tuple[Figure, ...]
    differences: tuple[Difference, ...]  # the best way first
    metrics: Mapping[str, Sequence[Metric]]  # of each suite that there are records of
    uneven: tuple[str, ...] = ()  # suites whose models did not all get the same examples

    def ways(self, suite: str | None = None) -> list[Way]:
        """Models with their decoders, in the order of the records."""
        return list(dict.fromkeys((f.model, f.decoder) for f in self.figures if suite in (None, f.suite)))

    def tasks(self, suite: str) -> list[str]:
        """Each task of a suite, without all of them together."""
        return [task for task in dict.fromkeys(f.task for f in self.figures if f.suite == suite) if task != ALL]

    def whole(self, suite: str) -> str:
        """The task that represents the suite: all of them together, or the first where they are not pooled."""
        tasks = self.tasks(suite)
        pooled = all(metric.pooled for metric in self.metrics[suite])
        return ALL if pooled and len(tasks) != 1 else tasks[0]

    def languages(self, suite: str) -> list[str]:
        """zh and en first, the mean of both last."""
        found = {f.language for f in self.figures if f.suite == suite}
        ranks = {"zh": 0, "en": 1, BOTH: 3}
        return sorted(found, key=lambda language: (ranks.get(language, 2), language))

    def row(self, way: Way, suite: str, task: str, metric: str) -> dict[str, Figure]:
        """One figure in every language in which it exists."""
        return self._rows.get((*way, suite, task, metric), {})

    def middle(self, way: Way, suite: str, task: str, metric: str) -> Figure | None:
        """The mean of both languages, or, where not all models have it, the last language that they share."""
        rows = [row for each in self.ways(suite) if (row := self.row(each, suite, task, metric))]
        shared = [language for language in self.languages(suite) if all(language in row for row in rows)]
        return self.row(way, suite, task, metric).get(shared[-1] if shared else BOTH)

    def ranked(self, suite: str, task: str, metric: Metric) -> list[Figure]:
        """The middle figures of all models, the best first."""
        found = [self.middle(way, suite, task, metric.name) for way in self.ways(suite)]
        sign = -1 if metric.better == "high" else 1
        return sorted((figure for figure in found if figure is not None), key=lambda figure: sign * figure.value)

    def against(self, suite: str, task: str, metric: str) -> list[Difference]:
        """The best way of a task against the others, in every language."""
        return [d for d in self.differences if (d.suite, d.task, d.metric) == (suite, task, metric)]

    @cached_property
    def _rows(self) -> dict[tuple[str, ...], dict[str, Figure]]:
        rows: dict[tuple[str, ...], dict[str, Figure]] = {}
        for figure in self.figures:
            if math.isfinite(figure.value):
                place = (figure.model, figure.decoder, figure.suite, figure.task, figure.metric)
                rows.setdefault(place, {})[figure.language] = figure
        return rows

    @property
    def comparisons(self) -> int:
        """How many p-values there are."""
        return sum(math.isfinite(d.p) for d in self.differences)


def measure(records: Sequence[Record], metrics: Metrics) -> Results:
    """All figures; and for every suite, task and metric with a better end, the best model against each other one.

    Raises:
        UserError: if `metrics` does not know a suite.
    """
    known = {suite: tuple(metrics(suite)) for suite in dict.fromkeys(record.suite for record in records)}
    single = Results(tuple(figures(records, known.__getitem__)), (), known)
    uneven = tuple(suite for suite in known if len(_examples(records, suite)) > 1)
    return replace(single, differences=tuple(_differences(records, single)), uneven=uneven)


def pooled(records: Iterable[Record]) -> list[Record]:
    """The same records as if their suite had a single task, so that nothing is computed for each task by itself."""
    return [replace(record, task=ALL, item=f"{record.task}/{record.item}") for record in records]


def _examples(records: Sequence[Record], suite: str) -> set[frozenset[tuple[str, ...]]]:
    """The sets of examples that the models were given: one if all were given the same."""
    given: dict[Way, set[tuple[str, ...]]] = {}
    for record in records:
        if record.suite == suite:
            mine = given.setdefault((record.model, record.decoder), set())
            mine.add((record.task, record.item, record.language, record.protocol))
    return {frozenset(examples) for examples in given.values()}


def _differences(records: Sequence[Record], results: Results) -> Iterator[Difference]:
    for suite, metrics in results.metrics.items():
        ours = [record for record in records if record.suite == suite]
        tasks = {task: [record for record in ours if record.task == task] for task in results.tasks(suite)}
        for task, some in {**({ALL: pooled(ours)} if results.whole(suite) == ALL else {}), **tasks}.items():
            for metric in metrics:
                yield from _against_the_best(some, results, suite, task, metric)


def _against_the_best(
    records: Sequence[Record], results: Results, suite: str, task: str, metric: Metric
) -> Iterator[Difference]:
    ranked = results.ranked(suite, task, metric) if metric.better else []
    ways = [(figure.model, figure.decoder) for figure in ranked]
    for other in ways[1:]:
        yield from differences(
            [r for r in records if (r.model, r.decoder) in (ways[0], other)], lambda _: (metric,), ways[0], other
        )
