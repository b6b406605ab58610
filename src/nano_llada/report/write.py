"""A report on the disk: Markdown, JSON, plots, and one HTML page that needs nothing else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nano_llada.core.errors import UserError
from nano_llada.evaluate.record import Record
from nano_llada.evaluate.results import Results, measure
from nano_llada.evaluate.suites import SuiteOf, suite_named
from nano_llada.report.training_run import TrainingRun
from nano_llada.report.view import Report, make_view

TEMPLATES = Path(__file__).parent / "templates"
NOTHING = "nothing to report: neither records of an evaluation nor training runs"


def write_report(
    records: Sequence[Record],
    folder: Path,
    title: str,
    suite_of: SuiteOf = suite_named,
    training: Sequence[TrainingRun] = (),
) -> Path:
    """Write report.md, report.json, report.html and the plots into a folder.

    Args:
        suite_of: the suite of records, by its name.
        training: runs to compare besides, or alone.

    Returns:
        The HTML file.

    Raises:
        UserError: if there is nothing to report, a suite is unknown, or the folder cannot be written.
    """
    results = measure(records, lambda name: suite_of(name).metrics)
    return write_results(records, results, folder, title, suite_of, training)


def write_results(
    records: Sequence[Record],
    results: Results,
    folder: Path,
    title: str,
    suite_of: SuiteOf = suite_named,
    training: Sequence[TrainingRun] = (),
) -> Path:
    """As `write_report`, with the figures of the records computed already."""
    if not records and not training:
        raise UserError(NOTHING)
    report = make_view(records, results, suite_of, training, title)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (file for s in report.sections for part in s.parts for file in part.files.items()):
            (folder / name).write_bytes(content)
        (folder / "report.json").write_text(_json(results, title, training), encoding="utf-8")
        (folder / "report.md").write_text(to_markdown(report), encoding="utf-8")
        page = folder / "report.html"
        page.write_text(to_html(report), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the report to {folder}: {error.strerror}") from error
    return page


def to_html(report: Report) -> str:
    """The page: no script, no other file; every text is escaped, except the SVG of plots."""
    return _environment(autoescape=True).get_template("report.html.jinja").render(report=report)


def to_markdown(report: Report) -> str:
    """The Markdown: every text that is filled in goes through `escape_markdown`."""
    return _environment(finalize=escape_markdown).get_template("report.md.jinja").render(report=report)


def escape_markdown(value: object) -> str:
    """Text as one line that Markdown shows as it is: no markup, no raw HTML, nothing that ends a cell of a table."""
    text = " ⏎ ".join(str(value).splitlines())
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)
    # what would begin a heading, quote, list or rule: a backslash before its last character
    return re.sub(r"^(\s*(?:[#+=-]*|\d+))(?=[#+=.)-](?:\s|$)|>)", r"\g<1>\\", text)


def _environment(**options: Any) -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )


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
    return json.dumps(_finite(report), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
