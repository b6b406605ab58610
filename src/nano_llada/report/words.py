"""Numbers and verdicts as text, and the summary of a report in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nano_llada.evaluation.figures import BOTH, Difference, Figure, Way
from nano_llada.evaluation.metric import Metric
from nano_llada.evaluation.results import SURE, Results
from nano_llada.evaluation.suites import SuiteOf

ARROWS = {"high": " ↑ higher is better", "low": " ↓ lower is better", "": ""}


def name_of(way: Way) -> str:
    """A model, and its decoder if it has one."""
    return f"{way[0]} · {way[1]}" if way[1] else way[0]


def heading(name: str, metric: Metric) -> str:
    """A name with the unit of a metric, as a column heading."""
    return f"{name} ({metric.unit})" if metric.unit else name


def amount(value: float, metric: Metric) -> str:
    """A figure without its unit: shares in percent, all else with four digits."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.1%}" if metric.share else _digits(value)


def change(value: float, metric: Metric) -> str:
    """A difference of two figures with its sign; of shares in percentage points."""
    sign = "−" if value < 0 else "+"
    return f"{sign}{100 * abs(value):.1f} points" if metric.share else sign + _digits(abs(value))


def interval(low: float, high: float, metric: Metric) -> str:
    """[low, high], or nothing where there is none."""
    finite = math.isfinite(low) and math.isfinite(high)
    return f"[{amount(low, metric)}, {amount(high, metric)}]" if finite else ""


def spread(difference: Difference, metric: Metric) -> str:
    """The interval of a difference, or nothing where there is none."""
    if not (math.isfinite(difference.low) and math.isfinite(difference.high)):
        return ""
    return f"[{change(difference.low, metric)}, {change(difference.high, metric)}]".replace(" points", "")


def p_value(p: float) -> str:
    """A p-value as text, or nothing where there is none."""
    if not math.isfinite(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def verdict(difference: Difference, metric: Metric) -> str:
    """What a difference means for its first model."""
    if not math.isfinite(difference.p):
        return "not comparable"
    if difference.p > SURE:
        return "no significant difference"
    return "better" if (difference.value > 0) == (metric.better == "high") else "worse"


def summary(results: Results, suite_of: SuiteOf) -> Iterator[tuple[str, str]]:
    """For each suite its title, and a sentence or two: the best model by its first metric, and how sure that is."""
    for suite, metrics in results.metrics.items():
        metric = next((metric for metric in metrics if metric.better), None)
        ranked = results.ranked(suite, results.whole(suite), metric) if metric else []
        if metric is None or not ranked:
            continue
        first, *others = ranked
        found = f"{metric.name} {_with_unit(amount(first.value, metric), metric)}"
        found = f"{found} {interval(first.low, first.high, metric)}".strip()
        if others and all(figure.value == first.value for figure in others):
            yield suite_of(suite).title, f"all models have {found}."
            continue
        against, sure = _against(results, metric, first) if others else (f" over {first.items} examples", False)
        says = ("is best with" if sure else "has the best value,") if others else "has"
        text = f"{name_of(_way(first))} {says} {found}"
        if first.language != BOTH and len(results.languages(suite)) > 1:
            text += f" in {first.language}"
        text += against
        yield suite_of(suite).title, f"{text}."


def _against(results: Results, metric: Metric, first: Figure) -> tuple[str, bool]:
    """The models that the best one is better than, and those without a significant difference.

    And whether it is better than all of them.
    """
    pairs = results.against(first.suite, first.task, metric.name)
    pairs = [pair for pair in pairs if pair.language == first.language]
    beaten = [pair for pair in pairs if verdict(pair, metric) == "better"]
    equal = [pair for pair in pairs if verdict(pair, metric) == "no significant difference"]
    text = ""
    if beaten:
        closest = min(beaten, key=lambda pair: abs(pair.value))
        name = name_of(closest.second)
        name = name if len(beaten) == 1 else f"{len(beaten)} others, of which {name} is closest"
        value = _with_unit(change(closest.value, metric), metric)
        text += f", better than {name} ({value} {spread(closest, metric)}, {p_value(closest.p)})"
    if equal:
        names = ", ".join(f"{name_of(pair.second)} ({p_value(pair.p)})" for pair in equal)
        text += f"; no significant difference from {names}"
    return text + _by_language(results, metric, first), bool(beaten) and len(beaten) == len(pairs)


def _by_language(results: Results, metric: Metric, first: Figure) -> str:
    """Languages in which another model has the best figure."""
    text, sign = "", 1 if metric.better == "high" else -1
    for language in results.languages(first.suite) if first.language == BOTH else ():
        rows = [results.row(way, first.suite, first.task, metric.name) for way in results.ways(first.suite)]
        found = [row[language] for row in rows if language in row]
        best = max(found, key=lambda figure: sign * figure.value)
        if language != BOTH and sign * best.value > max(sign * f.value for f in found if _way(f) == _way(first)):
            value = _with_unit(amount(best.value, metric), metric)
            text += f"; in {language} alone {name_of(_way(best))} has the best value, {value}"
    return text


def _with_unit(text: str, metric: Metric) -> str:
    return text if metric.share or not metric.unit or "fraction" in metric.unit else f"{text} {metric.unit}"


def _way(figure: Figure) -> Way:
    return (figure.model, figure.decoder)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
