"""Simulates stories: draws a skeleton, lets its plots happen to a cast, and keeps the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from nano_llada.world.splits import Key, Split, split_of
from nano_llada.world.stories import lexicon
from nano_llada.world.stories.plots import PLOTS, SECOND, fitting_things
from nano_llada.world.stories.sim import ANIMALS, CHILDREN, NUMBERS, PLACES, Sim
from nano_llada.world.stories.story import Story

LONGEST = 30  # entries before the ending: about 300 tokens


def simulate(
    rng: Random, split: Split | None = None, plots: Sequence[str] = (), want: dict[str, str] | None = None
) -> Story:
    """One story of `split` (of any if None). `plots` and `want` (a, t, p) fix what is otherwise drawn.

    The split is decided by the skeleton (plots, hero, thing, place), before anything happens, so that no skeleton
    occurs in two splits.
    """
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
