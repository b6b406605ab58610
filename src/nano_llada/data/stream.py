"""Training data that is read while it is learnt: parts of sources, tokenised shortly before they are needed.

A stream is cut into parts (`read.parts`). Every epoch goes through them in another order, decided by the seed, a window
of some parts at a time, whose documents are shuffled together. A row is therefore a function of (seed, number of the
row), whatever the number of processes; the position that a run saves says only in which window a row is, so that a
resumed run need not read what comes before. A tokenised part stays in the cache, as a store of its own.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from nano_llada.config.data import DataConfig
from nano_llada.core.batch import TokenBatch, Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.core.text import printable
from nano_llada.data.bad_rows import BadRows
from nano_llada.data.documents import Encoding, Notes, documents
from nano_llada.data.loader import Batches, Located, RowParts, collate, shuffled
from nano_llada.data.packing import Ints
from nano_llada.data.read import Source, parts
from nano_llada.data.store import DAMAGE, VERSION, Documents, JoinedStore, TokenStore, write_part
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.data.workers import Made, Workers

PATIENCE = 60.0  # seconds to wait for a part that another process of the run tokenises


@dataclass(frozen=True)
class Share:
    """Which of the processes of a run this is; each tokenises its share of the parts."""

    rank: int = 0
    size: int = 1


class Parts:
    """The parts of some sources as stores, tokenised when asked for, or before, by a process beside this one.

    Raises:
        UserError: for sources that cannot be read, bad rows under the policy `stop`, a cache that cannot be written.
    """

    def __init__(
        self, sources: Sequence[Source], tokenizer: Tokenizer, encoding: Encoding, config: DataConfig, share: Share
    ) -> None:
        self._sources = [part for source in sources for part in parts(source, count_lines=False)]
        stamps = {source.name: source.stamp() for source in sources}
        self._folders = [config.cache / _name(part, stamps[part.name], tokenizer, encoding) for part in self._sources]
        self._tokenizer, self._encoding, self._share = tokenizer, encoding, share
        self._policy = config.on_bad_row
        self._workers = Workers(1, tokenizer, encoding, config.on_bad_row)
        self._begun: dict[int, Future[Made]] = {}
        self._said: set[int] = set()

    def __len__(self) -> int:
        return len(self._sources)

    def prepare(self, numbers: Sequence[int]) -> None:
        """Begin to tokenise this process's share of some parts, beside what it does."""
        for number in numbers:
            if self._mine(number) and number not in self._begun and not self._is_there(number):
                self._begun[number] = self._workers.submit(self._sources[number], self._folders[number])

    def store(self, number: int, *, alone: bool = False) -> TokenStore:
        """A part, which may have no documents. `alone`: no other process of the run is tokenising now."""
        if not self._is_there(number):
            self._make(number, alone=alone)
        try:
            found = TokenStore(self._folders[number])
        except DAMAGE as error:
            raise UserError(f"the data cache {self._folders[number]} is damaged ({error}); delete it") from error
        if found.meta["skipped"] and number not in self._said:
            self._said.add(number)
            if self._policy == "stop":  # somebody else skipped them: the first one ends this
                self._read(number)
            print(f"skipped rows in {printable(self._sources[number].name)}: {found.meta['skipped']}")
        return found

    def _read(self, number: int) -> None:
        for _ in documents([self._sources[number]], self._tokenizer, self._encoding, BadRows(self._policy)):
            pass

    def close(self) -> None:
        """End the process beside this one."""
        self._workers.close()

    def _mine(self, number: int) -> bool:
        return number % self._share.size == self._share.rank

    def _is_there(self, number: int) -> bool:
        return (self._folders[number] / "meta.json").is_file()

    def _make(self, number: int, *, alone: bool) -> None:
        begun = self._begun.pop(number, None)
        if begun is not None:
            begun.result()
            return
        end = time.monotonic() + (0 if alone or self._mine(number) else PATIENCE)
        while time.monotonic() < end:  # another process of this run is at it, unless it is on a machine of its own
            if self._is_there(number):
                return
            time.sleep(0.05)
        bad_rows = BadRows(self._policy)
        write_part(self._folders[number], self._sources[number], self._tokenizer, self._encoding, bad_rows, Notes())


def _name(part: Source, stamp: str, tokenizer: Tokenizer, encoding: Encoding) -> str:
    key = [VERSION, stamp, part.start, part.stop, tokenizer.hash, vars(encoding)]
    return "part-" + hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def held_out(store: Documents, share: float) -> Ints:
    """Numbers of the documents that are held out of a stream: a share of them, by a hash of their tokens alone."""
    limit = int(share * 2**64)
    found = []
    for number in range(len(store)):
        tokens, _ = store.slice(int(store.starts[number]), int(store.starts[number + 1]))
        drawn = hashlib.blake2b(tokens.astype("<u4").tobytes(), digest_size=8).digest()
        if int.from_bytes(drawn, "little") < limit:
            found.append(number)
    return np.asarray(found, dtype=np.int64)


class StreamBatches(Located):
    """Rows of a stream, without end: see the module.

    Rows are packed within a window, and what does not fill a last row of it is left out: less than a row for a window.

    Raises:
        UserError: as `Parts` does, and if no row is filled.
    """

    def __init__(
        self, found: Parts, config: DataConfig, vocab: Vocabulary, *, rows: int, seed: int, share: float
    ) -> None:
        self._parts, self._config, self._vocab = found, config, vocab
        self.rows, self._seed, self._held_out = rows, seed, share
        self._window = lru_cache(maxsize=2)(self._make_window)
        self._starts: list[tuple[int, int]] = [(0, 0)]  # windows that were reached, and their first rows
        self._windows = -(-len(found) // config.stream_window)  # of an epoch

    @property
    def rows_per_epoch(self) -> int:
        """Not known before everything was read. Raises UserError."""
        raise UserError("how long a stream is is not known before it was read: give --steps")

    def batch(self, step: int) -> TokenBatch:
        """Global batch of an optimizer step."""
        first = step * self.rows
        return collate([self.row_parts(i) for i in range(first, first + self.rows)], self._config, self._vocab)

    def document_names(self, step: int) -> list[list[int]]:
        """Documents of a stream have no numbers."""
        return [[] for _ in range(self.rows)]

    def row_parts(self, index: int) -> RowParts:
        """A row of the endless stream."""
        window, first = self._locate(index)
        batches = self._window(window)
        assert batches is not None  # it has rows
        return batches.row_parts(index - first)

    def position(self, step: int) -> list[int]:
        """The window that the first row of a step is in, and the first row of this window."""
        return self.position_of_row(step * self.rows)

    def position_of_row(self, index: int) -> list[int]:
        """The window that a row is in, and its first row."""
        return list(self._locate(index))

    def continue_from(self, position: Any) -> None:
        """Begin there instead of at the first part."""
        window, first = position
        self._starts = [(int(window), int(first))]

    def close(self) -> None:
        """End the process that tokenises."""
        self._parts.close()

    def _locate(self, index: int) -> tuple[int, int]:
        if index < self._starts[0][1]:
            self._starts = [(0, 0)]
        empty = 0
        while True:
            window, first = next(start for start in reversed(self._starts) if start[1] <= index)
            length = self._length(window)
            if index < first + length:
                return window, first
            empty = 0 if length else empty + 1
            if empty > self._windows:
                raise UserError(
                    f"no {self._config.stream_window} parts of the stream fill one row of "
                    f"{self._config.sequence_length} tokens; give more data, a larger --stream-window or a smaller "
                    "sequence_length"
                )
            self._starts.append((window + 1, first + length))

    def _length(self, window: int) -> int:
        batches = self._window(window)
        return 0 if batches is None else batches.rows_per_epoch

    def _numbers(self, window: int) -> list[int]:
        epoch, place = divmod(window, self._windows)
        order = shuffled(np.arange(len(self._parts)), derive_seed(self._seed, "parts"), epoch)
        width = self._config.stream_window
        return [int(number) for number in order[place * width : (place + 1) * width]]

    def _make_window(self, window: int) -> Batches | None:
        numbers = self._numbers(window)
        self._parts.prepare(numbers)
        store = JoinedStore([self._parts.store(number) for number in numbers])
        self._parts.prepare(self._numbers(window + 1))
        learnt = np.setdiff1d(usable(store, self._config), held_out(store, self._held_out))
        try:
            return Batches(
                store,
                self._config,
                self._vocab,
                rows=self.rows,
                seed=derive_seed(self._seed, "window", window),
                documents=learnt,
            )
        except UserError:  # they do not fill a row
            return None

    def validation(self) -> Batches | None:
        """The documents held out of the first window in the order of the sources; None if they do not fill a row."""
        numbers = list(range(min(self._config.stream_window, len(self._parts))))
        store = JoinedStore([self._parts.store(number, alone=True) for number in numbers])
        chosen = np.intersect1d(usable(store, self._config), held_out(store, self._held_out))
        try:
            return Batches(store, self._config, self._vocab, rows=self.rows, seed=None, documents=chosen)
        except UserError:
            return None


def usable(store: Documents, config: DataConfig) -> Ints:
    """Documents with something to learn from within a row."""
    if config.format == "text" and config.packing:
        return np.arange(len(store))
    return np.flatnonzero(store.first_scored < config.sequence_length)
