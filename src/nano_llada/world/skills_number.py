"""Skills about numbers and order: counting, adding, taking away, comparing and sorting."""

from __future__ import annotations

from random import Random

from nano_llada.world.item import Item, Skill, ask, ask_steps
from nano_llada.world.splits import LANGUAGES, Admits, Key, Language
from nano_llada.world.steps import Walk, tally
from nano_llada.world.vocabulary import ANIMALS, DAYS, FRUITS, MONTHS, PEOPLE, find, row, some

LARGEST = 20
COUNT_ZH = ("数一数{one}：{words}。", "有几{measure}{one}？{words}。", "看：{words}。有几{measure}{one}？")
COUNT_EN = (
    "Count the word {one}: {words}.",
    "How many times is {one} here? {words}.",
    "Look: {words}. How many times do you see {one}?",
)
PLUS_ZH = (
    "计算：{a} + {b} = ?",
    "请问{a}加{b}等于几？",
    "{who}有{some}，又买了{more}。{who}一共有几{measure}{thing}？",
)
PLUS_EN = (
    "Work out: {a} + {b} = ?",
    "What is {a} plus {b}?",
    "{who} has {some} and buys {b} more. How many {things} does {who} have now?",
)
MINUS_ZH = (
    "计算：{a} - {b} = ?",
    "请问{a}减{b}等于几？",
    "{who}有{some}，吃了{more}。{who}还有几{measure}{thing}？",
)
MINUS_EN = (
    "Work out: {a} - {b} = ?",
    "What is {a} minus {b}?",
    "{who} has {some} and eats {b} of them. How many {things} does {who} have now?",
)
MORE_ZH = ("{facts}谁的{thing}多？", "{facts}问题：谁的{thing}更多？")
MORE_EN = ("Read: {facts} Who has more {things}?", "Read: {facts} Question: who has more?")
LARGER_ZH = ("{facts}哪个数字大？", "{facts}问题：哪个数字更大？")
LARGER_EN = ("Read: {facts} Which number is larger?", "Read: {facts} Question: which number is larger?")
SORT = {
    "numbers": (
        ("从小到大排列：{words}。", "按大小排好：{words}。"),
        ("Sort from small to large: {words}.", "Put the numbers in order: {words}."),
    ),
    "days": (
        ("从星期一开始排列：{words}。", "按先后排好：{words}。"),
        ("Sort from Monday on: {words}.", "Put the days in order: {words}."),
    ),
    "months": (
        ("从一月开始排列：{words}。", "按先后排好：{words}。"),
        ("Sort from January on: {words}.", "Put the months in order: {words}."),
    ),
}


def _counting_key(rng: Random) -> Key:
    asked, other = rng.sample(ANIMALS + FRUITS, 2)
    length = rng.randint(3, 6)
    number = rng.randint(1, length - 1)
    words = [asked.en] * number + [other.en] * (length - number)
    rng.shuffle(words)
    return ("counting", asked.en, *words)


def _counting(key: Key, rng: Random, admits: Admits) -> Item:
    asked, words = find(key[1]), [find(name) for name in key[2:]]
    number = words.count(asked)
    told_zh, told_en = (tally(*counted(key, language)) for language in LANGUAGES)
    zh = {"one": asked.zh, "measure": asked.measure, "words": row(words, "zh")}
    en = {"one": asked.en, "words": row(words, "en")}
    return Item(
        key,
        ask_steps(rng, COUNT_ZH, zh, told_zh, str(number), f"{number}{asked.measure}", some(number, asked, "zh")),
        ask_steps(rng, COUNT_EN, en, told_en, str(number), some(number, asked, "en")),
    )


def counted(key: Key, language: Language) -> tuple[list[str], list[bool]]:
    """The words of a counting key in `language`, and which of them are to be counted."""
    return [find(name).text(language) for name in key[2:]], [name == key[1] for name in key[2:]]


def _addition_key(rng: Random) -> Key:
    total = rng.randint(0, LARGEST)
    first = rng.randint(0, total)
    return ("addition", *map(str, sorted((first, total - first))))


def _addition(key: Key, rng: Random, admits: Admits) -> Item:
    first, second = rng.sample([int(operand) for operand in key[1:]], 2)
    zh, en = _sum_fields(rng, first, second)
    told, total = addition_walk(key).answer(), str(first + second)
    return Item(key, ask_steps(rng, PLUS_ZH, zh, told, total), ask_steps(rng, PLUS_EN, en, told, total))


def addition_walk(key: Key) -> Walk:
    """From the larger operand of an addition key on, as many steps as the smaller one says."""
    smaller, larger = sorted(int(operand) for operand in key[1:])
    return Walk(str(larger), _numbers(larger + 1, larger + smaller + 1), smaller)


def _subtraction_key(rng: Random) -> Key:
    first = rng.randint(0, LARGEST)
    return ("subtraction", str(first), str(rng.randint(0, first)))


def _subtraction(key: Key, rng: Random, admits: Admits) -> Item:
    first, second = int(key[1]), int(key[2])
    zh, en = _sum_fields(rng, first, second)
    told, rest = subtraction_walk(key).answer(), str(first - second)
    return Item(key, ask_steps(rng, MINUS_ZH, zh, told, rest), ask_steps(rng, MINUS_EN, en, told, rest))


def subtraction_walk(key: Key) -> Walk:
    """Back by a number of one digit that is taken away; from one of two digits on up to the first, counting the steps.

    So a way is never longer than ten steps, and which of the two it is can be seen from one number alone.
    """
    first, second = int(key[1]), int(key[2])
    if second < 10:
        return Walk(str(first), _numbers(first - 1, first - second - 1), second)
    return Walk(str(second), _numbers(second + 1, first + 1), first - second, counts=True)


def _numbers(start: int, end: int) -> tuple[str, ...]:
    """The numbers from `start` to `end`, up or down, as far as the world's numbers go."""
    numbers = range(start, end + 1) if start <= end else range(start, end - 1, -1)
    return tuple(str(number) for number in numbers if 0 <= number <= LARGEST)


def _sum_fields(rng: Random, first: int, second: int) -> tuple[dict[str, str], dict[str, str]]:
    who, thing = rng.choice(PEOPLE), rng.choice(FRUITS)
    numbers = {"a": str(first), "b": str(second)}
    zh = {"who": who.zh, "thing": thing.zh, "measure": thing.measure, "some": some(first, thing, "zh")}
    en = {"who": who.en, "things": thing.plural, "some": some(first, thing, "en")}
    return zh | numbers | {"more": f"{second}{thing.measure}"}, en | numbers


def _comparison_key(rng: Random) -> Key:
    people = sorted(word.en for word in rng.sample(PEOPLE, 2))
    numbers = map(str, rng.sample(range(1, LARGEST + 1), 2))
    return ("comparison", people[0], next(numbers), people[1], next(numbers))


def _comparison(key: Key, rng: Random, admits: Admits) -> Item:
    _, first, first_number, second, second_number = key
    owners = [(find(first), int(first_number)), (find(second), int(second_number))]
    rng.shuffle(owners)
    thing = rng.choice(FRUITS)
    winner, largest = max(owners, key=lambda owner: owner[1])
    zh = {"facts": "".join(f"{who.zh}有{some(n, thing, 'zh')}。" for who, n in owners), "thing": thing.zh}
    en = {
        "facts": " ".join(f"{who.en} has {some(n, thing, 'en')}." for who, n in owners),
        "things": thing.plural,
    }
    if rng.random() < 0.3:
        return Item(key, ask(rng, LARGER_ZH, zh, str(largest)), ask(rng, LARGER_EN, en, str(largest)))
    return Item(key, ask(rng, MORE_ZH, zh, winner.zh), ask(rng, MORE_EN, en, winner.en))


def _ordering_key(rng: Random) -> Key:
    length = rng.randint(3, 4)
    kind = rng.choice(("numbers", "numbers", "days", "months"))
    if kind == "numbers":
        return ("ordering", kind, *map(str, sorted(rng.sample(range(1, LARGEST + 1), length))))
    cycle = DAYS if kind == "days" else MONTHS
    return ("ordering", kind, *(cycle[place].en for place in sorted(rng.sample(range(len(cycle)), length))))


def in_order(key: Key) -> tuple[str, str]:
    """The numbers, days or months of an ordering key in their right order, in Chinese and in English."""
    if key[1] == "numbers":
        return " ".join(key[2:]), " ".join(key[2:])
    words = [find(name) for name in key[2:]]
    return row(words, "zh"), row(words, "en")


def _ordering(key: Key, rng: Random, admits: Admits) -> Item:
    mixed: Key = (*key[:2], *rng.sample(key[2:], len(key) - 2))
    (asked_zh, asked_en), (zh, en) = in_order(mixed), in_order(key)
    templates_zh, templates_en = SORT[key[1]]
    return Item(
        key,
        ask(rng, templates_zh, {"words": asked_zh}, zh),
        ask(rng, templates_en, {"words": asked_en}, en),
    )


COUNTING = Skill("counting", _counting_key, _counting)
ADDITION = Skill("addition", _addition_key, _addition)
SUBTRACTION = Skill("subtraction", _subtraction_key, _subtraction)
COMPARISON = Skill("comparison", _comparison_key, _comparison)
ORDERING = Skill("ordering", _ordering_key, _ordering)
