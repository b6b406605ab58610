"""A whole evaluation: models measured by suites, and the report on it. The command `eval` and the Python API use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nano_llada.evaluation.figures import Figure
from nano_llada.evaluation.measure import evaluate, make_plan, plan_name
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.results import Results, measure
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites import make_suites
from nano_llada.report.write import write_report
from nano_llada.training import parallel


@dataclass(frozen=True)
class Evaluation:
    """What models were measured to be."""

    folder: Path
    """Holds records.jsonl, report.html, report.md, report.json and plots."""
    suites: tuple[str, ...]
    """Names of the suites, in order."""
    records: tuple[Record, ...]
    """One for each example."""
    results: Results
    """Figures with intervals, and differences between models."""

    @property
    def figures(self) -> list[Figure]:
        """Every published number: model, decoder, suite, task, language, metric, value and 95 % interval."""
        return list(self.results.figures)


def run_evaluation(
    subjects: Sequence[Subject], options: SuiteOptions, out: Path | None, device: torch.device
) -> Evaluation:
    """Measure models, or resume an evaluation of the same plan, and write the report.

    Args:
        out: default: a folder in runs/eval that is named after the models and the plan.

    Raises:
        UserError: for suites without examples, invalid options, or a folder that holds another evaluation.
    """
    context = min(subject.checkpoint.model.config.max_length for subject in subjects)
    suites = make_suites(options, context, device)
    plan = make_plan(subjects, suites, device=str(device))
    folder = out or Path("runs/eval") / f"{'+'.join(dict.fromkeys(s.name for s in subjects))}-{plan_name(plan)}"
    records = evaluate(subjects, suites, folder, plan)
    classes = {suite.name: type(suite) for suite in suites}
    results = measure(records, lambda name: classes[name].metrics)
    parallel.on_first(
        lambda: write_report(records, folder, "nano-llada: evaluation", classes.__getitem__, results=results)
    )
    return Evaluation(folder, tuple(classes), tuple(records), results)
