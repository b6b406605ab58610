"""Cross-entropy in float32: from logits, or directly from features without ever holding all logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Bytes of float32 logits at a time: they fit a CPU's cache. 256 rows of 6,400 tokens, the fastest of the sizes tried.
CHUNK_BYTES = 256 * 6400 * 4
# Columns of logits are made a multiple of this: products 6,401 wide take a sixth longer than those 6,464 wide.
ALIGNED = 64


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(N,) nats of `targets` (N,) under `logits` (N, V)."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        nll = torch.empty(len(targets), device=features.device)
        tokens = len(head)
        head = F.pad(head, (0, 0, 0, -tokens % ALIGNED))
        grad_features = torch.empty_like(features)
        # many chunks add up in the head's gradient: in bf16 the small ones would be lost; a frozen head has none
        grad_head = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        rows = rows_at_once(head)
        weighted = (features * weights[:, None]).to(features.dtype)
        for first in range(0, len(targets), rows):
            chunk = slice(first, first + rows)
            target = targets[chunk, None]
            logits = (features[chunk] @ head.T).float()
            logits[:, tokens:] = -torch.inf
            wanted, largest = logits.gather(1, target), logits.amax(1, keepdim=True)
            probs = torch.softmax(logits, dim=-1, out=logits) if logits.is_cpu else logits.softmax(-1)
            # log sum exp, from the most likely token's probability: it is 1/V or more, where another's may round to 0
            # (large numbers are taken from each other first, or a small loss is lost in their rounding)
            nll[chunk] = (largest - wanted - probs.amax(1, keepdim=True).log_()).squeeze(1)
            # the gradient of a weighted sum is known at once: weight * (softmax - one-hot). The weights are left to the
            # narrow factors of both products, which have H columns where this has V
            grad = probs.scatter_add_(1, target, wanted.fill_(-1.0)).to(features.dtype)
            torch.mm(grad, head, out=grad_features[chunk])
            if grad_head is None:
                continue
            if head.dtype == torch.float32:
                grad_head.addmm_(grad.T, weighted[chunk])
            else:
                grad_head += grad.T @ weighted[chunk]
        grad_features.mul_(weights[:, None])
        ctx.save_for_backward(grad_features, None if grad_head is None else grad_head[:tokens])
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        grad_features, grad_head = ctx.saved_tensors
        of_head = None if grad_head is None else (grad_head * grads[0]).to(grad_features.dtype)
        return grad_features * grads[0], of_head, None, None


def head_cross_entropy(features: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted sum of cross-entropies under ``features @ head.T``, and each one, (N,), without gradient.

    Logits are computed, used and freed a few rows at a time, forward and backward in one pass: at 30M parameters this
    saves a fifth of the memory of a step.

    Args:
        features: (N, H), normalised.
        head: (V, H).
        targets: (N,) int64.
        weights: (N,) float32; the sum weighs each position by it.
    """
    if not torch.is_grad_enabled():
        nll = head_nll(features, head, targets)
        return (nll * weights).sum(), nll
    if torch.is_autocast_enabled(features.device.type):
        # a backward pass is not under autocast, and this function makes the gradient's products with the loss's
        dtype = torch.get_autocast_dtype(features.device.type)
        features, head = features.to(dtype), head.to(dtype)
    total, nll = _HeadCrossEntropy.apply(features, head, targets, weights)  # type: ignore[no-untyped-call]
    return total, nll


def rows_at_once(head: Tensor) -> int:
    """How many rows of logits under `head` (V, H) are computed at a time."""
    return max(1, CHUNK_BYTES // (4 * head.shape[0]))


def head_nll(features: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """(N,) cross-entropies of `targets` under ``features @ head.T``, a few rows at a time; differentiable."""
    rows = rows_at_once(head)
    chunks = zip(features.split(rows), targets.split(rows), strict=True)
    return torch.cat([cross_entropy(some @ head.T, target) for some, target in chunks])


def head_entropy(features: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy in nats at each position, (N,), and whether its most likely token is the target, (N,).

    The entropy is differentiable. All logits are in memory, forward and backward.
    """
    log_probs = (features @ head.T).float().log_softmax(-1)
    right = log_probs.detach().argmax(-1) == targets
    return -(log_probs.exp() * log_probs).sum(-1), right


def head_choice(features: Tensor, head: Tensor, forbidden: Sequence[int]) -> Tensor:
    """(N,) the most likely token at each position of `features` (N, H), forbidden ones left out."""
    rows = rows_at_once(head)
    allowed = torch.ones(len(head), dtype=torch.bool, device=head.device)
    allowed[list(forbidden)] = False
    parts = [(some @ head.T).masked_fill(~allowed, -torch.inf).argmax(-1) for some in features.split(rows)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=features.device)
