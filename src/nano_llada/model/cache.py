"""Keys and values of text that is already written, kept so that they are computed once."""

from __future__ import annotations

import torch
from torch import Tensor

from nano_llada.core.errors import UserError
from nano_llada.model.config import ModelConfig


class KVCache:
    """Preallocated keys and values, (layers, B, kv_heads, capacity, head_width)."""

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.num_layers, batch, config.kv_heads, capacity, config.head_width)
        self._keys = torch.zeros(shape, device=device, dtype=dtype)
        self._values = torch.zeros(shape, device=device, dtype=dtype)
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens held, the same for every row (shorter prompts are padded on the left)."""
        return self._length

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, kv_heads, n, D) after what is held; gives everything held and new."""
        end = self._length + keys.shape[2]
        if end > self._keys.shape[3]:
            raise UserError(f"the cache holds {self._keys.shape[3]} tokens, {end} are needed")
        self._keys[layer, :, :, self._length : end] = keys
        self._values[layer, :, :, self._length : end] = values
        return self._keys[layer, :, :, :end], self._values[layer, :, :, :end]

    def advance(self, count: int) -> None:
        """The last `count` tokens written by every layer are now held."""
        self._length += count

    def keep_rows(self, rows: Tensor) -> None:
        """Drop finished rows of the batch; `rows` are the indices that stay."""
        self._keys, self._values = self._keys[:, rows], self._values[:, rows]
