"""What an answer is worth: the row's own verifier, or a function of the user's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.core.own import Neighbours, load_function
from nano_llada.core.text import printable
from nano_llada.data.rows import to_question
from nano_llada.verify.answer import Judge, judge_of
from nano_llada.verify.pattern import Matcher

VERIFIER = "verifier"
LARGEST = 1e12

# question, answer, the row of the data file -> a number
Reward = Callable[[str, str, Mapping[str, Any]], float]


def load_reward(spec: str) -> Reward:
    """`verifier`, or the function in FILE.py:FUNCTION; the file is run, and may import files beside it.

    Raises:
        UserError: if there is no such file or function.
    """
    if spec == VERIFIER:
        return functools.partial(_verified, Matcher())
    function, neighbours = load_function(spec, what="reward", known="verifier, or ")
    return _checked(function, spec, neighbours)


def verifier_of(row: Mapping[str, Any], matcher: Matcher) -> Judge:
    """The judge of a row. Raises UserError if there is none, or none that can be read."""
    try:
        references = to_question(row).references if not isinstance(row.get("verifier"), dict) else ()
        return judge_of(row, references, matcher)[0]
    except ValueError as error:
        hint = "" if row.get("verifier") else "; or give a reward function with --reward FILE.py:FUNCTION"
        raise UserError(f"{error}{hint}") from error


def _verified(matcher: Matcher, question: str, answer: str, row: Mapping[str, Any]) -> float:
    return float(verifier_of(row, matcher)(answer))


def _checked(function: Callable[..., Any], spec: str, neighbours: Neighbours) -> Reward:
    def reward(question: str, answer: str, row: Mapping[str, Any]) -> float:
        try:
            with neighbours.importable():
                value = float(function(question, answer, dict(row)))
        except (Exception, SystemExit) as error:
            raise UserError(
                f"reward {spec!r} failed on {printable(repr(answer))}: {type(error).__name__}: {error}"
            ) from error
        if not abs(value) <= LARGEST:  # also nan; larger ones would overflow where a group's deviation is computed
            said = printable(repr(answer))
            raise UserError(f"reward {spec!r} gave {value} for {said}: rewards are numbers of at most {LARGEST:g}")
        return value

    return reward
