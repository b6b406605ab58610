"""What happens in a story, and the rules that decide whether it can happen.

An event is `(kind, arguments)`; `signatures` gives the roles of the arguments. A `World` replays events and reports the
first rule that one breaks. The simulator builds its plots on it and the verifier replays parsed text with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Event = tuple[str, tuple[str, ...]]
Fault = Literal["holder", "lost", "place", "name", "cause", "property", "time", "weather", "knowledge", "ability"]
FAULTS: dict[Fault, str] = {
    "holder": "a thing is in two hands",
    "lost": "a thing is used after it was lost, broken or eaten",
    "place": "somebody is in two places",
    "name": "a name is not that of anybody in the story",
    "cause": "a cause did not happen",
    "property": "a thing or a person changes its looks",
    "time": "time runs backwards",
    "weather": "the weather does not fit",
    "knowledge": "somebody says what contradicts what they know",
    "ability": "somebody cannot do what they do",
}


def named(kinds: str) -> frozenset[str]:
    """A set of kinds of events, given as words."""
    return frozenset(kinds.split())


Step = Callable[["World", tuple[str, ...]], "Fault | None"]


# Events of two persons together: it does not matter who is named first.
TOGETHER = named(
    "go_both home_both play_both play_thing search_both quarrel share plan no_picnic picnic stories "
    "draw_both cards rainbow laugh_both end_friends both_want race together_line friends_both end_again"
)


def canonical(event: Event) -> Event:
    """The event with the two persons of a joint event in alphabetical order."""
    kind, args = event
    if kind in TOGETHER and args[0] > args[1]:
        return kind, (args[1], args[0], *args[2:])
    return event


class World:
    """The state of a story: who is where, who holds what, what is broken, known and promised."""

    __slots__ = ("at", "broken", "day", "facts", "gone", "holder", "lying", "owner", "part", "said", "spot", "weather")

    def __init__(self) -> None:
        self.at: dict[str, str] = {}
        self.holder: dict[str, str] = {}
        self.owner: dict[str, str] = {}
        self.lying: dict[str, str] = {}
        self.spot: dict[str, str] = {}
        self.gone: set[str] = set()
        self.broken: set[str] = set()
        self.facts: set[tuple[str, ...]] = set()
        self.said: set[tuple[str, ...]] = set()
        self.day = 0
        self.part = -1
        self.weather = ""

    def apply(self, event: Event) -> Fault | None:
        """Replay one event. Returns the rule it breaks, or None. A broken rule leaves the later steps undone."""
        kind, args = event
        if len(set(args)) < len(args):
            return "name"  # nobody meets, helps or is friends with themselves; no thing is swapped for itself
        for step in RULES.get(kind, ()):
            fault = step(self, args)
            if fault is not None:
                return fault
        self.facts.add((kind, *args))
        return None


def near(x: int, y: int) -> Step:
    """Both are at one place; an unknown place is taken from the other person."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        at = world.at
        first, second = at.get(args[x]), at.get(args[y])
        if first is None:
            if second is not None:
                at[args[x]] = second
        elif second is None:
            at[args[y]] = first
        elif first != second:
            return "place"
        return None

    return step


def moves(x: int, p: int) -> Step:
    """Somebody goes to a place where they are not yet."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        if world.at.get(args[x]) == args[p]:
            return "place"
        world.at[args[x]] = args[p]
        return None

    return step


def goes_home(x: int) -> Step:
    """Somebody goes home who is not at home."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        if world.at.get(args[x]) == "home":
            return "place"
        world.at[args[x]] = "home"
        return None

    return step


def joins(x: int, y: int) -> Step:
    """x comes to where y is."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        place = world.at.get(args[y])
        if place is None:
            world.at.pop(args[x], None)
        else:
            world.at[args[x]] = place
        return None

    return step


def leaves(x: int) -> Step:
    """x goes off to a place that is not told."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        world.at[args[x]] = f"away {args[x]}"
        return None

    return step


def apart(x: int, y: int) -> Step:
    """x is not where y is."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        place = world.at.get(args[x])
        return "place" if place is not None and place == world.at.get(args[y]) else None

    return step


def holds(x: int, t: int, *others: int) -> Step:
    """x, or one of the others, has the thing in hand; whoever has an unknown thing is its owner."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        thing = args[t]
        if thing in world.gone or thing in world.lying:
            return "lost"
        holder = world.holder.get(thing)
        if holder is None:
            world.holder[thing] = args[x]
            world.owner.setdefault(thing, args[x])
        elif holder != args[x] and holder not in [args[other] for other in others]:
            return "holder"
        return None

    return step


def whole(t: int) -> Step:
    """The thing is not broken."""
    return lambda world, args: "lost" if args[t] in world.broken else None


def fresh(t: int) -> Step:
    """The thing is new in the story: nobody has it, and it is not lost."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        known = args[t] in world.holder or args[t] in world.lying or args[t] in world.gone
        return "holder" if known else None

    return step


def passes(t: int, y: int, *, owned: bool = False) -> Step:
    """The thing is now in the hands of y, who may own it from then on."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        world.holder[args[t]] = args[y]
        if owned:
            world.owner[args[t]] = args[y]
        return None

    return step


def drops(x: int, t: int) -> Step:
    """The thing now lies where x is."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        world.holder.pop(args[t], None)
        world.lying[args[t]] = world.at.get(args[x], "")
        return None

    return step


def sticks(t: int) -> Step:
    """The thing is out of reach, and nobody has it."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        world.holder.pop(args[t], None)
        world.lying[args[t]] = ""
        return None

    return step


def picks(x: int, t: int) -> Step:
    """x has the thing again that was out of reach."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        if world.lying.pop(args[t], None) is None:
            return "holder"
        world.holder[args[t]] = args[x]
        return None

    return step


def visits(x: int, y: int) -> Step:
    """x comes to the home of y."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        world.at[args[x]] = world.at[args[y]] = f"home of {args[y]}"
        return None

    return step


def missing(t: int) -> Step:
    """The thing is lost at the moment."""
    return lambda world, args: "holder" if args[t] in world.holder else None


def finds(x: int, t: int, s: int) -> Step:
    """x picks up a lost thing where it lies."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        thing, place = args[t], world.at.get(args[x])
        if thing in world.gone:
            return "lost"
        if thing in world.holder:
            return "holder"
        lying = world.lying.pop(thing, None)
        if lying and place and lying != place:
            return "place"
        if world.spot.pop(thing, args[s]) != args[s]:
            return "knowledge"
        world.holder[thing] = args[x]
        return None

    return step


def uses_up(t: int) -> Step:
    """The thing is no more."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        world.holder.pop(args[t], None)
        world.gone.add(args[t])
        return None

    return step


def breaks(t: int) -> Step:
    """The thing is broken from now on."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        world.broken.add(args[t])
        return None

    return step


def mends(t: int) -> Step:
    """A broken thing is whole again."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        if args[t] not in world.broken:
            return "cause"
        world.broken.discard(args[t])
        return None

    return step


def owned_by(y: int, t: int) -> Step:
    """y owns the thing, as far as it is known."""
    return lambda world, args: "holder" if world.owner.get(args[t], args[y]) != args[y] else None


def becomes_owner(x: int, t: int) -> Step:
    """x says that the thing is theirs, and nothing speaks against it."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        if world.owner.setdefault(args[t], args[x]) != args[x]:
            return "holder"
        return None

    return step


def not_owner(x: int, t: int) -> Step:
    """x is not the owner of the thing."""
    return lambda world, args: "holder" if world.owner.get(args[t]) == args[x] else None


def after(*choices: tuple[str | int, ...], fault: Fault = "cause") -> Step:
    """One of the events happened before; numbers stand for arguments."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        facts = world.facts
        for choice in choices:
            if tuple([args[part] if isinstance(part, int) else part for part in choice]) in facts:
                return None
        return fault

    return step


def never(*choice: str | int, fault: Fault) -> Step:
    """The event did not happen before."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        known = tuple([args[part] if isinstance(part, int) else part for part in choice]) in world.facts
        return fault if known else None

    return step


def notes(*choices: tuple[str | int, ...]) -> Step:
    """Facts that follow from the event, e.g. that somebody was wronged."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        for choice in choices:
            world.facts.add(tuple([args[part] if isinstance(part, int) else part for part in choice]))
        return None

    return step


def sights(x: int, t: int, s: int) -> Step:
    """x tells where a lost thing lies."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        if world.spot.setdefault(args[t], args[s]) != args[s]:
            return "knowledge"
        world.said.add((args[x], args[t]))
        return None

    return step


def unaware(x: int, t: int) -> Step:
    """x has not told before where the thing is."""
    return lambda world, args: "knowledge" if (args[x], args[t]) in world.said else None


def when(world: World, args: tuple[str, ...]) -> Fault | None:
    """Time: `one` and `next` begin a day, `same` moves on within it. People may be anywhere on a new day."""
    part = ("morning", "afternoon", "evening").index(args[1])
    if args[0] == "same":
        if part <= world.part:
            return "time"
    else:
        world.day += 1
        world.at.clear()
        world.weather = ""
    world.part = part
    if args[2] != "any":
        world.weather = args[2]
    return None


def turns(weather: str) -> Step:
    """The weather changes."""

    def step(world: World, args: tuple[str, ...]) -> Fault | None:
        if world.weather == weather:
            return "weather"
        world.weather = weather
        return None

    return step


def weather_in(*allowed: str) -> Step:
    """The weather is one of these, or unknown."""
    return lambda world, args: None if world.weather in ("", *allowed) else "weather"


def clears(world: World, args: tuple[str, ...]) -> Fault | None:
    """A rainbow needs rain before it, and ends it."""
    if world.weather not in ("", "rainy", "sunny"):
        return "weather"
    world.weather = "sunny"
    return None


RULES: dict[str, tuple[Step, ...]] = {
    "when": (when,),
    "turn.rainy": (turns("rainy"),),
    "turn.windy": (turns("windy"),),
    "turn.snowy": (turns("snowy"),),
    "turn.sunny": (turns("sunny"),),
    "own": (holds(0, 1), owned_by(0, 1)),
    "pack": (holds(0, 1), owned_by(0, 1)),
    "present": (owned_by(0, 1),),
    "love": (owned_by(0, 1),),
    "go": (moves(0, 1),),
    "go_both": (near(0, 1), moves(0, 2), joins(1, 0)),
    "bring": (holds(0, 1), moves(0, 2)),
    "home": (goes_home(0),),
    "home_both": (near(0, 1), goes_home(0), joins(1, 0)),
    "meet": (near(0, 1),),
    "come": (joins(0, 1),),
    "play": (holds(0, 1), whole(1)),
    "play_both": (near(0, 1),),
    "play_thing": (near(0, 1), holds(0, 2, 1), whole(2)),
    "lose": (holds(0, 1), drops(0, 1)),
    "notice": (missing(1),),
    "search": (missing(1),),
    "not_found": (missing(1),),
    "search_both": (near(0, 1), missing(2), notes(("helped", 0, 1), ("helped", 1, 0))),
    "ask_seen": (near(0, 1), missing(2)),
    "not_seen": (near(0, 1), unaware(0, 2), missing(2)),
    "saw_it": (near(0, 1), never("not_seen", 0, 1, 2, fault="knowledge"), missing(2), sights(0, 2, 3)),
    "offer": (near(0, 1),),
    "find": (finds(0, 1, 2),),
    "give": (holds(0, 2), near(0, 1), passes(2, 1), notes(("helped", 0, 1))),
    "thank": (near(0, 1),),
    "greet": (near(0, 1),),
    "ask_wrong": (near(0, 1),),
    "invite": (near(0, 1),),
    "end_again": (near(0, 1),),
    "hug": (near(0, 1),),
    "buy": (fresh(1), passes(1, 0, owned=True)),
    "buy_it": (after(("want", 0, 1)), fresh(1), passes(1, 0, owned=True)),
    "stuck": (holds(0, 1), sticks(1)),
    "too_high": (missing(1),),
    "get_down": (near(0, 1), after(("stuck", 1, 2)), picks(1, 2), notes(("helped", 0, 1))),
    "visit": (after(("ill", 1)), visits(0, 1)),
    "read_to": (near(0, 1),),
    "better": (after(("ill", 0)),),
    "no_sprout": (after(("plant", 0)),),
    "water": (after(("plant", 0)),),
    "advise": (near(0, 1), after(("plant", 1))),
    "bloom": (after(("plant", 0)), after(("water", 0))),
    "hide": (near(0, 1), notes(("hidden", 0))),
    "cannot_find": (after(("hidden", 1)),),
    "found": (near(0, 1), after(("hidden", 1))),
    "show_round": (near(0, 1),),
    "race": (near(0, 1), notes(("raced", 0), ("raced", 1))),
    "fall_race": (after(("raced", 0)),),
    "turn_back": (near(0, 1), after(("fall_race", 1)), notes(("helped", 0, 1))),
    "together_line": (near(0, 1), after(("raced", 0))),
    "make": (fresh(1), passes(1, 0, owned=True)),
    "wrap": (holds(0, 1),),
    "give_present": (holds(0, 2), near(0, 1), after(("birthday", 1)), passes(2, 1, owned=True)),
    "delight": (holds(0, 1),),
    "both_want": (near(0, 1), holds(0, 2, 1)),
    "grab": (holds(1, 2), near(0, 1), passes(2, 0), notes(("wronged", 0, 1))),
    "quarrel": (
        near(0, 1),
        holds(0, 2, 1),
        notes(("wronged", 0, 1), ("wronged", 1, 0), ("quarrelled", 0, 1), ("quarrelled", 1, 0)),
    ),
    "walk_off": (near(0, 1), leaves(0), notes(("wronged", 0, 1))),
    "sorry": (near(0, 1), after(("wronged", 0, 1))),
    "forgive": (near(0, 1), after(("sorry", 1, 0), ("confessed", 1, 0), ("excused", 1, 0))),
    "share": (near(0, 1), holds(0, 2, 1), whole(2)),
    "break": (holds(0, 1), whole(1), breaks(1), notes(("broke", 0))),
    "repair": (mends(1),),
    "help_heavy": (near(0, 1), after(("heavy", 1)), notes(("helped", 0, 1))),
    "help_knee": (near(0, 1), after(("knee", 1)), notes(("helped", 0, 1))),
    "help_astray": (near(0, 1), after(("astray", 1)), notes(("helped", 0, 1))),
    "no_picnic": (after(("planned", 0, 1)), weather_in("rainy", "snowy", "windy")),
    "picnic": (near(0, 1), after(("planned", 0, 1)), weather_in("sunny", "cloudy")),
    "rainbow": (near(0, 1), clears),
    "stories": (near(0, 1),),
    "draw_both": (near(0, 1),),
    "cards": (near(0, 1),),
    "want_learn": (never("can", 0, 1, fault="ability"),),
    "cannot": (never("can", 0, 1, fault="ability"),),
    "fail": (never("can", 0, 1, fault="ability"),),
    "ask_teach": (near(0, 1), never("can", 0, 2, fault="ability")),
    "teach": (near(0, 1), never("cannot", 0, 2, fault="ability"), notes(("helped", 0, 1))),
    "can": (after(("practise", 0, 1)),),
    "watch": (near(0, 1), after(("can", 1, 2), fault="ability")),
    "admire": (holds(1, 2), near(0, 1)),
    "offer_swap": (holds(0, 2), holds(1, 3), near(0, 1)),
    "swap": (
        holds(0, 2),
        holds(1, 3),
        near(0, 1),
        passes(2, 1, owned=True),
        passes(3, 0, owned=True),
    ),
    "promise_meet": (notes(("promised", 0, 1)),),
    "wait": (apart(0, 1),),
    "late": (after(("promised", 0, 1)), joins(0, 1), notes(("wronged", 0, 1))),
    "late_help": (
        near(0, 1),
        after(("help_heavy", 0, 2), ("help_knee", 0, 2), ("help_astray", 0, 2)),
        notes(("excused", 0, 1)),
    ),
    "ask_borrow": (holds(1, 2), near(0, 1)),
    "lend": (holds(0, 2), near(0, 1), passes(2, 1), notes(("helped", 0, 1))),
    "promise_return": (near(0, 1), holds(0, 2), owned_by(1, 2)),
    "confess": (near(0, 1), after(("break", 0, 2)), owned_by(1, 2), notes(("wronged", 0, 1), ("confessed", 0, 1))),
    "return": (holds(0, 2), near(0, 1), owned_by(1, 2), passes(2, 1)),
    "noise": (notes(("scared", 0)),),
    "plan": (near(0, 1), notes(("planned", 0, 1), ("planned", 1, 0))),
    "look": (after(("noise", 0, 1)),),
    "reveal": (near(0, 1), after(("scared", 0))),
    "laugh_both": (near(0, 1),),
    "share_food": (holds(0, 2), near(0, 1), uses_up(2)),
    "eat": (holds(0, 1), uses_up(1)),
    "discover": (fresh(1), passes(1, 0)),
    "wonder": (holds(0, 1),),
    "whose": (holds(0, 2), near(0, 1)),
    "not_mine": (near(0, 1), not_owner(0, 2)),
    "is_mine": (near(0, 1), becomes_owner(0, 2)),
    "want": (missing(1),),
    "no_money": (missing(1),),
    "work": (),
    "pay": (after(("work", 1, 0)),),
    "no_tell": (after(("broke", 0)),),
    "why.lose": (after(("lose", 0, 1)),),
    "why.find": (holds(0, 1),),
    "why.give": (after(("give", 1, 0, 2), ("give_present", 1, 0, 2)),),
    "why.break": (after(("break", 0, 1)),),
    "why.quarrel": (after(("quarrelled", 0, 1)),),
    "why.rain": (weather_in("rainy"),),
    "why.can": (after(("can", 0, 1)),),
    "why.late": (apart(0, 1),),
    "why.noise": (after(("scared", 0)),),
    "why.help": (after(("helped", 1, 0)),),
    "why.fail": (never("can", 0, 1, fault="ability"),),
}
