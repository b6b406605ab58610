"""Random numbers as a function of where they are used, never of what was drawn before."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from a path of names and numbers, e.g. ``derive_seed(seed, "noise", step, row)``."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`; drawn on the CPU, numbers are the same on every device."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def row_uniforms(rows: Tensor, width: int, *parts: int | str) -> Tensor:
    """(B, width) float64 uniforms in [0, 1), row b a function of (parts, rows[b]) alone.

    So the same global batch draws the same noise on one process or many, in one micro-batch or many.
    """
    out = torch.empty(len(rows), width, dtype=torch.float64)
    for i, row in enumerate(rows.tolist()):
        out[i] = torch.rand(width, dtype=torch.float64, generator=generator(*parts, row))
    return out
