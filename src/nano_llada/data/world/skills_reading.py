"""Reading: three facts of different kinds about three people, and a question that one of them answers."""

from __future__ import annotations

from random import Random

from nano_llada.data.world.item import Item, Skill, Turn, ask
from nano_llada.data.world.skills_text import at_key, fact, has_key
from nano_llada.data.world.splits import Admits, Key
from nano_llada.data.world.vocabulary import PEOPLE, find

OLDEST = 20
KINDS = ("what", "who has", "where", "who is at", "how old", "who is that old")
ASKED_ZH = {
    "what": ("{facts}{who}有什么？", "{facts}问题：{who}有什么？"),
    "who has": ("{facts}谁有{what}？", "{facts}问题：谁有{what}？"),
    "where": ("{facts}{who}在哪里？", "{facts}问题：{who}在哪里？"),
    "who is at": ("{facts}谁在{what}？", "{facts}问题：谁在{what}？"),
    "how old": ("{facts}{who}几岁？", "{facts}问题：{who}几岁？"),
    "who is that old": ("{facts}谁{what}岁？", "{facts}问题：谁{what}岁？"),
}
ASKED_EN = {
    "what": ("Read: {facts} What does {who} have?", "Read: {facts} Question: what does {who} have?"),
    "who has": ("Read: {facts} Who has the {what}?", "Read: {facts} Question: who has the {what}?"),
    "where": ("Read: {facts} Where is {who}?", "Read: {facts} Question: where is {who}?"),
    "who is at": ("Read: {facts} Who is at the {what}?", "Read: {facts} Question: who is at the {what}?"),
    "how old": ("Read: {facts} How old is {who}?", "Read: {facts} Question: how old is {who}?"),
    "who is that old": ("Read: {facts} Who is {what} years old?", "Read: {facts} Question: who is {what} years old?"),
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
    person, backwards = find(key[1]), rng.random() < 0.5
    answers_zh: tuple[str, ...]
    answers_en: tuple[str, ...]
    if key[0] == "age":
        kind, zh, en = "how old", key[2], key[2]
        answers_zh, answers_en = (f"{zh}岁", zh), (en, f"{en} years old")
    elif len(key) == 3:
        kind, zh, en = "where", find(key[2]).zh, key[2]
        answers_zh, answers_en = (f"在{zh}", zh), (f"at the {en}", f"the {en}")
    else:
        colour, thing = find(key[2]), find(key[3])
        kind, zh, en = "what", f"{colour.zh}的{thing.zh}", f"{colour.en} {thing.en}"
        answers_zh, answers_en = (f"一{thing.measure}{zh}", zh), (f"a {en}", en)
    if backwards:
        kind = KINDS[KINDS.index(kind) + 1]
        answers_zh, answers_en = (person.zh,), (person.en,)
    return Item(
        key,
        _asked(rng, ASKED_ZH[kind], "".join(c for c, _ in told), person.zh, zh, answers_zh),
        _asked(rng, ASKED_EN[kind], " ".join(e for _, e in told), person.en, en, answers_en),
    )


def _asked(rng: Random, templates: tuple[str, ...], facts: str, who: str, what: str, answers: tuple[str, ...]) -> Turn:
    return ask(rng, templates, {"facts": facts, "who": who, "what": what}, *answers)


READING = Skill("reading", _key, _reading)
