"""The learning rate over a run, as a factor of its peak."""

from __future__ import annotations

import math
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
