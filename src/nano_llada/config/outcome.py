"""How a run stands or ended: the contents of outcome.json in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nano_llada.config.kinds import check_values

Ending = Literal["finished", "stopped early", "interrupted"]
State = Literal["running", "finished", "stopped early", "interrupted", "failed"]


@dataclass(frozen=True)
class Outcome:
    """Written when a run starts and when it ends, whatever ends it."""

    state: State
    """`running` is also what a killed run leaves behind."""
    step: int
    """Optimizer steps that are saved."""
    total_steps: int
    """Optimizer steps of the whole run."""
    best_step: int | None = None
    """The saved step of lowest validation loss; None: not measured."""
    best_loss: float | None = None
    """Its validation loss."""
    reason: str | None = None
    """What made the run fail."""

    def __post_init__(self) -> None:
        check_values(self)

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state in ("finished", "stopped early")
