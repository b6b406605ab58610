"""The suites by name. Adding one is a file here and a line in this table."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from nano_llada.core.errors import UserError
from nano_llada.evaluation.metric import Metric
from nano_llada.evaluation.suite import Suite

SUITES = {
    "likelihood": "Likelihood",
    "choices": "Choices",
    "generation": "Generation",
    "quality": "Quality",
    "infilling": "Infilling",
    "speed": "Speed",
    "calibration": "Calibration",
}


def suite_named(name: str) -> type[Suite]:
    """The class of a suite. Raises UserError if there is none of that name."""
    if name not in SUITES:
        raise UserError(f"unknown suite {name!r}: use one of {', '.join(SUITES)}")
    found: type[Suite] = getattr(importlib.import_module(f"nano_llada.evaluation.suites.{name}"), SUITES[name])
    return found


def metrics_of(name: str) -> Sequence[Metric]:
    """What a suite's records are summed up by. Raises UserError for an unknown suite."""
    return suite_named(name).metrics
