"""A fixed set of parents and children, stated one way round and asked the other: the backward relation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from nano_llada.world.item import Item, Skill, Turn, ask
from nano_llada.world.splits import LANGUAGES, Admits, Key, Language, Split, check_request, split_of
from nano_llada.world.vocabulary import FAMILY_NAMES, FATHERS, MOTHERS, Word

PARENT_ZH = ("{child}的{role}是谁？", "请说出{child}的{role}是谁。")
PARENT_EN = ("Who is {child}'s {role}?", "Tell me who {child}'s {role} is.")
CHILD_ZH = ("{parent}的孩子是谁？", "请说出{parent}的孩子是谁。")
CHILD_EN = ("Who is {parent}'s child?", "Tell me who {parent}'s child is.")
TELL: dict[Language, tuple[str, str]] = {  # in the usual order, and mirrored
    "zh": ("说说几家人。", "倒着说说几家人。"),
    "en": ("Tell me of some families.", "Tell me of some families, backwards."),
}
TEMPLATES: dict[Language, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "zh": (PARENT_ZH, CHILD_ZH),
    "en": (PARENT_EN, CHILD_EN),
}


@dataclass(frozen=True)
class Family:
    """One parent and one child; no person is in two families."""

    parent: Word
    child: Word
    role: Word

    @property
    def key(self) -> Key:
        """The combination that decides the split."""
        return ("backward_relation", self.parent.en, self.child.en)

    def statement(self) -> tuple[str, str]:
        """The fact in Chinese and English, the parent always first: `A is B's mother.`"""
        return (
            f"{self.parent.zh}是{self.child.zh}的{self.role.zh}。",
            f"{self.parent.en} is {self.child.en}'s {self.role.en}.",
        )

    def mirrored(self) -> tuple[str, str]:
        """The words of the statement from its end to its beginning, names kept whole: no sentence, and of families that
        are not asked about the only text from which a model that reads from left to right can learn who comes before
        the child.

        The parent is on a line of its own, so that its name has the same tokens as at the beginning of an answer.
        """
        return (
            f"{self.role.zh}的{self.child.zh}是\n{self.parent.zh}",
            f"{self.role.en}'s {self.child.en} is\n{self.parent.en}",
        )


# Families of each split: few enough for a small masked-diffusion model to know by heart, many enough in the test split
# for a rate. They are chosen by split, so their shares are not those of `split_of`.
FAMILIES: dict[Split, int] = {"train": 72, "validation": 12, "test": 28}


@cache
def families() -> tuple[Family, ...]:
    """All families of the world: the same 112 whatever the seed."""
    chosen: list[Family] = []
    for split, count in FAMILIES.items():
        chosen += [family for family in _possible() if split_of(family.key) == split][:count]
    return tuple(chosen)


@cache
def _possible() -> tuple[Family, ...]:
    mother, father = Word("mother", "妈妈"), Word("father", "爸爸")
    people = [
        (Word(f"{given.en} {family.en}", f"{given.zh}·{family.zh}"), mother if given in MOTHERS else father)
        for given in MOTHERS + FATHERS
        for family in FAMILY_NAMES
    ]
    # A hash mixes the people in the same way on every machine and version of Python.
    people.sort(key=lambda person: hashlib.sha256(person[0].en.encode("utf-8")).digest())
    parents, children = people[::2], people[1::2]
    return tuple(Family(parent, child, role) for (parent, role), (child, _) in zip(parents, children, strict=True))


def statements(rng: Random, split: Split, language: Language, *, mirrored: bool = False) -> Iterator[str]:
    """Texts of four statements about families of `split` (for training: all), each stated equally often, without end.

    One statement a line, a mirrored one in two: so in English a parent's name begins with the token that it has at the
    beginning of an answer. A child's does not, which follows a space here; in Chinese a name is the same tokens
    everywhere.
    """
    told = [
        family.mirrored() if mirrored else family.statement()
        for family in families()
        if split in ("train", split_of(family.key))
    ]
    while True:
        rng.shuffle(told)
        for start in range(0, len(told), 4):
            yield "\n".join(both[LANGUAGES.index(language)] for both in told[start : start + 4])


def relation_texts(rng: Random, split: Split, *, mirrored: bool) -> dict[Language, Iterator[str]]:
    """Endless texts about families in each language: `statements`, or with `mirrored` one text in four of them, one of
    mirrored statements and two of questions about families of `split`, with their answers.
    """
    told = {language: statements(rng, split, language) for language in LANGUAGES}
    if not mirrored:
        return told
    return {language: _told_and_asked(rng, split, language, told[language]) for language in LANGUAGES}


def _told_and_asked(rng: Random, split: Split, language: Language, told: Iterator[str]) -> Iterator[str]:
    turned = statements(rng, split, language, mirrored=True)
    while True:
        way = rng.randrange(4)
        if way < 2:
            yield next((told, turned)[way])
            continue
        turns = (BACKWARD_RELATION.draw(rng, split).turn(language) for _ in range(3))
        yield "\n".join(f"{turn.prompt}\n{turn.answer}" for turn in turns)


def told_families(split: Split, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """`count` conversations, Chinese and English in turn, that tell of families, half of them with mirrored statements.

    They ask for nothing in particular and answer no question: what a model has read of families that it is never asked
    about is told again while it learns to answer. Raises UserError for an unknown split or a negative count.
    """
    check_request(split, count)
    return _tellings(count, split, Random(f"{seed}/{split}/told"))


def _tellings(count: int, split: Split, rng: Random) -> Iterator[dict[str, Any]]:
    ways = {(lang, m): statements(rng, split, lang, mirrored=m) for lang in LANGUAGES for m in (False, True)}
    for index in range(count):
        language, mirrored = LANGUAGES[index % 2], rng.random() < 0.5
        request = TELL[language][mirrored]
        yield {
            "messages": [
                {"role": "user", "content": request},
                {"role": "assistant", "content": next(ways[language, mirrored])},
            ],
            "language": language,
        }


@cache
def _by_key() -> dict[Key, Family]:
    return {family.key: family for family in families()}


def _family_key(rng: Random) -> Key:
    return rng.choice(families()).key


def relation_question(family: Family, language: Language, *, backwards: bool, rng: Random) -> Turn:
    """Who a child's parent is, which goes against the statement, or who a parent's child is; worded by `rng`."""
    names = {name: getattr(family, name).text(language) for name in ("parent", "child", "role")}
    (parent, child), wanted = TEMPLATES[language], names["parent" if backwards else "child"]
    return ask(rng, parent if backwards else child, names, wanted)


def _backward(key: Key, rng: Random, admits: Admits) -> Item:
    # Held-out families are asked only against the direction in which documents state them.
    backwards = not (split_of(key) == "train" and rng.random() < 0.5)
    zh, en = (relation_question(_by_key()[key], language, backwards=backwards, rng=rng) for language in LANGUAGES)
    return Item(key, zh, en)


BACKWARD_RELATION = Skill("backward_relation", _family_key, _backward)
