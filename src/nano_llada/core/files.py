"""The one way in which files are written: completely or not at all, even if the process is killed meanwhile."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nano_llada.core.errors import UserError

WRITING, REMOVED = ".writing", ".removed"  # end the hidden names of what is being written, or deleted


def reason_of(error: BaseException) -> str:
    """Why the system refused a file, in its own words: `Permission denied`, `No space left on device`."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__


def regular(path: Path) -> Path:
    """A path on which nothing waits for ever: that of a file or a folder, or one where there is nothing yet.

    Raises:
        OSError: saying what it is, for a named pipe, a socket or a device; as the system does, for what it refuses.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return path
    what = "named pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
    raise OSError(errno.EINVAL, f"it is a {what}, not a file", str(path))


@contextlib.contextmanager
def writing(what: str, advice: str = "") -> Iterator[None]:
    """Turn an OSError inside into UserError(`cannot write WHAT: REASON; ADVICE`)."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {what}: {reason_of(error)}{f'; {advice}' if advice else ''}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a hidden name, flush it to the disk, and only then give it its name.

    Raises:
        OSError: if it cannot be written; a file that was there before is unchanged.
    """
    hidden = path.with_name(f".{path.name}{WRITING}")
    try:
        with hidden.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, path)
    except OSError:
        with contextlib.suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8. Raises OSError as it does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a plain value as indented JSON. Raises OSError as it does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Have `fill` write files into a hidden folder, flush them to the disk, and only then give the folder its name.

    The files get the permissions that the user's umask gives to new files: some libraries write private ones.

    Raises:
        OSError: if it cannot be written; a folder that was there before is unchanged. What `fill` raises.
    """
    hidden = folder.with_name(f".{folder.name}{WRITING}")
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        hidden.mkdir(parents=True)
        mode = _new_file_mode(hidden)
        fill(hidden)
        for path in hidden.rglob("*"):
            if path.is_dir():
                sync_folder(path)
                continue
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            path.chmod(mode)
        sync_folder(hidden)
        if folder.exists():
            remove_folder(folder)
        os.replace(hidden, folder)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder. It loses its name first, so that a kill leaves no folder that looks complete and is not.

    Raises:
        OSError: if it cannot be renamed, as on Windows while a program reads it; it is then unchanged. What cannot be
            deleted afterwards stays under a hidden name, for `sweep`.
    """
    hidden = folder.with_name(f".{folder.name}{REMOVED}")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.replace(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete what killed processes left in a folder: files and folders that were being written or removed.

    Only for a folder in which nothing else writes at this moment.
    """
    for ending in (WRITING, REMOVED):
        for leftover in folder.glob(f".*{ending}"):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    leftover.unlink()


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
