"""Short texts about the small world for pretraining: facts, stories, sums, word lists and questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.world.documents_again import Both, joined, lookup, retold
from nano_llada.world.generate import Example, item_stream
from nano_llada.world.item import Skill
from nano_llada.world.skills import SKILLS, skill_named
from nano_llada.world.skills_family import relation_texts
from nano_llada.world.skills_infill import INFILL, progression, story
from nano_llada.world.skills_number import (
    ADDITION,
    COUNTING,
    LARGEST,
    ORDERING,
    SUBTRACTION,
    addition_walk,
    counted,
    in_order,
    subtraction_walk,
)
from nano_llada.world.skills_text import draw_fact, fact
from nano_llada.world.splits import LANGUAGES, Language, Split, check_request, split_of
from nano_llada.world.steps import tally
from nano_llada.world.vocabulary import (
    CATEGORIES,
    COLOURS,
    DAYS,
    DIRECTIONS,
    MONTHS,
    NOUNS,
    PEOPLE,
    PLACES,
    find,
    row,
)

Maker = Callable[[Random, Split], Both]


def documents(
    split: Split,
    count: int,
    seed: int,
    skills: Sequence[str] = SKILLS,
    *,
    mirrored: bool = False,
    kinds: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """`count` pretraining rows, Chinese and English in turn: {"text", "language", "kind", "skill"}.

    Questions are about `skills` only (one named twice is asked about twice as often), and kinds of text that serve
    other skills alone are left out. With `mirrored`, of the texts about families a quarter, by chance, states, a
    quarter has the words of its statements from the end to the beginning, so that a left-to-right model can learn
    relations both ways, and half asks about families of the split. The families that are held out are then told both
    ways, too, and only the question about them is new. `kinds` are the only kinds of text to be made, in their usual
    proportions.
    `kind` is one of DOCUMENT_KINDS; `skill` is the skill's name for the kind `questions`, else "". Training
    documents state training combinations only, held-out ones those of their own split and, in passing,
    training ones. The exception by design: training documents state all families, the parent first (unless
    `mirrored`), and all equally often (in each language once in every 28 that state in the same way). Sequences
    of days, months and counting numbers, categories, single-word glossaries and words to be looked up are common
    knowledge and belong to every split. Raises UserError for an unknown split or kind or a negative count.
    """
    check_request(split, count)
    if unknown := set(kinds) - set(DOCUMENT_KINDS):
        raise UserError(f"no kind of text {', '.join(sorted(unknown))}; there are {', '.join(DOCUMENT_KINDS)}")
    known = {name: skill_named(name) for name in skills}
    weights = {
        kind: weight
        for kind, weight in WEIGHTS.items()
        if (kind in kinds if kinds else not SERVES.get(kind) or SERVES[kind] & set(skills))
    }
    return _rows(split, count, Random(f"{seed}/{split}/documents"), known, skills, mirrored, weights)


def _rows(
    split: Split,
    count: int,
    rng: Random,
    known: Mapping[str, Skill],
    skills: Sequence[str],
    mirrored: bool,
    weights: Mapping[str, int],
) -> Iterator[dict[str, Any]]:
    streams = {name: item_stream(skill, split, Random(rng.getrandbits(64))) for name, skill in known.items()}
    relations = relation_texts(rng, split, mirrored=mirrored)
    for index in range(count):
        language = LANGUAGES[index % 2]
        kind, skill = rng.choices(list(weights), list(weights.values()))[0], ""
        if kind == "questions":
            skill = rng.choice(skills)
            text = _questions([next(streams[skill]) for _ in range(rng.randint(1, 3))], language)
        elif kind == "family":
            text = next(relations[language])
        else:
            text = MAKERS[kind](rng, split)[LANGUAGES.index(language)]
        yield {"text": text, "language": language, "kind": kind, "skill": skill}


def _questions(pairs: list[tuple[Example, Example]], language: Language) -> str:
    chosen = [pair[LANGUAGES.index(language)] for pair in pairs]
    return "\n".join(f"{example.prompt}\n{example.answer}" for example in chosen)


def _facts(rng: Random, split: Split) -> Both:
    drawn = [draw_fact(rng, split) for _ in range(rng.randint(3, 5))]
    # One fact per person, so that no person is in two places.
    return joined([fact(key) for key in {key[1]: key for key in drawn}.values()])


def _tally(rng: Random, split: Split) -> Both:
    """A list of words, and how many there are of each kind, counted step by step."""
    key = COUNTING.draw_key(rng, split)
    names = key[2:]
    words = [find(name) for name in names]
    asked = [name for name in dict.fromkeys(names) if split_of(("counting", name, *names)) in ("train", split)]
    rng.shuffle(asked)
    zh = en = ""
    for word in map(find, asked):
        told_zh, told_en = (tally(*counted(("counting", word.en, *names), language)) for language in LANGUAGES)
        zh += f"有几{word.measure}{word.zh}？{told_zh}。"
        en += f" How many times do you see {word.en}? {told_en}."
    return f"看：{row(words, 'zh')}。{zh}", f"Look: {row(words, 'en')}.{en}"


def _larger(rng: Random, split: Split) -> Both:
    """Which of two numbers is larger, several times."""
    pairs = [rng.sample(range(1, LARGEST + 1), 2) for _ in range(6)]
    zh = "".join(f"{a}和{b}，哪个数字大？{max(a, b)}。" for a, b in pairs)
    return zh, " ".join(f"{a} and {b}: which number is larger? {max(a, b)}." for a, b in pairs)


def _story(rng: Random, split: Split) -> Both:
    while (key := INFILL.draw_key(rng, split))[1] not in ("give", "go"):
        pass
    zh, en = story(key)
    while (opening := draw_fact(rng, split))[1] in key:
        pass
    opening_zh, opening_en = fact(opening)
    return opening_zh + "".join(zh), " ".join((opening_en, *en))


def _sums(rng: Random, split: Split) -> Both:
    """Sums and differences, worked out step by step."""
    sums = []
    for _ in range(rng.randint(3, 6)):
        if rng.random() < 0.5:
            key = ADDITION.draw_key(rng, split)
            first, second = rng.sample(key[1:], 2)
            sums.append(f"{first} + {second} = ? {addition_walk(key).answer()}")
        else:
            key = SUBTRACTION.draw_key(rng, split)
            sums.append(f"{key[1]} - {key[2]} = ? {subtraction_walk(key).answer()}")
    return "，".join(sums) + "。", ", ".join(sums) + "."


def _sequence(rng: Random, split: Split) -> Both:
    kind = rng.choice(("days", "months", "count", "steps"))
    if kind in ("days", "months"):
        cycle = DAYS if kind == "days" else MONTHS
        start = rng.randrange(len(cycle))
        words = [cycle[(start + place) % len(cycle)] for place in range(rng.randint(5, 8))]
        return row(words, "zh") + "。", row(words, "en") + "."
    if kind == "count":
        start = rng.randint(0, LARGEST - 6)
        numbers = [str(start + place) for place in range(7)][:: rng.choice((1, -1))]
    else:
        while (key := INFILL.draw_key(rng, split))[1] != "numbers":
            pass
        numbers = progression(key)
    return " ".join(numbers) + "。", " ".join(numbers) + "."


def _sorted(rng: Random, split: Split) -> Both:
    key = ORDERING.draw_key(rng, split)
    zh, en = in_order(key)
    if key[1] == "numbers":
        return f"从小到大：{zh}。", f"From small to large: {en}."
    return f"从先到后：{zh}。", f"From first to last: {en}."


def _glossary(rng: Random, split: Split) -> Both:
    known = rng.sample(PEOPLE + COLOURS + NOUNS * 2 + PLACES + DAYS + MONTHS + DIRECTIONS, rng.randint(3, 6))
    zh = "".join(f"{word.zh}的英语是{word.en}。" for word in known)
    return zh, " ".join(f"{word.en} is {word.zh} in Chinese." for word in known)


def _category(rng: Random, split: Split) -> Both:
    category, words = rng.choice(CATEGORIES)
    if rng.random() < 0.5:
        return f"{category.zh}：{row(words, 'zh')}。", f"{category.plural}: {row(words, 'en')}."
    article = "an" if category.en == "animal" else "a"
    chosen = rng.sample(words, 3)
    zh = "".join(f"{word.zh}是一种{category.zh}。" for word in chosen)
    return zh, " ".join(f"{word.en} is {article} {category.en}." for word in chosen)


MAKERS: dict[str, Maker] = {
    "facts": _facts,
    "retold": retold,
    "lookup": lookup,
    "tally": _tally,
    "larger": _larger,
    "story": _story,
    "sums": _sums,
    "sequence": _sequence,
    "sorted": _sorted,
    "glossary": _glossary,
    "category": _category,
}
# Shares of all documents, in any unit.
WEIGHTS = {
    "questions": 36,
    "facts": 2,
    "retold": 24,
    "lookup": 14,
    "tally": 10,
    "larger": 6,
    "story": 4,
    "sums": 6,
    "sequence": 4,
    "sorted": 3,
    "glossary": 4,
    "category": 1,
    "family": 30,
}
# Kinds of text that only matter to some skills.
SERVES: dict[str, set[str]] = {
    "retold": {"recall"},
    "lookup": {"recall", "direction"},
    "tally": {"counting"},
    "larger": {"comparison"},
    "sums": {"addition", "subtraction"},
    "sequence": {"infill", "time", "ordering"},
    "sorted": {"ordering"},
    "family": {"backward_relation"},
}
DOCUMENT_KINDS: tuple[str, ...] = tuple(WEIGHTS)
