"""One example judged: a line of the file that every published figure can be computed from again, without a model."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.core.files import regular

RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Record:
    """What one model did with one example.

    `item` names the example within its suite and task, the same for all models and decoders (so that models can be
    compared example by example) and for both languages' wordings of one question. `values` are the numbers that
    metrics are computed from; `detail` is for readers alone.
    """

    model: str  # its name in tables
    decoder: str  # how it wrote; empty where nothing is written
    suite: str
    task: str  # a skill, a file, a span length: what is reported in a row of its own
    language: str  # zh or en
    item: str
    values: Mapping[str, float]
    run: int = 0  # which of the seeds (or checkpoints) that share the model's name
    protocol: str = ""  # a short name of the suite's settings and examples: others are another measurement
    detail: Mapping[str, Any] = field(default_factory=dict)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """One record a line, whole or not at all.

    Raises:
        UserError: if the file cannot be written.
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}.writing")
    # made before the file is: a file that cannot be read while a record is made is not one that cannot be written
    text = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_text(text, encoding="utf-8")
        hidden.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file, or of the file `records.jsonl` in a folder.

    Raises:
        UserError: with file and line for one that is none.
    """
    path = path / RECORDS if path.is_dir() else path
    try:
        with regular(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield _parse(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the records in {path}: {error}") from error


def _parse(line: str, where: str) -> Record:
    try:
        row = json.loads(line)
        values = {str(name): float(value) for name, value in row["values"].items()}
        texts = {name: str(row[name]) for name in ("model", "decoder", "suite", "task", "language", "item")}
        texts["protocol"] = str(row.get("protocol", ""))
        record = Record(**texts, values=values, run=int(row.get("run", 0)), detail=dict(row.get("detail", {})))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}: no record of an evaluation ({type(error).__name__}: {error}); these files are written by "
            "`nano-llada eval --out FOLDER`"
        ) from error
    if broken := [name for name, value in values.items() if not math.isfinite(value)]:
        raise UserError(f"{where}: {', '.join(broken)} must be finite")
    return record
