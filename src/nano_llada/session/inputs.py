"""inputs.json of a run folder: fingerprints of all that the run reads, so that a resumed run reads the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nano_llada.checkpoint.checksums import file_hash, read_json
from nano_llada.checkpoint.files import SHAPE, Checkpoint, find_checkpoint, step_folders, weights_file
from nano_llada.config.record import to_plain
from nano_llada.config.run import RunConfig
from nano_llada.core.errors import UserError
from nano_llada.core.files import reason_of, write_json, writing
from nano_llada.data.mixture import without_weights
from nano_llada.data.read import resolve
from nano_llada.data.tokenizer import Tokenizer

FILE = "inputs.json"
Fingerprints = dict[str, dict[str, str]]  # kind -> name -> SHA-256


def fingerprints(config: RunConfig, tokenizer: Tokenizer, start: Checkpoint | None) -> Fingerprints:
    """Of the data, the start and reference weights, the user's own Python files and the tokenizer.

    Raises:
        UserError: for a file that is missing or cannot be read.
    """
    found: Fingerprints = {"tokenizer": {"tokenizer.json": tokenizer.hash}}
    for kind, names in (("data", config.data.data), ("validation data", config.data.validation)):
        if names:
            streamed = config.data.stream and kind == "data"  # reading all of a stream is what it is to avoid
            sources = resolve(without_weights(names))
            found[kind] = {s.name: s.stamp() if streamed else s.fingerprint() for s in sources}
    if start is not None:
        found["start weights"] = _weights(start.folder)
    if config.reference is not None:
        found["reference weights"] = _weights(find_checkpoint(config.reference))
    if files := sorted(set(_own_files(to_plain(config.objective)))):
        found["your own code"] = {file: _hash(Path(file)) for file in files}
    return found


def check_inputs(config: RunConfig, tokenizer: Tokenizer, start: Checkpoint | None, *, resume: bool) -> list[str]:
    """Record the fingerprints of a new run, or compare a resumed run's with the record; gives what has to be said.

    Raises:
        UserError: naming everything that differs from what the run has learnt from so far.
    """
    path, now = config.folder / FILE, fingerprints(config, tokenizer, start)
    learnt = resume and bool(step_folders(config.folder))
    if learnt and path.is_file():
        if differing := list(_differences(read_inputs(path), now)):
            raise UserError(
                f"a resumed run must read what it has read so far; since {config.folder} was begun: "
                f"{'; '.join(differing)}. Put the files back as they were, or start a new run with another --name"
            )
        return []
    with writing(str(path)):
        write_json(path, now)
    if learnt:  # begun by a version that kept no record
        return [f"{FILE} is new: whether data and start weights are those the run began with could not be checked"]
    return []


def _weights(folder: Path) -> dict[str, str]:
    return {path.as_posix(): _hash(path) for path in (weights_file(folder), folder / SHAPE)}


def _hash(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason_of(error).lower()}") from error


def _own_files(plain: Any) -> Iterator[str]:
    """Files that a config names as FILE.py:NAME, however deep: rewards, objectives, noise schedules."""
    if isinstance(plain, Mapping):
        plain = list(plain.values())
    if isinstance(plain, list):
        for value in plain:
            yield from _own_files(value)
    elif isinstance(plain, str):
        file, _, name = plain.rpartition(":")
        if name.isidentifier() and file.endswith(".py"):
            yield file


def read_inputs(path: Path) -> Fingerprints:
    """The record of a run. Raises UserError if it is broken."""
    plain = read_json(path)
    if not all(isinstance(files, dict) for files in plain.values()):
        raise UserError(f"{path} is broken: it maps kinds of inputs to names and fingerprints")
    return plain


def _differences(before: Fingerprints, now: Fingerprints) -> Iterator[str]:
    """In words. Files may be renamed or moved as long as their contents come in the same order."""
    for kind in sorted(set(before) | set(now)):
        old, new = before.get(kind, {}), now.get(kind, {})
        if list(old.values()) == list(new.values()):
            continue
        changed = [f"{name} has changed" for name in new if name in old and old[name] != new[name]]
        gone = [f"{name} is gone" for name in old if name not in new]
        added = [f"{name} is new" for name in new if name not in old]
        yield f"{kind}: {', '.join([*changed, *gone, *added]) or 'in another order'}"
