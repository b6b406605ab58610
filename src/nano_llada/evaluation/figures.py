"""From records to figures: a value with its interval for each model, task and language; and two models compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nano_llada.evaluation.metric import Array, Metric
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.statistics import bootstrap, sign_test, swap_test, wilson

ALL = "all"  # the task that is all tasks of a suite together
BOTH = "mean"  # the language that is the mean of both
Way = tuple[str, str]  # model, decoder
Group = tuple[str, str, str, str]  # model, decoder, suite, task
Metrics = Callable[[str], Sequence[Metric]]  # of a suite, by its name


@dataclass(frozen=True)
class Figure:
    """A published number over all examples and runs of a model, with a 95 % interval over examples."""

    model: str
    decoder: str
    suite: str
    task: str
    language: str  # zh, en, or mean: of the two
    metric: str
    value: float
    low: float
    high: float
    items: int
    runs: tuple[float, ...]  # each run's own value


@dataclass(frozen=True)
class Difference:
    """Two models on the examples both were given: first minus second, its 95 % interval, and a two-sided p-value."""

    first: Way
    second: Way
    suite: str
    task: str
    language: str
    metric: str
    value: float
    low: float
    high: float
    p: float
    items: int


def figures(records: Iterable[Record], metrics: Metrics) -> list[Figure]:
    """Every figure of some records: all tasks of a suite together, then each; each language, then the mean of both."""
    found = []
    for group, some in _group(records).items():
        for metric in metrics(group[2]):
            if group[3] == ALL and not metric.pooled:
                continue
            usable = _usable(some, metric)
            found += [_figure(group, language, metric, usable) for language in _languages(usable)]
    return found


def differences(records: Sequence[Record], metrics: Metrics, first: Way, second: Way) -> list[Difference]:
    """What two models (each with a decoder, where a suite makes them write) differ by; what one lacks is left out."""
    groups = _group(records)
    found = []
    for model, decoder, suite, task in groups:
        other = (second[0], second[1] if decoder else "", suite, task)
        if (model, decoder) not in (first, (first[0], "")) or other not in groups:
            continue
        for metric in metrics(suite):
            if task == ALL and not metric.pooled:
                continue
            ours, theirs = (_usable(groups[key], metric) for key in ((model, decoder, suite, task), other))
            common = {_name(record) for record in ours} & {_name(record) for record in theirs}
            ours, theirs = ([record for record in some if _name(record) in common] for some in (ours, theirs))
            for language in _languages(ours):
                found.append(_difference((first, second), (suite, task, language), metric, ours, theirs))
    return found


@dataclass(frozen=True)
class _Sample:
    """Records in one language as columns, and which example (0 to items - 1) each is about."""

    columns: Mapping[str, Array]
    places: Array
    runs: int

    @classmethod
    def of(cls, records: Sequence[Record], metric: Metric, items: Mapping[tuple[str, str], int]) -> _Sample:
        columns = {name: np.array([record.values[name] for record in records]) for name in metric.needs}
        places = np.array([items[record.task, record.item] for record in records], dtype=int)
        return cls(columns, places, len({record.run for record in records}))


def _group(records: Iterable[Record]) -> dict[Group, list[Record]]:
    kinds: dict[tuple[str, str, str], dict[str, list[Record]]] = {}
    for record in records:
        tasks = kinds.setdefault((record.model, record.decoder, record.suite), {})
        tasks.setdefault(record.task, []).append(record)
    groups: dict[Group, list[Record]] = {}
    for kind, tasks in kinds.items():
        if len(tasks) > 1:
            groups[(*kind, ALL)] = [record for some in tasks.values() for record in some]
        groups |= {(*kind, task): some for task, some in tasks.items()}
    return groups


def _name(record: Record) -> tuple[str, ...]:
    return (record.task, record.item, record.language, record.protocol)


def _usable(records: Iterable[Record], metric: Metric) -> list[Record]:
    return [record for record in records if set(metric.needs) <= set(record.values)]


def _languages(records: Sequence[Record]) -> list[str]:
    languages = list(dict.fromkeys(record.language for record in records))
    return [*languages, BOTH] if len(languages) > 1 else languages


def _samples(
    records: Sequence[Record], metric: Metric, language: str, items: Mapping[tuple[str, str], int]
) -> list[_Sample]:
    """One of the language, or one of each for the mean of both."""
    languages = sorted({record.language for record in records}) if language == BOTH else (language,)
    return [_Sample.of([r for r in records if r.language == one], metric, items) for one in languages]


def _items(records: Iterable[Record], language: str) -> dict[tuple[str, str], int]:
    """Numbers of the examples. The two languages' wordings of a question are one: they are drawn together."""
    names = dict.fromkeys((r.task, r.item) for r in records if language in (BOTH, r.language))
    return {name: number for number, name in enumerate(names)}


def _values(samples: Sequence[_Sample], metric: Metric, weights: Array) -> Array:
    """(...): the mean over languages, examples counting as often as `weights` (..., items) says."""
    found = [metric.of(sample.columns, weights[..., sample.places]) for sample in samples]
    return np.mean(found, axis=0) if found else np.full(weights.shape[:-1], np.nan)


def _value(samples: Sequence[_Sample], metric: Metric, weights: Array) -> float:
    return float(_values(samples, metric, weights))


def _figure(group: Group, language: str, metric: Metric, records: Sequence[Record]) -> Figure:
    items = _items(records, language)
    every = np.ones(len(items))
    samples = _samples(records, metric, language, items)
    value = _value(samples, metric, every)
    runs = []
    for run in sorted({record.run for record in records}):
        mine = _samples([record for record in records if record.run == run], metric, language, items)
        runs.append(_value(mine, metric, every))
    if metric.share:  # of several runs an example is one draw, however often it was judged: on the safe side
        inside = wilson(value, effective([set(sample.places.tolist()) for sample in samples]))
    else:
        inside = bootstrap(lambda w: _values(samples, metric, w), _strata(samples, len(items)))
    model, decoder, suite, task = group
    return Figure(model, decoder, suite, task, language, metric.name, value, *inside, len(items), tuple(runs))


def effective(examples: Sequence[set[int]]) -> float:
    """How many examples a mean over languages is worth: those of a language, of each, count for its share alone.

    Wordings of one question in both languages are one example, on the safe side.
    """
    if all(some == examples[0] for some in examples):
        return len(examples[0])
    return len(examples) ** 2 / sum(1 / len(some) for some in examples)


def _strata(samples: Sequence[_Sample], items: int) -> list[NDArray[np.intp]]:
    """Examples by the languages they are in: each kind is drawn by itself, so that no language loses its weight."""
    inside = np.zeros((items, len(samples)), dtype=bool)
    for number, sample in enumerate(samples):
        inside[sample.places, number] = True
    kinds = np.unique(inside, axis=0)
    return [np.flatnonzero((inside == kind).all(axis=1)) for kind in kinds]


def _difference(
    ways: tuple[Way, Way],
    place: tuple[str, str, str],
    metric: Metric,
    ours: Sequence[Record],
    theirs: Sequence[Record],
) -> Difference:
    language = place[2]
    items = _items(ours, language)
    pairs = list(zip(*(_samples(some, metric, language, items) for some in (ours, theirs)), strict=True))

    def change(weights: Array) -> Array:
        first, second = ([pair[side] for pair in pairs] for side in (0, 1))
        return _values(first, metric, weights) - _values(second, metric, weights)

    def exchanged(swaps: Array) -> Array:
        found = [_mixed(a, b, metric, swaps) - _mixed(b, a, metric, swaps) for a, b in pairs]
        return np.asarray(np.mean(found, axis=0))

    if metric.share and len(pairs) == 1 and all(len(sample.places) == len(items) for sample in pairs[0]):
        p = sign_test(*(sample.columns[metric.needs[0]][np.argsort(sample.places)].tolist() for sample in pairs[0]))
    else:
        p = swap_test(exchanged, len(items))
    low, high = bootstrap(change, _strata([pair[0] for pair in pairs], len(items)))
    return Difference(*ways, *place, metric.name, float(change(np.ones(len(items)))), low, high, p, len(items))


def _mixed(kept: _Sample, other: _Sample, metric: Metric, swaps: Array) -> Array:
    """The figure of `kept` when the examples where `swaps` (..., items) is 1 are those of `other`."""
    columns = {name: np.concatenate((kept.columns[name], other.columns[name])) for name in metric.needs}
    stay, come = (1 - swaps)[..., kept.places] / kept.runs, swaps[..., other.places] / other.runs
    return metric.of(columns, np.concatenate((stay, come), -1))
