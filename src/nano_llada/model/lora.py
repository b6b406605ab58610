"""Low-rank adapters (LoRA, arXiv:2106.09685): frozen matrices, beside each the product of two narrow ones.

The change is W + (alpha / rank) B A, with A (rank, K) random and B (F, rank) zero at first, so that a model starts as
it was. A matrix that stacks several, such as queries, keys and values, has one A and one B; the rows of B belong to the
parts, so each part has an adapter of its own with an A that they share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano_llada.config.adapter import Adapter
from nano_llada.model.functional import LowRank, adapted_normed_linear, adapted_swiglu_linear
from nano_llada.model.transformer import Product, RMSNorm, Transformer

PLACES: Mapping[str, str] = {"qkv": "attention.qkv", "out": "attention.out", "gate_up": "gate_up", "down": "down"}
A, B = "lora_a", "lora_b"


class LoraProduct(Product):
    """A frozen matrix product (..., K) to (..., F), and beside it a trained one of low rank."""

    def __init__(self, frozen: Product, adapter: Adapter, rng: torch.Generator | None) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = frozen.in_features, frozen.out_features
        self.weight, self.bias = frozen.weight, frozen.bias
        self.scale = adapter.alpha / adapter.rank
        like = frozen.weight
        narrow = torch.empty(adapter.rank, self.in_features, device="cpu")
        if rng is not None:
            narrow.uniform_(-1, 1, generator=rng).mul_(1 / math.sqrt(self.in_features))  # as peft starts it
        self.lora_a = nn.Parameter(narrow.to(like))
        self.lora_b = nn.Parameter(like.new_zeros(self.out_features, adapter.rank))

    def forward(self, x: Tensor) -> Tensor:
        """``x W^T + scale * (x A^T) B^T``, and the bias, (..., K) to (..., F)."""
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    def after_norm(self, norm: RMSNorm, x: Tensor) -> Tensor:
        """``self(norm(x))`` for (..., K) to (..., F)."""
        product = adapted_normed_linear(x, norm.weight, self.weight, self._low_rank, norm.eps)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def after_swiglu(self, gate_up: Tensor) -> Tensor:
        """``self(silu(gate) * up)`` of (..., 2K) holding both side by side."""
        return adapted_swiglu_linear(gate_up, self.weight, self._low_rank)

    @property
    def _low_rank(self) -> LowRank:
        return LowRank(self.lora_a, self.lora_b, self.scale)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """(F, K): the matrix with its change, summed in float32 as training computes it."""
        return self.weight + self.scale * (self.lora_b @ self.lora_a)


def add_adapters(model: Transformer, adapter: Adapter, rng: torch.Generator | None = None) -> None:
    """Freeze a model and put an adapter beside its matrices, where the adapter says. `rng` draws the start of A."""
    model.requires_grad_(False)
    for block in model.blocks:
        for target in adapter.targets:
            *path, name = PLACES[target].split(".")
            holder = block.get_submodule(".".join(path))
            setattr(holder, name, LoraProduct(holder.get_submodule(name), adapter, rng))  # type: ignore[arg-type]


def adapted(model: nn.Module) -> Iterator[tuple[str, LoraProduct]]:
    """The names of the products that have an adapter, and these."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraProduct))


def adapter_weights(model: Transformer) -> dict[str, Tensor]:
    """A (R, K) and B (F, R) of every product that has an adapter, by the names of their parameters."""
    return {f"{name}.{part}": getattr(module, part).detach() for name, module in adapted(model) for part in (A, B)}


def frozen_weights(model: Transformer) -> dict[str, Tensor]:
    """The state of the model without its adapters, as it was before them: matrices (F, K), gains (D,)."""
    return {name: tensor for name, tensor in model.state_dict().items() if name.rpartition(".")[2] not in (A, B)}


def plain_weights(model: Transformer) -> dict[str, Tensor]:
    """The state of the model without adapters that computes the same, each matrix (F, K) merged; of one without any,
    its own state.
    """
    products = dict(adapted(model))
    merged = {f"{name}.weight": product.merged() for name, product in products.items()}
    return frozen_weights(model) | merged
