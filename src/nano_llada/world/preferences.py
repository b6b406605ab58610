"""Questions about the small world with a right and a plausible wrong answer: what learning from preferences needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations
from random import Random
from typing import Any

from nano_llada.world.generate import Example, chats
from nano_llada.world.skills_number import LARGEST, addition_walk, counted, subtraction_walk
from nano_llada.world.skills_world import time_walk
from nano_llada.world.splits import LANGUAGES, Language, Split
from nano_llada.world.steps import Walk, near_tallies
from nano_llada.world.verifier import verify
from nano_llada.world.vocabulary import (
    ANIMALS,
    CATEGORIES,
    COLOURS,
    DAYS,
    DIRECTIONS,
    FAMILY_NAMES,
    FATHERS,
    MONTHS,
    MOTHERS,
    NAMES,
    OBJECTS,
    PEOPLE,
    PLACES,
    find,
)

# Gives answers of the same kind as an example's, not all of which are wrong.
Rule = Callable[[Example], list[str]]
Group = tuple[str, ...]

NAMED = (PEOPLE, COLOURS, PLACES, DAYS, MONTHS, DIRECTIONS, MOTHERS, FATHERS, FAMILY_NAMES)
# The numbers that right answers can be: any other would give a wrong answer away.
NUMBERS = {
    "addition": (0, LARGEST),
    "subtraction": (0, LARGEST),
    "counting": (1, 5),
    "reading": (1, 20),
    "format": (1, 20),
    "infill": (2, 35),
    "time": (1, 12),
    "translation": (2, 9),
}
OTHER_NAMES: dict[Language, Group] = {language: tuple(who.text(language) for who in PEOPLE) for language in LANGUAGES}
OTHER_SELF: dict[str, dict[Language, Group]] = {
    "who": OTHER_NAMES,
    "name": OTHER_NAMES,
    "person": {"zh": ("是",), "en": ("yes",)},
    "model": {"zh": ("不是",), "en": ("no",)},
    "languages": {"zh": ("中文", "英语"), "en": ("Chinese", "English")},
}


def preferences(skills: Sequence[str], split: Split, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """`count` rows {"prompt", "chosen", "rejected", "skill", "language"}, in the order and the shares of `chats`.

    The questions and right answers are those of `chats` for the same arguments. `rejected` is wrong (the question's
    verifier says so) and made from the example alone, by a rule that keeps to the form of the right answer. Raises
    UserError for no skill, an unknown skill or split or a negative count.
    """
    rng = Random(f"{seed}/{split}/preferences")
    return (_row(example, rng) for example in chats(skills, split, count, seed))


def _row(example: Example, rng: Random) -> dict[str, Any]:
    return {
        "prompt": example.prompt,
        "chosen": example.answer,
        "rejected": _wrong(example, rng),
        "skill": example.skill,
        "language": example.language,
    }


def _wrong(example: Example, rng: Random) -> str:
    """A wrong answer by one of the skill's rules, all of which are as likely however many answers they give."""
    found = [rule(example) for rule in RULES[example.skill]]
    wrong = [[text for text in texts if not verify(example.verifier, text)] for texts in found]
    return rng.choice(rng.choice([texts for texts in wrong if texts]))


def _changed(example: Example) -> list[str]:
    """One word is another word of its group, or one number is off by one or two."""
    return _altered(example.answer, example.skill)


def _altered(text: str, skill: str) -> list[str]:
    texts = []
    for match in _pieces().finditer(text):
        for other in _instead(match[0], text, skill):
            texts.append(text[: match.start()] + other + text[match.end() :])
    return texts


def _instead(piece: str, text: str, skill: str) -> list[str]:
    if piece.isdigit():
        low, high = NUMBERS[skill]
        return [str(int(piece) + step) for step in (-2, -1, 1, 2) if low <= int(piece) + step <= high]
    group = next(group for group in _groups() if piece in group)
    used = _pieces().findall(text)
    return [word for word in group if word not in used]


def _misread(example: Example) -> list[str]:
    """The steps are right, but the result is not what they lead to."""
    steps, colon, result = example.answer.rpartition(": ")
    return [steps + colon + other for other in _altered(result, example.skill)]


def _too_short_or_long(example: Example) -> list[str]:
    """The steps are right as far as they go, but end one too early or too late."""
    return _walk(example).too_short_or_long()


def _slipped(example: Example) -> list[str]:
    """One step is left out or made twice on the way."""
    return _walk(example).slipped()


def _walk(example: Example) -> Walk:
    if example.skill == "time":
        return time_walk(example.key, example.language)
    return addition_walk(example.key) if example.skill == "addition" else subtraction_walk(example.key)


def _miscounted_words(example: Example) -> list[str]:
    """One word is counted that should not be, or the other way round, or is passed over."""
    low, high = NUMBERS["counting"]
    texts = near_tallies(*counted(example.key, example.language))
    return [text for text in texts if low <= int(text.rpartition(": ")[2]) <= high]


def _said_of_another(example: Example) -> list[str]:
    """What the question says in the form of the answer, about something else."""
    form = next(form for form in _forms(example.language) if re.fullmatch(form, example.answer))
    return re.findall(form, example.prompt)


def _swapped(example: Example) -> list[str]:
    """Two of the words have changed places."""
    words = example.answer.split(" ")
    texts = []
    for first, second in combinations(range(len(words)), 2):
        mixed = list(words)
        mixed[first], mixed[second] = words[second], words[first]
        texts.append(" ".join(mixed))
    return texts


def _other_digit(example: Example) -> list[str]:
    """One blank of a sudoku is filled with another digit."""
    blanks = [place for place, given in enumerate(example.verifier.expected[0]) if given == "0"]
    answer = example.answer
    return [answer[:place] + digit + answer[place + 1 :] for place in blanks for digit in "1234"]


def _untranslated(example: Example) -> list[str]:
    """The text to translate, unchanged."""
    colour, thing = map(find, example.key[1:])
    zh = rf"(?:\d+{thing.measure})?{colour.zh}的{thing.zh}"
    return re.findall(rf"{zh}|(?:\d+ )?{colour.en} (?:{thing.plural}|{thing.en})", example.prompt)


def _miscounted(example: Example) -> list[str]:
    """A list with one word less or one more, where words were to be listed."""
    if example.verifier.kind != "words":
        return []
    more = next(word for word in example.verifier.expected if word not in example.answer.split())
    return [example.answer.rpartition(" ")[0], f"{example.answer} {more}"]


def _out_of_place(example: Example) -> list[str]:
    """A list whose last word is the one that was not wanted, or of another category."""
    if example.verifier.kind != "words":
        return []
    kept, wanted, unwanted = example.answer.rpartition(" ")[0], find(example.key[2]), example.key[4]
    others = [word for category, words in CATEGORIES if category != wanted for word in words]
    intruders = others if unwanted == "none" else [find(unwanted)]
    return [f"{kept} {word.text(example.language)}" for word in intruders]


def _other_self(example: Example) -> list[str]:
    """Another person's answer to a question about oneself."""
    return list(OTHER_SELF[example.key[2]][example.language])


@cache
def _groups() -> tuple[Group, ...]:
    """Words, Chinese or English, that can replace each other without a change in the rest of the text."""
    groups = [tuple(word.text(language) for word in words) for words in NAMED for language in LANGUAGES]
    for things in (OBJECTS, ANIMALS):
        measures = dict.fromkeys(word.measure for word in things)  # which stay as they are
        groups += [tuple(word.zh for word in things if word.measure == measure) for measure in measures]
        regular = [word for word in things if word.plural != word.en]
        groups += [tuple(word.en for word in regular), tuple(word.plural for word in regular)]
    return tuple(groups)


def _any_of(words: Sequence[str]) -> str:
    """A pattern for any of some words; longer ones come first, as some begin with others."""
    return f"(?:{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})"


@cache
def _pieces() -> re.Pattern[str]:
    """Finds the words of all groups and numbers in a text."""
    words = [word for group in _groups() for word in group]
    english, chinese = (_any_of([word for word in words if word.isascii() is ascii]) for ascii in (True, False))
    return re.compile(rf"\d+|\b{english}\b|{chinese}")


@cache
def _forms(language: Language) -> tuple[str, ...]:
    """Patterns of the answers that a question may state about several things."""
    some = (NAMES, DIRECTIONS, PLACES, COLOURS, OBJECTS)
    who, way, place, colour, thing = (_any_of([word.text(language) for word in words]) for words in some)
    if language == "zh":
        return (r"\d+", who, way, f"{who}在{place}。", f"{who}有一.{colour}的{thing}。")
    return (r"\d+", who, way, rf"{who} is at the {place}\.", rf"{who} has a {colour} {thing}\.")


RULES: dict[str, tuple[Rule, ...]] = {
    "reading": (_changed,),
    "recall": (_said_of_another, _changed),
    "counting": (_miscounted_words, _misread),
    "addition": (_too_short_or_long, _slipped, _misread),
    "subtraction": (_too_short_or_long, _slipped, _misread),
    "comparison": (_said_of_another,),
    "ordering": (_swapped,),
    "copy": (_swapped,),
    "reversal": (_swapped,),
    "backward_relation": (_changed,),
    "translation": (_untranslated, _changed),
    "infill": (_changed,),
    "sudoku": (_other_digit,),
    "format": (_changed, _miscounted, _out_of_place),
    "identity": (_other_self,),
    "direction": (_said_of_another, _changed),
    "time": (_too_short_or_long, _slipped, _misread),
}
