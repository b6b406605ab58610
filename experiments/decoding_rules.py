"""Which rule writes the most tokens per pass at which accuracy? Each rule along its curve, on the same questions."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.grid import Cell, Result, markdown_table, run_grid, write_page
from experiments.options_measuring import DecodingRules
from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.config.decoding import Diffusion
from nano_llada.core.errors import UserError
from nano_llada.demo.options import DemoConfig
from nano_llada.demo.run import held_out_questions
from nano_llada.evaluation.answers import answer_examples
from nano_llada.evaluation.statistics import wilson
from nano_llada.language_model import make_sampler
from nano_llada.world import Example

NAME = "decoding-rules"
PASSES = (1, 2, 3, 4, 8, 16)
CURVES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "confidence": [{"steps": n} for n in PASSES],
    "random": [{"strategy": "random", "steps": n} for n in PASSES],
    "threshold": [{"threshold": limit} for limit in (0.3, 0.5, 0.7, 0.8, 0.9, 0.98)],
    "entropy_bound": [{"rule": "entropy_bound", "rule_bound": b} for b in (3.0, 1.5, 0.8, 0.4, 0.1, 0.01)],
    "factor": [{"rule": "factor", "rule_bound": b} for b in (6.0, 3.0, 2.0, 1.0, 0.5, 0.1)],
    "confidence, remask 0.5": [{"steps": n, "remask": 0.5} for n in PASSES],
    "random, remask 0.5": [{"strategy": "random", "steps": n, "remask": 0.5} for n in PASSES],
}
DRAWS = 1000  # of the bootstrap


def run(options: DecodingRules) -> bool:
    """Run the experiment, or resume it; True when it is complete.

    Raises:
        UserError: for a model that does not fill a canvas.
    """
    model = load_checkpoint(options.model)
    if not model.card.denoising or model.card.autoregressive:
        raise UserError(f"{options.model} fills no canvas: the experiment needs a diffusion model that answers")
    questions = held_out_questions(options.skills or DemoConfig().skills, options.items)
    command = (
        f"python -m experiments {NAME} --model MODEL --items {options.items} --answer {options.answer} "
        f"--skills {' '.join(options.skills or DemoConfig().skills)}"
    )
    cells = [
        Cell(f"{name} {number}", options.seed, functools.partial(_measure, options, model, questions, how))
        for name, curve in CURVES.items()
        for number, how in enumerate(curve)
    ]
    results = run_grid(NAME, cells, options.docs / NAME, command)
    if results is None:
        return False
    write_page(options.docs / NAME, page(results, options, model, len(questions)))
    return True


def _measure(
    options: DecodingRules, model: Checkpoint, questions: Sequence[Example], how: Mapping[str, Any]
) -> Mapping[str, Any]:
    """One point of a curve; `right` and `tokens_per_pass` of each question allow to draw them again."""
    decoding = Diffusion(options.answer, seed=options.seed, predicts=model.card.predicts, **how)
    answers = answer_examples(make_sampler(model.model, model.tokenizer.vocab, decoding), model.tokenizer, questions)
    right = [int(one.right) for one in answers]
    passes = [one.completion.forwards for one in answers]
    tokens = [len(one.completion.tokens) + (one.completion.end is not None) for one in answers]
    return {
        "how": dict(how),
        "exact_match": sum(right) / len(right),
        "tokens_per_pass": sum(tokens) / sum(passes),
        "right": right,
        "passes": passes,
        "tokens": tokens,
    }


def area(points: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """Mean accuracy over tokens per pass from `low` to `high`: straight lines between points, level beyond them."""
    known = sorted(points)
    places = sorted({low, high, *(x for x, _ in known if low < x < high)})
    values = [_at(known, x) for x in places]
    parts = zip(itertools.pairwise(places), itertools.pairwise(values), strict=True)
    return sum((right - left) * (a + b) / 2 for (left, right), (a, b) in parts) / (high - low)


def _at(known: Sequence[tuple[float, float]], x: float) -> float:
    if x <= known[0][0]:
        return known[0][1]
    for (left, a), (right, b) in itertools.pairwise(known):
        if x <= right:
            return a if right == left else a + (b - a) * (x - left) / (right - left)
    return known[-1][1]  # questions that were drawn again may end a little earlier


def curve(results: Sequence[Result], name: str, chosen: Sequence[int] | None = None) -> list[tuple[float, float]]:
    """Points (tokens per pass, accuracy) of a rule, of all questions or of some drawn ones."""
    points = []
    for one in results:
        if one.variant.rpartition(" ")[0] == name:
            data = one.metrics
            some = range(len(data["right"])) if chosen is None else chosen
            tokens, passes, right = (sum(data[key][i] for i in some) for key in ("tokens", "passes", "right"))
            points.append((tokens / passes, right / len(some)))
    return points


def page(results: Sequence[Result], options: DecodingRules, model: Checkpoint, count: int) -> str:
    """The table of areas with bootstrap intervals over questions, and the points."""
    rng = random.Random(0)
    draws = [[rng.randrange(count) for _ in range(count)] for _ in range(DRAWS)]
    low, high = 1.0, min(max(x for x, _ in curve(results, name)) for name in CURVES)  # where all have points
    rows: list[tuple[str, float, str]] = []
    for name in CURVES:
        found = area(curve(results, name), low, high)
        again = sorted(area(curve(results, name, chosen), low, high) for chosen in draws)
        rows.append((name, found, f"{again[int(0.025 * DRAWS)]:.3f} to {again[int(0.975 * DRAWS)]:.3f}"))
    rows.sort(key=lambda row: -row[1])
    points = []
    for one in results:
        data = one.metrics
        low_match, high_match = wilson(data["exact_match"], count)
        interval = f"{low_match:.3f} to {high_match:.3f}"
        points.append(
            [one.variant.rpartition(" ")[0], str(data["how"]), data["tokens_per_pass"], data["exact_match"], interval]
        )
    return "\n".join(
        [
            "# Decoding rules: accuracy against tokens per pass",
            "",
            f"One model ({model.model.config.hidden_size} wide, {model.model.config.num_layers} layers, stage "
            f"{model.card.stage}), {count} held-out questions of the small world, a canvas of {options.answer} tokens, "
            f"greedy; `{results[0].command}`, commit {results[0].commit}, {results[0].hardware}, seed {options.seed}.",
            "",
            f"Area: mean exact match over tokens per pass from {low:.0f} to {high:.1f}, which every rule reaches. 95 % "
            "intervals, questions drawn again.",
            "",
            markdown_table(["rule", "area", "interval"], rows),
            markdown_table(["rule", "options", "tokens per pass", "exact match", "95 % interval"], points),
        ]
    )
