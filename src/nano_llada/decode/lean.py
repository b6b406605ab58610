"""The engine over the lean forward pass: windows of all rows end to end, weights prepared for decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nano_llada.core.batch import Vocabulary
from nano_llada.decode.forward import Backend, Placed
from nano_llada.decode.rows import CAUSAL, FULL, Window
from nano_llada.model import lean
from nano_llada.model.transformer import Transformer


class Lean:
    """A backend over `LeanModel`; see `forward.Backend`. Where the model is `exact`, a text does not depend on its
    company to the last bit. Rows of the cache take up to 63 places more than `capacity`.
    """

    def __init__(self, model: lean.LeanModel) -> None:
        self.model = model
        self._store = model.new_store(0, 0)

    @property
    def context(self) -> int:
        """See `Backend`."""
        return self.model.config.max_length

    @property
    def rows(self) -> int:
        """See `Backend`."""
        return self._store.slots

    @property
    def capacity(self) -> int:
        """See `Backend`."""
        return self._store.capacity

    @torch.inference_mode()
    def resize(self, rows: int, capacity: int, moves: Sequence[tuple[int, int]]) -> None:
        """See `Backend`."""
        old, self._store = self._store, self.model.new_store(rows, capacity)
        count = min(capacity, old.capacity)
        for source, target in moves:
            self._store.keys[:, target, :, :count] = old.keys[:, source, :, :count]
            self._store.values[:, target, :, :count] = old.values[:, source, :, :count]

    def copy(self, source: int, target: int, count: int) -> None:
        """See `Backend`."""
        self._store.copy(source, target, count)

    @torch.inference_mode()
    def swap(self, one: int, other: int) -> None:
        """See `Backend`."""
        for store in (self._store.keys, self._store.values):
            store[:, [one, other]] = store[:, [other, one]]

    def compute(self, placed: Sequence[Placed]) -> Tensor:
        """Logits (N, V); see `Backend`."""
        return self.model.forward([_window(row, window) for row, window in placed], self._store)


@dataclass(frozen=True)
class LeanPasses:
    """Makes `Lean` backends; see `BackendOf`. Weights are laid out once, and again after they have changed."""

    precision: lean.Precision = "fp32"

    def __call__(self, model: Transformer, vocab: Vocabulary) -> Backend:
        return Lean(self.prepared(model))

    def prepared(self, model: Transformer) -> lean.LeanModel:
        """The model with its weights laid out; it keeps them until they change, or until it is to `forget` them."""
        return model.derived(self, lambda: lean.LeanModel.prepare(model, self.precision))


lean_passes = LeanPasses()  # what decodes if nothing else is asked for


def _window(row: int, window: Window) -> lean.Window:
    if window.reach:
        return _by_reach(row, window)
    if window.block_size == CAUSAL:
        return lean.causal(row, window.start, window.tokens, window.wanted)
    if window.block_size == FULL:
        return lean.full(row, window.start, window.tokens, window.wanted, window.visible)
    return lean.block_causal(row, window.start, window.tokens, window.wanted, window.block_size)


def _by_reach(row: int, window: Window) -> lean.Window:
    among = None
    if window.groups:
        groups, places = torch.tensor(window.groups), torch.arange(len(window.tokens)) + window.start
        alike = (groups[:, None] == groups) & (groups > 0)
        among = (places < torch.tensor(window.reach)[:, None]) | alike
    positions = window.positions or None
    return lean.Window(row, window.start, window.tokens, window.reach, window.wanted, positions, among)
