"""Every suite over the models trained so far, by the protocol that anybody can run: small world, and real text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.core import hardware
from nano_llada.core.errors import UserError
from nano_llada.core.record import to_plain
from nano_llada.decode.config import MODES, Autoregressive, Block, Decoding, Diffusion
from nano_llada.evaluate.build import make_suites
from nano_llada.evaluate.figures import ALL, Figure, figures
from nano_llada.evaluate.measure import evaluate, fingerprint
from nano_llada.evaluate.options import SuiteOptions
from nano_llada.evaluate.page import write_evaluation
from nano_llada.evaluate.record import RECORDS, Record, write_records
from nano_llada.evaluate.suite import Subject
from nano_llada.evaluate.suites import metrics_of
from nano_llada.experiments.grid import Result, commit, write_results
from nano_llada.experiments.options import Evaluation

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
    return SuiteOptions(("generation", "speed"), skills=options.skills, items=options.items, batch_sizes=(1, 8))


def _real(options: Evaluation) -> SuiteOptions:
    if options.data is None:
        raise UserError("models on real text need --data: the folder with eval/")
    folder = options.data / "eval"
    texts = tuple(str(folder / f"val_{language}.jsonl") for language in ("zh", "en"))
    judge = options.judge
    if judge is None:
        paths = [path for _, path in map(_named, options.real)]
        judge = next((path for path in paths if load_checkpoint(path).track == "ar"), None)
    suites = ("likelihood", "choices", "quality", "infilling", "calibration", "generation", "speed")
    return SuiteOptions(
        suites if judge else tuple(suite for suite in suites if suite != "quality"),
        text=texts,
        questions=(str(folder / "gsm8k_test_200.jsonl"),),
        choices=tuple(str(folder / f"mc_{language}.jsonl") for language in ("zh", "en")),
        judge=judge,
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
    length = int(checkpoint.info.get("answer_length") or LENGTH)
    if checkpoint.track == "ar":
        return {"greedy": Autoregressive(length)}
    size = checkpoint.info.get("block_size")
    if not size:
        return {"one a pass": Diffusion(length), "threshold 0.9": Diffusion(length, threshold=0.9)}
    base = Block(length, block_size=int(size), threshold=0.9)
    found: dict[str, Decoding] = {"one a pass": replace(base, threshold=1.0), "threshold 0.9": base}
    if checkpoint.info.get("edits"):
        for mode, (threshold, edit) in MODES.items():
            found[f"{mode.upper()} mode"] = replace(base, threshold=threshold, edit_threshold=edit)
    return found


def _part(options: Evaluation, name: str, subjects: Sequence[Subject], suites: SuiteOptions) -> list[Result]:
    """Records with texts stay with the runs; what is published has the numbers, and no text of others."""
    context = min(subject.checkpoint.model.config.max_length for subject in subjects)
    plan = {
        "suites": _nameless(to_plain(suites)),
        "models": {f"{s.name} {s.run}": fingerprint(s.checkpoint) for s in subjects},
        "decoders": {f"{s.name} {s.run} {s.decoder}": to_plain(s.decoding) for s in subjects},
    }
    records = evaluate(subjects, make_suites(suites, context), options.runs / name, plan)
    folder = options.docs / NAME / name
    shown = records if name == "world" else [replace(record, detail={}) for record in records]
    write_records(folder / RECORDS, shown)
    write_evaluation(shown, folder, f"Models on the {'small world' if name == 'world' else 'real data'}")
    return [_result(options, name, figures_of) for figures_of in _rows(shown)]


def _nameless(suites: Mapping[str, Any]) -> dict[str, Any]:
    """Without folders: another place for the same files is the same plan."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(one) for one in value]
        return Path(value).name if isinstance(value, str) and "/" in value else value

    return {name: short(value) for name, value in suites.items()}


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
    command = f"nano-llada experiment {NAME} --items {options.items} --limit {options.limit} --draws {options.draws}"
    return Result(NAME, variant, 0, commit(), hardware.cpu_name(), command, finite)


def _index(options: Evaluation, results: Sequence[Result]) -> None:
    parts = dict.fromkeys(result.metrics["part"] for result in results)
    told = {"world": "Small world", "real": "Real data"}
    lines = [
        "# Evaluation\n",
        f"`{results[0].command} --world NAME=RUN ... --real NAME=RUN ... --data DATA`\n",
        "Every suite of [the protocol](../../evaluation.md) over trained models; a row of results.jsonl is one model, "
        "decoder, suite and language. Every figure can be computed again from the records, without a model: "
        "`nano-llada report FOLDER`.\n",
        *(
            f"- [{told[part]}]({part}/report.md) ([as a page]({part}/report.html), [records]({part}/{RECORDS}))"
            for part in parts
        ),
    ]
    (options.docs / NAME / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
