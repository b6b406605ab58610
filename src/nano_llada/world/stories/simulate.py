"""Simulates stories: draws a cast, lets plots happen to it in a world, and keeps the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from nano_llada.data.world.splits import Key, Split, split_of
from nano_llada.world.stories import lexicon
from nano_llada.world.stories.events import World
from nano_llada.world.stories.story import Entry, Story

CHILDREN = tuple(name for name, person in lexicon.people().items() if person.group == "child")
ANIMALS = tuple(name for name, person in lexicon.people().items() if person.group == "animal")
FAMILY = ("Grandma", "Grandpa", "Mom", "Dad")
NEIGHBOURS = ("Uncle Wang", "Aunt Chen", "Uncle Zhao", "Miss Li")
ELDERS = ("Old Owl", "Old Turtle", "Mother Goose", "Aunt Cow")
TOYS = tuple(name for name, thing in lexicon.things().items() if "toy" in thing.tags)
FOODS = tuple(name for name, thing in lexicon.things().items() if "food" in thing.tags)
GOODS = tuple(name for name, thing in lexicon.things().items() if not {"food", "nature"} & set(thing.tags.split(",")))
PRESENTS = tuple(name for name in GOODS if name not in ("key", "box", "basket", "umbrella"))
THINGS = tuple(name for name in lexicon.things() if name not in FOODS)
LONGEST = 30  # entries before the ending: about 300 tokens
PLACES = tuple(lexicon.PLACES)
NUMBERS = tuple(lexicon.NUMBERS)


class Sim:
    """One story in the making: a, b, c are its persons, `elder` a grown-up, t and u its things, p its place."""

    def __init__(self, rng: Random, plots: Sequence[str], a: str, t: str, p: str) -> None:
        self.rng, self.random, self.plots = rng, rng.random, tuple(plots)
        self.a, self.t, self.p = a, t, p
        others = CHILDREN if a in CHILDREN else ANIMALS
        self.b = self.pick(others)
        while self.b == a:
            self.b = self.pick(others)
        self.c = self.pick(others)
        while self.c in (a, self.b):
            self.c = self.pick(others)
        self.elder = self.pick(NEIGHBOURS if a in CHILDREN else ELDERS)
        self.parent = self.pick(FAMILY if a in CHILDREN else ELDERS)
        self.world = World()
        self.log: list[Entry] = []
        self.adjectives: dict[str, str] = {}
        self.gist: tuple[str, tuple[str, ...]] = ("", ())
        self.knows_b = False
        self.link = ""

    def pick(self, options: Sequence[str]) -> str:
        """One of the options."""
        return options[int(self.random() * len(options))]

    def say(self, kind: str, *args: str, link: str = "") -> None:
        """Let an event happen. Raises AssertionError if the world does not allow it: a plot is then wrong."""
        fault = self.world.apply((kind, args))
        assert fault is None, f"plot {self.plots}: {kind} {args} breaks {fault} after {self.log[-3:]}"
        self.log.append(Entry(kind, args, link or self.link))
        self.link = ""

    def maybe(self, chance: float, kind: str, *args: str, link: str = "") -> bool:
        """Let an event happen with some probability. Returns whether it did."""
        if self.random() >= chance:
            return False
        self.say(kind, *args, link=link)
        return True

    def describe(self, thing: str) -> None:
        """Give a thing its adjective."""
        if thing not in self.adjectives:
            self.adjectives[thing] = self.pick(lexicon.adjectives_for(thing))

    def other_thing(self, options: Sequence[str]) -> str:
        """A thing that is not in the story yet, with its adjective."""
        thing = self.pick(options)
        while thing in self.adjectives or thing == self.t:
            thing = self.pick(options)
        self.describe(thing)
        return thing

    def fresh_thing(self, options: Sequence[str]) -> str:
        """The story's main thing, if it suits and has not appeared yet, or another."""
        if self.t in options and self.t not in self.adjectives:
            self.describe(self.t)
            return self.t
        return self.other_thing(options)

    def owned_thing(self, options: Sequence[str]) -> str:
        """The story's main thing, if it suits and the hero has it, whole, or a fresh one."""
        held = self.world.holder.get(self.t) == self.a and self.world.owner.get(self.t) == self.a
        if held and self.t in options and self.t not in self.world.broken:
            return self.t
        return self.fresh_thing(options)

    def time(self, part: str = "", weather: str = "any") -> None:
        """A day begins: the first of the story, or the next."""
        day = "next" if self.world.day else "one"
        self.say("when", day, part or self.pick(("morning", "afternoon", "morning")), weather)

    def later_today(self) -> bool:
        """Time moves on within the day, if any of it is left. Returns whether it did."""
        part = self.world.part
        if not 0 <= part < 2:
            return False
        self.say("when", "same", ("morning", "afternoon", "evening")[part + 1], "any")
        return True

    def day(self) -> str:
        """A weather for being outdoors, often left open."""
        return self.pick(("any", "any", "sunny", "cloudy", "windy"))

    def meet(self, person: str, link: str = "") -> None:
        """The hero comes across a person, unless they are together."""
        at = self.world.at
        if at.get(person) != at.get(self.a) or at.get(self.a) is None:
            at.pop(person, None)
            self.say("meet", self.a, person, link=link)
            if person == self.b:
                self.knows_b = True

    def know(self) -> None:
        """The hero's friend is introduced."""
        if not self.knows_b:
            self.say("friend", self.a, self.b)
            self.knows_b = True

    def give_to_hero(self, thing: str) -> None:
        """The hero has a thing, with or without its history."""
        self.describe(thing)
        if self.world.holder.get(thing) != self.a:
            self.say("own", self.a, thing)
        if not self.maybe(0.35, "present", self.a, thing, self.parent):
            self.maybe(0.5, "love", self.a, thing)

    def scene(self) -> str:
        """What it looks like where the story plays."""
        if self.p in ("market", "square", "school"):
            return self.pick(("scene.crowd", "scene.smell" if self.p != "school" else "scene.crowd"))
        if self.p in ("river", "pond", "beach"):
            return "scene.water"
        if lexicon.PLACES[self.p].indoors:
            return "scene.quiet"
        return self.pick(("scene.birds", "scene.flowers", "scene.leaves"))

    def spot(self) -> str:
        """A hiding place where the story plays."""
        return self.pick(lexicon.spots_at(self.p))


def simulate(
    rng: Random, split: Split | None = None, plots: Sequence[str] = (), want: dict[str, str] | None = None
) -> Story:
    """One story of `split` (of any if None). `plots` and `want` (a, t, p) fix what is otherwise drawn.

    The split is decided by the skeleton (plots, hero, thing, place), before anything happens, so that no skeleton
    occurs in two splits.
    """
    from nano_llada.world.stories.plots import PLOTS, SECOND, fitting_things

    want = want or {}
    while True:
        names = tuple(plots) or _plots(rng, tuple(PLOTS), SECOND)
        a = want.get("a") or rng.choice(CHILDREN if rng.random() < 0.7 else ANIMALS)
        t = want.get("t") or rng.choice(fitting_things(names))
        p = want.get("p") or rng.choice(PLACES)
        key: Key = ("story", *names, a, t, p)
        if split is None or split_of(key) == split:
            break
    sim = Sim(rng, names, a, t, p)
    _open(sim, names)
    for index, name in enumerate(names):
        if index:
            sim.link = "para"
        PLOTS[name](sim)
    if len(sim.log) > LONGEST:
        return simulate(rng, split, plots, want)
    _close(sim, names[-1])
    cast = tuple(dict.fromkeys(arg for entry in sim.log for arg in entry.args if arg in lexicon.people()))
    return Story(key, tuple(sim.log), sim.adjectives, cast, sim.gist)


def stories(split: Split | None, count: int, seed: int) -> Iterator[Story]:
    """`count` stories of a split, the same ones for the same seed."""
    rng = Random(f"stories/{seed}/{split}")
    return (simulate(rng, split) for _ in range(count))


def _plots(rng: Random, names: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    first = rng.choice(names)
    if rng.random() < 0.55:
        return (first,)
    follow = rng.choice(second)
    return (first,) if follow == first else (first, follow)


def _open(sim: Sim, names: tuple[str, ...]) -> None:
    sim.say("intro", sim.a)
    if sim.a in CHILDREN:
        sim.maybe(0.35, "age", sim.a, sim.pick(NUMBERS))
    if sim.random() < 0.45:
        traits = ("curious", "shy", "lively", "brave", "dreamy", "careless" if names[0] == "lost" else "kind")
        sim.say("trait." + sim.pick(traits), sim.a)
    draw = sim.random()
    if draw < 0.3:
        sim.say("live", sim.a, sim.p)
    elif draw < 0.5:
        sim.say("habit", sim.a, sim.p)
    if sim.random() < 0.3:
        sim.know()


def _close(sim: Sim, last: str) -> None:
    draw = sim.random()
    pair = (
        last not in ("owner", "newcomer", "late")
        and sim.world.at.get(sim.a) is not None
        and sim.world.at.get(sim.a) == sim.world.at.get(sim.b)
    )
    if draw < 0.25 and pair and not sim.world.at[sim.a].startswith("home"):
        sim.say("home_both", sim.a, sim.b, link="later")
    friends = any(entry.kind == "end_friends" for entry in sim.log)
    if draw < 0.35 and pair and not friends:
        sim.say("end_friends", sim.a, sim.b, link="para" if draw > 0.25 else "")
    elif draw < 0.42 and pair and not sim.world.at[sim.a].startswith("home"):
        sim.say("end_again", sim.a, sim.b)
    elif draw < 0.57:
        sim.say("end_sleep", sim.a, link="para")
    elif draw < 0.7:
        sim.say("end_day", sim.a)
    elif draw < 0.8:
        sim.say("end_smile", sim.a)
    elif draw < 0.88:
        sim.say("end_tell", sim.a, sim.parent, link="para")
        sim.maybe(0.3, "end_gift", sim.a, sim.parent)
    sim.maybe(0.15, "the_end")
