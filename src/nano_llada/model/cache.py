"""Keys and values of text that is already written, kept so that they are computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nano_llada.config.model import ModelConfig
from nano_llada.core.errors import UserError


class KVCache:
    """Preallocated keys and values, (layers, B, kv_heads, capacity, head_width), in places.

    New tokens of a row go to the places from its start on. They are held for good once `advance` moves the start behind
    them; until then the next tokens overwrite them. Rows may have different starts, and a pass may be over some of the
    rows.
    """

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.num_layers, batch, config.kv_heads, capacity, config.head_width)
        self._keys = torch.zeros(shape, device=device, dtype=dtype)
        self._values = torch.zeros(shape, device=device, dtype=dtype)
        self._rows = slice(0, batch)
        self.starts = [0] * batch
        self._widths: list[int] | None = None
        self._visible = 0
        self._index: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def batch(self) -> int:
        """Rows."""
        return self._keys.shape[1]

    @property
    def capacity(self) -> int:
        """Places of a row."""
        return self._keys.shape[3]

    @property
    def length(self) -> int:
        """Tokens held by the row that holds most, of those of the last pass."""
        return max(self.starts, default=0)

    def place(self, starts: Sequence[int], widths: Sequence[int], visible: int = 0, first: int = 0) -> None:
        """Where the tokens of the next pass, over the rows from `first` on, go: of each row the first `widths`, to the
        places from `starts` on; the rest is padding. At least `visible` places are read, whatever they contain.
        """
        self._rows = slice(first, first + len(starts))
        self.starts, self._widths, self._visible = list(starts), list(widths), visible
        self._index = None
        if len({*zip(starts, widths, strict=True)}) > 1:
            widest = max(widths)
            count = torch.tensor(widths)
            row, inside = (torch.arange(widest) < count[:, None]).nonzero().unbind(1)
            places, device = torch.tensor(starts)[row] + inside, self._keys.device
            self._index = ((row + first).to(device), places.to(device), (row * widest + inside).to(device))

    def slots(self, count: int) -> int:
        """Places that are read when `count` more tokens are given."""
        widths = self._widths or [count] * len(self.starts)
        return max(self._visible, *(start + width for start, width in zip(self.starts, widths, strict=True)))

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, kv_heads, n, D) from each row's start on; gives all places (B, kv_heads, K, D) up to the last read.

        Raises:
            UserError: if that is more than the capacity.
        """
        count = keys.shape[2]
        end = self.slots(count)
        if end > self.capacity:
            raise UserError(f"the cache holds {self.capacity} tokens, {end} are needed")
        width, start = (self._widths or [count])[0], self.starts[0]
        for store, new in ((self._keys[layer], keys), (self._values[layer], values)):
            if self._index is None:  # all rows alike
                store[self._rows, :, start : start + width] = new[:, :, :width]
            else:
                row, place, source = self._index
                store[row, :, place] = new.transpose(1, 2).flatten(0, 1)[source]
        return self._keys[layer, self._rows, :, :end], self._values[layer, self._rows, :, :end]

    def advance(self, count: int) -> None:
        """The `count` tokens that every layer has just written are now held, until `place` says otherwise."""
        self.starts = [start + count for start in self.starts]
        self._widths = self._index = None

    def copy(self, source: int, target: int, count: int, other: KVCache | None = None) -> None:
        """The first `count` places of a row, to another row of this cache or of `other`."""
        to = other or self
        for mine, theirs in ((self._keys, to._keys), (self._values, to._values)):
            theirs[:, target, :, :count] = mine[:, source, :, :count]

    def swap(self, one: int, other: int) -> None:
        """Exchange two rows."""
        for store in (self._keys, self._values):
            store[:, [one, other]] = store[:, [other, one]]
