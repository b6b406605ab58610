"""Skills about how the world is laid out: directions between places, and days, months and hours."""

from __future__ import annotations

from random import Random

from nano_llada.data.world.item import Item, Skill, ask
from nano_llada.data.world.splits import Admits, Key
from nano_llada.data.world.vocabulary import DAYS, DIRECTIONS, MONTHS, PLACES, find

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


def _direction_key(rng: Random) -> Key:
    first, second = sorted(word.en for word in rng.sample(PLACES, 2))
    return ("direction", first, rng.choice(DIRECTIONS).en, second)


def _direction(key: Key, rng: Random, admits: Admits) -> Item:
    first, way, second = map(find, key[1:])
    opposite = DIRECTIONS[(DIRECTIONS.index(way) + 4) % 8]
    if rng.random() < 0.5:
        # The same fact told from the other place.
        first, way, second, opposite = second, opposite, first, way
    asked, other, answer = (second, first, opposite) if rng.random() < 0.75 else (first, second, way)
    zh = {"a": first.zh, "b": second.zh, "way": way.zh, "asked": asked.zh, "other": other.zh}
    en = {"a": first.en, "b": second.en, "way": way.en, "asked": asked.en, "other": other.en}
    return Item(
        key,
        ask(rng, WHICH_WAY_ZH, zh, answer.zh, answer.zh.removesuffix("边"), f"在{answer.zh}"),
        ask(rng, WHICH_WAY_EN, en, answer.en),
    )


def _time_key(rng: Random) -> Key:
    unit = rng.choice(("day", "month", "hour"))
    starts = {"day": DAYS, "month": MONTHS}
    start = rng.choice(starts[unit]).en if unit in starts else str(rng.randint(1, 12))
    return ("time", unit, start, rng.choice(("before", "after")), str(rng.randint(1, 6)))


def _time(key: Key, rng: Random, admits: Admits) -> Item:
    _, unit, start, side, number = key
    steps = int(number) if side == "after" else -int(number)
    units = unit if number == "1" else f"{unit}s"
    zh = {"start": start, "side": "后" if side == "after" else "前", "n": number}
    en = {"start": start, "side": side, "n": number, "unit": units}
    if unit == "hour":
        hour = (int(start) + steps - 1) % 12 + 1
        return Item(
            key,
            ask(rng, LATER_ZH[unit], zh, f"{hour}点", str(hour)),
            ask(rng, LATER_EN[unit], en, f"{hour} o'clock", str(hour)),
        )
    cycle = DAYS if unit == "day" else MONTHS
    answer = cycle[(cycle.index(find(start)) + steps) % len(cycle)]
    zh["start"] = find(start).zh
    return Item(key, ask(rng, LATER_ZH[unit], zh, answer.zh), ask(rng, LATER_EN[unit], en, answer.en))


DIRECTION = Skill("direction", _direction_key, _direction)
TIME = Skill("time", _time_key, _time)
