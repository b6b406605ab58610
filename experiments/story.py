"""How well a model tells stories and does its tasks, in each of its ways of decoding; answers to prompts, to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.grid import Cell, Metrics, Result, markdown_table, read_results, run_grid, write_page
from experiments.options import Story as Options
from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.config.decoding import Decoding, DecodingOptions, decoding_for
from nano_llada.core import device as hardware
from nano_llada.core.device import use_threads
from nano_llada.core.files import write_text
from nano_llada.evaluation.figures import ALL, Figure, figures
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites import make_suites, metrics_of, suite_options
from nano_llada.language_model import LanguageModel

NAME = "story"
LANGUAGES = ("zh", "en")
KINDS = ("coherence", "tasks", "skills")
METRICS = (
    "parameters",
    *(f"{kind}_{language}" for kind in KINDS for language in LANGUAGES),
    *("contradictions", "tokens_per_pass", "threshold"),
)
LENGTH = 400  # tokens: more than any story of the world needs


def run(options: Options) -> bool:
    """Measure the model in each way, or resume; True when it is complete."""
    hardware.keep_freed_memory()
    use_threads(options.threads)
    checkpoint = load_checkpoint(options.model)
    cells = [
        Cell(name, 0, lambda decoding=decoding: measure(options, checkpoint, decoding))  # type: ignore[misc]
        for name, decoding in ways(options, checkpoint).items()
    ]
    command = f"python -m experiments {NAME} --conversations {options.conversations} --items {options.items}"
    results = run_grid(NAME, cells, options.docs / NAME, command)
    if results is None:
        return False
    if options.prompts is not None:
        write_text(options.docs / NAME / f"answers-{options.name}.md", answered(options, checkpoint, options.prompts))
    every = {result.variant: result for result in read_results(options.docs / NAME / "results.jsonl")}
    write_page(options.docs / NAME, page(list(every.values())))  # the latest row of each model
    return True


def ways(options: Options, checkpoint: Checkpoint) -> dict[str, Decoding]:
    """Every way in which the model decodes, by the name of its row; greedy."""
    card = checkpoint.card

    def decoding(**given: Any) -> Decoding:
        return decoding_for(card, DecodingOptions(max_new_tokens=LENGTH, **given))

    if len(card.decodes) > 1:
        quick = {"block": {"threshold": options.threshold}}
        return {f"{options.name}-{way}": decoding(decode=way, **quick.get(way, {})) for way in card.decodes}
    return {options.name: decoding(threshold=options.threshold) if card.denoising else decoding()}


def measure(options: Options, checkpoint: Checkpoint, decoding: Decoding) -> Metrics:
    """Every metric; shares are of held-out examples, tokens per pass over all answers."""
    shared = suite_options(
        ("stories", "generation"),
        stories=options.conversations,
        skills=("all",),
        items=options.items,
        batch_size=options.batch_size,
    )
    subject = Subject(options.name, checkpoint, decoding, "greedy")
    suites = make_suites(shared, checkpoint.model.config.max_length)
    records = [record for suite in suites for record in suite.run(subject)]
    found = {(f.suite, f.language, f.metric): f for f in figures(records, metrics_of) if f.task == ALL}
    names = {"coherence": ("stories", "coherence"), "tasks": ("stories", "exact_match")}
    names["skills"] = ("generation", "exact_match")
    metrics: dict[str, Any] = {"parameters": sum(p.numel() for p in checkpoint.model.parameters())}
    for kind, (suite, metric) in names.items():
        for language in LANGUAGES:
            metrics |= _with_interval(f"{kind}_{language}", found[suite, language, metric])
    tokens, forwards = (sum(record.values.get(name, 0) for record in records) for name in ("tokens", "forwards"))
    metrics["contradictions"] = found["stories", "mean", "contradictions"].value
    metrics["tokens_per_pass"] = tokens / max(forwards, 1)
    metrics["threshold"] = getattr(decoding, "threshold", None)
    tasks = [f for f in figures(records, metrics_of) if f.suite == "stories" and f.metric == "exact_match"]
    metrics["by_task"] = {f"{f.task}_{f.language}": round(f.value, 4) for f in tasks if f.task != ALL}
    return metrics


def _with_interval(name: str, figure: Figure) -> dict[str, Any]:
    return {name: figure.value, f"{name}_interval": [figure.low, figure.high]}


def answered(options: Options, checkpoint: Checkpoint, prompts: Path) -> str:
    """The answers to free prompts as Markdown, each as it came."""
    writer = LanguageModel(checkpoint)
    decoding = next(iter(ways(options, checkpoint).values()))
    lines = [f"# What `{options.name}` answers to prompts that a new user may type", ""]
    rows = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    texts = writer.write([str(row["prompt"]) for row in rows], replace(decoding, max_new_tokens=300), chat=True)
    for row, text in zip(rows, texts, strict=True):
        quoted = "\n".join(f"> {line}" for line in text.text.strip().splitlines() or ["(an empty answer)"])
        lines += [f"**{row['prompt']}**", "", quoted, ""]
    return "\n".join(lines)


def page(results: list[Result]) -> str:
    """README.md: a table of all rows."""
    head = ["model", *(name for name in METRICS if name != "parameters")]
    return "\n".join(
        [
            "# Models of the story world",
            "",
            "Held-out conversations of the story world and questions of the 17 skills of the small world, greedy. A",
            "program that knows the world reads every story back into events; `tasks` are the answers that pass their",
            "checks, `skills` the exact answers. Intervals and figures by task are in results.jsonl; the world itself",
            "is described in world.md.",
            "",
            markdown_table(head, list(_rows(results))),
            "",
        ]
    )


def _rows(results: list[Result]) -> Iterator[list[str]]:
    for result in results:
        values = [result.metrics.get(name) for name in METRICS if name != "parameters"]
        yield [result.variant, *("–" if value is None else f"{value:.3f}" for value in values)]
