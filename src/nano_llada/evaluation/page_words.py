"""What an evaluation report says in words: figures as text, who is best at what, and what each figure means."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nano_llada.evaluation.figures import BOTH, Difference, Figure, Way
from nano_llada.evaluation.metric import Metric
from nano_llada.evaluation.page_results import SURE, Results

SUITES = {
    "likelihood": ("How well it predicts text", "Less is better: the text is less of a surprise to the model."),
    "choices": ("Choosing the right answer", "The model scores every choice; the one it finds likeliest counts."),
    "generation": ("Writing answers", "Judged by program; what is written at once saves forward passes."),
    "quality": ("What its free text is like", "Judged by another model and by counting; no figure alone says much."),
    "infilling": ("Filling gaps", "Words are cut out of a text, and the model has to put them back."),
    "speed": ("Speed", "Measured on one machine; compare only what was measured on the same one."),
    "calibration": ("Whether it knows what it knows", "A sure model should be right as often as it is sure."),
}
MEANINGS = {
    "bits_per_byte": "bits needed to store a byte of text with the model's predictions; for diffusion an upper bound",
    "nats_per_token": "the same surprise in nats, for each token; not comparable between tokenizers",
    "accuracy_sum": "share of questions whose right choice has the greatest total log-likelihood",
    "accuracy_norm": "the same, with log-likelihoods divided by the length of the choice",
    "chance": "what guessing would get",
    "exact_match": "share of answers that are entirely right",
    "token_accuracy": "share of the hidden tokens that were put back",
    "tpf": "tokens written with each forward pass, the end not counted: left to right it is just below one",
    "ended": "share of answers that came to an end by themselves",
    "generative_perplexity": "how surprising another model finds the text; dull repetition scores low too",
    "repetition": "share of the text that repeats itself",
    "entropy": "how evenly the tokens of a text are spread over the vocabulary it uses",
    "wasted": "share of the places computed that stand behind the end of the text",
    "tokens_per_second": "tokens written each second, on the machine that measured it",
    "calibration_error": "mean distance between how sure the model is and how often it is right",
}


def name_of(way: Way) -> str:
    """A model, and how it wrote where it did."""
    return f"{way[0]} · {way[1]}" if way[1] else way[0]


def amount(value: float, metric: Metric) -> str:
    """A figure as text: shares in percent, all else to four digits."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.1%}" if metric.share else _digits(value)


def change(value: float, metric: Metric) -> str:
    """A difference of two figures with its sign; of shares in percentage points."""
    sign = "−" if value < 0 else "+"
    return f"{sign}{100 * abs(value):.1f} points" if metric.share else sign + _digits(abs(value))


def interval(low: float, high: float, metric: Metric) -> str:
    """[low, high], or nothing where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{amount(low, metric)}, {amount(high, metric)}]"


def chance_of(p: float) -> str:
    """A p-value as text."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def verdict(difference: Difference, metric: Metric) -> str:
    """What a difference means for its first model."""
    if not math.isfinite(difference.p):
        return "cannot be compared"
    if difference.p > SURE:
        return "not distinguishable"
    return "better" if (difference.value > 0) == (metric.better == "high") else "worse"


def summary(results: Results) -> Iterator[str]:
    """A sentence or two on each suite: the best model at its first metric, and how sure that is."""
    for suite, metrics in results.metrics.items():
        metric = next((metric for metric in metrics if metric.better), None)
        ranked = results.ranked(suite, results.whole(suite), metric) if metric else []
        if metric is None or not ranked:
            continue
        first, *others = ranked
        title = SUITES[suite][0] if suite in SUITES else suite
        found = f"{metric.name} {amount(first.value, metric)} {interval(first.low, first.high, metric)}".strip()
        if others and all(figure.value == first.value for figure in others):
            yield f"{title}: all have {found}."
            continue
        lead = f"{title}: {name_of(_way(first))} {'is best with' if others else 'has'} {found}"
        if first.language != BOTH and len(results.languages(suite)) > 1:
            lead += f" in {first.language}"
        yield lead + (_told(results, metric, first) if others else f" over {first.items} examples") + "."


def _told(results: Results, metric: Metric, first: Figure) -> str:
    """Who the best is better than, and whom it cannot be told apart from."""
    place = (first.suite, first.task, metric.name)
    pairs = [d for d in results.against(*place) if d.language == first.language]
    beaten = [d for d in pairs if verdict(d, metric) == "better"]
    equal = [d for d in pairs if verdict(d, metric) == "not distinguishable"]
    text = ""
    if beaten:
        nearest = min(beaten, key=lambda d: abs(d.value))
        whom = name_of(nearest.second) if len(beaten) == 1 else f"{len(beaten)} others, the nearest of them"
        whom += f" {name_of(nearest.second)}" if len(beaten) > 1 else ""
        how = f"{change(nearest.value, metric)} {spread(nearest, metric)}, {chance_of(nearest.p)}"
        text += f", ahead of {whom} ({how})"
    if equal:
        listed = ", ".join(f"{name_of(d.second)} ({chance_of(d.p)})" for d in equal)
        text += f"; it is not distinguishable from {listed}"
    return text + _by_language(results, metric, first)


def _by_language(results: Results, metric: Metric, first: Figure) -> str:
    """Languages in which another model has the best figure."""
    text = ""
    sign = 1 if metric.better == "high" else -1
    for language in results.languages(first.suite) if first.language == BOTH else ():
        rows = [results.row(way, first.suite, first.task, metric.name) for way in results.ways(first.suite)]
        found = [row[language] for row in rows if language in row]
        best = max(found, key=lambda figure: sign * figure.value)
        if language != BOTH and sign * best.value > max(sign * f.value for f in found if _way(f) == _way(first)):
            text += f"; in {language} alone {name_of(_way(best))} has the best figure, {amount(best.value, metric)}"
    return text


def spread(difference: Difference, metric: Metric) -> str:
    """The interval of a difference, or nothing where there is none."""
    if not (math.isfinite(difference.low) and math.isfinite(difference.high)):
        return ""
    return f"[{change(difference.low, metric)}, {change(difference.high, metric)}]".replace(" points", "")


def meanings(results: Results) -> tuple[str, ...]:
    """What the metrics mean that a report shows."""
    shown = dict.fromkeys(metric.name for metrics in results.metrics.values() for metric in metrics)
    return tuple(f"{name}: {MEANINGS[name]}" for name in shown if name in MEANINGS)


def _way(figure: Figure) -> Way:
    return (figure.model, figure.decoder)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
