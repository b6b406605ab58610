"""Keys and values of text that is already written, kept so that they are computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nano_llada.config.model import ModelConfig
from nano_llada.core.errors import UserError


class KVCache:
    """Preallocated keys and values, (layers, B, kv_heads, capacity, head_width), in slots.

    New tokens of a row go to the slots from its start on. They are held for good once `advance` moves the start behind
    them; until then the next tokens overwrite them. Rows may stand at different starts.
    """

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.num_layers, batch, config.kv_heads, capacity, config.head_width)
        self._keys = torch.zeros(shape, device=device, dtype=dtype)
        self._values = torch.zeros(shape, device=device, dtype=dtype)
        self.starts = [0] * batch
        self._widths: list[int] | None = None
        self._visible = 0

    @property
    def length(self) -> int:
        """Tokens held by the row that holds most."""
        return max(self.starts, default=0)

    def place(self, starts: Sequence[int], widths: Sequence[int], visible: int = 0) -> None:
        """Where the next tokens go: of each row the first `widths`, to the slots from `starts` on; the rest is padding.

        At least `visible` slots are read, whatever they hold.
        """
        self.starts, self._widths, self._visible = list(starts), list(widths), visible

    def slots(self, count: int) -> int:
        """Slots that are read when `count` more tokens are given."""
        widths = self._widths or [count] * len(self.starts)
        return max(self._visible, *(start + width for start, width in zip(self.starts, widths, strict=True)))

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, kv_heads, n, D) from each row's start on; gives all slots up to the last that is read."""
        count = keys.shape[2]
        end = self.slots(count)
        if end > self._keys.shape[3]:
            raise UserError(f"the cache holds {self._keys.shape[3]} tokens, {end} are needed")
        widths = self._widths or [count] * len(self.starts)
        for store, new in ((self._keys[layer], keys), (self._values[layer], values)):
            if len({*zip(self.starts, widths, strict=True)}) == 1:
                store[:, :, self.starts[0] : self.starts[0] + widths[0]] = new[:, :, : widths[0]]
                continue
            for row, (start, width) in enumerate(zip(self.starts, widths, strict=True)):
                store[row, :, start : start + width] = new[row, :, :width]
        return self._keys[layer, :, :, :end], self._values[layer, :, :, :end]

    def advance(self, count: int) -> None:
        """The `count` tokens that every layer has just written are now held, until `place` says otherwise."""
        self.starts = [start + count for start in self.starts]
        self._widths = None

    def keep_rows(self, rows: Tensor) -> None:
        """Drop finished rows of the batch; `rows` are the indices that stay."""
        self._keys, self._values = self._keys[:, rows], self._values[:, rows]
        self.starts = [self.starts[row] for row in rows.tolist()]
