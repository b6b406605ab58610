"""The fill-in-the-middle skill: one missing piece that the text before and after the gap determines."""

from __future__ import annotations

from random import Random

from nano_llada.world.item import Item, Skill, ask
from nano_llada.world.splits import Admits, Key
from nano_llada.world.vocabulary import COLOURS, DAYS, MONTHS, OBJECTS, PEOPLE, PLACES, find


def _infill_key(rng: Random) -> Key:
    kind = rng.choice(("numbers", "numbers", "days", "months", "give", "go"))
    if kind == "numbers":
        return ("infill", kind, str(rng.randint(0, 20)), str(rng.randint(2, 5)), rng.choice(("up", "down")))
    if kind in ("days", "months"):
        cycle = DAYS if kind == "days" else MONTHS
        return ("infill", kind, rng.choice(cycle).en, str(rng.randint(1, 3)))
    people = [word.en for word in rng.sample(PEOPLE, 2)]
    if kind == "give":
        return ("infill", kind, *people, rng.choice(COLOURS).en, rng.choice(OBJECTS).en)
    return ("infill", kind, people[0], *(word.en for word in rng.sample(PLACES, 2)))


def _infill_mentions(key: Key) -> tuple[Key, ...]:
    if key[1] == "give":
        return (("recall", key[2], *key[4:]), ("recall", key[3], *key[4:]))
    if key[1] == "go":
        return (("recall", key[2], key[3]), ("recall", key[2], key[4]))
    return ()


def story(key: Key) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """The three sentences, in Chinese and in English, of an infill key about giving or going."""
    if key[1] == "give":
        giver, taker, colour, thing = map(find, key[2:])
        return (
            f"{giver.zh}有一{thing.measure}{colour.zh}的{thing.zh}。",
            f"{giver.zh}把{thing.zh}给了{taker.zh}。",
            f"现在{taker.zh}有{colour.zh}的{thing.zh}。",
        ), (
            f"{giver.en} had a {colour.en} {thing.en}.",
            f"{giver.en} gave the {thing.en} to {taker.en}.",
            f"Now {taker.en} has the {colour.en} {thing.en}.",
        )
    person, old, new = map(find, key[2:])
    return (
        f"{person.zh}刚才在{old.zh}。",
        f"{person.zh}去了{new.zh}。",
        f"现在{person.zh}在{new.zh}。",
    ), (
        f"{person.en} was at the {old.en}.",
        f"{person.en} went to the {new.en}.",
        f"Now {person.en} is at the {new.en}.",
    )


def progression(key: Key) -> list[str]:
    """The five numbers of an infill key about numbers, rising or falling by even steps of 2 to 5."""
    low, step = int(key[2]), int(key[3])
    numbers = [str(low + step * place) for place in range(5)]
    return numbers if key[4] == "up" else numbers[::-1]


def _infill(key: Key, rng: Random, admits: Admits) -> Item:
    if key[1] in ("give", "go"):
        (zh_first, zh_gap, zh_last), (en_first, en_gap, en_last) = story(key)
        zh, en = f"{zh_first}___{zh_last}", f"{en_first} ___ {en_last}"
        return Item(key, ask(rng, GAP_ZH, {"text": zh}, zh_gap), ask(rng, GAP_EN, {"text": en}, en_gap))
    if key[1] == "numbers":
        zh_words = en_words = progression(key)
        gap = rng.randint(1, 3)
    else:
        cycle = DAYS if key[1] == "days" else MONTHS
        start = cycle.index(find(key[2]))
        words = [cycle[(start + place) % len(cycle)] for place in range(5)]
        zh_words, en_words = [word.zh for word in words], [word.en for word in words]
        gap = int(key[3])
    return Item(
        key,
        ask(rng, GAP_ZH, {"text": _gapped(zh_words, gap) + "。"}, zh_words[gap]),
        ask(rng, GAP_EN, {"text": _gapped(en_words, gap) + "."}, en_words[gap]),
    )


def _gapped(words: list[str], gap: int) -> str:
    return " ".join((*words[:gap], "___", *words[gap + 1 :]))


GAP_ZH = ("填空：{text}", "请补上___：{text}")
GAP_EN = ("Fill the gap: {text}", "What is missing? {text}")

INFILL = Skill("infill", _infill_key, _infill, _infill_mentions)
