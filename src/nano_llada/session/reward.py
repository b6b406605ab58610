"""What an answer is worth: the row's own verifier, or a function of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.core.own import load_object
from nano_llada.world import Verifier, verify

VERIFIER = "verifier"

# question, answer, the row of the data file -> a number
Reward = Callable[[str, str, Mapping[str, Any]], float]


def load_reward(spec: str) -> Reward:
    """`verifier`, or the function in FILE.py:FUNCTION; the file is run.

    Raises:
        UserError: if there is no such file or function.
    """
    if spec == VERIFIER:
        return _verified
    function = load_object(spec, what="reward")
    if not callable(function):
        raise UserError(f"reward {spec!r}: it is not a function")
    return _checked(function, spec)


def verifier_of(row: Mapping[str, Any]) -> Verifier:
    """The verifier of a row. Raises UserError if there is none, or none that can be read."""
    if not isinstance(row.get("verifier"), dict):
        raise UserError("the row has no `verifier`; give it one, or a reward function with --reward FILE.py:FUNCTION")
    try:
        return Verifier.from_json(row["verifier"])
    except (TypeError, ValueError) as error:
        raise UserError(f"the row's `verifier` cannot be read: {error}") from error


def _verified(question: str, answer: str, row: Mapping[str, Any]) -> float:
    return float(verify(verifier_of(row), answer))


def _checked(function: Callable[..., Any], spec: str) -> Reward:
    def reward(question: str, answer: str, row: Mapping[str, Any]) -> float:
        try:
            value = float(function(question, answer, row))
        except Exception as error:
            raise UserError(f"reward {spec!r} failed on {answer!r}: {type(error).__name__}: {error}") from error
        if not math.isfinite(value):
            raise UserError(f"reward {spec!r} gave {value} for {answer!r}: rewards are finite numbers")
        return value

    return reward
