"""Skills of a chat partner: answering in a given format, and knowing who it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

from nano_llada.world.item import Item, Skill, Turn, ask
from nano_llada.world.splits import Admits, Key
from nano_llada.world.verifier import Verifier
from nano_llada.world.vocabulary import CATEGORIES, COLOURS, OBJECTS, PEOPLE, find, row

JSON_ZH = ("写成JSON：{fields}。", "用JSON写：{fields}。")
JSON_EN = ("Write as JSON: {fields}.", "Give this as JSON: {fields}.")
NAME_ZH = ("正好说出{n}{measure}{things}{but}。", "请写{n}{measure}{things}{but}。")
NAME_EN = ("Name exactly {n} {things}{but}.", "Write exactly {n} {things}{but}.")


def _format_key(rng: Random) -> Key:
    kind = rng.choice(("age", "colour", "words"))
    if kind == "age":
        return ("format", kind, rng.choice(PEOPLE).en, str(rng.randint(1, 20)))
    if kind == "colour":
        return ("format", kind, rng.choice(OBJECTS).en, rng.choice(COLOURS).en)
    category, words = rng.choice(CATEGORIES)
    excluded = rng.choice(("none", *(word.en for word in words)))
    return ("format", kind, category.en, str(rng.randint(2, 4)), excluded)


def _format(key: Key, rng: Random, admits: Admits) -> Item:
    if key[1] == "words":
        return _words(key, rng)
    subject = find(key[2])
    if key[1] == "age":
        zh: dict[str, str | int] = {"名字": subject.zh, "年龄": int(key[3])}
        en: dict[str, str | int] = {"name": subject.en, "age": int(key[3])}
    else:
        zh = {"物品": subject.zh, "颜色": find(key[3]).zh}
        en = {"object": subject.en, "colour": find(key[3]).en}
    zh_fields = "，".join(f"{name} {value}" for name, value in zh.items())
    en_fields = ", ".join(f"{name} {value}" for name, value in en.items())
    return Item(key, _json(rng, JSON_ZH, zh_fields, zh), _json(rng, JSON_EN, en_fields, en))


def _json(rng: Random, templates: tuple[str, ...], fields: str, data: dict[str, str | int]) -> Turn:
    answer = json.dumps(data, ensure_ascii=False)
    return Turn(rng.choice(templates).format(fields=fields), answer, Verifier("json", (answer,)))


def _words(key: Key, rng: Random) -> Item:
    category, number, excluded = find(key[2]), int(key[3]), key[4]
    allowed = [word for word in dict(CATEGORIES)[category] if word.en != excluded]
    zh = {"n": key[3], "measure": category.measure, "things": category.zh, "but": ""}
    en = {"n": key[3], "things": category.plural, "but": ""}
    if excluded != "none":
        zh["but"], en["but"] = f"，不要{find(excluded).zh}", f", but not {excluded}"
    # The reference is always the first words of the category: any others are right, but these are learnable.
    return Item(
        key,
        Turn(
            rng.choice(NAME_ZH).format(**zh),
            row(allowed[:number], "zh"),
            Verifier("words", tuple(word.zh for word in allowed), number),
        ),
        Turn(
            rng.choice(NAME_EN).format(**en),
            row(allowed[:number], "en"),
            Verifier("words", tuple(word.en for word in allowed), number),
        ),
    )


@dataclass(frozen=True)
class Question:
    """One thing to ask about the model itself: wordings and right answers (the reference first)."""

    zh: tuple[str, ...]
    en: tuple[str, ...]
    answers_zh: tuple[str, ...]
    answers_en: tuple[str, ...]


NAMES_ZH = ("nano-llada", "我是nano-llada", "我叫nano-llada")
NAMES_EN = ("nano-llada", "I am nano-llada", "my name is nano-llada", "My name is nano-llada")
QUESTIONS = {
    "who": Question(("你是谁？", "请问你是谁？"), ("Who are you?", "Tell me who you are."), NAMES_ZH, NAMES_EN),
    "name": Question(
        ("你叫什么名字？", "你的名字是什么？"),
        ("What is your name?", "Tell me your name."),
        NAMES_ZH,
        NAMES_EN,
    ),
    "person": Question(
        ("你是人吗？", "你是一个人吗？"), ("Are you a person?", "Are you a human?"), ("不是",), ("no", "No")
    ),
    "model": Question(
        ("你是语言模型吗？", "你是一个模型吗？"),
        ("Are you a language model?", "Are you a model?"),
        ("是", "是的"),
        ("yes", "Yes"),
    ),
    "languages": Question(
        ("你会说什么语言？", "你会哪些语言？"),
        ("Which languages do you speak?", "What languages do you know?"),
        ("中文和英语", "英语和中文"),
        ("Chinese and English", "English and Chinese"),
    ),
}
GREETINGS = {
    "hello": ("你好。", "Hello."),
    "hi": ("嗨。", "Hi."),
    "morning": ("早上好。", "Good morning."),
    "evening": ("晚上好。", "Good evening."),
    "excuse": ("打扰一下。", "Excuse me."),
    "question": ("我有一个问题。", "I have a question."),
    "meet": ("很高兴见到你。", "Nice to meet you."),
    "thanks": ("谢谢你。", "Thank you."),
}
# This spelling of "no greeting" is one for which all five bare questions fall among the training items:
# they are what people type first, and must not be kept back.
BARE = "without"


def _identity_key(rng: Random) -> Key:
    opening = rng.choice((BARE, *GREETINGS, *(person.en for person in PEOPLE)))
    return ("identity", opening, rng.choice(tuple(QUESTIONS)))


def _opening(name: str) -> tuple[str, str]:
    if name == BARE:
        return "", ""
    if name in GREETINGS:
        zh, en = GREETINGS[name]
        return zh, f"{en} "
    person = find(name)
    return f"我是{person.zh}。", f"I am {person.en}. "


def _identity(key: Key, rng: Random, admits: Admits) -> Item:
    zh, en = _opening(key[1])
    question = QUESTIONS[key[2]]
    return Item(
        key,
        ask(rng, tuple(zh + wording for wording in question.zh), {}, *question.answers_zh),
        ask(rng, tuple(en + wording for wording in question.en), {}, *question.answers_en),
    )


FORMAT = Skill("format", _format_key, _format)
IDENTITY = Skill("identity", _identity_key, _identity)
