"""The list of everything that the small world can ask."""

from __future__ import annotations

from functools import cache

from nano_llada.core.errors import UserError
from nano_llada.world.item import Skill
from nano_llada.world.skills_chat import FORMAT, IDENTITY
from nano_llada.world.skills_family import BACKWARD_RELATION
from nano_llada.world.skills_infill import INFILL
from nano_llada.world.skills_number import ADDITION, COMPARISON, COUNTING, ORDERING, SUBTRACTION
from nano_llada.world.skills_reading import READING
from nano_llada.world.skills_sudoku import SUDOKU
from nano_llada.world.skills_text import COPY, RECALL, REVERSAL, TRANSLATION
from nano_llada.world.skills_world import DIRECTION, TIME

_ALL = (
    READING,
    RECALL,
    COUNTING,
    ADDITION,
    SUBTRACTION,
    COMPARISON,
    ORDERING,
    COPY,
    REVERSAL,
    BACKWARD_RELATION,
    TRANSLATION,
    INFILL,
    SUDOKU,
    FORMAT,
    IDENTITY,
    DIRECTION,
    TIME,
)
SKILLS: tuple[str, ...] = tuple(skill.name for skill in _ALL)
DEMO_SKILLS: tuple[str, ...] = (
    "reading",
    "copy",
    "reversal",
    "translation",
    "format",
    "identity",
)


@cache
def _by_name() -> dict[str, Skill]:
    return {skill.name: skill for skill in _ALL}


def skill_named(name: str) -> Skill:
    """The skill called `name`. Raises UserError if there is none."""
    if name not in _by_name():
        raise UserError(f"The small world has no skill {name!r}. Use one of: {', '.join(SKILLS)}.")
    return _by_name()[name]
