"""`nano-llada report`: evaluations and training runs beside each other, from the files they left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nano_llada.cli.options import parse, short_names
from nano_llada.cli.training_runs import METRICS, training_run
from nano_llada.core.errors import UserError

if TYPE_CHECKING:
    from nano_llada.evaluation.record import Record

RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    sources: tuple[Path, ...]
    """Folders written by `nano-llada eval --out` or the records files in them, and run folders; any mixture."""
    out: Path = Path("runs/report")
    """Folder for report.html, report.md, report.json and plots."""
    title: str = "nano-llada: evaluation"
    """Heading of the report."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="report",
        about="Report on evaluations, and compare finished training runs.",
        leading="sources",
    )
    names = _names(options.sources)
    records = {name: found for name, path in names.items() if (found := _records(path)) is not None}
    training = [run for name, path in names.items() if (run := training_run(path, name)) is not None]
    _check_protocols(records)
    from nano_llada.evaluation.page import write_evaluation

    page = write_evaluation(_told_apart(records), options.out, options.title, training=training)
    print(f"the report is {page}")
    return 0


def _names(sources: Sequence[Path]) -> dict[str, Path]:
    """The shortest ends of the paths that tell them apart.

    Raises:
        UserError: for none, one given twice, or one that is neither an evaluation nor a run.
    """
    if not sources:
        raise UserError("nothing to report: give folders with --sources")
    names = short_names([path.parent if path.is_file() and path.name == RECORDS else path for path in sources])
    for path in sources:
        if not path.is_file() and not any((path / name).is_file() for name in (METRICS, RECORDS)):
            raise UserError(
                f"{path} holds nothing to report: expected a folder with {RECORDS} (written by `nano-llada eval --out "
                f"FOLDER`), such a file, or a run folder with {METRICS}"
            )
    return dict(zip(names, sources, strict=True))


def _records(path: Path) -> list[Record] | None:
    from nano_llada.evaluation.record import read_records

    return list(read_records(path)) if path.is_file() or (path / RECORDS).is_file() else None


def _check_protocols(sources: dict[str, list[Record]]) -> None:
    """Raises UserError where a suite was measured with other settings, examples or machines: that compares nothing."""
    first: dict[str, tuple[str, str]] = {}
    for name, records in sources.items():
        for suite, protocol in dict.fromkeys((record.suite, record.protocol) for record in records):
            known, other = first.setdefault(suite, (protocol, name))
            if known != protocol:
                raise UserError(
                    f"{other} and {name} measured {suite} by different protocols (examples, window, draws, judge, or, "
                    "for speed, the machine; see plan.json): report them one by one, or measure both by one command"
                )


def _told_apart(sources: dict[str, list[Record]]) -> list[Record]:
    """All records; models of one name that come from several sources bear their source's name besides."""
    counts = Counter(model for records in sources.values() for model in {record.model for record in records})
    return [
        replace(record, model=f"{record.model} ({name})") if counts[record.model] > 1 else record
        for name, records in sources.items()
        for record in records
    ]
