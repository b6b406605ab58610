"""All suites over all subjects, a part at a time: finished parts stay on disk, and the same command resumes."""

from __future__ import annotations

import collections
import hashlib
import inspect
import json
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from nano_llada.checkpoint.files import SHAPE, Checkpoint, weights_file
from nano_llada.config.record import to_plain
from nano_llada.core import own
from nano_llada.core.errors import UserError
from nano_llada.core.files import regular
from nano_llada.core.progress import duration
from nano_llada.evaluation.record import RECORDS, Record, read_records, write_records
from nano_llada.evaluation.suite import Subject, Suite
from nano_llada.training import parallel

PLAN, PARTS = "plan.json", "parts"
NEUTRAL = frozenset({"batch_size"})  # fields of suites that do not change any figure


def fingerprint(checkpoint: Checkpoint) -> str:
    """What identifies a model: sha256 of the files of its weights and shape, which include the tokenizer's hash.

    Raises:
        UserError: if the files no longer exist.
    """
    found = hashlib.sha256()
    for path in (weights_file(checkpoint.folder), checkpoint.folder / SHAPE):
        try:
            with regular(path).open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(
                f"cannot read {path} again: {error.strerror}; is its run still training? It "
                "deletes old checkpoints: evaluate it when it has finished"
            ) from error
    return found.hexdigest()


def protocol_of(suite: Suite) -> str:
    """A short hash of what a suite measures: its settings and examples, whatever files those came from.

    Of a user's own suite the source is part of it: other code is another measurement.
    """
    described = [suite.name, _description(suite)]
    if type(suite).__module__.startswith(own.PREFIX):
        described.append(inspect.getsource(inspect.getmodule(type(suite)) or type(suite)))
    return _short(described)


def make_plan(subjects: Sequence[Subject], suites: Sequence[Suite], **more: Any) -> dict[str, Any]:
    """All that decides the figures, as plain values: suites with their examples, weights, decoders; and `more`."""
    return {
        "protocols": {suite.name: protocol_of(suite) for suite in suites},
        "models": {f"{s.name} {s.run}": fingerprint(s.checkpoint) for s in subjects},
        "decoders": {f"{s.name} {s.run} {s.decoder}": to_plain(s.decoding) for s in subjects},
        **more,
    }


def plan_name(plan: Mapping[str, Any]) -> str:
    """A short hash of a plan."""
    return _short(plan)


def evaluate(
    subjects: Sequence[Subject], suites: Sequence[Suite], folder: Path, plan: Mapping[str, Any]
) -> list[Record]:
    """Measure every subject by every suite; a suite that writes nothing asks each model once, whatever its decoders.

    Args:
        folder: gets plan.json, records.jsonl and, until it is complete, the finished parts.
        plan: see `make_plan`; an evaluation in a folder with the same plan is resumed.

    Raises:
        UserError: if the folder holds another evaluation or cannot be written, or for examples that do not fit.
    """
    parallel.on_first(lambda: _open(folder, plan))
    if parallel.agreed((folder / RECORDS).is_file):
        print(f"{folder}: already measured", flush=True)
        return list(read_records(folder))
    jobs = [
        (suite, subject)
        for suite in suites
        for number, subject in enumerate(subjects)
        if suite.writes or not _asked_before(subject, subjects[:number])
    ]
    found: list[Record] = []
    protocols = {suite.name: protocol_of(suite) for suite in suites}  # once: a judge's weights are read for it
    took: dict[str, list[float]] = {}  # seconds of each measurement, by suite
    for number, (suite, subject) in enumerate(jobs):
        path = folder / PARTS / f"{number:03d}.jsonl"
        if not parallel.agreed(path.is_file):
            begin = time.perf_counter()
            _write_part(path, measured(suite, subject, protocols[suite.name]))
            took.setdefault(suite.name, []).append(time.perf_counter() - begin)
            if rest := [later.name for later, _ in jobs[number + 1 :]]:
                print(outlook(rest, took), flush=True)
        found += read_records(path)
    parallel.everyones(None)  # all have read the parts, which the first process deletes now
    parallel.on_first(lambda: _finish(folder, found))
    return found


def _write_part(path: Path, records: Iterator[Record]) -> None:
    """Measure and write; of several processes the first writes, and all measure."""
    if parallel.first():
        write_records(path, records)
    else:
        collections.deque(records, maxlen=0)
    parallel.everyones(None)  # nobody reads the file before it is there


def _finish(folder: Path, found: Sequence[Record]) -> None:
    write_records(folder / RECORDS, found)
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def outlook(rest: Sequence[str], took: Mapping[str, Sequence[float]]) -> str:
    """How much is left: measurements, named by their suites, last as long as those of the same suite have.

    A suite may take a hundred times as long as another, so nothing is said about one that has not been measured yet.
    """
    known = [statistics.mean(took[name]) for name in rest if name in took]
    unknown = dict.fromkeys(name for name in rest if name not in took)
    parts = [f"about {duration(sum(known))} for {len(known)} of them"] if known and unknown else []
    parts += [f"about {duration(sum(known))}"] if known and not unknown else []
    parts += [f"not yet known for {', '.join(unknown)}"] if unknown else []
    return f"{len(rest)} {'measurement' if len(rest) == 1 else 'measurements'} left: {', '.join(parts)}"


def measured(suite: Suite, subject: Subject, protocol: str) -> Iterator[Record]:
    """One suite's records of one subject, with the suite's protocol. Prints a line at the start and at the end."""
    name = f"{suite.name}: {subject.name}{f', {subject.decoder}' if suite.writes and subject.decoder else ''}"
    begin = time.perf_counter()
    print(f"{name} ...", flush=True)
    for record in suite.run(subject):
        yield replace(record, protocol=protocol)
    print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)


def _asked_before(subject: Subject, others: Sequence[Subject]) -> bool:
    return any((other.name, other.run) == (subject.name, subject.run) for other in others)


def _open(folder: Path, plan: Mapping[str, Any]) -> None:
    path, text = folder / PLAN, json.dumps(plan, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        if path.is_file():
            if path.read_text(encoding="utf-8") != text:
                raise UserError(f"{folder} holds another evaluation (see {PLAN}): choose another folder with --out")
            return
        if (folder / RECORDS).exists() or (folder / PARTS).exists():
            raise UserError(f"{folder} holds an evaluation without its {PLAN}: choose another folder with --out")
        folder.mkdir(parents=True, exist_ok=True)
        hidden = folder / f".{PLAN}.{os.getpid()}.writing"
        hidden.write_text(text, encoding="utf-8")
        hidden.replace(path)
    except OSError as error:
        raise UserError(f"cannot write the evaluation to {folder}: {error.strerror}") from error


def _short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:8]


def _description(value: Any) -> Any:
    """A suite's fields as plain values: models by their fingerprint, functions by their type alone."""
    if isinstance(value, Checkpoint):
        return fingerprint(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _description(getattr(value, f.name)) for f in fields(value) if f.name not in NEUTRAL}
    if isinstance(value, (tuple, list)):
        return [_description(one) for one in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else type(value).__name__
