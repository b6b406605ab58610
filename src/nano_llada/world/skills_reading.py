"""Reading: three facts of different kinds about three people, and a question that one of them answers."""

from __future__ import annotations

from random import Random

from nano_llada.world.item import Item, Skill, ask
from nano_llada.world.skills_text import at_key, fact, has_key
from nano_llada.world.splits import Admits, Key
from nano_llada.world.vocabulary import PEOPLE, find

OLDEST = 20
ASKED_ZH = {
    "what": ("{facts}{who}有什么？", "{facts}问题：{who}有什么？"),
    "where": ("{facts}{who}在哪里？", "{facts}问题：{who}在哪里？"),
    "how old": ("{facts}{who}几岁？", "{facts}问题：{who}几岁？"),
}
ASKED_EN = {
    "what": ("Read: {facts} What does {who} have?", "Read: {facts} Question: what does {who} have?"),
    "where": ("Read: {facts} Where is {who}?", "Read: {facts} Question: where is {who}?"),
    "how old": ("Read: {facts} How old is {who}?", "Read: {facts} Question: how old is {who}?"),
}


def _age_key(rng: Random) -> Key:
    return ("age", rng.choice(PEOPLE).en, str(rng.randint(1, OLDEST)))


def _stated(key: Key) -> tuple[str, str]:
    """A fact of any kind, in both languages."""
    if key[0] != "age":
        return fact(key)
    return f"{find(key[1]).zh}{key[2]}岁。", f"{key[1]} is {key[2]} years old."


def _key(rng: Random) -> Key:
    return rng.choice((has_key, at_key, _age_key))(rng)


def _facts(key: Key, rng: Random, admits: Admits) -> list[Key]:
    """The asked fact and one of each other kind, about other people, in random order."""
    facts = [key]
    for draw in (has_key, at_key, _age_key):
        other = draw(rng)
        if (len(other), other[0]) == (len(key), key[0]):
            continue
        while not admits(other) or any(other[1] == known[1] for known in facts):
            other = draw(rng)
        facts.append(other)
    rng.shuffle(facts)
    return facts


def _reading(key: Key, rng: Random, admits: Admits) -> Item:
    told = [_stated(known) for known in _facts(key, rng, admits)]
    zh = {"facts": "".join(chinese for chinese, _ in told), "who": find(key[1]).zh}
    en = {"facts": " ".join(english for _, english in told), "who": key[1]}
    if key[0] == "age":
        kind, answers_zh, answers_en = "how old", (f"{key[2]}岁", key[2]), (key[2], f"{key[2]} years old")
    elif len(key) == 3:
        place = find(key[2])
        kind, answers_zh, answers_en = "where", (f"在{place.zh}", place.zh), (f"at the {place.en}", f"the {place.en}")
    else:
        colour, thing = find(key[2]), find(key[3])
        owned_zh, owned_en = f"{colour.zh}的{thing.zh}", f"{colour.en} {thing.en}"
        kind, answers_zh, answers_en = "what", (f"一{thing.measure}{owned_zh}", owned_zh), (f"a {owned_en}", owned_en)
    return Item(key, ask(rng, ASKED_ZH[kind], zh, *answers_zh), ask(rng, ASKED_EN[kind], en, *answers_en))


READING = Skill("reading", _key, _reading)
