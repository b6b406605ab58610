"""One story in the making: its cast, its world and its log."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from nano_llada.world.stories import lexicon
from nano_llada.world.stories.events import World
from nano_llada.world.stories.story import Entry

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
