"""Every suite over the models trained so far, by the protocol that anybody can run: small world, and real text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.grid import Result, commit, write_page, write_results
from experiments.options_measuring import Evaluation
from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.config.decoding import MODES, Autoregressive, Block, Decoding, Diffusion
from nano_llada.core import device as hardware
from nano_llada.core.errors import UserError
from nano_llada.evaluation.figures import ALL, Figure, figures
from nano_llada.evaluation.measure import evaluate, make_plan
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.record import RECORDS, Record, write_records
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites import make_suites, metrics_of, suite_options
from nano_llada.report.write import write_report

NAME = "evaluation"
LENGTH = 32  # tokens written after real prompts, and by models whose training does not say how long answers are


def run(options: Evaluation) -> bool:
    """Make or go on with the evaluation; always complete when it returns.

    Raises:
        UserError: for missing models or files.
    """
    if not options.world and not options.real:
        raise UserError("nothing to evaluate: give --world NAME=RUN or --real NAME=RUN")
    if options.threads:
        torch.set_num_threads(options.threads)
    hardware.keep_freed_memory()
    results: list[Result] = []
    for name, given, suites in (
        ("world", options.world, _world(options) if options.world else None),
        ("real", options.real, _real(options) if options.real else None),
    ):
        if suites is not None:
            results += _part(options, name, _subjects(given), suites)
    write_results(options.docs / NAME, results)
    _index(options, results)
    return True


def _world(options: Evaluation) -> SuiteOptions:
    return suite_options(("generation", "speed"), skills=options.skills, items=options.items, batch_sizes=(1, 8))


def _real(options: Evaluation) -> SuiteOptions:
    if options.data is None:
        raise UserError("models on real text need --data: the folder with eval/")
    folder = options.data / "eval"
    texts = tuple(str(folder / f"val_{language}.jsonl") for language in ("zh", "en"))
    suites = ("likelihood", "choices", "infilling", "calibration", "generation", "speed")
    return suite_options(
        suites if options.judge is None else (*suites, "quality"),
        text=texts,
        questions=(str(folder / "gsm8k_test_200.jsonl"),),
        choices=tuple(str(folder / f"mc_{language}.jsonl") for language in ("zh", "en")),
        judge=options.judge,
        limit=options.limit,
        window=256,
        draws=options.draws,
        batch_sizes=(1, 8),
    )


def _named(given: str) -> tuple[str, Path]:
    name, equals, path = given.partition("=")
    if not equals:
        raise UserError(f"{given!r}: give models as NAME=RUN")
    return name, Path(path)


def _names(given: Sequence[str]) -> list[str]:
    """Models by name, without the folders that they happen to lie in."""
    return [f"{name}={path.name}" for name, path in map(_named, given)]


def _subjects(given: Sequence[str]) -> list[Subject]:
    found: list[Subject] = []
    runs: dict[str, int] = {}
    for name, path in map(_named, given):
        checkpoint = load_checkpoint(path)
        run = runs.setdefault(name, 0)
        runs[name] += 1
        found += [Subject(name, checkpoint, way, told, run) for told, way in ways(checkpoint).items()]
    return found


def ways(checkpoint: Checkpoint) -> dict[str, Decoding]:
    """How a model is made to write: left to right; one token a pass; several by confidence; and with edits."""
    length = checkpoint.card.answer_length or LENGTH
    if checkpoint.card.autoregressive:
        return {"greedy": Autoregressive(length)}
    size = checkpoint.card.block_size
    if not size:
        return {"one a pass": Diffusion(length), "threshold 0.9": Diffusion(length, threshold=0.9)}
    base = Block(length, block_size=int(size), threshold=0.9)
    found: dict[str, Decoding] = {"one a pass": replace(base, threshold=1.0), "threshold 0.9": base}
    if checkpoint.card.edits:
        for mode, (threshold, edit) in MODES.items():
            found[f"{mode.upper()} mode"] = replace(base, threshold=threshold, edit_threshold=edit)
    return found


def _part(options: Evaluation, name: str, subjects: Sequence[Subject], suites: SuiteOptions) -> list[Result]:
    """Records with texts stay with the runs; what is published has the numbers, and no text of others."""
    context = min(subject.checkpoint.model.config.max_length for subject in subjects)
    made = make_suites(suites, context)
    plan = make_plan(subjects, made, commit=commit(), hardware=hardware.cpu_name())
    records = evaluate(subjects, made, options.runs / name, plan)
    folder = options.docs / NAME / name
    shown = records if name == "world" else [replace(record, detail=_numbers(record.detail)) for record in records]
    write_records(folder / RECORDS, shown)
    write_report(shown, folder, f"Models on the {'small world' if name == 'world' else 'real data'}")
    return [_result(options, name, figures_of) for figures_of in _rows(shown)]


def _numbers(detail: Mapping[str, Any]) -> dict[str, Any]:
    """What is no text of others: numbers, lists of them, and the words of the protocol itself."""

    def number(value: Any) -> bool:
        return isinstance(value, int | float) or (isinstance(value, list) and all(map(number, value)))

    return {name: value for name, value in detail.items() if number(value) or name in ("sees", "judge")}


def _rows(records: Sequence[Record]) -> list[list[Figure]]:
    """Figures over all tasks (of speed: one text at a time), by model, decoder, suite and language."""
    groups: dict[tuple[str, ...], list[Figure]] = {}
    found = figures(records, metrics_of)
    several = {(f.model, f.decoder, f.suite) for f in found if f.task == ALL}
    for figure in found:
        if (
            figure.task == ("batch 1" if figure.suite == "speed" else ALL)
            or (figure.model, figure.decoder, figure.suite) not in several
        ):
            groups.setdefault((figure.model, figure.decoder, figure.suite, figure.language), []).append(figure)
    return list(groups.values())


def _result(options: Evaluation, part: str, found: Sequence[Figure]) -> Result:
    first = found[0]
    metrics: dict[str, Any] = {"part": part, "model": first.model, "decoder": first.decoder, "suite": first.suite}
    metrics |= {"language": first.language, "items": max(figure.items for figure in found)}
    for figure in found:
        metrics[figure.metric] = figure.value
        metrics |= {f"{figure.metric}_low": figure.low, f"{figure.metric}_high": figure.high}
    finite = {name: value for name, value in metrics.items() if value == value}  # nan is no JSON
    variant = "/".join(word for word in (first.model, first.decoder, first.suite, first.language) if word)
    parts = (("world", options.world), ("real", options.real))
    models = " ".join(f"--{name} {' '.join(_names(given))}" for name, given in parts if given)
    sizes = f"--items {options.items} --limit {options.limit} --draws {options.draws}"
    judge = f" --judge {options.judge.name}" if options.judge else ""
    command = f"nano-llada experiment {NAME} {models} --data DATA --skills {' '.join(options.skills)} {sizes}{judge}"
    return Result(NAME, variant, 0, commit(), hardware.cpu_name(), command, finite)


def _index(options: Evaluation, results: Sequence[Result]) -> None:
    parts = dict.fromkeys(result.metrics["part"] for result in results)
    told = {"world": "Small world", "real": "Real data"}
    lines = [
        "# Evaluation\n",
        f"`{results[0].command}`\n",
        "Every suite of [the protocol](../../evaluation.md) over trained models; a row of results.jsonl is one model, "
        "decoder, suite and language. Every figure can be computed again from the records, without a model: "
        "`nano-llada report FOLDER`.\n",
        *(
            f"- [{told[part]}]({part}/report.md) ([as a page]({part}/report.html), [records]({part}/{RECORDS}))"
            for part in parts
        ),
    ]
    write_page(options.docs / NAME, "\n".join(lines) + "\n")
