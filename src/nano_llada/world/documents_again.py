"""Texts that say something again or ask for it: what a model learns to look things up from."""

from __future__ import annotations

from random import Random

from nano_llada.world.skills_text import draw_fact, fact
from nano_llada.world.splits import Key, Split
from nano_llada.world.vocabulary import COLOURS, DIRECTIONS, NAMES, NOUNS, PLACES, find

Both = tuple[str, str]  # in Chinese and in English
AGAIN = 6  # pairs that are looked up in one text
RETOLD = 4  # facts that are told or asked about again in one text


def joined(sentences: list[Both]) -> Both:
    """Sentences one after the other, in both languages."""
    return "".join(zh for zh, _ in sentences), " ".join(en for _, en in sentences)


def retold(rng: Random, split: Split) -> Both:
    """Facts, and then any of them again, told or asked about: what recall needs, many times in one text."""
    known: dict[str, Key] = {}
    while len(known) < 3:
        key = draw_fact(rng, split, NAMES)
        if key[1] not in known and all(key[-1] != other[-1] for other in known.values()):
            known[key[1]] = key
    again = [rng.choice(list(known.values())) for _ in range(RETOLD)]
    return joined([fact(key) for key in known.values()] + [_told_again(key, rng) for key in again])


def lookup(rng: Random, split: Split) -> Both:
    """Words with another word each, then some of them again: looking something up, and nothing else.

    Any pair may come again, and more than once: if each did once, a model would learn to leave out what it has had, and
    never to look. In half of the texts the two words are side by side, which is where lookup is learnt first.
    """
    keys = rng.sample(NAMES + NOUNS + PLACES, rng.randint(2, 5))
    pairs = list(zip(keys, rng.sample(NOUNS + PLACES + COLOURS + DIRECTIONS, len(keys)), strict=True))
    zh_between, en_between = rng.choice((("", " "), ("：", ": ")))
    zh, en = [], []
    for told in (pairs, [rng.choice(pairs) for _ in range(AGAIN)]):
        zh.append("，".join(f"{key.zh}{zh_between}{value.zh}" for key, value in told))
        en.append(", ".join(f"{key.en}{en_between}{value.en}" for key, value in told))
    return f"看，{'。'.join(zh)}。", f"Look, {'. '.join(en)}."


def _told_again(key: Key, rng: Random) -> Both:
    way, person = rng.choice(("told", "what", "who")), find(key[1])
    told_zh, told_en = fact(key)
    if way == "told":
        return told_zh, told_en
    if len(key) == 3:
        return f"{person.zh}在哪里？{told_zh}", f"Where is {person.en}? {told_en}"
    if way == "who":
        colour, thing = find(key[2]), find(key[3])
        return f"谁有{colour.zh}的{thing.zh}？{told_zh}", f"Who has the {colour.en} {thing.en}? {told_en}"
    return f"{person.zh}有什么？{told_zh}", f"What does {person.en} have? {told_en}"
