"""The common shape of every skill of the small world: a key is drawn, then worded in both languages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from nano_llada.world.splits import Admits, Key, Language, Split, admitted_in, split_of
from nano_llada.world.verifier import Verifier


@dataclass(frozen=True)
class Turn:
    """One question in one language, a right answer to it, and the check for other right answers."""

    prompt: str
    answer: str
    verifier: Verifier


@dataclass(frozen=True)
class Item:
    """One question in both languages."""

    key: Key
    zh: Turn
    en: Turn

    def turn(self, language: Language) -> Turn:
        """The item as worded in `language`."""
        return self.zh if language == "zh" else self.en


def mentions_nothing(key: Key) -> tuple[Key, ...]:
    """For skills whose items state no other combination than the one asked about."""
    return ()


@dataclass(frozen=True)
class Skill:
    """How to make items of one skill.

    `propose` draws a key of any split; `mentions` gives the further combinations that stating this key gives
    away; `build` words the item, and takes into it no other combination than those its third argument admits.
    """

    name: str
    propose: Callable[[Random], Key]
    build: Callable[[Key, Random, Admits], Item]
    mentions: Callable[[Key], tuple[Key, ...]] = mentions_nothing

    def draw_key(self, rng: Random, split: Split) -> Key:
        """A random key of `split` that gives away nothing of the other held-out splits."""
        admits = admitted_in(split)
        while True:
            key = self.propose(rng)
            if split_of(key) == split and all(map(admits, self.mentions(key))):
                return key

    def draw(self, rng: Random, split: Split) -> Item:
        """A random item of `split`."""
        return self.build(self.draw_key(rng, split), rng, admitted_in(split))


def ask(rng: Random, templates: Sequence[str], fields: dict[str, str], *answers: str) -> Turn:
    """A turn worded by one of `templates`; the first of `answers` is the reference, the rest are right."""
    prompt = rng.choice(templates).format(**fields)
    return Turn(prompt, answers[0], Verifier("exact", answers))


def ask_steps(rng: Random, templates: Sequence[str], fields: dict[str, str], answer: str, *results: str) -> Turn:
    """A turn worded by one of `templates`; `answer` shows its steps, and any steps that end in a result are right."""
    return Turn(rng.choice(templates).format(**fields), answer, Verifier("final", results))
