"""Skills about the text itself: recall what it says, copy it, reverse it, translate it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from nano_llada.world.item import Item, Skill, ask
from nano_llada.world.splits import Admits, Key, Split, split_of
from nano_llada.world.vocabulary import (
    ANIMALS,
    COLOURS,
    NAMES,
    NOUNS,
    OBJECTS,
    PEOPLE,
    PLACES,
    Word,
    find,
    row,
)


def has_key(rng: Random, people: Sequence[Word] = PEOPLE) -> Key:
    """A random possession: who, which colour, which object."""
    return ("recall", rng.choice(people).en, rng.choice(COLOURS).en, rng.choice(OBJECTS).en)


def at_key(rng: Random, people: Sequence[Word] = PEOPLE) -> Key:
    """A random whereabouts: who, which place."""
    return ("recall", rng.choice(people).en, rng.choice(PLACES).en)


def draw_fact(rng: Random, split: Split, people: Sequence[Word] = PEOPLE) -> Key:
    """A random possession or whereabouts of `split`."""
    while True:
        key = at_key(rng, people) if rng.random() < 0.3 else has_key(rng, people)
        if split_of(key) == split:
            return key


def fact(key: Key) -> tuple[str, str]:
    """The Chinese and the English sentence that states a recall key."""
    person = find(key[1])
    if len(key) == 3:
        place = find(key[2])
        return f"{person.zh}在{place.zh}。", f"{person.en} is at the {place.en}."
    colour, thing = find(key[2]), find(key[3])
    return (
        f"{person.zh}有一{thing.measure}{colour.zh}的{thing.zh}。",
        f"{person.en} has a {colour.en} {thing.en}.",
    )


def _recall_key(rng: Random) -> Key:
    """The facts of one text, the asked one first: `Tom/red/ball` or `Tom/school`, each about another person.

    The combination of facts is what is held out, not each fact: with few people and things a model learns by heart
    which facts never occur, and then does not believe the held-out ones in the text.
    """
    kind = at_key if rng.random() < 0.3 else has_key
    facts: list[Key] = []
    wanted = rng.choice((2, 3))
    while len(facts) < wanted:
        other = kind(rng, NAMES)
        if all(other[1] != known[1] and other[-1] != known[-1] for known in facts) and split_of(other) == "train":
            facts.append(other)
    asked, *others = ("/".join(known[1:]) for known in facts)
    return ("recall", asked, *sorted(others))


def _recall(key: Key, rng: Random, admits: Admits) -> Item:
    facts: list[Key] = [("recall", *stated.split("/")) for stated in key[1:]]
    asked = facts[0]
    rng.shuffle(facts)
    sentences = [fact(known) for known in facts]
    person = find(asked[1])
    zh = {"facts": "".join(chinese for chinese, _ in sentences), "who": person.zh}
    en = {"facts": " ".join(english for _, english in sentences), "who": person.en}
    told_zh, told_en = fact(asked)
    if len(asked) == 3:
        place = find(asked[2])
        return Item(
            key,
            ask(rng, WHERE_ZH, zh, told_zh, f"在{place.zh}", place.zh),
            ask(rng, WHERE_EN, en, told_en, f"at the {place.en}", f"the {place.en}"),
        )
    colour, thing = find(asked[2]), find(asked[3])
    zh["thing"], en["thing"] = f"{colour.zh}的{thing.zh}", f"{colour.en} {thing.en}"
    if rng.random() < 0.3:
        return Item(key, ask(rng, WHO_ZH, zh, told_zh, person.zh), ask(rng, WHO_EN, en, told_en, person.en))
    return Item(
        key,
        ask(rng, WHAT_ZH, zh, told_zh, f"一{thing.measure}{zh['thing']}", zh["thing"]),
        ask(rng, WHAT_EN, en, told_en, f"a {en['thing']}", en["thing"]),
    )


WHAT_ZH = ("{facts}问题：{who}有什么？", "{facts}{who}有什么？", "{facts}请说出{who}有什么。")
WHAT_EN = (
    "Read: {facts} Question: what does {who} have?",
    "Read: {facts} What does {who} have?",
    "Read: {facts} Tell me what {who} has.",
)
WHO_ZH = ("{facts}问题：谁有{thing}？", "{facts}谁有{thing}？")
WHO_EN = ("Read: {facts} Question: who has the {thing}?", "Read: {facts} Who has the {thing}?")
WHERE_ZH = ("{facts}问题：{who}在哪里？", "{facts}{who}在哪里？", "{facts}请说出{who}在哪里。")
WHERE_EN = (
    "Read: {facts} Question: where is {who}?",
    "Read: {facts} Where is {who}?",
    "Read: {facts} Tell me where {who} is.",
)


def _copy_key(rng: Random) -> Key:
    return ("copy", *(word.en for word in rng.sample(NOUNS, rng.randint(3, 5))))


def _copy(key: Key, rng: Random, admits: Admits) -> Item:
    words = [find(name) for name in key[1:]]
    zh, en = row(words, "zh"), row(words, "en")
    return Item(
        key,
        ask(rng, ("重复：{words}。", "请再说一遍：{words}。", "照着写：{words}。"), {"words": zh}, zh),
        ask(rng, ("Repeat: {words}.", "Say it again: {words}.", "Copy this: {words}."), {"words": en}, en),
    )


def _reversal_key(rng: Random) -> Key:
    return ("reversal", *(word.en for word in rng.sample(NOUNS, rng.randint(3, 4))))


def _reversal(key: Key, rng: Random, admits: Admits) -> Item:
    words = [find(name) for name in key[1:]]
    zh, en = {"words": row(words, "zh")}, {"words": row(words, "en")}
    back = words[::-1]
    return Item(
        key,
        ask(rng, ("倒着说：{words}。", "从后往前写：{words}。"), zh, row(back, "zh")),
        ask(rng, ("Say it backwards: {words}.", "Reverse the words: {words}."), en, row(back, "en")),
    )


def _translation_key(rng: Random) -> Key:
    return ("translation", rng.choice(COLOURS).en, rng.choice(OBJECTS + ANIMALS).en)


def _translation(key: Key, rng: Random, admits: Admits) -> Item:
    colour, thing = find(key[1]), find(key[2])
    # Red is 红色 but also just 红: both are right Chinese before 的.
    short = colour.zh.removesuffix("色")
    number = rng.choice((0, *range(2, 10)))
    many = f"{number}{thing.measure}" if number else ""
    zh = (f"{many}{colour.zh}的{thing.zh}", f"{many}{colour.zh}{thing.zh}", f"{many}{short}{thing.zh}")
    en = f"{number} {colour.en} {thing.plural}" if number else f"{colour.en} {thing.en}"
    return Item(
        key,
        ask(
            rng,
            ("用英语说：{words}。", "翻译成英语：{words}。", "{words}，英语怎么说？"),
            {"words": zh[0]},
            en,
        ),
        ask(
            rng,
            ("Say in Chinese: {words}.", "Put into Chinese: {words}.", "What is {words} in Chinese?"),
            {"words": en},
            *zh,
        ),
    )


RECALL = Skill("recall", _recall_key, _recall)
COPY = Skill("copy", _copy_key, _copy)
REVERSAL = Skill("reversal", _reversal_key, _reversal)
TRANSLATION = Skill("translation", _translation_key, _translation)
