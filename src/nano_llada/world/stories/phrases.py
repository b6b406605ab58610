"""Connectives and expressions of time: what may stand before a sentence in each language."""

from __future__ import annotations

import re
from functools import cache

from nano_llada.world.splits import Language
from nano_llada.world.stories.lexicon import PARTS, PARTS_ZH

Time = tuple[str, str, str]  # (one | next | same, part of the day, weather or "any")

CONNECTIVES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "then": ("", "", "", "Then ", "After that, ", "Next, "),
        "so": ("", "So ", "So "),
        "but": ("But ", "But ", "However, "),
        "sudden": ("Suddenly, ", "Just then, ", "All at once, "),
        "now": ("", "Just then, "),
        "later": ("After a while, ", "A little later, ", "Before long, ", "Soon "),
        "luck": ("Luckily, ", "Fortunately, "),
        "pity": ("Unfortunately, ", "Sadly, ", "But "),
        "end": ("In the end, ", "At last, ", "Finally, "),
        "too": ("",),
    },
    "zh": {
        "then": ("", "", "", "然后，", "接着，", "随后，"),
        "so": ("", "于是，", "于是"),
        "but": ("可是，", "但是，", "不过，", "可是"),
        "sudden": ("突然，", "忽然，", "就在这时，", "这时，"),
        "now": ("", "就在这时，", "这时，"),
        "later": ("过了一会儿，", "后来，", "不久，"),
        "luck": ("幸好，", "还好，"),
        "pity": ("可惜，", "不巧的是，", "可是，"),
        "end": ("最后，", "终于，", "到了最后，"),
        "too": ("",),
    },
}
JOINTS: dict[Language, tuple[str, ...]] = {"en": (" and ", " and then "), "zh": ("，", "，然后")}
WEATHER_ZH = {"sunny": "晴朗的", "rainy": "下着雨的", "windy": "刮着风的", "snowy": "下着雪的", "cloudy": "阴沉沉的"}


@cache
def prefixes(language: Language) -> dict[Time, tuple[str, ...]]:
    """Ways to say when the next event happens, to be put before its sentence."""
    return _prefixes_en() if language == "en" else _prefixes_zh()


@cache
def statements(language: Language) -> dict[Time, tuple[str, ...]]:
    """Whole sentences (without the stop) that say what time and weather it is."""
    found: dict[Time, tuple[str, ...]] = {}
    for part in PARTS:
        for weather, chinese in WEATHER_ZH.items():
            if language == "en":
                found["one", part, weather] = (f"It was a {weather} {part}", f"It was {weather} that {part}")
                found["next", part, weather] = (
                    f"The next {part} was {weather}",
                    f"The {part} of the next day was {weather}",
                )
            else:
                word = PARTS_ZH[part][0]
                found["one", part, weather] = (f"这是一个{chinese}{word}", f"那是一个{chinese}{word}")
                found["next", part, weather] = (f"第二天是一个{chinese}{word}",)
    return found


def _prefixes_en() -> dict[Time, tuple[str, ...]]:
    found: dict[Time, tuple[str, ...]] = {}
    for part in PARTS:
        found["one", part, "any"] = (f"One {part}, ",)
        found["next", part, "any"] = (f"The next {part}, ", f"The following {part}, ")
        found["same", part, "any"] = (f"That {part}, ", f"In the {part}, ", f"Later, in the {part}, ")
        for weather in WEATHER_ZH:
            found["one", part, weather] = (f"One {weather} {part}, ", f"On a {weather} {part}, ")
            found["next", part, weather] = (f"The next day, on a {weather} {part}, ",)
    found["one", "morning", "any"] += ("One day, ",)
    found["next", "morning", "any"] += ("The next day, ",)
    return found


def _prefixes_zh() -> dict[Time, tuple[str, ...]]:
    found: dict[Time, tuple[str, ...]] = {}
    for part in PARTS:
        words = PARTS_ZH[part]
        found["one", part, "any"] = tuple(f"{head}{word}，" for word in words for head in ("一天", "有一天"))
        found["next", part, "any"] = tuple(f"第二天{word}，" for word in words)
        found["same", part, "any"] = tuple(f"{head}{word}，" for word in words for head in ("到了", "那天"))
        for weather, chinese in WEATHER_ZH.items():
            found["one", part, weather] = tuple(f"{head}一个{chinese}{word}，" for word in words for head in ("", "在"))
            found["next", part, weather] = (f"第二天，在一个{chinese}{words[0]}，",)
    found["one", "morning", "any"] += ("有一天，", "一天，")
    found["next", "morning", "any"] += ("第二天，",)
    return found


@cache
def times_said(language: Language) -> dict[str, Time]:
    """The inverse of `prefixes` and `statements`."""
    found = {text: time for time, texts in prefixes(language).items() for text in texts}
    return found | {text: time for time, texts in statements(language).items() for text in texts}


@cache
def opening(language: Language) -> re.Pattern[str]:
    """What may precede a sentence: a time (group 1) or a connective (group 2)."""
    times = [text for texts in prefixes(language).values() for text in texts]
    links = {text for texts in CONNECTIVES[language].values() for text in texts if text}
    order = sorted(times, key=len, reverse=True), sorted(links, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, order[0]))})|({'|'.join(map(re.escape, order[1]))})")
