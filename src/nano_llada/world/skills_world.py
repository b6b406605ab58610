"""Skills about how the world is laid out: directions between places, and days, months and hours."""

from __future__ import annotations

from random import Random

from nano_llada.world.item import Item, Skill, ask, ask_steps
from nano_llada.world.splits import LANGUAGES, Admits, Key, Language
from nano_llada.world.steps import Walk
from nano_llada.world.vocabulary import ANIMALS, DAYS, DIRECTIONS, MONTHS, OBJECTS, PLACES, Word, find

WHICH_WAY_ZH = (
    "{a}在{b}的{way}。{asked}在{other}的哪边？",
    "{a}在{b}的{way}。问题：{asked}在{other}的哪边？",
)
WHICH_WAY_EN = (
    "The {a} is {way} of the {b}. Where is the {asked} from the {other}?",
    "The {a} is {way} of the {b}. Question: where is the {asked} from the {other}?",
)
LATER_ZH = {
    "day": ("请问{start}之{side}{n}天是星期几？", "从{start}往{side}数{n}天是星期几？"),
    "month": ("请问{start}之{side}{n}个月是几月？", "从{start}往{side}数{n}个月是几月？"),
    "hour": ("现在是{start}点。{n}小时之{side}是几点？", "钟上是{start}点。{n}小时之{side}是几点？"),
}
LATER_EN = {
    "day": ("Which day is {n} {unit} {side} {start}?", "What day is {n} {unit} {side} {start}?"),
    "month": ("Which month is {n} {unit} {side} {start}?", "What month is {n} {unit} {side} {start}?"),
    "hour": (
        "It is {start} o'clock. What time is it {n} {unit} {side} that?",
        "The clock says {start}. What time is it {n} {unit} {side} that?",
    ),
}
CYCLES: dict[str, tuple[Word, ...]] = {
    "day": DAYS,
    "month": MONTHS,
    "hour": tuple(Word(str(hour), str(hour)) for hour in range(1, 13)),
}


# What can lie this way or that of something else: with the eight places alone, the few pairs are learnt by heart.
LANDMARKS = PLACES + OBJECTS + ANIMALS


def _direction_key(rng: Random) -> Key:
    """Two landmarks in the order of LANDMARKS. The direction is not part of the key: a model that had read all but one
    of the directions between two of them would learn which one never occurs, and not believe it in a text.
    """
    first, second = sorted(rng.sample(range(len(LANDMARKS)), 2))
    return ("direction", LANDMARKS[first].en, LANDMARKS[second].en)


def _direction(key: Key, rng: Random, admits: Admits) -> Item:
    first, second = rng.sample([find(name) for name in key[1:]], 2)
    way = rng.choice(DIRECTIONS)
    opposite = DIRECTIONS[(DIRECTIONS.index(way) + 4) % 8]
    asked, other, answer = (second, first, opposite) if rng.random() < 0.75 else (first, second, way)
    zh = {"a": first.zh, "b": second.zh, "way": way.zh, "asked": asked.zh, "other": other.zh}
    en = {"a": first.en, "b": second.en, "way": way.en, "asked": asked.en, "other": other.en}
    return Item(
        key,
        ask(rng, WHICH_WAY_ZH, zh, answer.zh, answer.zh.removesuffix("边"), f"在{answer.zh}"),
        ask(rng, WHICH_WAY_EN, en, answer.en),
    )


def _time_key(rng: Random) -> Key:
    unit = rng.choice(tuple(CYCLES))
    return ("time", unit, rng.choice(CYCLES[unit]).en, rng.choice(("before", "after")), str(rng.randint(1, 6)))


def _time(key: Key, rng: Random, admits: Admits) -> Item:
    _, unit, start, side, number = key
    walks = [time_walk(key, language) for language in LANGUAGES]
    zh = {"start": walks[0].start, "side": "后" if side == "after" else "前", "n": number}
    en = {"start": start, "side": side, "n": number, "unit": unit if number == "1" else f"{unit}s"}
    asked = ((LATER_ZH[unit], zh), (LATER_EN[unit], en))
    turns = []
    for walk, (templates, fields) in zip(walks, asked, strict=True):
        place = walk.names[walk.steps - 1]
        turns.append(ask_steps(rng, templates, fields, walk.answer(), *dict.fromkeys((place + walk.unit, place))))
    return Item(key, *turns)


def time_walk(key: Key, language: Language) -> Walk:
    """From a day, month or hour of a time key on, or back, going round; there is one more name than steps."""
    _, unit, start, side, number = key
    cycle = CYCLES[unit]
    begin = [word.en for word in cycle].index(start)
    ahead = 1 if side == "after" else -1
    names = [cycle[(begin + ahead * step) % len(cycle)].text(language) for step in range(int(number) + 2)]
    clock = {"zh": "点", "en": " o'clock"}[language] if unit == "hour" else ""
    return Walk(names[0], tuple(names[1:]), int(number), unit=clock)


DIRECTION = Skill("direction", _direction_key, _direction)
TIME = Skill("time", _time_key, _time)
