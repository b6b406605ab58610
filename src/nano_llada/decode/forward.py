"""One forward pass over windows of rows: the only place that arranges patterns, positions and the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nano_llada.core.batch import Vocabulary
from nano_llada.core.pattern import AttentionPattern
from nano_llada.decode.rows import CAUSAL, FULL, Window
from nano_llada.model.cache import KVCache
from nano_llada.model.transformer import Transformer

WASTE = 64  # padding tokens of a rectangle that are cheaper than another call of the model

Placed = tuple[int, Window]  # a row of the cache, and its window


class Backend(Protocol):
    """What computes a pass, with a cache of its own: `rows` rows of `capacity` places."""

    @property
    def context(self) -> int:
        """The most tokens of a row that the model was made for."""
        ...

    @property
    def rows(self) -> int: ...

    @property
    def capacity(self) -> int: ...

    def resize(self, rows: int, capacity: int, moves: Sequence[tuple[int, int]]) -> None:
        """Make the cache anew; of the old one keep the (row, new row) of `moves`, as far as they fit."""
        ...

    def copy(self, source: int, target: int, count: int) -> None:
        """The first `count` places of a row, to another one."""
        ...

    def swap(self, one: int, other: int) -> None:
        """Exchange two rows."""
        ...

    def compute(self, placed: Sequence[Placed]) -> Tensor:
        """Logits (N, V) float32 at the wanted tokens of all windows, in order; `placed` is ordered by row.

        Keys and values of the tokens are in the cache afterwards, at their windows' places.
        """
        ...


# makes what computes the passes of one engine, which has a cache of its own
BackendOf = Callable[[Transformer, Vocabulary], Backend]


class Rectangles:
    """A backend over `Transformer`, which computes rectangles of tokens, padded with `pad`: the slow reference.

    Neighbouring windows of similar width form one; so a row that reads its prompt does not make the others as wide.
    """

    def __init__(self, model: Transformer, pad: int) -> None:
        self.model, self.pad = model, pad
        self._cache = model.new_cache(0, 0)

    @property
    def context(self) -> int:
        """See `Backend`."""
        return self.model.config.max_length

    @property
    def rows(self) -> int:
        """See `Backend`."""
        return self._cache.batch

    @property
    def capacity(self) -> int:
        """See `Backend`."""
        return self._cache.capacity

    def resize(self, rows: int, capacity: int, moves: Sequence[tuple[int, int]]) -> None:
        """See `Backend`."""
        old, self._cache = self._cache, self.model.new_cache(rows, capacity)
        for source, target in moves:
            old.copy(source, target, min(capacity, old.capacity), self._cache)

    def copy(self, source: int, target: int, count: int) -> None:
        """See `Backend`."""
        self._cache.copy(source, target, count)

    def swap(self, one: int, other: int) -> None:
        """See `Backend`."""
        self._cache.swap(one, other)

    @torch.inference_mode()
    def compute(self, placed: Sequence[Placed]) -> Tensor:
        """Logits (N, V); see `Backend`."""
        parts = [
            _rectangle(self.model, run[0][0], [window for _, window in run], self._cache, self.pad)
            for run in _runs(placed)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def rectangles(model: Transformer, vocab: Vocabulary) -> Backend:
    """The slow reference, which computes with the modules of training; see `BackendOf`."""
    return Rectangles(model, vocab.eos)


def _runs(placed: Sequence[Placed]) -> Iterator[Sequence[Placed]]:
    """Windows of neighbouring rows that one rectangle holds without much padding."""
    first = widest = real = 0
    for i, (row, window) in enumerate(placed):
        width = max(widest, len(window.tokens))
        waste = width * (i - first + 1) - real - len(window.tokens)
        apart = i > first and (row != placed[i - 1][0] + 1 or waste > max(WASTE, real + len(window.tokens)))
        if apart:
            yield placed[first:i]
            first, real, width = i, 0, len(window.tokens)
        widest, real = width, real + len(window.tokens)
    yield placed[first:]


def _rectangle(model: Transformer, first: int, windows: Sequence[Window], cache: KVCache, pad: int) -> Tensor:
    """Logits at the wanted tokens of windows of neighbouring rows, of which `first` is the first."""
    device = model.embed.weight.device
    widths = [len(window.tokens) for window in windows]
    width = max(widths)
    tokens = torch.tensor([[*window.tokens, *[pad] * (width - len(window.tokens))] for window in windows])
    select = torch.zeros(tokens.shape, dtype=torch.bool)
    for i, window in enumerate(windows):
        select[i, list(window.wanted)] = True
    kept, keys, places = None, width, torch.arange(width).repeat(len(windows), 1)
    if any(window.keeps for window in windows):
        starts = [window.start for window in windows]
        cache.place(starts, widths, max(window.end for window in windows), first)
        kept, keys = cache, cache.slots(width)
        places = (torch.tensor(starts)[:, None] + torch.arange(width)).clamp(max=keys - 1)
    positions = places.clone()
    for i, window in enumerate(windows):
        if window.positions:
            positions[i, : len(window.positions)] = torch.tensor(window.positions)
    pattern = _pattern(windows, keys, places.to(device), device)
    logits: Tensor = model(
        tokens.to(device), pattern, positions=positions.to(device), select=select.to(device), cache=kept
    )
    return logits.float()


def _pattern(windows: Sequence[Window], keys: int, places: Tensor, device: torch.device) -> AttentionPattern:
    """Who sees what. Most kinds are block-causal with blocks of some size, but the pure ones have faster kernels."""
    if any(window.reach for window in windows):
        return _by_reach(windows, keys, places, device)
    sizes, starts, ends = ({*found} for found in zip(*((w.block_size, w.start, w.end) for w in windows), strict=True))
    if sizes == {CAUSAL} and len(starts) == 1:
        return AttentionPattern("causal")  # padding is to the right of all tokens that count
    if sizes == {FULL} and len(ends) == 1:
        return AttentionPattern("full")
    slots = torch.arange(keys)
    blocks = torch.stack([slots // (window.block_size or keys) for window in windows])
    docs = torch.stack([torch.where(slots < window.end, 0, -1) for window in windows])
    return AttentionPattern("block_causal", docs.to(device), blocks.to(device), places)


def _by_reach(windows: Sequence[Window], keys: int, places: Tensor, device: torch.device) -> AttentionPattern:
    """Who sees what, if some window gives it for each of its tokens."""
    reach = torch.ones(len(windows), keys, dtype=torch.int64)  # padding sees something, or its softmax has no sum
    groups = torch.zeros_like(reach)
    for i, window in enumerate(windows):
        inside = slice(window.start, window.start + len(window.tokens))
        reach[i, inside] = torch.tensor(window.reaches)
        if window.groups:
            groups[i, inside] = torch.tensor(window.groups)
    return AttentionPattern("reach", query_slots=places, key_reach=reach.to(device), key_groups=groups.to(device))
