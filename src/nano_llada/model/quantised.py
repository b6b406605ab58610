"""Weights in eight bits: how they are made, stored, loaded and multiplied.

Every matrix is stored as integers q in [-127, 127] with one scale per output channel, ``W ~ scale * q`` and
``scale = max|W| / 127``. That is a quarter of the bytes of float32, and reading weights is what a decoding step spends
its time on. Vectors (the gains of norms) stay float32.

Activations are not rounded to eight bits. Each row is written as a 14-bit fixed-point number, and its upper and lower
seven bits go through the integer product as two rows. Integer sums have no rounding error, so a row's result does not
depend on the other rows of the batch, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

SCALE = ".scale"  # suffix of the tensor that holds the scales of a matrix
HALF = 64  # zero point of a seven-bit digit
BASE = 128  # a digit has seven bits: two products of digits and weights must fit into 16 bits on older processors
LARGEST = 8127  # of a fixed-point activation: with OFFSET added it still has 14 bits
OFFSET = HALF * BASE + HALF
TINY = 1e-30  # largest entry of a row of zeros, so that nothing is divided by zero


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(F, K) float weights as int8 (F, K) and float32 scales (F,); the error is at most half a scale."""
    scale = weight.float().abs().amax(1).clamp(min=TINY) / 127
    return (weight.float() / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale


def dequantise(quantised: Tensor, scale: Tensor) -> Tensor:
    """Float32 weights (F, K)."""
    return quantised.float() * scale[:, None]


def quantise_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model by name, every matrix as int8 under its own name and its scales under ``NAME.scale``.

    Every (F, K) tensor becomes int8 (F, K) and float32 (F,); others become float32 in their own shape.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if tensor.dim() == 2:
            found[name], found[name + SCALE] = quantise(tensor)
        else:
            found[name] = tensor.float()
    return found


def dequantise_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `quantise_state`, up to rounding: a state that a `Transformer` loads.

    Every int8 (F, K) with its float32 scales (F,) becomes float32 (F, K); quantised again it has the same integers.
    """
    return {
        name: dequantise(tensor, state[name + SCALE]) if tensor.dtype == torch.int8 else tensor
        for name, tensor in state.items()
        if not name.endswith(SCALE)
    }


def quantised_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what `quantise_state` makes of weights with these names and shapes."""
    scales = {name + SCALE: shape[:1] for name, shape in shapes.items() if len(shape) == 2}
    return {**shapes, **scales}


def is_quantised(names: Iterable[str]) -> bool:
    """Whether weights of these names are in eight bits."""
    return any(name.endswith(SCALE) for name in names)


def broken_scales(state: Mapping[str, Tensor]) -> Iterator[str]:
    """What is wrong with int8 (F, K) matrices and float32 (F,) scales that were read from a file: types, and scales."""
    for name, tensor in state.items():
        wanted = torch.int8 if name + SCALE in state else torch.float32
        if tensor.dtype != wanted:
            yield f"{name} is {tensor.dtype}, eight-bit weights have {wanted} there"
        elif name.endswith(SCALE) and not bool((tensor.isfinite() & (tensor > 0)).all()):
            yield f"{name} contains a scale that is not a positive number"


class QuantisedProduct:
    """``x @ (scale * q).T`` for float32 x (N, K), by integer products with oneDNN's packed weights; gives (N, F)."""

    def __init__(self, quantised: Tensor, scale: Tensor) -> None:
        self._packed = torch.ops.onednn.qlinear_prepack(quantised.contiguous(), None)
        self._scale = scale.float().contiguous()
        self._zeros = torch.zeros(len(scale), dtype=torch.int32)

    def __call__(self, x: Tensor) -> Tensor:
        digits, step = split(x)
        out = torch.ops.onednn.qlinear_pointwise.default(
            digits, 1.0, HALF, self._packed, self._scale, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        upper, lower = out.chunk(2)
        return torch.add(lower, upper, alpha=BASE).mul_(step)


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, K) as 14-bit numbers: digits (2N, K) uint8, upper ones first, and the value of one step (N, 1).

    ``x ~ step * (BASE * (upper - HALF) + (lower - HALF))``, off by at most half a step and a step is the row's largest
    entry over `LARGEST`.
    """
    step = x.abs().amax(-1, keepdim=True).clamp_(min=TINY).div_(LARGEST)
    fixed = torch.div(x, step).add_(OFFSET + 0.5).to(torch.int16)  # all positive: cutting off rounds to nearest
    return torch.cat([fixed >> 7, fixed & (BASE - 1)]).to(torch.uint8), step


def integer_products_work() -> bool:
    """Whether this PyTorch and processor multiply the digits exactly; checked, not looked up by name."""
    if not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return False
    rows = torch.arange(3 * 96).view(3, 96).float().cos_()
    rows[1] = -2.0  # every digit at its limit
    weight = torch.arange(40 * 96).view(40, 96).mul_(37).remainder_(255).sub_(127).to(torch.int8)
    weight[0] = 127
    digits, step = split(rows)
    value = digits.double().sub_(HALF).view(2, 3, 96)
    expected = (value[0] * BASE + value[1]) @ weight.double().T * step.double()
    try:
        found = QuantisedProduct(weight, torch.ones(40))(rows)
    except (RuntimeError, NotImplementedError):
        return False
    return bool(torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-3))
