"""From a record to what it describes, for tests that build their records where they use them."""

from __future__ import annotations

from typing import Any

from nano_llada.config.objectives import BoundScore, ExactScore, Masking, ObjectiveConfig, TokenEditing
from nano_llada.diffusion.editing import EditingProcess
from nano_llada.diffusion.masking import MaskingProcess
from nano_llada.objectives import make_objective
from nano_llada.objectives.likelihood import make_score


def act(record: Any) -> Any:
    """The behaviour of an option record; anything else as it is."""
    if isinstance(record, Masking):
        return MaskingProcess(record)
    if isinstance(record, TokenEditing):
        return EditingProcess(record)
    if isinstance(record, (ExactScore, BoundScore)):
        return make_score(record)
    return make_objective(record) if isinstance(record, ObjectiveConfig) else record
