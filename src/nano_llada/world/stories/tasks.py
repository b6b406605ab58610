"""Conversations about stories: telling, continuing, questions, summaries, retelling, correcting, small talk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from nano_llada.world.splits import Key, Language, Split, check_request, split_of
from nano_llada.world.stories import answers, lexicon
from nano_llada.world.stories.answers import Check
from nano_llada.world.stories.check import HAPPY
from nano_llada.world.stories.events import World
from nano_llada.world.stories.grammar import expanded
from nano_llada.world.stories.plant import plant
from nano_llada.world.stories.questions import possible, questions, thing_phrase
from nano_llada.world.stories.simulate import simulate
from nano_llada.world.stories.story import Entry, Story, Telling, tell
from nano_llada.world.stories.talk import talk

OTHER: dict[Language, Language] = {"en": "zh", "zh": "en"}
GAP = {"en": "...", "zh": "……"}


@dataclass(frozen=True)
class Exchange:
    """One question, a right answer, and the check for other right answers."""

    task: str
    user: str
    assistant: str
    check: Check


@dataclass
class Conversation:
    """Several exchanges about one story (none in small talk). `told` is the text that later turns refer to."""

    language: Language
    split: Split
    exchanges: list[Exchange] = field(default_factory=list)
    story: Story | None = None
    told: Telling | None = None

    @property
    def key(self) -> Key:
        """What decided the split: the story's skeleton, or the wording of the small talk."""
        return self.story.key if self.story else ("talk", self.exchanges[0].user)

    def add(self, task: str, user: str, assistant: str, check: Check) -> None:
        """One more exchange."""
        self.exchanges.append(Exchange(task, user, assistant, check))

    def to_row(self) -> dict[str, Any]:
        """A chat row of plain JSON values; `verifier` checks the last answer, `verifiers` every one in order."""
        turns = []
        for exchange in self.exchanges:
            turns.append({"role": "user", "content": exchange.user})
            turns.append({"role": "assistant", "content": exchange.assistant})
        return {
            "conversations": turns,
            "tasks": [exchange.task for exchange in self.exchanges],
            "language": self.language,
            "split": self.split,
            "key": list(self.key),
            "verifier": self.exchanges[-1].check,
            "verifiers": [exchange.check for exchange in self.exchanges],
        }


def conversations(split: Split, count: int, seed: int) -> Iterator[Conversation]:
    """`count` conversations, half in each language, the same ones for the same seed. Raises UserError as `examples`."""
    check_request(split, count)
    rng = Random(f"conversations/{seed}/{split}")
    return (conversation(rng, split, ("zh", "en")[index % 2]) for index in range(count))


def conversation(rng: Random, split: Split, language: Language) -> Conversation:
    """One conversation: an opening, then up to three turns that refer to it."""
    talking = Conversation(language, split)
    draw = rng.random()
    if draw < 0.15:
        _small_talk(talking, rng)
        if rng.random() < 0.6:
            _reply(talking, rng)
    elif draw < 0.65:
        if rng.random() < 0.1:
            _small_talk(talking, rng, "hello")
            _reply(talking, rng)
        else:
            _tell(talking, rng)
    else:
        rng.choice((_continue, _fill, _mistake, _correct, _read, _read))(talking, rng)
    if talking.story:
        _follow(talking, rng)
    return talking


def _follow(talking: Conversation, rng: Random) -> None:
    """Further turns: several short ones, at most one long retelling, thanks at the end."""
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        rng.choice((_ask, _ask, _possible, _summary))(talking, rng)
    if rng.random() < 0.4:
        rng.choice((_translate, _view, _change))(talking, rng)
    if rng.random() < 0.1:
        _small_talk(talking, rng, rng.choice(("thanks", "praise", "bye", "night")))


@cache
def _prompts() -> dict[tuple[str, Language], tuple[str, ...]]:
    text = (files("nano_llada.world.stories") / "prompts.txt").read_text(encoding="utf-8")
    found: dict[tuple[str, Language], list[str]] = {}
    task = ""
    for line in text.splitlines():
        if line.startswith("== "):
            task = line[3:].strip()
        elif line.startswith(("en ", "zh ")):
            language: Language = "en" if line[0] == "e" else "zh"
            found.setdefault((task, language), []).extend(expanded(line[3:].replace("\\n", "\n")))
    return {key: tuple(texts) for key, texts in found.items()}


def _prompt(task: str, language: Language, rng: Random, **words: str) -> str:
    return rng.choice(_prompts()[task, language]).format(**words)


def _story(
    talking: Conversation, rng: Random, plots: tuple[str, ...] = (), want: dict[str, str] | None = None
) -> Story:
    """A story of the split for a task: mostly of one plot, so that several turns fit a short context."""
    while True:
        story = simulate(rng, talking.split, plots, want)
        if len(story.key) == 5 or rng.random() < 0.3:
            return story


def _small_talk(talking: Conversation, rng: Random, intent: str = "") -> None:
    split: Split = "train" if intent else talking.split
    exchange = talk(rng, split, talking.language, intent)
    talking.add("talk", exchange.prompt, exchange.answers[0], answers.exact(*exchange.answers))


def _keep(talking: Conversation, story: Story, telling: Telling) -> None:
    talking.story, talking.told = story, telling


# --- telling -----------------------------------------------------------------------------------------------------


def _tell(talking: Conversation, rng: Random) -> None:
    rng.choice((_tell_any, _tell_about, _tell_about, _tell_words, _tell_words, _tell_count, _tell_happy))(talking, rng)


ASKS_WHOM = re.compile("Who should it be|What shall I tell|What would you like|谁的故事|讲点儿什么|想听什么")
OFFERS = re.compile("story|another one|Shall I tell|故事|要听吗|再听一个")


def _reply(talking: Conversation, rng: Random) -> None:
    """What follows small talk: a name if one was asked for, a yes if a story was offered, or a request."""
    said = talking.exchanges[-1].assistant
    if ASKS_WHOM.search(said) and rng.random() < 0.8:
        _tell_about(talking, rng, "who")
    elif said[-1] in "?？" and OFFERS.search(said) and rng.random() < 0.8:
        _tell_any(talking, rng, "yes")
    else:
        _tell(talking, rng)


def _tell_any(talking: Conversation, rng: Random, prompt: str = "tell") -> None:
    story = _story(talking, rng)
    telling = tell(story, talking.language, rng)
    talking.add("tell", _prompt(prompt, talking.language, rng), telling.text, answers.story(talking.language))
    _keep(talking, story, telling)


def person_phrase(name: str, language: Language, rng: Random) -> str:
    """A person as a user would ask for one: by name, or with what the person is."""
    person = lexicon.people()[name]
    if language == "zh":
        return person.zh if rng.random() < 0.4 else f"一{person.measure}叫{person.zh}的{person.kind_zh}"
    return name if rng.random() < 0.4 else f"{lexicon.article(person.kind_en)} called {name}"


def about_phrase(story: Story, language: Language, rng: Random) -> tuple[str, tuple[str, ...]]:
    """What a story is asked to be about, and the entities that must then take part."""
    hero = person_phrase(story.key[-3], language, rng)
    things = [thing for thing in story.adjectives if any(thing in entry.args for entry in story.log)]
    joint = " and " if language == "en" else "和"
    draw = rng.random()
    if draw < 0.35 or not things:
        return hero, (story.key[-3],)
    thing = rng.choice(things)
    noun = lexicon.things()[thing]
    phrase = lexicon.article(thing) if language == "en" else f"一{noun.measure}{noun.zh}"
    if draw < 0.55:
        return phrase, (thing,)
    if draw < 0.85 or len(story.cast) < 2:
        return hero + joint + phrase, (story.key[-3], thing)
    other = next(name for name in story.cast if name != story.key[-3])
    words = [lexicon.name_of(name, language) for name in (story.key[-3], other)]
    return joint.join(words), (story.key[-3], other)


def _tell_about(talking: Conversation, rng: Random, prompt: str = "about") -> None:
    story = _story(talking, rng)
    telling = tell(story, talking.language, rng)
    phrase, entities = about_phrase(story, talking.language, rng)
    check = answers.story(talking.language, about=list(entities))
    talking.add("about", _prompt(prompt, talking.language, rng, about=phrase), telling.text, check)
    _keep(talking, story, telling)


def _tell_words(talking: Conversation, rng: Random) -> None:
    story = _story(talking, rng)
    telling = tell(story, talking.language, rng)
    words = _some_words(story, telling, rng)
    joined = ("、" if talking.language == "zh" else ", ").join(words)
    check = answers.story(talking.language, words=words)
    talking.add("words", _prompt("words", talking.language, rng, words=joined), telling.text, check)
    _keep(talking, story, telling)


def _some_words(story: Story, telling: Telling, rng: Random) -> list[str]:
    """Three words of different kinds that occur in a telling."""
    zh, text = telling.language == "zh", telling.text
    feelings = [word for pair in lexicon.FEELINGS.values() for word in pair[1 if zh else 0] if len(word) > 1]
    skills = [skill.zh if zh else skill.en for skill in lexicon.SKILLS.values()]
    groups = (
        [lexicon.name_of(name, telling.language) for name in story.cast],
        [lexicon.name_of(thing, telling.language) for thing in story.adjectives],
        [place.zh if zh else place.en for place in lexicon.PLACES.values()],
        feelings,
        skills,
    )
    found = [rng.choice(fitting) for group in groups if (fitting := [word for word in group if word in text])]
    rng.shuffle(found)
    return found[:3]


def _tell_count(talking: Conversation, rng: Random) -> None:
    story = _story(talking, rng)
    telling = tell(story, talking.language, rng)
    number = len(telling.sentences)
    check = answers.story(talking.language, sentences=number)
    talking.add("count", _prompt("count", talking.language, rng, n=str(number)), telling.text, check)
    _keep(talking, story, telling)


def _tell_happy(talking: Conversation, rng: Random) -> None:
    story = _story(talking, rng)
    while story.log[-1].kind not in HAPPY:
        story = _story(talking, rng)
    telling = tell(story, talking.language, rng)
    prompt = rng.choice(_prompts()["happy", talking.language])
    wanted: dict[str, object] = {"happy": True}
    if "{about}" in prompt:
        phrase, entities = about_phrase(story, talking.language, rng)
        prompt, wanted["about"] = prompt.format(about=phrase), list(entities)
    talking.add("happy", prompt, telling.text, answers.story(talking.language, **wanted))
    _keep(talking, story, telling)


# --- texts that the user gives -----------------------------------------------------------------------------------


def _continue(talking: Conversation, rng: Random) -> None:
    story = _story(talking, rng)
    telling = tell(story, talking.language, rng)
    count = len(telling.sentences)
    cut = rng.randint(max(2, count // 4), max(2, (2 * count) // 3))
    start, rest = telling.part(0, cut), telling.part(cut, count)
    prompt = _prompt("continue", talking.language, rng, text=start)
    talking.add("continue", prompt, rest, answers.story(talking.language, starts=start))
    _keep(talking, story, telling)


def _fill(talking: Conversation, rng: Random) -> None:
    story = _story(talking, rng)
    telling = tell(story, talking.language, rng)
    count = len(telling.sentences)
    length = rng.randint(1, min(4, count - 4))
    cut = rng.randint(2, count - length - 1)
    start, middle, tail = telling.part(0, cut), telling.part(cut, cut + length), telling.part(cut + length, count)
    space = " " if talking.language == "en" else ""
    text = space.join((start, GAP[talking.language], tail))
    check = answers.story(talking.language, starts=start, tail=tail)
    talking.add("fill", _prompt("fill", talking.language, rng, text=text), middle, check)
    _keep(talking, story, telling)


def _mistake(talking: Conversation, rng: Random) -> None:
    story, planted = _planted(talking, rng)
    wrong = planted.telling.sentences[planted.sentence - 1]
    prompt = _prompt("mistake", talking.language, rng, text=planted.telling.text)
    talking.add("mistake", prompt, wrong, answers.exact(wrong))
    if rng.random() < 0.5:
        _told_right(talking, planted.original, _prompt("correct_now", talking.language, rng))
    _keep(talking, story, planted.original)


def _correct(talking: Conversation, rng: Random) -> None:
    story, planted = _planted(talking, rng)
    _told_right(talking, planted.original, _prompt("correct", talking.language, rng, text=planted.telling.text))
    _keep(talking, story, planted.original)


def _told_right(talking: Conversation, original: Telling, prompt: str) -> None:
    check = answers.retelling(talking.language, original.text, talking.language)
    talking.add("correct", prompt, original.text, check)


def _planted(talking: Conversation, rng: Random) -> tuple[Story, Any]:
    while True:
        story = _story(talking, rng)
        planted = plant(story, talking.language, rng)
        if planted is not None:
            return story, planted


def _read(talking: Conversation, rng: Random) -> None:
    """A story of the user's, and a first question, summary or retelling of it."""
    story = _story(talking, rng)
    telling = tell(story, talking.language, rng)
    _keep(talking, story, telling)
    rng.choice((_ask, _ask, _possible, _summary, _translate, _change))(talking, rng)
    if talking.exchanges:
        first = talking.exchanges[0]
        prompt = _prompt("read", talking.language, rng, text=telling.text, question=first.user)
        talking.exchanges[0] = replace(first, user=prompt)
    else:
        _tell_any(talking, rng)


# --- turns that refer to the story -------------------------------------------------------------------------------


def _ask(talking: Conversation, rng: Random) -> None:
    assert talking.story is not None
    asked = {exchange.user for exchange in talking.exchanges}
    for question in questions(talking.story, talking.language, rng):
        if question.text not in asked:
            talking.add("question", question.text, question.answers[0], answers.exact(*question.answers))
            return


def _possible(talking: Conversation, rng: Random) -> None:
    assert talking.story is not None
    question = possible(talking.story, talking.language, rng)
    if question is None:
        _ask(talking, rng)
    elif question.text not in {exchange.user for exchange in talking.exchanges}:
        talking.add("possible", question.text, question.answers[0], answers.exact(*question.answers))


def _summary(talking: Conversation, rng: Random) -> None:
    assert talking.story is not None
    assert talking.told is not None
    if any(exchange.task == "summary" for exchange in talking.exchanges):
        return
    text = summarised(talking.story, talking.language, rng)
    check = answers.summary(talking.language, talking.told.text)
    talking.add("summary", _prompt("summary", talking.language, rng), text, check)


def summarised(story: Story, language: Language, rng: Random) -> str:
    """The story in one sentence."""
    kind, args = story.gist
    short = replace(story, log=(Entry(kind, args),), narrator="")
    return tell(short, language, rng).text


def _translate(talking: Conversation, rng: Random) -> None:
    assert talking.story is not None
    assert talking.told is not None
    other = OTHER[talking.language]
    text = tell(talking.story, other, rng).text
    check = answers.retelling(other, talking.told.text, talking.language)
    talking.add("translate", _prompt("translate", talking.language, rng), text, check)


def _view(talking: Conversation, rng: Random) -> None:
    assert talking.story is not None
    assert talking.told is not None
    fitting = [name for name in talking.story.cast if lexicon.people()[name].group != "adult"]
    name = rng.choice(fitting)
    text = tell(talking.story.seen_by(name), talking.language, rng).text
    check = answers.retelling(talking.language, talking.told.text, talking.language, viewpoint=True)
    prompt = _prompt("view", talking.language, rng, name=lexicon.name_of(name, talking.language))
    talking.add("view", prompt, text, check)


def _change(talking: Conversation, rng: Random) -> None:
    assert talking.story is not None
    changed = changed_story(talking.story, talking.split, talking.language, rng)
    if changed is None:
        return
    story, old, new = changed
    telling = tell(story, talking.language, rng)
    reference = tell(story, talking.language, rng).text  # other words for the same events: they are what is compared
    prompt = _prompt("change", talking.language, rng, old=old, new=new)
    talking.add("change", prompt, telling.text, answers.retelling(talking.language, reference, talking.language))


def changed_story(story: Story, split: Split, language: Language, rng: Random) -> tuple[Story, str, str] | None:
    """The story with one fact changed, and the words for what is replaced and what replaces it; None if none fits.

    The changed story's skeleton belongs to the same split.
    """
    kinds: list[Callable[[Story, Language, Random], tuple[Story, str, str] | None]] = [
        _new_person,
        _new_thing,
        _new_look,
        _new_place,
    ]
    rng.shuffle(kinds)
    for kind in kinds:
        for _ in range(4):
            changed = kind(story, language, rng)
            if changed and split_of(changed[0].key) == split and _coherent(changed[0]):
                return changed
    return None


def _coherent(story: Story) -> bool:
    world = World()
    return all(world.apply(entry.event) is None for entry in story.log)


def _swapped(story: Story, old: str, new: str) -> Story:
    def put(args: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if arg == old else arg for arg in args)

    adjectives = {new if thing == old else thing: word for thing, word in story.adjectives.items()}
    log = tuple(replace(entry, args=put(entry.args)) for entry in story.log)
    kind, args = story.gist
    return Story(put(story.key), log, adjectives, put(story.cast), (kind, put(args)))


def _new_person(story: Story, language: Language, rng: Random) -> tuple[Story, str, str] | None:
    old = rng.choice([name for name in story.cast if lexicon.people()[name].group != "adult"])
    group = lexicon.people()[old].group
    new = rng.choice([name for name, p in lexicon.people().items() if p.group == group and name not in story.cast])
    return _swapped(story, old, new), lexicon.name_of(old, language), lexicon.name_of(new, language)


def _new_thing(story: Story, language: Language, rng: Random) -> tuple[Story, str, str] | None:
    if not story.adjectives:
        return None
    old = rng.choice(sorted(story.adjectives))
    tags, adjective = lexicon.things()[old].tags.split(",")[0], story.adjectives[old]
    fitting = [
        name
        for name, thing in lexicon.things().items()
        if thing.tags.split(",")[0] == tags
        and name not in story.adjectives
        and adjective in lexicon.adjectives_for(name)
    ]
    if not fitting or old in ("kite", "balloon"):
        return None
    new = rng.choice(fitting)
    changed = _swapped(story, old, new)
    return changed, thing_phrase(story, old, language), thing_phrase(changed, new, language)


def _new_look(story: Story, language: Language, rng: Random) -> tuple[Story, str, str] | None:
    if not story.adjectives:
        return None
    thing = rng.choice(sorted(story.adjectives))
    words = [word for word in lexicon.adjectives_for(thing) if word != story.adjectives[thing]]
    changed = replace(story, adjectives={**story.adjectives, thing: rng.choice(words)})
    return changed, thing_phrase(story, thing, language), thing_phrase(changed, thing, language)


def _new_place(story: Story, language: Language, rng: Random) -> tuple[Story, str, str] | None:
    used = {arg for entry in story.log for arg in entry.args} & set(lexicon.PLACES)
    fitting = sorted(place for place in used if place not in ("market", "meadow"))
    if not fitting or story.gist[0] == "sum.learn":
        return None
    old = rng.choice(fitting)
    indoors = lexicon.PLACES[old].indoors
    others = [name for name, place in lexicon.PLACES.items() if place.indoors == indoors and name not in used]
    new = rng.choice(others) if others else ""
    if not new:
        return None
    words = [lexicon.PLACES[name].zh if language == "zh" else f"the {name}" for name in (old, new)]
    return _swapped(story, old, new), words[0], words[1]
