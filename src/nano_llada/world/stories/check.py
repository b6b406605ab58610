"""The verifier of stories: reads a text back into events, replays them, and says where it contradicts itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from nano_llada.world.splits import Language
from nano_llada.world.stories.events import Event, Fault, World, canonical, named
from nano_llada.world.stories.reader import Reader, Sentence

Verdict = Literal["coherent", "contradiction", "not understood", "empty"]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a sentence (numbered from 1): the kind of contradiction, or `unknown` if no form fits it."""

    sentence: int
    kind: Fault | Literal["unknown"]
    text: str


@dataclass(frozen=True)
class Report:
    """The outcome of checking a text: all problems in order, and what its sentences state."""

    problems: tuple[Problem, ...]
    sentences: tuple[Sentence, ...]
    adjectives: dict[str, str]

    @property
    def verdict(self) -> Verdict:
        """The first problem decides."""
        if not self.sentences:
            return "empty"
        if not self.problems:
            return "coherent"
        return "not understood" if self.problems[0].kind == "unknown" else "contradiction"

    @property
    def coherent(self) -> bool:
        """Whether every sentence was understood and none contradicts what came before."""
        return self.verdict == "coherent"

    @property
    def events(self) -> list[Event]:
        """All events, in order and in canonical form."""
        return [canonical(event) for sentence in self.sentences for event in sentence.events]

    def describe(self) -> str:
        """One line: `coherent`, `contradiction at sentence 3 (lost): ...` or `not understood at sentence 3: ...`."""
        if not self.problems:
            return self.verdict
        first = self.problems[0]
        detail = f" ({first.kind})" if first.kind != "unknown" else ""
        return f"{self.verdict} at sentence {first.sentence}{detail}: {first.text}"


def check(text: str, language: Language, narrator: str = "") -> Report:
    """Check a whole story. `narrator` is needed only if the text does not say who tells it ("My name is Lily.")."""
    reader = Reader(language, narrator)
    world = World()
    found = reader.read(text)
    problems: list[Problem] = []
    for number, sentence in enumerate(found, 1):
        if not sentence.understood:
            problems.append(Problem(number, "unknown", sentence.text))
            continue
        faults = list(sentence.faults)
        for event in sentence.events:
            if "" in event[1]:
                faults.append("name")  # a pronoun that means nobody
                continue
            fault = world.apply(event)
            if fault is not None:
                faults.append(fault)
        problems += [Problem(number, fault, sentence.text) for fault in dict.fromkeys(faults)]
    return Report(tuple(problems), tuple(found), dict(reader.talk.adjective))


def same_story(first: Report, second: Report) -> bool:
    """Whether two texts, in whatever languages, state the same events about the same things in the same order."""
    return (
        first.coherent and second.coherent and first.events == second.events and first.adjectives == second.adjectives
    )


# What a summary claims: for each kind, the events that must be in the story. Numbers are arguments of the summary.
CLAIMS: dict[str, tuple[tuple[str | int, ...], ...]] = {
    "sum.lost": (("lose", 0, 2), ("found", 2), ("helped", 1, 0), ("at", 0, 3)),
    "sum.gift": (("give_present", 0, 1, 2),),
    "sum.quarrel": (("quarrel", 0, 1, 2), ("share", 0, 1, 2)),
    "sum.heavy": (("help_heavy", 0, 1),),
    "sum.knee": (("help_knee", 0, 1),),
    "sum.astray": (("help_astray", 0, 1),),
    "sum.rained": (("no_picnic", 0, 1),),
    "sum.learn": (("can", 0, 2), ("teach", 1, 0, 2)),
    "sum.swap": (("swap", 0, 1, 2, 3),),
    "sum.late": (("late", 0, 1), ("late_help", 0, 1, 2)),
    "sum.broke": (("break", 0, 2), ("confess", 0, 1, 2)),
    "sum.borrow": (("lend", 1, 0, 2), ("return", 0, 1, 2)),
    "sum.noise": (("reveal", 0, 1), ("at", 0, 2)),
    "sum.food": (("share_food", 0, 1, 2),),
    "sum.owner": (("discover", 0, 2), ("give", 0, 1, 2)),
    "sum.wish": (("work", 0, 1), ("buy_it", 0, 2)),
    "sum.stuck": (("get_down", 1, 0, 2),),
    "sum.visit": (("visit", 0, 1),),
    "sum.plant": (("bloom", 0), ("advise", 1, 0)),
    "sum.hide": (("found", 0, 1, 2),),
    "sum.new": (("newcomer", 1), ("end_friends", 0, 1)),
    "sum.race": (("turn_back", 0, 1),),
}


def faithful_summary(summary: str, story: Report, language: Language) -> bool:
    """Whether a summary is one sentence, understood, and claims only what `story` states."""
    said = check(summary, language)
    if len(said.sentences) != 1 or not said.coherent or len(said.events) != 1:
        return False
    kind, args = said.events[0]
    if kind not in CLAIMS or any(story.adjectives.get(thing) != word for thing, word in said.adjectives.items()):
        return False
    facts = _facts(story)
    for claim in CLAIMS[kind]:
        name, *parts = [args[part] if isinstance(part, int) else part for part in claim]
        if canonical((name, tuple(parts))) not in facts:
            return False
    return True


def _facts(story: Report) -> set[Event]:
    """The events of a story, and what follows from them, with the arguments that summaries name."""
    facts: set[Event] = set()
    for kind, args in story.events:
        facts.add((kind, args))
        if kind in ("discover", "find"):
            facts |= {(kind, args[:2]), ("found", (args[1],))}
        if kind in ("go", "bring", "go_both"):
            facts.add(("at", (args[0], args[-1])))
        if kind in ("search_both", "go_both"):
            facts |= {("helped", args[:2]), ("helped", args[1::-1])}
        if kind == "go_both":
            facts.add(("at", (args[1], args[-1])))
        if kind in ("saw_it", "give", "offer"):
            facts.add(("helped", args[:2]))
    return facts


@dataclass(frozen=True)
class Wanted:
    """What a story must fulfil besides being coherent.

    `words` must occur; `sentences` and `least`, `most` bound the number of sentences; `ends` is a sentence to end on;
    `starts` and `tail` are texts that a continuation or a filling stands between; `about` are entities (identifiers)
    that must take part; `happy` asks for a good ending; `events` are those of the story to be retold.
    """

    language: Language
    words: tuple[str, ...] = ()
    sentences: int = 0
    starts: str = ""
    tail: str = ""
    happy: bool = False
    about: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    adjectives: tuple[tuple[str, str], ...] = ()


HAPPY = named(
    "end_friends end_sleep end_day end_smile end_tell end_again end_gift forgive thank hug share delight can play_both "
    "play_thing laugh_both moral_help moral_share moral_honest moral_try moral_friend moral_care moral_brave "
    "moral_patient home_both watch picnic rainbow together_line bloom the_end"
)


def fulfils(wanted: Wanted, text: str) -> bool:
    """Whether `text` is a coherent story (or part of one) that meets every requirement."""
    space = " " if wanted.language == "en" else ""
    whole = space.join(part for part in (wanted.starts, text.strip(), wanted.tail) if part)
    report = check(whole, wanted.language)
    if not text.strip() or not report.coherent:
        return False
    if wanted.sentences and len(check(text, wanted.language).sentences) != wanted.sentences:
        return False
    if any(word not in text for word in wanted.words):
        return False
    taking_part = {arg for event in report.events for arg in event[1]}
    if not set(wanted.about) <= taking_part:
        return False
    if wanted.events and not _same_events(wanted, report):
        return False
    return not wanted.happy or _ends_well(report)


def _same_events(wanted: Wanted, report: Report) -> bool:
    expected = [canonical((kind, tuple(args))) for kind, args in wanted.events]
    return Counter(expected) == Counter(report.events) and dict(wanted.adjectives) == report.adjectives


def _ends_well(report: Report) -> bool:
    last = [event for event in report.events if not event[0].startswith("why.")][-1]
    return last[0] in HAPPY or (last[0] == "feel" and last[1][1] in ("happy", "proud", "grateful", "excited"))
