"""How a run that `torchrun` starts as several processes divides its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nano_llada.config.kinds import check_values


@dataclass(frozen=True)
class Processes:
    """Used when a run is started as several processes, `torchrun --nproc-per-node N -m nano_llada ...`; one process
    needs none of it. A resumed run may change all of it, the number of processes too.
    """

    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: `ddp` keeps the whole model in each; `fsdp` divides weights, gradients and optimizer
    state among them, for models that do not fit one device."""
    keep_gathered: bool = False
    """fsdp: keep the weights of every block in memory from the forward to the backward pass, rather than gather them
    again: less communication, more memory."""
    offload: bool = False
    """fsdp on GPUs: keep weights and optimizer state in CPU memory, for models that do not fit even so; slow."""

    def __post_init__(self) -> None:
        check_values(self)
        if self.parallel != "fsdp" and (self.keep_gathered or self.offload):
            name = "keep_gathered" if self.keep_gathered else "offload"
            raise ValueError(f"{name} is for parallel 'fsdp': it has no effect with {self.parallel!r}")
