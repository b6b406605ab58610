"""The objectives: one file for each, and the table from option records to objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nano_llada.config.objectives import Denoising, NextToken, ObjectiveConfig, Policy, Preference, TriMode
from nano_llada.core.batch import Objective
from nano_llada.core.errors import UserError
from nano_llada.objectives.denoising import DenoisingLoss, TriModeLoss
from nano_llada.objectives.next_token import NextTokenLoss
from nano_llada.objectives.policy import PolicyLoss
from nano_llada.objectives.preference import PreferenceLoss

OBJECTIVES: Mapping[type, Callable[[Any], Objective]] = {
    NextToken: NextTokenLoss,
    Denoising: DenoisingLoss,
    TriMode: TriModeLoss,
    Preference: PreferenceLoss,
    Policy: PolicyLoss,
}


def make_objective(config: ObjectiveConfig) -> Objective:
    """The objective that a record describes; a class of the user's own brings its `loss` itself.

    Raises:
        UserError: for a class of the user's own without a `loss`.
    """
    if (build := OBJECTIVES.get(type(config))) is not None:
        return build(config)
    own: Any = config
    if not callable(getattr(own, "loss", None)):
        raise UserError(f"the objective {config.saved_name()} has no method loss(model, batch, ctx)")
    objective: Objective = own
    return objective
