"""All suites over all subjects, a part at a time: finished parts stay on the disk, and the same command goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nano_llada.checkpoint.files import WEIGHTS, Checkpoint
from nano_llada.core.errors import UserError
from nano_llada.evaluate.record import RECORDS, Record, read_records, write_records
from nano_llada.evaluate.suite import Subject, Suite

PLAN, PARTS = "plan.json", "parts"


def fingerprint(checkpoint: Checkpoint) -> str:
    """What tells two sets of weights apart: sha256 of their file."""
    with (checkpoint.folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plan_name(plan: Mapping[str, Any]) -> str:
    """A short name for a plan, another one for every other plan."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:8]


def evaluate(
    subjects: Sequence[Subject], suites: Sequence[Suite], folder: Path, plan: Mapping[str, Any]
) -> list[Record]:
    """Measure every subject by every suite; a suite that writes nothing asks each model once, whatever its decoders.

    Args:
        folder: gets plan.json, records.jsonl and, while it is not complete, the finished parts.
        plan: all that decides the records, as plain values; a folder with the same plan is gone on with.

    Raises:
        UserError: if the folder holds another evaluation or cannot be written, or for examples that do not fit.
    """
    _open(folder, plan)
    jobs = [
        (suite, subject)
        for suite in suites
        for number, subject in enumerate(subjects)
        if suite.writes or not _asked_before(subject, subjects[:number])
    ]
    found: list[Record] = []
    for number, (suite, subject) in enumerate(jobs):
        path = folder / PARTS / f"{number:03d}.jsonl"
        name = f"{suite.name}: {subject.name}{f', {subject.decoder}' if suite.writes and subject.decoder else ''}"
        begin = time.perf_counter()
        if path.is_file():
            print(f"{name}: measured before", flush=True)
        else:
            print(f"{name} ...", flush=True)
            write_records(path, suite.run(subject))
            print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
        found += read_records(path)
    write_records(folder / RECORDS, found)
    return found


def _asked_before(subject: Subject, others: Sequence[Subject]) -> bool:
    return any((other.name, other.run) == (subject.name, subject.run) for other in others)


def _open(folder: Path, plan: Mapping[str, Any]) -> None:
    path, told = folder / PLAN, json.dumps(plan, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        if path.is_file():
            if path.read_text(encoding="utf-8") != told:
                raise UserError(f"{folder} holds another evaluation (see {PLAN}): choose another folder with --out")
            return
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
        if any((folder / PARTS).iterdir()):
            raise UserError(f"{folder / PARTS} holds parts of an evaluation without its {PLAN}: choose another folder")
        path.write_text(told, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the evaluation to {folder}: {error.strerror}") from error
