"""The memory-bound parts of a block with hand-written backward passes.

On a CPU these elementwise parts cost as much as a third of a step when composed from single operations. Each keeps
only its input for the backward pass. `tests/test_model.py` checks every one against its plain form, gradients too.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

Mask: TypeAlias = Tensor | BlockMask | None


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        normed: Tensor = x * scale
        return normed.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        grad_weight = (grad * normed).flatten(0, -weight.dim() - 1).sum(0)
        grad_normed = (grad * weight).to(normed.dtype)
        # d/dx of x / rms(x): remove the part of the gradient along x
        along = torch.linalg.vecdot(grad_normed, normed).unsqueeze(-1).div_(x.shape[-1])
        return grad_normed.sub_(normed.mul_(along)).mul_(scale), grad_weight, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        grad_gate, grad_up = out.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return out


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
    if isinstance(mask, BlockMask):
        result: Tensor = _flex_kernel(q.device.type)(q, k, v, block_mask=mask, enable_gqa=grouped)
        return result
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


@cache
def _flex_kernel(device: str) -> Any:
    """Compiled once for CUDA; uncompiled it is a plain, slow reference that runs anywhere."""
    return torch.compile(flex_attention) if device == "cuda" else flex_attention


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / rms(x) * weight`` over the last dimension; `weight` (D,) or, one gain a head, (heads, D)."""
    if x.is_cuda or _fused_elsewhere():
        return F.rms_norm(x, (x.shape[-1],), None, eps) * weight.to(x.dtype)
    result: Tensor = _RMSNorm.apply(x, weight, eps)
    return result


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` for (..., 2F) holding gate and up side by side; gives (..., F)."""
    if _fused_elsewhere():
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    result: Tensor = _SwiGLU.apply(gate_up)
    return result


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of each head, (B, L, heads, D), by angles (B|1, L, 1, D/2)."""
    if _fused_elsewhere():
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    result: Tensor = _Rotary.apply(x, cos, sin)
    return result


def _fused_elsewhere() -> bool:
    """torch.compile fuses the plain formulas, forward and backward, better than it sees through what is above."""
    return torch.compiler.is_compiling()
