"""The one way in which files are written: whole or not at all, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a text file under a hidden name, flush it to the disk, and only then give it its name.

    Raises:
        OSError: if it cannot be written; a file that was there before is unchanged.
    """
    hidden = path.with_name(f".{path.name}.writing")
    try:
        with hidden.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, path)
    except OSError:
        hidden.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a plain value as indented JSON. Raises OSError as it does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Have `fill` write files into a hidden folder, flush them to the disk, and only then give the folder its name.

    The files get the permissions that the user's umask gives to new files: some libraries write private ones.

    Raises:
        OSError: if it cannot be written; a folder that was there before is unchanged. What `fill` raises.
    """
    hidden = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        hidden.mkdir(parents=True)
        mode = _new_file_mode(hidden)
        fill(hidden)
        for path in hidden.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            path.chmod(mode)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(hidden, folder)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _new_file_mode(folder: Path) -> int:
    """Permissions of a file that is created in the usual way."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    return mode
