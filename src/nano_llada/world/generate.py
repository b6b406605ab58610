"""Streams of questions and chat turns about the small world, the same ones for the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.world.item import Item, Skill
from nano_llada.world.skills import skill_named
from nano_llada.world.splits import LANGUAGES, Key, Language, Split, check_request
from nano_llada.world.verifier import Verifier

# Redraws of an item already given, before its small world is taken to be used up and repeats are allowed.
REDRAWS = 20
# Prompts remembered per stream, so that an endless stream does not fill the memory.
REMEMBERED = 100_000


@dataclass(frozen=True)
class Example:
    """One question in one language with a right answer and the check for other right answers.

    `pair` is shared by the two languages' wordings of the item (unique within one call of the generator);
    `key` is the combination of entities that decided the split.
    """

    pair: str
    skill: str
    language: Language
    split: Split
    prompt: str
    answer: str
    verifier: Verifier
    key: Key

    def to_row(self) -> dict[str, Any]:
        """The example as a chat row of plain JSON values."""
        return {
            "messages": [
                {"role": "user", "content": self.prompt},
                {"role": "assistant", "content": self.answer},
            ],
            "skill": self.skill,
            "language": self.language,
            "split": self.split,
            "pair": self.pair,
            "key": list(self.key),
            "verifier": self.verifier.to_json(),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Example:
        """The inverse of to_row. Raises UserError if the row lacks a field."""
        try:
            user, assistant = row["messages"]
            return cls(
                pair=row["pair"],
                skill=row["skill"],
                language=row["language"],
                split=row["split"],
                prompt=user["content"],
                answer=assistant["content"],
                verifier=Verifier.from_json(row["verifier"]),
                key=tuple(row["key"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"This row is not an example of the small world ({error!r}). Give it one user and one assistant "
                "message, and `skill`, `language`, `split`, `pair`, `key` and `verifier`."
            ) from error


def examples(skill: str, split: Split, count: int, seed: int) -> Iterator[Example]:
    """`count` items of `skill`, each in Chinese and then in English, so 2 * count examples, made when read.

    No prompt comes twice until the items of the split are nearly used up; after that items repeat, mostly in
    other wordings (addition, for one, has only 121 pairs of operands). Raises UserError for an unknown skill
    or split or a negative count.
    """
    check_request(split, count)
    pairs = item_stream(skill_named(skill), split, Random(f"{seed}/{split}/{skill}"))
    return (example for pair in islice(pairs, count) for example in pair)


def chats(skills: Sequence[str], split: Split, count: int, seed: int) -> Iterator[Example]:
    """`count` shuffled examples with equal shares of the two languages and of the skills; one named twice has two.

    Any 2 * len(skills) in a row, from the start on, hold one item for every name in both languages. Raises
    UserError for no skill, an unknown skill or split or a negative count.
    """
    check_request(split, count)
    if not skills:
        raise UserError("The small world was asked for chats about no skill. Name at least one skill.")
    streams = {name: item_stream(skill_named(name), split, Random(f"{seed}/{split}/{name}")) for name in skills}
    return islice(_mixed([streams[name] for name in skills], Random(f"{seed}/{split}/chats")), count)


def _mixed(streams: list[Iterator[tuple[Example, Example]]], rng: Random) -> Iterator[Example]:
    while True:
        block = [example for stream in streams for example in next(stream)]
        rng.shuffle(block)
        yield from block


def item_stream(skill: Skill, split: Split, rng: Random) -> Iterator[tuple[Example, Example]]:
    """An endless stream of items, each as its Chinese and its English example."""
    given: set[str] = set()
    index = 0
    while True:
        item = _fresh(skill, split, rng, given)
        if len(given) < REMEMBERED:
            given.update((item.zh.prompt, item.en.prompt))
        pair = f"{skill.name}-{split}-{index:06d}"
        zh, en = (_example(pair, skill.name, language, split, item) for language in LANGUAGES)
        yield zh, en
        index += 1


def _fresh(skill: Skill, split: Split, rng: Random, given: set[str]) -> Item:
    item = skill.draw(rng, split)
    for _ in range(REDRAWS):
        if item.zh.prompt not in given and item.en.prompt not in given:
            break
        item = skill.draw(rng, split)
    return item


def _example(pair: str, skill: str, language: Language, split: Split, item: Item) -> Example:
    turn = item.turn(language)
    return Example(pair, skill, language, split, turn.prompt, turn.answer, turn.verifier, item.key)
