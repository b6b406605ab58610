"""Questions about a story whose answers follow from its log: who, where, what, why, when, is it possible."""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib.resources import files
from random import Random
from typing import NamedTuple

from nano_llada.world.splits import Language
from nano_llada.world.stories import lexicon
from nano_llada.world.stories.events import Event, Fault, World
from nano_llada.world.stories.grammar import signatures
from nano_llada.world.stories.story import Entry, Story


class Question(NamedTuple):
    """A question and its right answers, the reference first."""

    text: str
    answers: tuple[str, ...]


@cache
def _table(language: Language) -> dict[str, tuple[tuple[str, ...], ...]]:
    text = (files("nano_llada.world.stories") / "questions.txt").read_text(encoding="utf-8")
    found: dict[str, tuple[tuple[str, ...], ...]] = {}
    kind = ""
    for line in text.splitlines():
        if line.startswith("== "):
            kind = line[3:].strip()
        elif line.startswith(language):
            found[kind] = (*found.get(kind, ()), tuple(part.strip() for part in line[3:].split("|")))
    return found


def questions(story: Story, language: Language, rng: Random) -> list[Question]:
    """All questions that have one answer, in random order."""
    counts = Counter(_asked(entry) for entry in story.log)
    found = []
    for index, entry in enumerate(story.log):
        rows = _table(language).get(entry.kind)
        if not rows or counts[_asked(entry)] > 1 or _ambiguous(story, entry):
            continue
        feeling = story.log[index - 1].args[1] if entry.kind.startswith("why.") else ""
        words = _words(story, entry, language, feeling)
        question, *answers = rng.choice(rows)
        found.append(Question(question.format(**words), tuple(answer.format(**words) for answer in answers)))
    found += _when(story, language)
    found += _who_has(story, language)
    rng.shuffle(found)
    return [question for question in found if Counter(q.text for q in found)[question.text] == 1]


def _asked(entry: Entry) -> str:
    """What may occur once only, for a question about it to have one answer."""
    if entry.kind in ("bring", "go", "go_both"):
        return "moves " + entry.args[0]
    if entry.kind.startswith("help_"):
        return "helps"
    return entry.kind if entry.kind.startswith("why.") is False else "why " + entry.args[0]


def _ambiguous(story: Story, entry: Entry) -> bool:
    """Whether other events answer the question differently."""
    if entry.kind.startswith("why."):  # the same feeling, felt again for another reason
        feelings = [e.args for e in story.log if e.kind == "feel" and e.args[0] == entry.args[0]]
        return len({feeling for _, feeling in feelings}) < len(feelings)
    if entry.kind == "find":
        return any(e.kind == "discover" and e.args[:2] == entry.args[:2] for e in story.log)
    return entry.kind in ("go", "bring") and sum(e.kind == "go_both" and entry.args[0] in e.args for e in story.log) > 0


def _words(story: Story, entry: Entry, language: Language, feeling: str) -> dict[str, str]:
    words: dict[str, str] = {}
    for letter, arg in zip(signatures()[entry.kind], entry.args, strict=True):
        words |= _word(story, letter, arg, language)
    if feeling:
        words["f"] = lexicon.FEELINGS[feeling][0 if language == "en" else 1][0]
    return words


def _word(story: Story, letter: str, arg: str, language: Language) -> dict[str, str]:
    english = language == "en"
    if letter in "abc":
        return {letter: lexicon.name_of(arg, language)}
    if letter in "tu":
        phrase = thing_phrase(story, arg, language)
        if letter == "u":
            return {"u": lexicon.name_of(arg, language)}
        return {
            "t": lexicon.name_of(arg, language),
            "at": phrase,
            "At": phrase[0].upper() + phrase[1:],
            "m": lexicon.things()[arg].measure,
        }
    if letter == "s":
        text = arg if english else lexicon.SPOTS[arg].zh
        return {"s": text, "S": text[0].upper() + text[1:], "from": text}
    if letter == "p":
        return {"p": arg if english else lexicon.PLACES[arg].zh}
    if letter == "k":
        return {"k": arg if english else lexicon.SKILLS[arg].zh}
    if letter == "n":
        return {"n": arg if english else lexicon.NUMBERS[arg], "N": arg.capitalize()}
    return {}


def thing_phrase(story: Story, thing: str, language: Language) -> str:
    """A thing with its adjective: "a red kite", 一只红色的风筝."""
    adjective = story.adjectives.get(thing, "")
    if language == "en":
        return lexicon.article(f"{adjective} {thing}" if adjective else thing)
    noun = lexicon.things()[thing]
    return f"一{noun.measure}{lexicon.ADJECTIVES[adjective].zh if adjective else ''}{noun.zh}"


def _when(story: Story, language: Language) -> list[Question]:
    times = [entry for entry in story.log if entry.kind == "when"]
    if len(times) != 1:
        return []
    part, weather = times[0].args[1:]
    asked = [
        {
            "en": Question(
                "When did it happen?",
                (f"It happened in the {part}.", f"In the {part}.", f"It happened one {part}.", f"One {part}."),
            ),
            "zh": Question(
                "事情发生在什么时候？",
                tuple(f"{head}{word}。" for word in lexicon.PARTS_ZH[part] for head in ("事情发生在", "")),
            ),
        }[language]
    ]
    if weather != "any" and not any(entry.kind.startswith("turn.") for entry in story.log):
        chinese = {"sunny": "晴天", "rainy": "下雨", "windy": "刮风", "snowy": "下雪", "cloudy": "阴天"}[weather]
        asked.append(
            {
                "en": Question("What was the weather like?", (f"It was {weather}.", f"{weather.capitalize()}.")),
                "zh": Question("那天天气怎么样？", (f"那天{chinese}。", f"{chinese}。")),
            }[language]
        )
    # "One day" is told for any morning, so that only a stated part of the day is asked for.
    return asked[1:] if part == "morning" and weather == "any" else asked


def _replayed(story: Story) -> World:
    world = World()
    for entry in story.log:
        world.apply(entry.event)
    return world


def _who_has(story: Story, language: Language) -> list[Question]:
    world, found = _replayed(story), []
    for thing, holder in world.holder.items():
        name, noun = lexicon.name_of(holder, language), lexicon.name_of(thing, language)
        if language == "en":
            answers = (f"{name} has the {noun}.", f"{name} has it.", f"{name}.", name)
            found.append(Question(f"Who has the {noun} at the end?", answers))
        else:
            found.append(
                Question(f"最后{noun}在谁那里？", (f"{noun}在{name}那里。", f"在{name}那里。", f"{name}。", name))
            )
    return found


def possible(story: Story, language: Language, rng: Random) -> Question | None:
    """Whether something could happen next, and why not: for things that change hands, break or are eaten."""
    world = _replayed(story)
    people = [name for name in story.cast if lexicon.people()[name].group != "adult"]
    things = sorted(set(story.adjectives) & ({*world.holder} | world.gone))
    if len(people) < 2 or not things:
        return None
    thing = rng.choice(things)
    holder = world.holder.get(thing, "")
    giver = holder if holder in people and rng.random() < 0.5 else rng.choice(people)
    taker = rng.choice([name for name in people if name != giver])
    world.at.clear()
    event: Event = ("give", (giver, taker, thing))
    fault = world.apply(event)
    g, t, noun = (lexicon.name_of(arg, language) for arg in event[1])
    if language == "en":
        text = f"Could {g} give the {noun} to {t} now?"
        return Question(text, _answers_en(fault, g, noun, lexicon.name_of(holder, language) if holder else ""))
    text = f"现在{g}能把{noun}送给{t}吗？"
    return Question(text, _answers_zh(fault, g, noun, lexicon.name_of(holder, language) if holder else ""))


def _answers_en(fault: Fault | None, giver: str, noun: str, holder: str) -> tuple[str, ...]:
    if fault is None:
        return (f"Yes, {giver} has the {noun}.", "Yes.", f"Yes, because {giver} has the {noun}.")
    if fault == "lost":
        return (f"No, the {noun} is gone.", "No.", f"No, the {noun} has been eaten.")
    return (f"No, {holder} has the {noun}.", "No.", f"No, {giver} does not have the {noun}.")


def _answers_zh(fault: Fault | None, giver: str, noun: str, holder: str) -> tuple[str, ...]:
    if fault is None:
        return (f"能，{noun}在{giver}那里。", "能。", f"能，因为{noun}在{giver}那里。")
    if fault == "lost":
        return (f"不能，{noun}已经没有了。", "不能。", f"不能，{noun}已经被吃掉了。")
    return (f"不能，{noun}在{holder}那里。", "不能。", f"不能，{noun}不在{giver}那里。")
