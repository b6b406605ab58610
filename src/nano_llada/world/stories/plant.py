"""Plants contradictions: each kind changes the log (or one word) so that a known sentence cannot be true.

What is wrong, and where, follows from the change itself and not from the verifier, which can so be measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from nano_llada.world.splits import Language
from nano_llada.world.stories import lexicon
from nano_llada.world.stories.events import FAULTS, Fault, World, named
from nano_llada.world.stories.lexer import Lexer
from nano_llada.world.stories.story import Entry, Story, Telling, tell

Log = list[Entry]
Change = tuple[Log, int]  # the new log, and the index of the entry that cannot be true


@dataclass(frozen=True)
class Planted:
    """A told story with one contradiction: sentence number `sentence` (from 1) of `telling` cannot be true.

    `original` is the same story told without it.
    """

    kind: Fault
    telling: Telling
    sentence: int
    original: Telling


def plant(story: Story, language: Language, rng: Random, kind: Fault | None = None) -> Planted | None:
    """The story with a contradiction of a kind (any that fits if None), or None if the kind does not fit."""
    kinds = [kind] if kind else rng.sample(sorted(FAULTS), len(FAULTS))
    for found in kinds:
        planted = _property(story, language, rng) if found == "property" else _changed(story, language, rng, found)
        if planted is not None:
            return planted
    return None


def _changed(story: Story, language: Language, rng: Random, kind: Fault) -> Planted | None:
    change = CHANGES[kind](list(story.log), rng)
    if change is None:
        return None
    log, wrong = change
    state = rng.getstate()
    original = tell(story, language, rng)
    rng.setstate(state)
    telling = tell(story.with_log(tuple(log)), language, rng)
    number = next(n for n, entries in enumerate(telling.entries, 1) if wrong in entries)
    return Planted(kind, telling, number, original)


def _insert(log: Log, index: int, *entries: Entry) -> Log:
    return [*log[:index], *entries, *log[index:]]


def _free(log: Log, index: int) -> bool:
    """Whether something may be inserted before an entry: never between a time or a feeling and what belongs to it."""
    return (
        0 < index <= len(log)
        and log[index - 1].kind != "when"
        and (index == len(log) or not log[index].kind.startswith("why."))
    )


def _states(log: Log) -> list[World]:
    """The world before each entry."""
    states, world = [], World()
    for entry in log:
        states.append(_copy(world))
        world.apply(entry.event)
    return [*states, world]


def _copy(world: World) -> World:
    new = World()
    for name in ("at", "holder", "lying", "spot", "owner"):
        setattr(new, name, dict(getattr(world, name)))
    new.gone, new.broken, new.part = set(world.gone), set(world.broken), world.part
    new.weather = world.weather
    return new


def _introduced(log: Log, index: int) -> set[str]:
    """Those who were mentioned before an entry."""
    people = lexicon.people()
    return {arg for entry in log[:index] for arg in entry.args if arg in people}


def _holder(log: Log, rng: Random) -> Change | None:
    """Somebody gives away a thing that somebody else has in hand."""
    states = _states(log)
    options = []
    for index in range(1, len(log) + 1):
        world = states[index]
        for thing, holder in world.holder.items():
            for other in _introduced(log, index):
                together = world.at.get(other) is not None and world.at.get(other) == world.at.get(holder)
                if other != holder and together and _free(log, index):
                    options.append((index, Entry("give", (other, holder, thing))))
    if not options:
        return None
    index, entry = rng.choice(options)
    return _insert(log, index, entry), index


def _lost(log: Log, rng: Random) -> Change | None:
    """A thing is used after it was lost, broken or eaten."""
    options = []
    away: dict[str, str] = {}
    for index, entry in enumerate(log):
        for thing, person in away.items():
            if _free(log, index):
                toy = "toy" in lexicon.things()[thing].tags
                options.append((index, Entry("play" if toy else "wrap", (person, thing))))
        if entry.kind == "lose" or (entry.kind == "break" and "toy" in lexicon.things()[entry.args[1]].tags):
            away[entry.args[1]] = entry.args[0]
        elif entry.kind in ("find", "repair"):
            away.pop(entry.args[1], None)
        elif entry.kind in ("share_food", "eat"):
            options.append((index + 1, Entry("eat", (entry.args[0], entry.args[-1]))))
    options = [option for option in options if _free(log, option[0])]
    if not options:
        return None
    index, entry = rng.choice(options)
    return _insert(log, index, entry), index


TALKING = named("thank hug ask_seen offer give give_present greet sorry forgive lend ask_borrow whose teach ask_wrong")


ACTING = named("go search play thank find practise buy")


def _place(log: Log, rng: Random) -> Change | None:
    """Somebody goes elsewhere and still takes part where they were."""
    options = [
        index
        for index, entry in enumerate(log)
        if entry.kind in TALKING and _free(log, index) and entry.args[1] in _introduced(log, index)
    ]
    if not options:
        return None
    index = rng.choice(options)
    leaver, stays = log[index].args[1], log[index].args[0]
    at = _states(log)[index].at
    if at.get(stays) is None:
        return None
    place = rng.choice([place for place in lexicon.PLACES if place not in at.values()])
    return _insert(log, index, Entry("go", (leaver, place))), index + 1


def _name(log: Log, rng: Random) -> Change | None:
    """A person is suddenly called by another name."""
    people = lexicon.people()
    options = [
        (index, position)
        for index, entry in enumerate(log)
        if entry.kind in TALKING | {"search", "not_found", "go", "home", "practise"} and _free(log, index)
        for position, arg in enumerate(entry.args[:2])
        if arg in people and people[arg].group != "adult" and arg in _introduced(log, index)
    ]
    if not options:
        return None
    index, position = rng.choice(options)
    old = people[log[index].args[position]]
    used = {arg for entry in log for arg in entry.args}
    new = rng.choice([n for n, p in people.items() if p.sex == old.sex and p.group == old.group and n not in used])
    args = list(log[index].args)
    args[position] = new
    log[index] = replace(log[index], args=tuple(args))
    return log, index


def _cause(log: Log, rng: Random) -> Change | None:
    """A feeling is explained by something that did not happen."""
    happened = {entry.kind for entry in log}
    things = [entry.args[1] for entry in log if entry.kind == "own"]
    options = []
    for index, entry in enumerate(log):
        if entry.kind != "feel" or (index + 1 < len(log) and log[index + 1].kind.startswith("why.")):
            continue
        hero, feeling = entry.args
        if feeling in ("sad", "worried", "disappointed", "lonely", "afraid", "ashamed"):
            others = [name for name in _introduced(log, index) if name != hero]
            if "quarrel" not in happened and others:
                options.append((index, Entry("why.quarrel", (hero, rng.choice(sorted(others))))))
            owned = [thing for thing in things if any(e.args[:2] == (hero, thing) for e in log[:index])]
            if owned and "lose" not in happened:
                options.append((index, Entry("why.lose", (hero, owned[0]))))
            if owned and "break" not in happened:
                options.append((index, Entry("why.break", (hero, owned[0]))))
        elif feeling in ("happy", "proud") and "can" not in happened:
            options.append((index, Entry("why.can", (hero, rng.choice(sorted(lexicon.SKILLS))))))
    if not options:
        return None
    index, entry = rng.choice(options)
    return _insert(log, index + 1, entry), index + 1


def _time(log: Log, rng: Random) -> Change | None:
    """The day runs backwards."""
    parts = ("morning", "afternoon", "evening")
    states = _states(log)
    options = [
        index
        for index in range(1, len(log))
        if states[index].part > 0 and _free(log, index) and log[index].kind in ACTING
    ]
    if not options:
        return None
    index = rng.choice(options)
    part = parts[rng.randrange(states[index].part)]
    return _insert(log, index, Entry("when", ("same", part, "any"))), index


def _weather(log: Log, rng: Random) -> Change | None:
    """The sun shines, and so the picnic is off; or it rains, and they have it."""
    for index, entry in enumerate(log):
        if entry.kind == "turn.rainy":
            log[index] = replace(entry, kind="turn.sunny")
            wrong = next(n for n, later in enumerate(log) if later.kind == "no_picnic")
            return log, wrong
    return None


def _knowledge(log: Log, rng: Random) -> Change | None:
    """The thing turns up elsewhere than it was seen."""
    seen = {entry.args[2]: entry.args[3] for entry in log if entry.kind == "saw_it"}
    for index, entry in enumerate(log):
        if entry.kind == "find" and entry.args[1] in seen:
            spot = seen[entry.args[1]]
            tag = lexicon.SPOTS[spot].tags
            other = rng.choice([name for name, word in lexicon.SPOTS.items() if word.tags == tag and name != spot])
            log[index] = replace(entry, args=(*entry.args[:2], other))
            return log, index
    return None


def _ability(log: Log, rng: Random) -> Change | None:
    """Somebody cannot do what they have just learned."""
    for index, entry in enumerate(log):
        if entry.kind == "can":
            at = index + 1
            while at < len(log) and not _free(log, at):
                at += 1
            later = [n for n in range(at, min(at + 3, len(log) + 1)) if _free(log, n)]
            if not later:
                return None
            place = rng.choice(later)
            return _insert(log, place, Entry(rng.choice(("cannot", "fail")), entry.args)), place
    return None


CHANGES: dict[Fault, Callable[[Log, Random], Change | None]] = {
    "holder": _holder,
    "lost": _lost,
    "place": _place,
    "name": _name,
    "cause": _cause,
    "time": _time,
    "weather": _weather,
    "knowledge": _knowledge,
    "ability": _ability,
}


def _property(story: Story, language: Language, rng: Random) -> Planted | None:
    """A thing has another colour, size or age than before."""
    original = tell(story, language, rng)
    lexer = Lexer.of(language)
    options, seen = [], set()
    for index, sentence in enumerate(original.sentences):
        for mention in lexer.lex(sentence)[1]:
            if mention.shape == "#" and mention.adj:
                if mention.name in seen:
                    options.append((index, mention))
                seen.add(mention.name)
    if not options:
        return None
    index, mention = rng.choice(options)
    word = {name: entry.zh if language == "zh" else name for name, entry in lexicon.ADJECTIVES.items()}
    other = rng.choice([name for name in lexicon.adjectives_for(mention.name) if name != mention.adj])
    changed = mention.surface.replace(word[mention.adj], word[other])
    if language == "en":
        changed = re.sub(
            r"^(an?) ",
            lambda match: lexicon.article(changed[match.end() :])[: 3 if changed[match.end()] in "aeiou" else 2],
            changed,
        )
    sentences = list(original.sentences)
    sentences[index] = sentences[index].replace(mention.surface, changed, 1)
    telling = replace(original, sentences=sentences)
    return Planted("property", telling, index + 1, original)
