"""Small talk: what a new user may type before asking for a story, and honest answers to it."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from random import Random
from typing import NamedTuple

from nano_llada.core.errors import UserError
from nano_llada.world.splits import Language, Split, split_of
from nano_llada.world.stories.grammar import expanded

STOPS = ".!?。！？"
SLOT = re.compile(r"<(\w+)>")


class Talk(NamedTuple):
    """One exchange: what is typed, the answer, and every answer that is as good."""

    intent: str
    prompt: str
    answers: tuple[str, ...]


@cache
def _table(language: Language) -> tuple[dict[str, tuple[list[str], list[str]]], dict[str, list[str]]]:
    text = (files("nano_llada.world.stories") / "talk.txt").read_text(encoding="utf-8")
    intents: dict[str, tuple[list[str], list[str]]] = {}
    fillers: dict[str, list[str]] = {}
    intent = ""
    for line in text.splitlines():
        if line.startswith("== "):
            intent = line[3:].strip()
            intents[intent] = ([], [])
        elif line.startswith("%"):
            name, spoken, words = line[1:].split(" ", 2)
            if spoken == language:
                fillers[name] = words.split("|")
        elif line.startswith((f"q {language} ", f"a {language} ")):
            target = intents[intent][0 if line[0] == "q" else 1]
            target += dict.fromkeys(expanded(line[5:])) if line[0] == "q" else [line[5:]]
    return intents, fillers


def intents() -> tuple[str, ...]:
    """The names of all intents."""
    return tuple(_table("en")[0])


def talk(rng: Random, split: Split, language: Language, intent: str = "") -> Talk:
    """A random exchange whose prompt belongs to `split`.

    The plainest wording of each intent, which everybody types first, is always among those for training.
    """
    table, fillers = _table(language)
    while True:
        name = intent or rng.choice(tuple(table))
        wordings, answers = table[name]
        fitting = [text for text in wordings if _split(name, text, wordings[0]) == split]
        if fitting:
            break
        if intent:
            raise UserError(f"The intent {intent!r} has no wording in the {split} split.")
    wording = rng.choice(fitting)
    if rng.random() < 0.3:  # as people type: in small letters, without a stop
        wording = _plain(wording) if rng.random() < 0.5 else wording.rstrip(STOPS)
    values = {slot: rng.choice(fillers[slot]) for slot in SLOT.findall(wording + "".join(answers))}
    filled = [SLOT.sub(lambda match: values[match.group(1)], text) for text in (wording, *answers)]
    chosen = rng.choice(filled[1:])
    return Talk(name, filled[0], (chosen, *(text for text in filled[1:] if text != chosen)))


def _plain(wording: str) -> str:
    return wording.rstrip(STOPS).lower()


def _split(intent: str, wording: str, plainest: str) -> Split:
    """Wordings that differ in capitals and stops alone belong together; the plainest is always one for training."""
    return "train" if _plain(wording) == _plain(plainest) else split_of(("talk", intent, _plain(wording)))
