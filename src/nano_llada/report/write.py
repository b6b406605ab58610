"""A report on the disk: Markdown, JSON, plots, and one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nano_llada.core.errors import UserError
from nano_llada.core.text import escape_markdown
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.results import Results, measure
from nano_llada.evaluation.suites import SuiteOf, suite_named
from nano_llada.report.parts import Section
from nano_llada.report.training_run import TrainingRun
from nano_llada.report.view import references, sections, verdict
from nano_llada.report.words import name_of


def write_report(
    records: Sequence[Record],
    folder: Path,
    title: str,
    suite_of: SuiteOf = suite_named,
    training: Sequence[TrainingRun] = (),
    results: Results | None = None,
) -> Path:
    """Write report.md, report.json, report.html and the plots into a folder.

    Args:
        suite_of: the suite of records, by its name.
        training: runs to compare in addition, or alone.
        results: the figures of the records, where they are computed already.

    Returns:
        The HTML file.

    Raises:
        UserError: if there is nothing to report, a suite is unknown, or the folder cannot be written.
    """
    if not records and not training:
        raise UserError("nothing to report: neither records of an evaluation nor training runs")
    results = results or measure(records, lambda name: suite_of(name).metrics)
    view = tuple(sections(records, results, suite_of, training))
    files = {f"{plot.name}.png": plot.png for section in view for plot in section.plots}
    files["report.json"] = _json(results, title, training).encode()
    files["report.md"] = render("report.md.jinja", title, view, finalize=escape_markdown).encode()
    files["report.html"] = render("report.html.jinja", title, view, autoescape=True).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write the report to {folder}: {error.strerror}") from error
    return folder / "report.html"


def render(template: str, title: str, view: Sequence[Section], **options: Any) -> str:
    """A template filled in.

    Args:
        options: of the Jinja environment: what escapes every text that is filled in. Only the SVG of plots is exempt.
    """
    environment = Environment(  # nosec B701
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    helpers = {"name_of": name_of, "verdict": verdict, "references": references, "zip": zip}
    return environment.get_template(template).render(title=title, sections=view, **helpers).lstrip() + "\n"


def _json(results: Results, title: str, training: Sequence[TrainingRun]) -> str:
    """Everything that the report shows in numbers; null where there is no number."""
    runs = [
        {"name": run.name, "kind": run.kind, "tokens": run.tokens, "parameters": run.parameters, "seconds": run.seconds}
        | {f"final_{name}": run.final(name) for name in ("validation_loss", "loss", "reward")}
        for run in training
    ]
    report = {
        "title": title,
        "figures": [asdict(figure) for figure in results.figures],
        "differences": [asdict(difference) for difference in results.differences],
        "comparisons": results.comparisons,
        "training": runs,
    }
    finite = json.loads(json.dumps(report), parse_constant=lambda _: None)
    return json.dumps(finite, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
