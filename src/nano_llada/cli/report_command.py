"""`nano-llada report`: evaluations and training runs side by side, from the files that they wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nano_llada.cli.options import default_folder, parse, short_names
from nano_llada.core.errors import UserError
from nano_llada.evaluation.record import RECORDS, Record, read_records
from nano_llada.training.log import METRICS


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    sources: tuple[Path, ...]
    """Folders written by `nano-llada eval --out` or the records files in them, and run folders; any mixture."""
    out: Path | None = None
    """Folder for report.html, report.md, report.json and plots; default: runs/report, or, if that exists, runs/report-2
    and so on."""
    title: str = "nano-llada: evaluation"
    """Heading of the report."""
    suites: tuple[str, ...] = ()
    """Your own suites that records were measured by, as FILE.py:NAME."""


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
    # torch and matplotlib behind these would slow --help down
    from nano_llada.evaluation.suites import suites_of
    from nano_llada.report.training_run import read_run
    from nano_llada.report.write import write_report

    records = {name: found for name, path in names.items() if (found := _records(path)) is not None}
    training = [run for name, path in names.items() if (run := read_run(path, name)) is not None]
    _check_protocols(records)
    suite_of = suites_of(options.suites)
    folder = default_folder(options.out, Path("runs/report"))
    page = write_report(_distinct(records), folder, options.title, suite_of, training)
    print(f"the report is {page}")
    return 0


def _names(sources: Sequence[Path]) -> dict[str, Path]:
    """The shortest ends of the paths that distinguish them.

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
    return list(read_records(path)) if path.is_file() or (path / RECORDS).is_file() else None


def _check_protocols(sources: dict[str, list[Record]]) -> None:
    """Raises UserError where a suite was measured with other settings, examples or machines: not comparable."""
    first: dict[str, tuple[str, str]] = {}
    for name, records in sources.items():
        for suite, protocol in dict.fromkeys((record.suite, record.protocol) for record in records):
            known, other = first.setdefault(suite, (protocol, name))
            if known != protocol:
                raise UserError(
                    f"{other} and {name} measured {suite} by different protocols (examples, window, draws, judge, or, "
                    "for speed, the machine; see plan.json): report them one by one, or measure both by one command"
                )


def _distinct(sources: dict[str, list[Record]]) -> list[Record]:
    """All records; models with the same name in several sources get the source's name added."""
    counts = Counter(model for records in sources.values() for model in {record.model for record in records})
    return [
        replace(record, model=f"{record.model} ({name})") if counts[record.model] > 1 else record
        for name, records in sources.items()
        for record in records
    ]
