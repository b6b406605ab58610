"""What changes over a run: the learning rate, as a factor of its peak, and the size of the blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ScheduleName = Literal["wsd", "cosine", "constant"]


def learning_rate_scale(
    name: ScheduleName, step: int, *, total: int, warmup: int, decay_share: float, floor: float
) -> float:
    """Factor in (0, 1] for optimizer step `step` (from 0) of `total`.

    Args:
        name: `wsd` warms up, stays, and falls linearly over the last `decay_share` of the steps; `cosine` falls
            from the end of warm-up on; `constant` only warms up.
        warmup: steps of linear warm-up.
        decay_share: share of all steps in which `wsd` decays.
        floor: the last step's factor.
    """
    if step < warmup:
        return (step + 1) / warmup
    if name == "constant":
        return 1.0
    if name == "cosine":
        share = (step - warmup) / max(total - 1 - warmup, 1)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    decay_steps = max(1, round(total * decay_share))
    left = total - step
    return 1.0 if left > decay_steps else floor + (1 - floor) * max(left - 1, 0) / decay_steps


@dataclass(frozen=True)
class BlockSizeSchedule:
    """How many tokens are denoised together, over a run: LLaDA 2.0's warm-up, stable, decay of block sizes.

    From an autoregressive model (size 1 is nearly what it knows) the blocks grow to the whole row, where training is
    cheapest, and shrink at the end to the size that generation will use. A size of a row or more is the whole row.

    Raises:
        ValueError: for sizes or shares that cannot be.
    """

    block_size: int | None = None
    """Tokens in a block, at the end of training and in generation; None: the whole row, as in LLaDA 1.0."""
    block_warmup: tuple[int, ...] = ()
    """Sizes to grow through first, such as 1 4 32 64 128; then come whole rows."""
    block_decay: tuple[int, ...] = ()
    """Sizes to shrink through at the end, such as 128 64 32; the last is block_size."""
    block_warmup_share: float = 0.3
    """Share of the run for block_warmup, the same for each of its sizes."""
    block_decay_share: float = 0.2
    """Share of the run for block_decay."""

    def __post_init__(self) -> None:
        for size in (*self.block_warmup, *self.block_decay, *(() if self.block_size is None else (self.block_size,))):
            if size < 1:
                raise ValueError(f"a block has at least 1 token, got {size}")
        if self.block_decay and self.block_decay[-1] != self.block_size:
            raise ValueError(f"block_decay ends with {self.block_decay[-1]}, but block_size is {self.block_size}")
        if self.block_warmup and not self.block_decay and self.block_size is not None:
            raise ValueError(f"after block_warmup come whole rows: block_size {self.block_size} needs a block_decay")
        shares = {"block_warmup": self.block_warmup_share, "block_decay": self.block_decay_share}
        used = {name: share for name, share in shares.items() if getattr(self, name)}
        if any(share <= 0 for share in used.values()) or sum(used.values()) > 1 + 1e-9:
            raise ValueError(f"the shares of block_warmup and block_decay must fit into a run, got {used}")
        if list(self.block_warmup) != sorted(self.block_warmup):
            raise ValueError(f"block_warmup grows, got {self.block_warmup}")
        if list(self.block_decay) != sorted(self.block_decay, reverse=True):
            raise ValueError(f"block_decay shrinks, got {self.block_decay}")

    def at(self, progress: float) -> int | None:
        """Block size when `progress` in [0, 1] of the run is done; None: the whole row."""
        if not self.block_warmup and not self.block_decay:
            return self.block_size
        growing, shrinking = self.block_warmup, self.block_decay
        if growing and progress < self.block_warmup_share:
            return growing[int(progress / self.block_warmup_share * len(growing))]
        begin = 1 - self.block_decay_share
        if not shrinking or progress < begin:
            return None
        return shrinking[min(int((progress - begin) / self.block_decay_share * len(shrinking)), len(shrinking) - 1)]

    def check_row(self, length: int) -> None:
        """Refuse sizes that leave a shorter last block in every row of `length` tokens.

        Raises:
            ValueError: naming the sizes that divide it.
        """
        sizes = {*self.block_warmup, *self.block_decay, *(() if self.block_size is None else (self.block_size,))}
        if wrong := sorted(size for size in sizes if size < length and length % size):
            legal = ", ".join(str(size) for size in range(1, length + 1) if length % size == 0)
            raise ValueError(f"block sizes {wrong} do not divide sequence_length {length}; these do: {legal}")
