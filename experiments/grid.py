"""A grid of runs that appends one line a finished run to a results file, and goes on where it was interrupted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nano_llada.core import device as hardware
from nano_llada.core.errors import UserError
from nano_llada.training.log import read_metrics

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """One finished run, as it stands in results.jsonl."""

    experiment: str
    variant: str
    seed: int
    commit: str
    hardware: str
    command: str
    metrics: Metrics


@dataclass(frozen=True)
class Cell:
    """One run of a grid that is to be made."""

    variant: str
    seed: int
    run: Callable[[], Metrics | None]  # None: interrupted, nothing to record


def run_grid(experiment: str, cells: Sequence[Cell], folder: Path, command: str) -> list[Result] | None:
    """Make the runs that are not in `folder`/results.jsonl yet, in order; None if one was interrupted.

    A run of another command is another run, and so is one of a variant or seed that no cell asks for: its line stays
    in the file and is left out of what is returned. The command names no seed, so that more seeds can be added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, asked = folder / "results.jsonl", {(cell.variant, cell.seed) for cell in cells}
    before = read_results(path) if path.is_file() else []
    results = [r for r in before if r.command == command and (r.variant, r.seed) in asked]
    done = {(r.variant, r.seed) for r in results}
    for cell in cells:
        if (cell.variant, cell.seed) in done:
            continue
        metrics = cell.run()
        if metrics is None:
            return None
        result = Result(experiment, cell.variant, cell.seed, commit(), hardware.cpu_name(), command, metrics)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
        results.append(result)
    return results


def write_results(folder: Path, results: Sequence[Result]) -> None:
    """All lines of `folder`/results.jsonl at once, for an experiment that is measured as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.jsonl"
    hidden = path.with_name(f".{path.name}.writing")
    lines = "".join(json.dumps(asdict(result), ensure_ascii=False) + "\n" for result in results)
    hidden.write_text(lines, encoding="utf-8")
    hidden.replace(path)


def write_page(folder: Path, text: str) -> None:
    """README.md: `text`, and behind it what a person has written in notes.md, which no experiment touches."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / "notes.md"
    said = f"\n{notes.read_text(encoding='utf-8')}" if notes.is_file() else ""
    (folder / "README.md").write_text(text.rstrip("\n") + "\n" + said, encoding="utf-8")


def read_results(path: Path) -> list[Result]:
    """All finished runs. Raises UserError if a line is broken."""
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            results.append(Result(**json.loads(line)))
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(f"{path}:{number}: not a result: {error}") from error
    return results


def trained_tokens(run: Path) -> int:
    """Tokens that a run was trained on, padding not counted; those of the run it started from are not in it."""
    return max(int(line.get("tokens", 0)) for line in read_metrics(run))


def commit() -> str:
    """The commit of the code that runs, with a + if files differ from it; `unknown` outside a checkout."""
    here = Path(__file__).parents[1]  # the whole library

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers with three decimals."""

    def cell(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
