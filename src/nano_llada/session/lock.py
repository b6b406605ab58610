"""One process at a time trains into a run folder: a lock that the system releases when its owner dies."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from nano_llada.core.errors import UserError
from nano_llada.core.files import reason_of, regular

FILE = ".lock"


@dataclass
class RunLock:
    """Held on `.lock` in a run folder, which names the host and process that hold it."""

    path: Path
    _handle: int

    @classmethod
    def acquire(cls, folder: Path) -> RunLock:
        """Lock a folder that exists; the lock of a process that died is taken over.

        Raises:
            UserError: if another process trains into it, or might on another host, or the file cannot be written.
        """
        path = folder / FILE
        while True:
            try:
                handle = os.open(regular(path), os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise UserError(f"cannot write the run folder {folder}: {reason_of(error)}") from error
            lock = cls(path, handle)
            try:
                alone, owner = _try_lock(handle), _owner(handle)
                if alone and not lock._in_place():  # its owner deleted the file between our two calls
                    lock._close()
                    continue
                lock._refuse(alone, owner)
                lock._sign()
            except BaseException:
                lock._close()
                raise
            return lock

    @classmethod
    def clear(cls, folder: Path) -> None:
        """Delete the lock file of a process that died; one that is held, or may not be deleted, stays."""
        if (folder / FILE).exists():
            with contextlib.suppress(UserError):
                cls.acquire(folder).release()

    def check(self) -> None:
        """Raises UserError if the run folder was deleted or replaced while this process trains into it."""
        if not self._in_place():
            raise UserError(
                f"the run folder {self.path.parent} was deleted or replaced while it was being trained: stopped"
            )

    def release(self) -> None:
        """Delete the lock file, if it is still this one, and let others in."""
        if sys.platform == "win32":  # what is open cannot be deleted there
            self._close()
            self.path.unlink(missing_ok=True)
            return
        try:
            if self._in_place():
                self.path.unlink(missing_ok=True)
        except OSError:
            pass  # a folder that became read-only: the next run takes the file over
        self._close()

    def _in_place(self) -> bool:
        try:
            here, ours = os.stat(self.path), os.fstat(self._handle)
        except OSError:
            return False
        return (here.st_dev, here.st_ino) == (ours.st_dev, ours.st_ino)

    def _refuse(self, alone: bool, owner: tuple[str, int] | None) -> None:
        folder = self.path.parent
        if not alone:
            host, process = owner or ("an unknown host", 0)
            raise UserError(
                f"the run {folder} is being trained by process {process} on {host}: "
                "wait for it, stop it, or give another --name"
            )
        if owner is not None and owner[0] != socket.gethostname():  # whose locks may not reach this host
            raise UserError(
                f"the run {folder} was being trained by process {owner[1]} on {owner[0]}, and this host "
                f"({socket.gethostname()}) cannot see whether that process still runs; if it does not, delete "
                f"{self.path}"
            )

    def _sign(self) -> None:
        text = json.dumps({"host": socket.gethostname(), "pid": os.getpid()}) + "\n"
        try:
            os.ftruncate(self._handle, 0)
            os.lseek(self._handle, 0, os.SEEK_SET)
            os.write(self._handle, text.encode())
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {reason_of(error)}") from error

    def _close(self) -> None:
        os.close(self._handle)


def _owner(handle: int) -> tuple[str, int] | None:
    """Host and process that the file names; None for an empty or broken one, which a kill while signing leaves."""
    os.lseek(handle, 0, os.SEEK_SET)
    try:
        plain = json.loads(os.read(handle, 4096))
        return str(plain["host"]), int(plain["pid"])
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        os.lseek(handle, 1 << 20, os.SEEK_SET)  # beyond the text: a locked byte cannot be read
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:

    def _try_lock(handle: int) -> bool:
        """Whether the lock is ours now. A file system without locks lets everybody in, and the name decides."""
        import fcntl  # here, so that the module can be imported on every system

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            owner = _owner(handle)
            return owner is None or owner[0] != socket.gethostname() or not _alive(owner[1])
        return True


def _alive(process: int) -> bool:
    """Whether a process of this host exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True
