"""Tokenised documents on disk, memory-mapped: built once for each content and tokenizer, then shared by all runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nano_llada.core.errors import UserError
from nano_llada.core.files import regular
from nano_llada.core.text import printable
from nano_llada.data.bad_rows import BadRows
from nano_llada.data.documents import Document, Encoding, Notes, documents
from nano_llada.data.read import Source, ending_of
from nano_llada.data.tokenizer import Tokenizer

__all__ = ["Document", "Encoding", "TokenStore", "documents", "open_store"]

VERSION = 4  # raised when the same input gives other files
DAMAGE = (FileNotFoundError, ValueError, LookupError, TypeError, EOFError)
BUILDING = ".building-"  # begins the names of folders that are being filled; host, process and a number follow


class TokenStore:
    """Random access to documents of any total size. Raises one of DAMAGE for files missing, broken or cut off."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, object] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.starts: npt.NDArray[np.int64] = np.load(regular(folder / "starts.npy"), mmap_mode="r")
        self.text_bytes: npt.NDArray[np.int64] = np.load(regular(folder / "text_bytes.npy"), mmap_mode="r")
        self.scored_counts: npt.NDArray[np.int64] = np.load(regular(folder / "scored_counts.npy"), mmap_mode="r")
        self.first_scored: npt.NDArray[np.int64] = np.load(regular(folder / "first_scored.npy"), mmap_mode="r")
        self.rows: npt.NDArray[np.int64] = np.load(
            regular(folder / "rows.npy"), mmap_mode="r"
        )  # the row each document is of
        self._tokens = np.memmap(regular(folder / "tokens.bin"), dtype=str(self.meta["dtype"]), mode="r")
        self._scored = np.memmap(regular(folder / "scored.bin"), dtype=np.bool_, mode="r")
        if not self.starts[-1] == self.meta["tokens"] == len(self._tokens) == len(self._scored):
            raise ValueError(f"it holds {len(self._tokens)} tokens of {self.meta['tokens']}")
        if {len(self)} != set(map(len, (self.text_bytes, self.scored_counts, self.first_scored, self.rows))):
            raise ValueError("its indices differ in length")

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def notes(self) -> list[str]:
        """What whoever uses it should know about its sources, a sentence each."""
        return list(map(str, self.meta["notes"]))  # type: ignore[call-overload]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document."""
        return np.diff(self.starts)

    def slice(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Tokens and scored flags of a stretch of the whole file."""
        return self._tokens[start:stop].astype(np.int64), np.asarray(self._scored[start:stop])


def open_store(
    sources: list[Source],
    tokenizer: Tokenizer,
    encoding: Encoding,
    *,
    cache: Path,
    bad_rows: BadRows,
    progress: Callable[[int], None] = lambda documents: None,
) -> TokenStore:
    """The store of these sources, built if it is not there yet, or again if it is damaged.

    Raises:
        UserError: for a bad row under the policy `stop`, for no documents at all, or a cache that cannot be written.
    """
    fingerprints = [source.fingerprint() for source in sources]
    key = {
        "version": VERSION,
        # the same bytes are other documents when read as another kind of file
        "sources": [[_kind(source), found] for source, found in zip(sources, fingerprints, strict=True)],
        "tokenizer": tokenizer.hash,
        "encoding": vars(encoding),
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache / name

    def build() -> TokenStore:
        _build(folder, key, sources, fingerprints, tokenizer, encoding, bad_rows, progress)
        return TokenStore(folder)

    if not (folder / "meta.json").is_file():
        return build()
    try:
        return _refuse_skipped(TokenStore(folder), sources, tokenizer, encoding, bad_rows)
    except DAMAGE as error:  # by a full disk, or whoever else writes there
        try:
            shutil.rmtree(folder)
        except OSError:
            raise UserError(f"the data cache {folder} is damaged ({error}); delete it") from error
    except OSError as error:  # of this moment: the files may be whole
        raise UserError(f"cannot read the data cache {folder}: {error.strerror}") from error
    return build()


def _refuse_skipped(
    store: TokenStore, sources: Sequence[Source], tokenizer: Tokenizer, encoding: Encoding, bad_rows: BadRows
) -> TokenStore:
    """A store built by somebody who skips bad rows, for somebody who stops at them. Raises UserError at the first."""
    if store.meta["skipped"] and bad_rows.policy == "stop":
        for _ in documents(sources, tokenizer, encoding, bad_rows):
            pass  # the first bad row ends it
    return store


def _kind(source: Source) -> str:
    return "hf" if source.name.startswith("hf:") else ending_of(source.name)[0]


def _sweep(cache: Path) -> None:
    """Delete what builds that were killed have left: of dead processes, or if nothing was written for a day."""
    for leftover in cache.glob(f"{BUILDING}*"):
        with contextlib.suppress(OSError):  # another run may sweep, too
            newest = max(path.stat().st_mtime for path in (leftover, *leftover.iterdir()))
            if _is_dead(leftover.name) or time.time() - newest > 24 * 3600:
                shutil.rmtree(leftover)


def _refuse_changed(sources: Sequence[Source], fingerprints: Sequence[str]) -> None:
    for source, before in zip(sources, fingerprints, strict=True):
        if source.fingerprint() != before:
            raise UserError(f"{printable(source.name)} changed while it was being read; run again when it is complete")


def _building_name() -> str:
    return f"{BUILDING}{_host()}-{os.getpid()}-{secrets.token_hex(4)}"


def _host() -> str:
    return re.sub(r"[^\w.-]", "_", socket.gethostname())


def _is_dead(name: str) -> bool:
    """Whether a folder that is being filled belongs to a process of this host that is no more."""
    match = re.fullmatch(rf"{re.escape(BUILDING + _host())}-(\d{{1,9}})-[0-9a-f]+", name)
    if match is None or os.name != "posix":
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    return False


def _build(
    folder: Path,
    key: dict[str, object],
    sources: list[Source],
    fingerprints: Sequence[str],
    tokenizer: Tokenizer,
    encoding: Encoding,
    bad_rows: BadRows,
    progress: Callable[[int], None],
) -> None:
    notes = Notes()
    dtype = "uint16" if tokenizer.vocab.size <= 1 << 16 else "uint32"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        temporary = folder.parent / _building_name()
        temporary.mkdir()  # not tempfile's, whose folders are private: others may use this cache
    except OSError as error:
        raise UserError(
            f"cannot write the data cache {folder.parent}: {error.strerror}; choose another with --cache"
        ) from error
    try:
        starts, sizes, counts, firsts, rows = array("q", [0]), array("q"), array("q"), array("q"), array("q")
        where = None
        with (temporary / "tokens.bin").open("wb") as tokens_file, (temporary / "scored.bin").open("wb") as scored_file:
            for document in documents(sources, tokenizer, encoding, bad_rows, notes):
                tokens_file.write(np.asarray(document.tokens, dtype=dtype).tobytes())
                scored_file.write(np.asarray(document.scored, dtype=np.bool_).tobytes())
                starts.append(starts[-1] + len(document.tokens))
                sizes.append(document.text_bytes)
                counts.append(sum(document.scored))
                rows.append((rows[-1] if rows else -1) + (document.where != where))
                where = document.where
                firsts.append(document.scored.index(True) if counts[-1] else len(document.scored))
                if len(sizes) % 1000 == 0:
                    progress(len(sizes))
        if not sizes:
            names = ", ".join(printable(source.name) for source in sources)
            raise UserError(f"no documents in {names}" + (f": {bad_rows.summary()}" if bad_rows.count else ""))
        _refuse_changed(sources, fingerprints)
        np.save(temporary / "rows.npy", np.asarray(rows, dtype=np.int64))
        np.save(temporary / "starts.npy", np.asarray(starts, dtype=np.int64))
        np.save(temporary / "text_bytes.npy", np.asarray(sizes, dtype=np.int64))
        np.save(temporary / "scored_counts.npy", np.asarray(counts, dtype=np.int64))
        np.save(temporary / "first_scored.npy", np.asarray(firsts, dtype=np.int64))
        meta = {
            "key": key,
            "dtype": dtype,
            "documents": len(sizes),
            "tokens": starts[-1],
            "text_bytes": sum(sizes),
            "skipped": bad_rows.summary(),
            "notes": notes.lines(),
            "sources": [source.name for source in sources],
        }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=2, ensure_ascii=False), encoding="utf-8")
        for source, (_, fingerprint) in zip(sources, key["sources"], strict=True):  # type: ignore[call-overload]
            if source.fingerprint() != fingerprint:
                raise UserError(f"{source.name} changed while it was read: wait until it is complete, and run it again")
        if (folder / "meta.json").is_file():  # another run built the same store meanwhile, and may be reading it
            return
        if folder.exists():  # an earlier build that did not finish
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(f"cannot write the data cache {folder.parent}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
