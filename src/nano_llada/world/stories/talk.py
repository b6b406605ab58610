"""Small talk: what a new user may type before asking for a story, and honest answers to it."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from random import Random
from typing import NamedTuple

from nano_llada.data.world.splits import Language, Split, admitted_in
from nano_llada.world.stories.grammar import expanded

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
    admits = admitted_in(split)
    intent = intent or rng.choice(tuple(table))
    wordings, answers = table[intent]
    for _ in range(200):
        wording = rng.choice(wordings)
        first = split == "train" and wording == wordings[0]
        # Only wordings of the split itself: a held-out prompt must not be one for training.
        if first or (admits(key := ("talk", intent, wording)) and _own(key, split)):
            break
    values = {name: rng.choice(fillers[name]) for name in SLOT.findall(wording + answers[0] + answers[1])}
    filled = [SLOT.sub(lambda match: values[match.group(1)], text) for text in (wording, *answers)]
    chosen = rng.choice(filled[1:])
    return Talk(intent, filled[0], (chosen, *(text for text in filled[1:] if text != chosen)))


def _own(key: tuple[str, ...], split: Split) -> bool:
    return admitted_in("train")(key) == (split == "train")
