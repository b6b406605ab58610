"""The memory-bound parts of a block with hand-written backward passes.

On a CPU these elementwise parts cost as much as a third of a step when composed from single operations, and what they
hand to the matrix product after them is a quarter of its memory. Each keeps only its input for the backward pass, and
where a product follows makes its own output again there. `tests/test_model.py` checks every one against its plain form,
gradients too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from nano_llada.core.pattern import AttentionPattern

CALL = 2**23  # what calling attention once more costs, in multiply-adds of attention, forward and backward


@dataclass(frozen=True)
class Documents:
    """Attention within each document only; `lengths`: tokens of the documents of all rows, laid end to end."""

    lengths: tuple[int, ...]
    causal: bool

    def saves(self, pairs: int, width: int) -> bool:
        """Whether one call a document costs less than one with a mask for `pairs` queries and keys of all heads'
        `width` together.
        """
        looked_at = sum(n * n for n in self.lengths) // (2 if self.causal else 1)
        return (pairs - looked_at) * width > len(self.lengths) * CALL


Mask: TypeAlias = Tensor | BlockMask | Documents | None


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        scale = _inverse_rms(x, eps)
        ctx.save_for_backward(x, gain, scale)
        normed: Tensor = x * scale
        return normed.mul_(gain)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain, scale = ctx.saved_tensors
        return *_rms_norm_backward(grads[0], x * scale, gain, scale), None


class _NormedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _inverse_rms(x, eps)
        ctx.save_for_backward(x, gain, weight, scale)
        return F.linear((x * scale).mul_(gain), weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        (grad,) = grads
        x, gain, weight, scale = ctx.saved_tensors
        normed = x * scale
        grad_weight = None
        if ctx.needs_input_grad[2]:  # not where the matrix is frozen
            grad_weight = grad.flatten(0, -2).T @ (normed * gain).flatten(0, -2)
        return *_rms_norm_backward(grad @ weight, normed, gain, scale), grad_weight, None


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _rms_norm_backward(grad: Tensor, normed: Tensor, gain: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the gain; `normed` is x * scale."""
    product = grad * normed
    grad_gain = product.flatten(0, -gain.dim() - 1).sum(0)
    # d/dx of x / rms(x): remove the part of the gradient along x
    own = gain.to(product.dtype)  # under autocast products take one type
    along = product @ own if gain.dim() == 1 else torch.einsum("...hd,hd->...h", product, own)
    grad_normed = (grad * gain).to(normed.dtype)
    return grad_normed.addcmul_(normed, along.unsqueeze(-1) / -normed.shape[-1]).mul_(scale), grad_gain


class _SwiGLULinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up, weight)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.linear(F.silu(gate).mul_(up), weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        (grad,) = grads
        gate_up, weight = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        silu = F.silu(gate)
        grad_weight = grad.flatten(0, -2).T @ (silu * up).flatten(0, -2) if ctx.needs_input_grad[1] else None
        return _swiglu_backward(grad @ weight, gate_up, silu), grad_weight


def _swiglu_backward(grad_hidden: Tensor, gate_up: Tensor, silu: Tensor) -> Tensor:
    """Gradient of `gate_up` from that of ``silu(gate) * up``, which is used up."""
    gate, up = gate_up.chunk(2, dim=-1)
    out = torch.empty_like(gate_up)
    grad_gate, grad_up = out.chunk(2, dim=-1)
    torch.mul(grad_hidden, silu, out=grad_up)
    torch.ops.aten.silu_backward.grad_input(grad_hidden.mul_(up), gate, grad_input=grad_gate)
    return out


@dataclass(frozen=True)
class LowRank:
    """Two narrow trained matrices beside a frozen one: its product gets ``scale * (x A^T) B^T``, A (R, K), B (F, R)."""

    a: Tensor
    b: Tensor
    scale: float


def _adapted_product(x: Tensor, weight: Tensor, low: LowRank) -> tuple[Tensor, Tensor]:
    """``x W^T + scale * (x A^T) B^T`` and the narrow part of it, ``x A^T``."""
    narrow = F.linear(x, low.a)
    # both products are added up in one place: as wide as the output, a sum would take its memory once more
    rows = F.linear(x, weight).flatten(0, -2).addmm_(narrow.flatten(0, -2), low.b.T, alpha=low.scale)
    return rows.view(*x.shape[:-1], weight.shape[0]), narrow


def _adapted_backward(
    grad: Tensor, x: Tensor, narrow: Tensor, weight: Tensor, low: LowRank
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, A and B in `_adapted_product`; W is frozen."""
    rows = grad.flatten(0, -2)
    grad_narrow = (rows @ low.b).mul_(low.scale)
    grad_b = (rows.T @ narrow.flatten(0, -2)).mul_(low.scale)
    grad_a = grad_narrow.T @ x.flatten(0, -2)
    return (rows @ weight).addmm_(grad_narrow, low.a).view_as(x), grad_a, grad_b


class _AdaptedNormedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, weight: Tensor, a: Tensor, b: Tensor, factor: float, eps: float
    ) -> Tensor:
        scale = _inverse_rms(x, eps)
        out, narrow = _adapted_product((x * scale).mul_(gain), weight, LowRank(a, b, factor))
        ctx.save_for_backward(x, gain, weight, a, b, scale, narrow)
        ctx.factor = factor
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, weight, a, b, scale, narrow = ctx.saved_tensors
        normed = x * scale
        grad, grad_a, grad_b = _adapted_backward(grads[0], normed * gain, narrow, weight, LowRank(a, b, ctx.factor))
        return *_rms_norm_backward(grad, normed, gain, scale), None, grad_a, grad_b, None, None


class _AdaptedSwiGLULinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, weight: Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        out, narrow = _adapted_product(F.silu(gate).mul_(up), weight, LowRank(a, b, factor))
        ctx.save_for_backward(gate_up, weight, a, b, narrow)
        ctx.factor = factor
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate_up, weight, a, b, narrow = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        silu = F.silu(gate)
        grad_hidden, grad_a, grad_b = _adapted_backward(grads[0], silu * up, narrow, weight, LowRank(a, b, ctx.factor))
        return _swiglu_backward(grad_hidden, gate_up, silu), None, grad_a, grad_b, None


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, -sin), None, None  # a rotation's transpose turns back


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, causal: bool) -> Tensor:
    """Scaled dot-product attention, (B, heads, Q, D) over (B, kv_heads, K, D); heads share keys in groups."""
    grouped = q.shape[1] != k.shape[1]
    if isinstance(mask, Documents):
        return _attend_documents(q, k, v, mask)
    if isinstance(mask, BlockMask):
        result: Tensor = _flex_kernel(q.device.type)(q, k, v, block_mask=mask, enable_gqa=grouped)
        return result
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def _attend_documents(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
    """`attend` once for each document."""
    batch, heads, length, width = q.shape
    # split, not slices: its backward pass is one copy
    laid_out = [x.transpose(1, 2).flatten(0, 1).split(documents.lengths) for x in (q, k, v)]
    out = []
    for parts in zip(*laid_out, strict=True):
        mine, keys, values = (x.transpose(0, 1)[None] for x in parts)
        out.append(attend(mine, keys, values, None, documents.causal)[0].transpose(0, 1))
    return torch.cat(out).view(batch, length, heads, width).transpose(1, 2)


def by_documents(pattern: AttentionPattern, queries: int, keys: int, like: Tensor) -> Documents | None:
    """Attention document by document, if on a CPU that is less work than attention over whole rows with a mask.

    `like` (B, L, H) gives device and width. Only for training: the choice depends on all rows of a batch, and decoding
    must not, not even in its last bit.
    """
    lengths = None if like.is_cuda else pattern.stretches(queries, keys)
    if lengths is None:
        return None
    documents = Documents(tuple(lengths), pattern.kind == "causal")
    return documents if documents.saves(like.shape[0] * queries * keys, like.shape[-1]) else None


@cache
def _flex_kernel(device: str) -> Any:
    """Compiled once for CUDA; uncompiled it is a plain, slow reference that runs anywhere."""
    return torch.compile(flex_attention) if device == "cuda" else flex_attention


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """``x / rms(x) * gain`` over the last dimension of (..., D); `gain` (D,) or, one per head, (heads, D)."""
    if x.is_cuda or _fused_elsewhere():
        return F.rms_norm(x, (x.shape[-1],), None, eps) * gain.to(x.dtype)
    result: Tensor = _RMSNorm.apply(x, gain, eps)  # type: ignore[no-untyped-call]
    return result


def normed_linear(x: Tensor, gain: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``rms_norm(x, gain, eps) @ weight.T`` for (..., D) and (F, D); the normed input is not kept."""
    # under autocast the product takes another type than what is normed; a GPU's own norm is as good as ours
    if x.is_cuda or _fused_elsewhere() or torch.is_autocast_enabled(x.device.type):
        return F.linear(rms_norm(x, gain, eps), weight)
    result: Tensor = _NormedLinear.apply(x, gain, weight, eps)  # type: ignore[no-untyped-call]
    return result


def swiglu_linear(gate_up: Tensor, weight: Tensor) -> Tensor:
    """``(silu(gate) * up) @ weight.T`` for (..., 2F) holding gate and up side by side, and (D, F); gives (..., D)."""
    if _fused_elsewhere():
        gate, up = gate_up.chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, weight)
    weight = weight.to(gate_up.dtype)  # no autocast in backward
    result: Tensor = _SwiGLULinear.apply(gate_up, weight)  # type: ignore[no-untyped-call]
    return result


def adapted_normed_linear(x: Tensor, gain: Tensor, weight: Tensor, low: LowRank, eps: float) -> Tensor:
    """``n W^T + scale * (n A^T) B^T`` with ``n = rms_norm(x, gain, eps)``, for (..., K) to (..., F); W is frozen."""
    if x.is_cuda or _fused_elsewhere() or torch.is_autocast_enabled(x.device.type):
        return _adapted_plainly(rms_norm(x, gain, eps), weight, low)
    result: Tensor = _AdaptedNormedLinear.apply(x, gain, weight, low.a, low.b, low.scale, eps)  # type: ignore[no-untyped-call]
    return result


def adapted_swiglu_linear(gate_up: Tensor, weight: Tensor, low: LowRank) -> Tensor:
    """``h W^T + scale * (h A^T) B^T`` with ``h = silu(gate) * up``, (..., 2K) to (..., F); W is frozen."""
    if gate_up.is_cuda or _fused_elsewhere() or torch.is_autocast_enabled(gate_up.device.type):
        gate, up = gate_up.chunk(2, dim=-1)
        return _adapted_plainly(F.silu(gate) * up, weight, low)
    result: Tensor = _AdaptedSwiGLULinear.apply(gate_up, weight, low.a, low.b, low.scale)  # type: ignore[no-untyped-call]
    return result


def _adapted_plainly(x: Tensor, weight: Tensor, low: LowRank) -> Tensor:
    return F.linear(x, weight) + low.scale * F.linear(F.linear(x, low.a), low.b)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of each head, (B, L, heads, D), by angles (B|1, L, 1, D/2)."""
    if _fused_elsewhere():
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    result: Tensor = _Rotary.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return result


def _fused_elsewhere() -> bool:
    """torch.compile fuses the plain formulas, forward and backward, better than it sees through what is above."""
    return torch.compiler.is_compiling()
