"""Tokenised documents on disk, memory-mapped: built once for each content and tokenizer, then shared by all runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import secrets
import shutil
import socket
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nano_llada.core.errors import UserError
from nano_llada.core.files import regular
from nano_llada.core.text import printable
from nano_llada.data.bad_rows import BadRows
from nano_llada.data.documents import Document, Encoding, Notes, documents
from nano_llada.data.read import Source, ending_of, parts
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.data.workers import Workers, cores

__all__ = ["Document", "Encoding", "TokenStore", "documents", "open_store"]

VERSION = 4  # raised when the same input gives other files
DAMAGE = (FileNotFoundError, ValueError, LookupError, TypeError, EOFError)
INDICES = ("rows", "starts", "text_bytes", "scored_counts", "first_scored")  # files of one number per document
RELEASE = 64  # reads of a mapped file after which its pages are given back; one brings in 64 KiB
BUILDING = ".building-"  # begins the names of folders that are being filled; host, process and a number follow


class Documents(Protocol):
    """Tokenised documents, one after the other: a `TokenStore`, or several of them as one."""

    starts: npt.NDArray[np.int64]  # (N + 1,) first token of each document, and their number
    text_bytes: npt.NDArray[np.int64]  # (N,) as all that follow
    scored_counts: npt.NDArray[np.int64]
    first_scored: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]  # the row each document is of

    def __len__(self) -> int: ...
    @property
    def lengths(self) -> npt.NDArray[np.int64]: ...
    def slice(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]: ...


class TokenStore:
    """Random access to documents of any total size. Raises one of DAMAGE for files missing, broken or cut off."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, object] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.starts: npt.NDArray[np.int64] = np.load(regular(folder / "starts.npy"), mmap_mode="r")
        self.text_bytes: npt.NDArray[np.int64] = np.load(regular(folder / "text_bytes.npy"), mmap_mode="r")
        self.scored_counts: npt.NDArray[np.int64] = np.load(regular(folder / "scored_counts.npy"), mmap_mode="r")
        self.first_scored: npt.NDArray[np.int64] = np.load(regular(folder / "first_scored.npy"), mmap_mode="r")
        # the row each document is of
        self.rows: npt.NDArray[np.int64] = np.load(regular(folder / "rows.npy"), mmap_mode="r")
        self._tokens = _Mapped(folder / "tokens.bin", str(self.meta["dtype"]))
        self._scored = _Mapped(folder / "scored.bin", "bool")
        if not self.starts[-1] == self.meta["tokens"] == len(self._tokens.values) == len(self._scored.values):
            raise ValueError(f"it holds {len(self._tokens.values)} tokens of {self.meta['tokens']}")
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
        return self._tokens.read(start, stop).astype(np.int64), self._scored.read(start, stop)


class _Mapped:
    """Numbers of a file that is mapped into memory, of which little is there at a time."""

    def __init__(self, path: Path, dtype: str) -> None:
        self._reads, self._map = 0, None
        with regular(path).open("rb") as file:
            if path.stat().st_size:  # else a part without documents: nothing can be mapped
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.values: npt.NDArray[Any] = np.frombuffer(self._map or b"", dtype=dtype)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """A copy of some of them."""
        found = self.values[start:stop].copy()
        self._reads += 1
        if self._map is not None and self._reads % RELEASE == 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)  # pages that were read would stay, a whole corpus in the end
        return found


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
    with being_filled(folder) as temporary:
        # a Hugging Face dataset is read from one end to the other: opening it once more for its shards takes seconds
        pieces = [p for source in sources for p in ([source] if _kind(source) == "hf" else parts(source))]
        if len(pieces) > len(sources) and cores() > 1:
            meta = _write_apart(temporary, pieces, tokenizer, encoding, bad_rows, notes, progress)
        else:
            meta = write_documents(temporary, sources, tokenizer, encoding, bad_rows, notes, progress)
        if not meta["documents"]:
            names = ", ".join(printable(source.name) for source in sources)
            raise UserError(f"no documents in {names}" + (f": {bad_rows.summary()}" if bad_rows.count else ""))
        _refuse_changed(sources, fingerprints)
        meta = {"key": key, **meta, "sources": [source.name for source in sources]}
        meta |= {"skipped": bad_rows.summary(), "notes": notes.lines()}
        (temporary / "meta.json").write_text(json.dumps(meta, indent=2, ensure_ascii=False), encoding="utf-8")


@contextlib.contextmanager
def being_filled(folder: Path) -> Iterator[Path]:
    """A new folder that gets the name `folder` when the block ends, unless another process was first: then that one is
    kept, which holds the same.

    Raises:
        UserError: if the cache cannot be written.
    """
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
        yield temporary
        if (folder / "meta.json").is_file():  # another run built the same store meanwhile, and may be reading it
            return
        if folder.exists():  # an earlier build that did not finish
            shutil.rmtree(folder)
        _rename(temporary, folder)
    except OSError as error:
        raise UserError(f"cannot write the data cache {folder.parent}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, folder: Path) -> None:
    try:
        os.replace(temporary, folder)
    except OSError:
        if not (folder / "meta.json").is_file():  # else another process was first by a hair
            raise


def write_documents(
    folder: Path,
    sources: Iterable[Source],
    tokenizer: Tokenizer,
    encoding: Encoding,
    bad_rows: BadRows,
    notes: Notes,
    progress: Callable[[int], None] = lambda documents: None,
) -> dict[str, object]:
    """Tokenise sources into the files of a store, all but meta.json; gives how much it is."""
    dtype = _dtype(tokenizer)
    starts, sizes, counts, firsts, rows = array("q", [0]), array("q"), array("q"), array("q"), array("q")
    where = None
    with (folder / "tokens.bin").open("wb") as tokens_file, (folder / "scored.bin").open("wb") as scored_file:
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
    for name, values in zip(INDICES, (rows, starts, sizes, counts, firsts), strict=True):
        np.save(folder / f"{name}.npy", np.asarray(values, dtype=np.int64))
    return {"dtype": dtype, "documents": len(sizes), "tokens": starts[-1], "text_bytes": sum(sizes)}


def write_part(
    folder: Path, source: Source, tokenizer: Tokenizer, encoding: Encoding, bad_rows: BadRows, notes: Notes
) -> None:
    """A part of a source as a store of its own, which may be empty. UserError if it cannot be read or written."""
    with being_filled(folder) as temporary:
        meta = write_documents(temporary, [source], tokenizer, encoding, bad_rows, notes)
        meta |= {"skipped": bad_rows.summary(), "notes": notes.lines()}
        (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _dtype(tokenizer: Tokenizer) -> str:
    return "uint16" if tokenizer.vocab.size <= 1 << 16 else "uint32"


def _write_apart(
    folder: Path,
    pieces: Sequence[Source],
    tokenizer: Tokenizer,
    encoding: Encoding,
    bad_rows: BadRows,
    notes: Notes,
    progress: Callable[[int], None],
) -> dict[str, object]:
    """The same as `write_documents`, by a process for each core; the parts are put together in their order."""
    done: list[TokenStore] = []
    with Workers(min(cores(), len(pieces)), tokenizer, encoding, bad_rows.policy) as workers:
        folders = [folder / f"part-{number}" for number in range(len(pieces))]
        for made in workers.write(pieces, folders):
            bad_rows.add(made.bad_rows)
            notes.add(made.notes)
            done.append(TokenStore(made.folder))
            progress(sum(map(len, done)))
    meta = _join(folder, done, _dtype(tokenizer))
    for part in folders:
        shutil.rmtree(part)
    return meta


def _join(folder: Path, stores: Sequence[TokenStore], dtype: str) -> dict[str, object]:
    for name in ("tokens.bin", "scored.bin"):
        with (folder / name).open("wb") as whole:
            for store in stores:
                with (store.folder / name).open("rb") as part:
                    shutil.copyfileobj(part, whole, 2**20)
    joined = JoinedStore(stores)
    for name in INDICES:
        np.save(folder / f"{name}.npy", getattr(joined, name))
    sizes = int(joined.text_bytes.sum())
    return {"dtype": dtype, "documents": len(joined), "tokens": int(joined.starts[-1]), "text_bytes": sizes}


class JoinedStore:
    """Several stores one after the other, read as one; their indices are copied, their tokens are not."""

    def __init__(self, stores: Sequence[TokenStore]) -> None:
        self._stores = stores
        tokens = np.cumsum([0, *(store.starts[-1] for store in stores)], dtype=np.int64)
        rows = np.cumsum([0, *(store.rows[-1] + 1 if len(store) else 0 for store in stores)], dtype=np.int64)
        empty = np.empty(0, dtype=np.int64)
        self._begins = tokens
        self.starts = np.concatenate([*(s.starts[:-1] + b for s, b in zip(stores, tokens, strict=False)), tokens[-1:]])
        self.rows = np.concatenate([*(s.rows + b for s, b in zip(stores, rows, strict=False)), empty])
        self.text_bytes = np.concatenate([*(store.text_bytes for store in stores), empty])
        self.scored_counts = np.concatenate([*(store.scored_counts for store in stores), empty])
        self.first_scored = np.concatenate([*(store.first_scored for store in stores), empty])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document."""
        return np.diff(self.starts)

    def slice(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Tokens and scored flags of a stretch within one document."""
        number = max(0, int(np.searchsorted(self._begins, start, side="right")) - 1)
        number = min(number, len(self._stores) - 1)
        begin = int(self._begins[number])
        return self._stores[number].slice(start - begin, stop - begin)
