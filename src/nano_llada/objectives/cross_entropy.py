"""Cross-entropy at chosen positions, in float32, with one pass less and half the memory of the composed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        log_probs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        ctx.save_for_backward(log_probs, targets)
        ctx.dtype = logits.dtype
        return -log_probs.gather(1, targets[:, None]).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        log_probs, targets = ctx.saved_tensors
        scale = grad[:, None]
        out = log_probs.exp().mul_(scale)  # softmax minus one-hot, scaled
        out.scatter_add_(1, targets[:, None], -scale)
        return out.to(ctx.dtype), None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(N,) nats of `targets` (N,) under `logits` (N, V)."""
    result: Tensor = _CrossEntropy.apply(logits, targets)
    return result
