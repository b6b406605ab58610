"""Whether an answer is right, by the references and the verifier of a row: the same for rewards and for evaluation."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.verify.number import last_number, reference_number
from nano_llada.verify.pattern import Matcher, check_pattern
from nano_llada.world.stories import answers as stories
from nano_llada.world.verifier import Verifier, verify

Judge = Callable[[str], bool]  # a model's text -> whether it is right

TOLERANCE = 1e-6  # of a number, relative to the reference
KINDS = ("exact", "contains", "regex", "numeric")
_GSM8K = re.compile(r"####[ \t]*[-+$]{0,2}\.?\d[^\n]*\s*\Z")


def judge_of(row: Mapping[str, Any], references: tuple[str, ...], matcher: Matcher) -> tuple[Judge, tuple[str, ...]]:
    """The judge that a row describes, and the right answers it knows; regular expressions are searched by `matcher`.

    A row without `verifier` is judged by `exact`, or by `numeric` if a reference ends in `#### N`, as in GSM8K. Data
    never names code: a verifier that is a file is refused.

    Raises:
        ValueError: with the reason, if the row describes none.
    """
    spec = row.get("verifier")
    if spec is None:
        spec = "numeric" if any(map(_GSM8K.search, references)) else "exact"
    if isinstance(spec, dict) and spec.get("kind") in stories.KINDS:
        return _story_judge(spec), references
    if isinstance(spec, dict):
        verifier = read_verifier(spec)
        return functools.partial(verify, verifier), references or verifier.expected
    if isinstance(spec, str) and ".py" in spec:
        raise ValueError(
            f"the row's verifier {spec!r} names a file with code, and data never runs code; give the file on the "
            "command line, with --verifier (eval) or --reward (rl)"
        )
    if spec not in KINDS:
        raise ValueError(f"unknown verifier {spec!r}: use {', '.join(KINDS)}, or an object")
    if not references:
        raise ValueError(
            "no right answer: give it references, reference, ground_truth or answer, or an answer as the last message"
        )
    if spec == "regex":
        return _regex(references, matcher), references
    return {"exact": _exact, "contains": _contains, "numeric": _numeric}[spec](references), references


def read_verifier(spec: Mapping[str, Any]) -> Verifier:
    """A verifier of the small world. Raises ValueError with the reason if it cannot be read."""
    try:
        return Verifier.from_json(spec)
    except UserError as error:
        raise ValueError(str(error)) from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"the row's `verifier` cannot be read: {error}") from error


def _story_judge(spec: Mapping[str, Any]) -> Judge:
    try:
        return stories.judge(spec)
    except UserError as error:
        raise ValueError(str(error)) from error


def _exact(references: tuple[str, ...]) -> Judge:
    return functools.partial(verify, Verifier("exact", references))


def _contains(references: tuple[str, ...]) -> Judge:
    wanted = [" ".join(reference.split()) for reference in references]
    return lambda text: any(reference in " ".join(text.split()) for reference in wanted)


def _regex(references: Sequence[str], matcher: Matcher) -> Judge:
    for reference in references:
        check_pattern(reference)
    return lambda text: any(matcher.found(pattern, text) for pattern in references)


def _numeric(references: tuple[str, ...]) -> Judge:
    numbers = [reference_number(reference) for reference in references]

    def judge(text: str) -> bool:
        found = last_number(text)
        return found is not None and any(math.isclose(found, number, rel_tol=TOLERANCE) for number in numbers)

    return judge
