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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nano_llada.core.errors import UserError
from nano_llada.data.chat import Turns, encode_conversation, score_last_turn, split_turns
from nano_llada.data.read import BadRow, BadRows, Row, Source, ending_of, read_rows
from nano_llada.data.rows import Message, Where, find_special, to_messages, to_preference, to_text
from nano_llada.data.tokenizer import MASK, Tokenizer

VERSION = 3  # raised when the same input gives other files
DAMAGE = (FileNotFoundError, ValueError, LookupError, TypeError, EOFError)
BUILDING = ".building-"  # begins the names of folders that are being filled; host, process and a number follow


@dataclass(frozen=True)
class Encoding:
    """How rows become documents."""

    format: str  # "text", "chat" or "preference"
    text_field: str = "text"
    turns: Turns = "all"


@dataclass(frozen=True)
class Document:
    """One training document."""

    tokens: list[int]
    scored: list[bool]
    text_bytes: int  # UTF-8 length of the text that is scored: what bits per byte divide by
    where: Where  # the row it is of


class TokenStore:
    """Random access to documents of any total size. Raises one of DAMAGE for files missing, broken or cut off."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, object] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.starts: npt.NDArray[np.int64] = np.load(folder / "starts.npy", mmap_mode="r")
        self.text_bytes: npt.NDArray[np.int64] = np.load(folder / "text_bytes.npy", mmap_mode="r")
        self.scored_counts: npt.NDArray[np.int64] = np.load(folder / "scored_counts.npy", mmap_mode="r")
        self.first_scored: npt.NDArray[np.int64] = np.load(folder / "first_scored.npy", mmap_mode="r")
        self._tokens = np.memmap(folder / "tokens.bin", dtype=str(self.meta["dtype"]), mode="r")
        self._scored = np.memmap(folder / "scored.bin", dtype=np.bool_, mode="r")
        if not self.starts[-1] == self.meta["tokens"] == len(self._tokens) == len(self._scored):
            raise ValueError(f"it holds {len(self._tokens)} tokens of {self.meta['tokens']}")
        if not len(self) == len(self.text_bytes) == len(self.scored_counts) == len(self.first_scored):
            raise ValueError("its indices differ in length")

    def __len__(self) -> int:
        return len(self.starts) - 1

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
    key = {
        "version": VERSION,
        # the same bytes are other documents when read as another kind of file
        "sources": [[_kind(source), source.fingerprint()] for source in sources],
        "tokenizer": tokenizer.hash,
        "encoding": vars(encoding),
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache / name
    if not (folder / "meta.json").is_file():
        _build(folder, key, sources, tokenizer, encoding, bad_rows, progress)
    try:
        return _refuse_skipped(TokenStore(folder), sources, tokenizer, encoding, bad_rows)
    except DAMAGE as error:  # by a full disk, or whoever else writes there
        try:
            shutil.rmtree(folder)
        except OSError:
            raise UserError(f"the data cache {folder} is damaged ({error}); delete it") from error
    except OSError as error:  # of this moment: the files may be whole
        raise UserError(f"cannot read the data cache {folder}: {error.strerror}") from error
    _build(folder, key, sources, tokenizer, encoding, bad_rows, progress)
    return TokenStore(folder)


def _refuse_skipped(
    store: TokenStore, sources: Iterable[Source], tokenizer: Tokenizer, encoding: Encoding, bad_rows: BadRows
) -> TokenStore:
    """A store built by somebody who skips bad rows, for somebody who stops at them. Raises UserError at the first."""
    if store.meta["skipped"] and bad_rows.policy == "stop":
        for _ in documents(sources, tokenizer, encoding, bad_rows):
            pass  # the first bad row ends it
    return store


def _kind(source: Source) -> str:
    return "hf" if source.name.startswith("hf:") else ending_of(source.name)[0]


def documents(
    sources: Iterable[Source], tokenizer: Tokenizer, encoding: Encoding, bad_rows: BadRows
) -> Iterator[Document]:
    """Documents of all sources in order; bad rows go to the policy."""
    for source in sources:
        for row in read_rows(source):
            if isinstance(row, BadRow):
                bad_rows.report(row.where, row.reason)
                continue
            try:
                yield from _encode_row(row, tokenizer, encoding)
            except ValueError as error:
                bad_rows.report(row.where, str(error))


def _encode_row(row: Row, tokenizer: Tokenizer, encoding: Encoding) -> Iterator[Document]:
    if encoding.format == "text":
        text = to_text(row.value, encoding.text_field)
        _refuse_mask(text)
        eos = tokenizer.vocab.eos
        tokens = [eos, *tokenizer.encode(text), eos]  # the first gives an AR model something to begin from
        yield Document(tokens, [False] + [True] * (len(tokens) - 1), len(text.encode()), row.where)
        return
    if encoding.format == "preference":
        yield from _encode_preference(row, tokenizer)
        return
    messages = to_messages(row.value)
    for message in messages:
        _refuse_mask(message.content)
    for part, last_only in split_turns(messages, encoding.turns):
        yield _encode_turns(row.where, tokenizer, part, last_only=last_only)


def _encode_preference(row: Row, tokenizer: Tokenizer) -> tuple[Document, Document]:
    """The chosen and the rejected conversation: both are there, or neither is."""
    preference = to_preference(row.value)
    answers = (preference.chosen, preference.rejected)
    for text in (*(message.content for message in preference.prompt), *answers):
        _refuse_mask(text)
    chosen, rejected = (
        _encode_turns(row.where, tokenizer, [*preference.prompt, Message("assistant", answer)], last_only=True)
        for answer in answers
    )
    if chosen.tokens == rejected.tokens:
        raise ValueError("chosen and rejected are the same answer")
    return chosen, rejected


def _encode_turns(where: Where, tokenizer: Tokenizer, messages: Sequence[Message], *, last_only: bool) -> Document:
    tokens, scored = encode_conversation(tokenizer, messages)
    learnt = messages[-1:] if last_only else messages
    size = sum(len(message.content.encode()) for message in learnt if message.role == "assistant")
    return Document(tokens, score_last_turn(scored) if last_only else scored, size, where)


def _refuse_mask(text: str) -> None:
    if find_special(text, (MASK,)):
        raise ValueError(f"the text contains the literal mask token {MASK}")


def _sweep(cache: Path) -> None:
    """Delete what builds that were killed have left: of dead processes, or if nothing was written for a day."""
    for leftover in cache.glob(f"{BUILDING}*"):
        with contextlib.suppress(OSError):  # another run may sweep, too
            newest = max(path.stat().st_mtime for path in (leftover, *leftover.iterdir()))
            if _is_dead(leftover.name) or time.time() - newest > 24 * 3600:
                shutil.rmtree(leftover)


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
    tokenizer: Tokenizer,
    encoding: Encoding,
    bad_rows: BadRows,
    progress: Callable[[int], None],
) -> None:
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
        starts, sizes, counts, firsts = array("q", [0]), array("q"), array("q"), array("q")
        with (temporary / "tokens.bin").open("wb") as tokens_file, (temporary / "scored.bin").open("wb") as scored_file:
            for document in documents(sources, tokenizer, encoding, bad_rows):
                tokens_file.write(np.asarray(document.tokens, dtype=dtype).tobytes())
                scored_file.write(np.asarray(document.scored, dtype=np.bool_).tobytes())
                starts.append(starts[-1] + len(document.tokens))
                sizes.append(document.text_bytes)
                counts.append(sum(document.scored))
                firsts.append(document.scored.index(True) if counts[-1] else len(document.scored))
                if len(sizes) % 1000 == 0:
                    progress(len(sizes))
        if not sizes:
            names = ", ".join(source.name for source in sources)
            raise UserError(f"no documents in {names}" + (f": {bad_rows.summary()}" if bad_rows.count else ""))
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
