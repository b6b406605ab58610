"""What a low-rank adapter is: saved beside its weights, and enough to find the model that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from nano_llada.config.checks import Positive, Range
from nano_llada.config.kinds import check_values

Target = Literal["qkv", "out", "gate_up", "down"]
TARGETS: tuple[Target, ...] = ("qkv", "out", "gate_up", "down")


@dataclass(frozen=True)
class Adapter:
    """A low-rank change of some matrices (LoRA, arXiv:2106.09685): W + alpha / rank * B A, where W stays as it is.

    Raises:
        ValueError: for a number outside its range, or no matrix.
    """

    rank: Annotated[int, Range(1, 2**16)]
    """Columns of B and rows of A."""
    alpha: Positive
    """Times alpha / rank the change is added."""
    targets: tuple[Target, ...] = TARGETS
    """Which matrices of every layer: qkv and out of attention, gate_up and down of the SwiGLU layer."""
    base: str = ""
    """The checkpoint that it changes, as a path from the adapter's folder."""
    base_hash: str = ""
    """SHA-256 of that checkpoint's weights."""

    def __post_init__(self) -> None:
        check_values(self)
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError("lora_targets names at least one kind of matrix, and each once")
