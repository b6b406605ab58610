"""checksums.json: the SHA-256 of every file of a checkpoint, so that a damaged one is noticed before it is used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.core.files import reason_of, regular, write_json

FILE = "checksums.json"


class DamagedCheckpoint(UserError):
    """A file of a checkpoint is missing, cut off or changed; another checkpoint of the run may be intact."""


def read_json(path: Path, *fields: str) -> dict[str, Any]:
    """An object with some fields.

    Raises:
        DamagedCheckpoint: naming the file if it is missing, no JSON object, nested too deeply, or lacks a field.
        UserError: if the system does not let it be read.
    """
    try:
        plain = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:  # ValueError also for bad UTF-8 and for a number of 5,000 digits
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DamagedCheckpoint(f"{path} cannot be read: {why}") from error
    if not isinstance(plain, dict):
        raise DamagedCheckpoint(f"{path} is broken: it lacks {', '.join(fields) or 'everything'}: it is no JSON object")
    if missing := [name for name in fields if name not in plain]:
        raise DamagedCheckpoint(f"{path} is broken: it lacks {', '.join(missing)}")
    return plain


def read_bytes(path: Path) -> bytes:
    """A small file. Raises DamagedCheckpoint if it is missing, UserError if the system does not let it be read."""
    check_readable(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason_of(error).lower()}") from error


def check_readable(path: Path) -> None:
    """Open a file.

    Raises:
        DamagedCheckpoint: if there is no such file.
        UserError: if the system refuses it, most often for its permissions.
    """
    try:
        with regular(path).open("rb"):
            pass
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedCheckpoint(f"{path} is missing") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason_of(error).lower()}") from error


def write_checksums(folder: Path) -> None:
    """Add checksums.json to a folder of files and folders. Raises OSError."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / FILE]
    sums = {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
    write_json(folder / FILE, sums)


def check_checksums(folder: Path, *names: str) -> None:
    """Compare files with checksums.json; without names every file that it lists.

    A folder that has none, such as one of version 0.1.0, passes.

    Raises:
        DamagedCheckpoint: naming the first file that is missing or differs.
        UserError: if a file cannot be read.
    """
    place = folder / FILE
    if not place.exists():
        return
    sums = read_json(place)
    for name in names or sorted(sums):
        if name not in sums:
            raise DamagedCheckpoint(f"{place} is broken: it lacks {name}")
        path = folder / name
        check_readable(path)
        try:
            found = file_hash(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {reason_of(error).lower()}") from error
        if found != sums[name]:
            raise DamagedCheckpoint(
                f"{path} does not match its checksum: it is damaged, or was edited; "
                f"if you edited it on purpose, delete {place}"
            )


def file_hash(path: Path) -> str:
    """Hexadecimal SHA-256 of a file. Raises OSError."""
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
