"""The plots: what can happen to the cast of a story. Each is a function that lets its events happen."""

from __future__ import annotations

from collections.abc import Callable

from nano_llada.world.stories import lexicon
from nano_llada.world.stories.sim import FOODS, GOODS, PRESENTS, THINGS, TOYS, Sim

TROUBLES = ("heavy", "knee", "astray")


def fitting_things(names: tuple[str, ...]) -> tuple[str, ...]:
    """The things that the first plot can be about."""
    return NEEDS.get(names[0], THINGS)


def _arrive(sim: Sim, thing: str = "") -> None:
    """The hero comes to the story's place, with a thing or without."""
    if sim.world.at.get(sim.a) == sim.p:
        return
    if thing and sim.world.holder.get(thing) == sim.a:
        sim.say("bring", sim.a, thing, sim.p)
    else:
        sim.say("go", sim.a, sim.p)
    sim.maybe(0.25, sim.scene())


def lost(sim: Sim) -> None:
    """The hero loses a thing and gets it back with the help of a friend."""
    a, b, t, spot = sim.a, sim.b, sim.t, sim.spot()
    sim.give_to_hero(t)
    sim.time(weather=sim.day())
    _arrive(sim, t)
    if t in TOYS:
        sim.maybe(0.6, "play", a, t)
    sim.say("lose", a, t, link=sim.pick(("", "then", "pity")))
    sim.say("notice", a, t, link=sim.pick(("later", "sudden")))
    sim.say("feel", a, sim.pick(("sad", "worried")), link="")
    if sim.random() < 0.4:
        sim.say("why.lose", a, t)
    sim.maybe(0.25, "cry", a)
    sim.maybe(0.3, "what_now", a)
    if sim.maybe(0.7, "search", a, t):
        sim.say("not_found", a, t, link="but")
    sim.meet(b, link="now")
    sim.maybe(0.4, "ask_wrong", b, a)
    sim.say("ask_seen", a, b, t)
    if sim.random() < 0.5:
        sim.say("saw_it", b, a, t, spot)
        sim.maybe(0.4, "thank", a, b)
        finder = a
    else:
        sim.say("not_seen", b, a, t)
        sim.maybe(0.8, "offer", b, a, link="but")
        sim.say("search_both", a, b, t, link="so")
        finder = sim.pick((a, b))
    sim.say("find", finder, t, spot, link=sim.pick(("luck", "end", "later", "")))
    if finder == b:
        sim.say("give", b, a, t)
    if sim.maybe(0.7, "feel", a, "happy") and sim.random() < 0.35:
        sim.say("why.find", a, t)
    if not sim.maybe(0.6, "thank", a, b, link="too"):
        sim.say("hug", a, b)
    sim.maybe(0.5, sim.pick(("moral_care", "moral_help")), a)
    sim.gist = ("sum.lost", (a, b, t, sim.p))


def gift(sim: Sim) -> None:
    """The hero gives a friend a birthday present, bought or made."""
    a, b = sim.a, sim.b
    sim.know()
    t = sim.fresh_thing(PRESENTS)
    sim.time("morning", sim.day())
    sim.say("birthday", b)
    sim.say("plan_gift", a, b, link="")
    if sim.random() < 0.5:
        sim.say("go", a, "market", link="so")
        sim.say("buy", a, t)
    else:
        sim.say("make", a, t, link="so")
    sim.maybe(0.5, "wrap", a, t, link="then")
    sim.later_today()
    if sim.p != "market":
        _arrive(sim, t)
    sim.meet(b)
    sim.say("give_present", a, b, t)
    if sim.maybe(0.6, "feel", b, sim.pick(("surprised", "happy"))) and sim.random() < 0.3:
        sim.say("why.give", b, a, t)
    sim.maybe(0.6, "delight", b, t)
    if not sim.maybe(0.6, "thank", b, a):
        sim.say("hug", b, a)
    sim.maybe(0.4, "play_both", a, b, link="later")
    sim.gist = ("sum.gift", (a, b, t))


def quarrel(sim: Sim) -> None:
    """Two friends quarrel over a toy and make up."""
    a, b = sim.a, sim.b
    t = sim.owned_thing(TOYS)
    sim.know()
    if sim.world.holder.get(t) != a:
        sim.say("own", a, t)
    sim.time(weather=sim.day())
    _arrive(sim, t)
    sim.meet(b)
    sim.maybe(0.4, "invite", a, b)
    sim.say("both_want", a, b, t)
    sim.maybe(0.5, "grab", b, a, t, link="sudden")
    sim.say("quarrel", a, b, t, link="so")
    first, second = (a, b) if sim.random() < 0.5 else (b, a)
    sim.say("walk_off", first, second, link="end")
    sim.maybe(0.4, "feel", second, "angry")
    sim.say("alone", first, link=sim.pick(("later", "but")))
    sim.say("feel", first, sim.pick(("lonely", "ashamed", "sad")))
    if sim.random() < 0.5:
        sim.say("why.quarrel", first, second)
    sim.say("come", first, second, link=sim.pick(("later", "end")))
    sim.say("sorry", first, second)
    sim.say("forgive", second, first)
    sim.say("share", a, b, t, link="then")
    sim.maybe(0.25, "play_thing", a, b, t)
    sim.maybe(0.5, sim.pick(("moral_share", "moral_friend")), a)
    sim.gist = ("sum.quarrel", (a, b, t))


def _trouble(sim: Sim, helper: str, person: str) -> str:
    kind = sim.pick(TROUBLES if person in (sim.b, sim.c) else TROUBLES[:2])
    sim.say(kind, person)
    if kind != "heavy":
        sim.maybe(0.5, "feel", person, "worried" if kind == "astray" else "sad")
    sim.maybe(0.7, "offer", helper, person)
    sim.say(f"help_{kind}", helper, person, link="so")
    return kind


def helping(sim: Sim) -> None:
    """The hero helps somebody in trouble, who shares food for thanks."""
    a, b = sim.a, sim.b
    if sim.random() < 0.3 and not sim.knows_b:
        b = sim.elder
    sim.time(weather=sim.day())
    _arrive(sim)
    sim.meet(b)
    kind = _trouble(sim, a, b)
    sim.say("thank", b, a, link="too")
    if sim.random() < 0.6:
        food = sim.other_thing(FOODS)
        sim.say("pack", b, food)
        if sim.random() < 0.5:
            sim.say("give", b, a, food, link="so")
            sim.maybe(0.6, "eat", a, food)
        else:
            sim.say("share_food", b, a, food, link="so")
    if sim.maybe(0.5, "feel", a, sim.pick(("happy", "proud"))):
        sim.maybe(0.0, "thank", a, b)
    sim.maybe(0.5, "moral_help", a)
    sim.gist = (f"sum.{kind}", (a, b))


def picnic(sim: Sim) -> None:
    """Rain spoils a picnic, and the friends make the best of it."""
    a, b, p = sim.a, sim.b, sim.p
    if lexicon.PLACES[p].indoors:
        p = sim.pick(("park", "meadow", "river", "hill"))
    sim.know()
    sim.time("morning", sim.pick(("any", "cloudy")))
    sim.say("plan", a, b, p)
    sim.say("turn.rainy", link=sim.pick(("but", "pity", "sudden")))
    sim.say("no_picnic", a, b)
    sim.say("feel", a, sim.pick(("disappointed", "sad")))
    if sim.random() < 0.3:
        sim.say("why.rain", a)
    sim.say(sim.pick(("stories", "draw_both", "cards")), a, b, link="so")
    sim.maybe(0.4, "laugh_both", a, b)
    if sim.random() < 0.6:
        if not sim.later_today():
            sim.link = "later"
        sim.say("turn.sunny")
        sim.maybe(0.5, "rainbow", a, b)
        if sim.random() < 0.6 and sim.world.at.get(a) != p:
            sim.say("go_both", a, b, p, link="so")
            sim.say("picnic", a, b, link="end")
    elif sim.random() < 0.5:
        sim.say("feel", a, "happy")
    sim.gist = ("sum.rained", (a, b))


def learn(sim: Sim) -> None:
    """The hero learns a skill from a friend."""
    a = sim.a
    b = sim.elder if sim.random() < 0.35 and not sim.knows_b else sim.b
    skill = sim.pick(tuple(lexicon.SKILLS))
    places = lexicon.SKILLS[skill].tags.split(",")
    place = sim.p if sim.p in places else sim.pick(places)
    sim.say("want_learn", a, skill)
    sim.maybe(0.5, "cannot", a, skill, link="but")
    sim.time(weather=sim.day())
    if sim.world.at.get(a) != place:
        sim.say("go", a, place)
    sim.say("fail", a, skill)
    sim.say("feel", a, sim.pick(("sad", "disappointed")))
    if sim.random() < 0.4:
        sim.say("why.fail", a, skill)
    sim.meet(b, link="now")
    if sim.random() < 0.4:
        sim.say("ask_wrong", b, a)
    if sim.maybe(0.7, "ask_teach", a, b, skill):
        sim.maybe(0.7, "agree", a, b)
    sim.say("teach", b, a, skill, link="so")
    sim.maybe(0.6, "cheer_on", b, a)
    sim.say("practise", a, skill)
    sim.say("can", a, skill, link="end")
    if sim.maybe(0.7, "feel", a, sim.pick(("proud", "happy"))) and sim.random() < 0.4:
        sim.say("why.can", a, skill)
    sim.maybe(0.5, "watch", b, a, skill)
    sim.maybe(0.5, "moral_try", a)
    sim.gist = ("sum.learn", (a, b, skill))


def swap(sim: Sim) -> None:
    """Two friends swap things."""
    a, b = sim.a, sim.b
    t = sim.owned_thing(GOODS)
    sim.know()
    u = sim.other_thing(GOODS)
    if sim.world.holder.get(t) != a:
        sim.say("own", a, t)
    sim.say("own", b, u)
    sim.time(weather=sim.day())
    _arrive(sim, t)
    sim.meet(b)
    sim.maybe(0.4, "greet", b, a)
    sim.say("admire", a, b, u)
    sim.say("offer_swap", a, b, t, u, link="so")
    sim.say("agree", a, b)
    sim.say("swap", a, b, t, u)
    if not sim.maybe(0.5, "delight", a, u):
        sim.say("feel", a, "happy")
    sim.maybe(0.5, "thank", a, b)
    sim.maybe(0.5, "play_both", a, b, link="then")
    sim.gist = ("sum.swap", (a, b, t, u))


def late(sim: Sim) -> None:
    """The hero is late because of helping somebody, and is forgiven."""
    a, b, c = sim.a, sim.b, sim.c
    sim.know()
    sim.say("promise_meet", a, b, sim.p)
    sim.time(weather=sim.day())
    road = sim.pick([place for place in ("bridge", "river", "market", "farm", "square", "orchard") if place != sim.p])
    sim.say("go", a, road)
    sim.meet(c, link="now")
    _trouble(sim, a, c)
    sim.maybe(0.6, "thank", c, a)
    sim.say("go", b, sim.p, link="para")
    sim.say("wait", b, a)
    sim.say("feel", b, sim.pick(("worried", "disappointed")))
    if sim.random() < 0.5:
        sim.say("why.late", b, a)
    sim.say("late", a, b, link=sim.pick(("", "end")))
    sim.maybe(0.4, "sorry", a, b)
    sim.say("late_help", a, b, c)
    sim.say("forgive", b, a, link="so")
    sim.maybe(0.6, "play_both", a, b, link="then")
    sim.maybe(0.4, "moral_help", a)
    sim.gist = ("sum.late", (a, b, c))


def borrow(sim: Sim) -> None:
    """The hero borrows a thing and gives it back, or breaks it and tells the truth."""
    a, b = sim.a, sim.b
    t = sim.fresh_thing(GOODS)
    sim.know()
    sim.say("own", b, t)
    sim.time(weather=sim.day())
    _arrive(sim)
    sim.meet(b)
    sim.say("ask_borrow", a, b, t)
    sim.say("lend", b, a, t)
    sim.say("promise_return", a, b, t)
    if t in TOYS:
        sim.maybe(0.6, "play", a, t)
    if sim.random() < 0.35:
        sim.time()
        _arrive(sim, t)
        sim.meet(b)
        sim.say("return", a, b, t)
        sim.say("thank", a, b)
        sim.gist = ("sum.borrow", (a, b, t))
        return
    sim.say("break", a, t, link=sim.pick(("sudden", "pity")))
    sim.say("feel", a, sim.pick(("afraid", "ashamed")))
    if sim.random() < 0.4:
        sim.say("why.break", a, t)
    sim.maybe(0.5, "no_tell", a, b)
    sim.say("confess", a, b, t, link="end")
    sim.say("sorry", a, b)
    sim.say("forgive", b, a)
    if sim.random() < 0.6:
        sim.say("repair", sim.parent, t, link="later")
        sim.say("return", a, b, t, link="so")
        sim.maybe(0.5, "play_both", a, b)
    sim.maybe(0.7, "moral_honest", a)
    sim.gist = ("sum.broke", (a, b, t))


def noise(sim: Sim) -> None:
    """A strange noise turns out to be a friend."""
    a, b, spot = sim.a, sim.b, sim.spot()
    sim.time("evening", sim.pick(("any", "windy", "cloudy")))
    _arrive(sim)
    sim.say("noise", a, spot, link="sudden")
    sim.say("feel", a, "afraid")
    if sim.random() < 0.3:
        sim.say("why.noise", a)
    sim.say("look", a, spot, link="but")
    sim.say("reveal", a, b)
    sim.knows_b = True
    sim.maybe(0.7, "laugh_both", a, b)
    sim.maybe(0.5, "moral_brave", a)
    sim.gist = ("sum.noise", (a, b, sim.p))


def food(sim: Sim) -> None:
    """The hero shares food with somebody hungry."""
    a, b = sim.a, sim.b
    t = sim.fresh_thing(FOODS)
    sim.time(weather=sim.day())
    _arrive(sim)
    sim.say("pack", a, t)
    sim.meet(b)
    sim.maybe(0.3, "greet", a, b)
    sim.say("hungry", b)
    sim.maybe(0.3, "feel", b, "tired")
    sim.say("share_food", a, b, t, link="so")
    sim.say("thank", b, a)
    sim.maybe(0.5, "feel", a, "happy")
    sim.maybe(0.5, "play_both", a, b, link="then")
    sim.maybe(0.5, "moral_share", a)
    sim.gist = ("sum.food", (a, b, t))


def owner(sim: Sim) -> None:
    """The hero finds a thing and looks for its owner."""
    a, b, c, spot = sim.a, sim.b, sim.c, sim.spot()
    t = sim.fresh_thing(GOODS)
    sim.time(weather=sim.day())
    _arrive(sim)
    sim.say("discover", a, t, spot)
    sim.maybe(0.6, "wonder", a, t)
    if sim.random() < 0.7:
        sim.meet(b)
        sim.say("whose", a, b, t)
        sim.say("not_mine", b, a, t)
    sim.meet(c, link="then")
    sim.maybe(0.4, "feel", c, "worried")
    sim.say("whose", a, c, t)
    sim.say("is_mine", c, a, t)
    sim.say("give", a, c, t)
    sim.say("thank", c, a)
    sim.maybe(0.5, "feel", c, sim.pick(("grateful", "happy")))
    sim.maybe(0.4, "end_friends", a, c)
    sim.gist = ("sum.owner", (a, c, t))


def wish(sim: Sim) -> None:
    """The hero works for the money to buy a thing."""
    a, elder = sim.a, sim.elder
    t = sim.fresh_thing(PRESENTS)
    sim.time(weather=sim.day())
    if sim.world.at.get(a) != "market":
        sim.say("go", a, "market")
    sim.say("want", a, t)
    sim.say("no_money", a, t, link="but")
    sim.maybe(0.5, "feel", a, "sad")
    sim.say("work", a, elder, link="so")
    sim.maybe(0.3, "feel", a, "tired")
    sim.say("pay", elder, a, link="end")
    sim.maybe(0.4, "thank", a, elder)
    sim.time()
    sim.say("go", a, "market")
    sim.say("buy_it", a, t)
    sim.say("feel", a, sim.pick(("happy", "proud")))
    sim.maybe(0.5, "moral_try", a)
    sim.gist = ("sum.wish", (a, elder, t))


def stuck(sim: Sim) -> None:
    """A kite or balloon is caught in a tree, and somebody gets it down."""
    a, helper = sim.a, sim.pick((sim.b, sim.elder, sim.elder))
    t = sim.owned_thing(("kite", "balloon"))
    if sim.world.holder.get(t) != a:
        sim.give_to_hero(t)
    sim.time(weather=sim.pick(("any", "windy", "sunny")))
    if sim.world.at.get(a) != "meadow":
        sim.say("bring", a, t, "meadow")
    sim.maybe(0.5, "play", a, t)
    sim.say("stuck", a, t, link=sim.pick(("sudden", "pity")))
    sim.say("too_high", a, t)
    sim.maybe(0.6, "feel", a, sim.pick(("sad", "worried")))
    sim.maybe(0.4, "what_now", a)
    sim.meet(helper, link="now")
    sim.maybe(0.4, "ask_wrong", helper, a)
    sim.maybe(0.5, "offer", helper, a)
    sim.say("get_down", helper, a, t, link="so")
    if sim.maybe(0.6, "feel", a, "happy") and sim.random() < 0.3:
        sim.say("why.find", a, t)
    sim.say("thank", a, helper)
    if helper == sim.b:
        sim.maybe(0.5, "play_thing", a, helper, t)
    sim.maybe(0.4, "moral_help", a)
    sim.gist = ("sum.stuck", (a, helper, t))


def visit(sim: Sim) -> None:
    """The hero visits a friend who is ill, with a present."""
    a, b = sim.a, sim.b
    sim.know()
    t = sim.fresh_thing(FOODS)
    sim.time(weather=sim.day())
    sim.say("ill", b)
    sim.maybe(0.5, "feel", b, sim.pick(("bored", "sad", "lonely")))
    sim.say("visit", a, b, link="so")
    sim.maybe(0.4, "greet", a, b)
    sim.say("pack", a, t)
    sim.say("give", a, b, t)
    sim.maybe(0.5, "thank", b, a)
    sim.maybe(0.7, "read_to", a, b, link="then")
    sim.say("better", b, link=sim.pick(("", "later")))
    sim.maybe(0.5, "moral_friend", a)
    sim.gist = ("sum.visit", (a, b))


def plant(sim: Sim) -> None:
    """A seed needs patience."""
    a, elder = sim.a, sim.parent
    sim.time(weather=sim.pick(("any", "sunny")))
    sim.say("plant", a)
    sim.maybe(0.4, "feel", a, sim.pick(("excited", "curious")))
    sim.say("no_sprout", a)
    sim.maybe(0.6, "feel", a, sim.pick(("disappointed", "sad")))
    sim.maybe(0.4, "ask_wrong", elder, a)
    sim.say("advise", elder, a)
    sim.say("water", a, link="so")
    sim.say("bloom", a, link="end")
    sim.say("feel", a, sim.pick(("happy", "proud")))
    sim.maybe(0.5, "hug", a, elder)
    sim.maybe(0.6, "moral_patient", a)
    sim.gist = ("sum.plant", (a, elder))


def hide(sim: Sim) -> None:
    """Two friends play hide-and-seek."""
    a, b, spot = sim.a, sim.b, sim.spot()
    sim.know()
    sim.time(weather=sim.day())
    if sim.world.at.get(a) != sim.p:
        sim.say("go_both", a, b, sim.p)
    sim.maybe(0.4, sim.scene())
    sim.maybe(0.4, "invite", a, b)
    sim.say("hide", b, a)
    sim.say("cannot_find", a, b)
    sim.maybe(0.4, "feel", a, sim.pick(("worried", "curious")))
    sim.say("found", a, b, spot, link="end")
    sim.say("laugh_both", a, b)
    sim.maybe(0.5, "hug", b, a)
    sim.gist = ("sum.hide", (a, b, spot))


def newcomer(sim: Sim) -> None:
    """The hero makes friends with somebody new."""
    a, c = sim.a, sim.c
    sim.say("newcomer", c)
    sim.say("knows_nobody", c)
    sim.maybe(0.6, "feel", c, "lonely")
    sim.time(weather=sim.day())
    _arrive(sim)
    sim.meet(c)
    sim.say("greet", a, c)
    sim.maybe(0.6, "invite", a, c)
    sim.say("show_round", a, c, link="then")
    sim.maybe(0.6, "play_both", a, c)
    sim.say("feel", c, sim.pick(("happy", "grateful")))
    sim.maybe(0.4, "thank", c, a)
    sim.say("end_friends", a, c)
    sim.gist = ("sum.new", (a, c))


def race(sim: Sim) -> None:
    """In a race, the hero helps the other up instead of winning."""
    a, b = sim.a, sim.b
    sim.know()
    sim.time(weather=sim.day())
    if sim.world.at.get(a) != sim.p:
        sim.say("go_both", a, b, sim.p)
    sim.say("race", a, b)
    sim.maybe(0.4, "feel", a, "excited")
    sim.say("fall_race", b, link="sudden")
    sim.say("turn_back", a, b)
    sim.maybe(0.5, "thank", b, a)
    sim.say("together_line", a, b, link="end")
    sim.maybe(0.4, "hug", b, a)
    sim.maybe(0.5, "moral_friend", a)
    sim.gist = ("sum.race", (a, b))


PLOTS: dict[str, Callable[[Sim], None]] = {
    "lost": lost,
    "gift": gift,
    "quarrel": quarrel,
    "helping": helping,
    "picnic": picnic,
    "learn": learn,
    "swap": swap,
    "late": late,
    "borrow": borrow,
    "noise": noise,
    "food": food,
    "owner": owner,
    "wish": wish,
    "stuck": stuck,
    "visit": visit,
    "plant": plant,
    "hide": hide,
    "newcomer": newcomer,
    "race": race,
}
# Plots that may follow another one.
SECOND = ("gift", "quarrel", "helping", "picnic", "learn", "swap", "noise", "food", "owner", "visit", "hide", "race")
NEEDS: dict[str, tuple[str, ...]] = {
    "gift": PRESENTS,
    "quarrel": TOYS,
    "swap": GOODS,
    "borrow": GOODS,
    "food": FOODS,
    "wish": PRESENTS,
    "stuck": ("kite", "balloon"),
    "visit": FOODS,
    "owner": GOODS,
}
