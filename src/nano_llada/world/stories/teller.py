"""Says events: fills the slots of a form with names, pronouns and phrases that the listener can resolve."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random

from nano_llada.world.stories import lexicon
from nano_llada.world.stories.discourse import SEX, Discourse
from nano_llada.world.stories.grammar import Form, Slot

PEOPLE = lexicon.people()
NOM = {"f": "she", "m": "he"}
OBJ = {"f": "her", "m": "him"}
POS = {"f": "her", "m": "his"}


class Teller:
    """Fills forms in one language. `adjectives` holds the adjective of each thing of the story."""

    def __init__(self, rng: Random, adjectives: dict[str, str], narrator: str = "") -> None:
        self.random = rng.random
        self.adjectives = adjectives
        self.talk = Discourse(narrator)
        self.named = True  # the first mention of a paragraph is a name
        self.short_lead = False  # the subject of this sentence is a pronoun
        self.run = 0  # sentences in a row that began with a pronoun
        self.slots: dict[str, Callable[[Slot, tuple[str, ...]], str]] = {}

    def fill(self, form: Form, args: tuple[str, ...], start: int = 0) -> str:
        """The words of a form about `args`, from part `start` on, without the final stop."""
        slots = self.slots
        out = [part if isinstance(part, str) else slots[part.letter](part, args) for part in form.parts[start:]]
        return "".join(out)

    def fits(self, form: Form, args: tuple[str, ...]) -> bool:
        """Whether the context supplies what the form leaves out."""
        if len(form.omitted) > 1 or (form.bound and not self.talk.clear_pair(args[0], args[1])):
            return False
        for role in form.omitted:
            letter = "a" if args[role] in PEOPLE else "t"
            if self.talk.omitted(letter, args[:role] + args[role + 1 :]) != args[role]:
                return False
        return True

    def _short(self, name: str) -> bool:
        """Whether a pronoun is to stand for the subject; also mentions the person."""
        talk = self.talk
        first, draw = not talk.cur, self.random()
        if self.named:
            short = False
        elif talk.clear_person(name):
            # A name now and then, and always after three sentences in a row that begin with a pronoun.
            short = draw < (0.93 if name == talk.subject else 0.6) and self.run < 3
        else:
            short = first and name == talk.subject and draw < 0.55 and self.run < 2
        if first:
            self.short_lead = short
            self.run = self.run + 1 if short else 0
        self.named = False
        talk.mention(name)
        return short

    def _short_object(self, name: str) -> bool:
        """Whether a pronoun is to stand for somebody who is not the subject; also mentions the person."""
        talk = self.talk
        short = talk.clear_person(name) or (not self.short_lead and self.random() < 0.8 and talk.clear_object(name))
        talk.mention(name)
        return short


class EnglishTeller(Teller):
    """Fills English forms."""

    def __init__(self, rng: Random, adjectives: dict[str, str], narrator: str = "") -> None:
        super().__init__(rng, adjectives, narrator)
        person, thing = self._person, self._thing
        self.slots = {"a": person, "b": person, "c": person, "t": thing, "u": thing, "g": self._pair}
        self.slots["f"] = self._feeling
        self.slots["p"] = lambda slot, args: _place_en(args[slot.role], slot.how)
        self.slots["s"] = self.slots["n"] = lambda slot, args: args[slot.role]
        self.slots["k"] = lambda slot, args: lexicon.SKILLS[args[slot.role]].ing if slot.how else args[slot.role]

    def _feeling(self, slot: Slot, args: tuple[str, ...]) -> str:
        words = lexicon.FEELINGS[args[slot.role]][0]
        return words[int(self.random() * len(words))]

    def _person(self, slot: Slot, args: tuple[str, ...]) -> str:
        name, how, talk = args[slot.role], slot.how, self.talk
        if how in ("he", "him", "his", "himself"):
            return _forced_en(name, how, narrator=name == talk.narrator)
        if how == "call":
            return name
        if how in ("name", "names") and name != talk.narrator:
            talk.mention(name)
            return name + "'s" if how == "names" else name
        if name == talk.narrator and how != "nm":
            talk.mention(name)
            return {"o": "me", "s": "my", "names": "my", "new": "me", "fr": "me"}.get(how, "I")
        if how in ("new", "fr", "news", "frs"):
            return self._new(slot, args)
        if how == "":
            return NOM[SEX[name]] if self._short(name) else name
        if how == "nm":
            talk.introduced.add(name)
            talk.mention(name)
            return name
        short = self._short_object(name) if how == "o" else self._short(name)
        if how == "o":
            return OBJ[SEX[name]] if short else name
        return POS[SEX[name]] if short else name + "'s"

    def _new(self, slot: Slot, args: tuple[str, ...]) -> str:
        name, talk = args[slot.role], self.talk
        known = name in talk.introduced or PEOPLE[name].group == "adult"
        talk.introduced.add(name)
        if known:
            text = name
        elif (
            slot.how in ("fr", "frs")
            and self.random() < 0.5
            and args[0] != name
            and (talk.narrator == args[0] or talk.clear_person(args[0]))
        ):
            text = f"{'my' if talk.narrator == args[0] else POS[SEX[args[0]]]} friend {name}"
        else:
            kind = PEOPLE[name].kind_en
            little = "little " if self.random() < 0.5 else ""
            text = f"{lexicon.article(little + kind)} {'named' if self.random() < 0.6 else 'called'} {name}"
        talk.mention(name)
        return text

    def _pair(self, slot: Slot, args: tuple[str, ...]) -> str:
        first, second, talk = args[0], args[1], self.talk
        mine = talk.narrator in (first, second) and talk.narrator != ""
        if slot.how == "o" or (slot.how == "" and self.random() < 0.75 and talk.clear_pair(first, second)):
            talk.mention_pair(first, second)
            self.named = False
            if mine:
                return "us" if slot.how == "o" else "we"
            if slot.how == "o":
                return "them"
            if (
                SEX[first] + PEOPLE[first].group != ""
                and self.random() < 0.15
                and "adult" not in (PEOPLE[first].group, PEOPLE[second].group)
            ):
                return "the two friends"
            return "they"
        self.named = False
        talk.mention_pair(first, second)
        if slot.how == "nm":
            talk.introduced.update((first, second))
        if mine:
            return f"{second if first == talk.narrator else first} and I"
        return f"{first} and {second}"

    def _thing(self, slot: Slot, args: tuple[str, ...]) -> str:
        thing, how, talk = args[slot.role], slot.how, self.talk
        adjective = self.adjectives.get(thing, "")
        full = f"{adjective} {thing}" if adjective else thing
        if how == "":
            text = self._known(thing, full)
        elif how == "a":
            text = lexicon.article(full)
        elif how in ("my", "your", "the", "this"):
            text = f"{how} {full if self.random() < 0.2 else thing}"
        elif how == "his":
            owner = args[slot.owner]
            text = f"{'my' if owner == talk.narrator else POS[SEX[owner]]} {full if self.random() < 0.2 else thing}"
        elif how == "of":
            owner = args[slot.owner]
            if owner == talk.narrator:
                possessor = "my"
            else:
                possessor = POS[SEX[owner]] if talk.clear_person(owner) else owner + "'s"
            talk.mention(owner)
            text = f"{possessor} {thing}"
        else:
            text = thing
        talk.mention_thing(thing)
        return text

    def _known(self, thing: str, full: str) -> str:
        if self.talk.clear_thing(thing) and self.random() < 0.6:
            return "it"
        return f"the {full if self.random() < 0.2 else thing}"


class ChineseTeller(Teller):
    """Fills Chinese forms."""

    def __init__(self, rng: Random, adjectives: dict[str, str], narrator: str = "") -> None:
        super().__init__(rng, adjectives, narrator)
        person, thing = self._person, self._thing
        self.slots = {"a": person, "b": person, "c": person, "t": thing, "u": thing, "g": self._pair}
        self.slots["p"] = lambda slot, args: _place_zh(args[slot.role], slot.how)
        self.slots["s"] = lambda slot, args: lexicon.SPOTS[args[slot.role]].zh
        self.slots["n"] = lambda slot, args: lexicon.NUMBERS[args[slot.role]]
        self.slots["k"] = lambda slot, args: lexicon.SKILLS[args[slot.role]].zh
        self.slots["f"] = self._feeling

    def _feeling(self, slot: Slot, args: tuple[str, ...]) -> str:
        words = lexicon.FEELINGS[args[slot.role]][1]
        return words[int(self.random() * len(words))]

    def _pronoun(self, name: str) -> str:
        if name == self.talk.narrator:
            return "我"
        return "她" if SEX[name] == "f" else "他"

    def _person(self, slot: Slot, args: tuple[str, ...]) -> str:
        name, how, talk = args[slot.role], slot.how, self.talk
        if how in ("he", "him"):
            return self._pronoun(name)
        if how == "his":
            return self._pronoun(name) + "的"
        if how == "call":
            return PEOPLE[name].zh
        if how in ("new", "fr", "news", "frs") and name != talk.narrator:
            return self._new(slot, args)
        if how == "nm":
            talk.introduced.add(name)
            talk.mention(name)
            return PEOPLE[name].zh
        if name == talk.narrator:
            talk.mention(name)
            return "我的" if how in ("s", "names") else "我"
        if how in ("name", "names"):
            talk.mention(name)
            return PEOPLE[name].zh + "的" if how == "names" else PEOPLE[name].zh
        short = self._short_object(name) if how == "o" or talk.cur else self._short(name)
        text = self._pronoun(name) if short else PEOPLE[name].zh
        return text + "的" if how == "s" else text

    def _new(self, slot: Slot, args: tuple[str, ...]) -> str:
        name, talk = args[slot.role], self.talk
        person = PEOPLE[name]
        known = name in talk.introduced or person.group == "adult"
        talk.introduced.add(name)
        if known:
            text = person.zh
        elif (
            slot.how in ("fr", "frs")
            and self.random() < 0.5
            and args[0] != name
            and (talk.narrator == args[0] or talk.clear_person(args[0]))
        ):
            text = f"{self._pronoun(args[0])}的{'好' if self.random() < 0.5 else ''}朋友{person.zh}"
        else:
            called = "名叫" if self.random() < 0.2 and person.group == "child" else "叫"
            text = f"一{person.measure}{called}{person.zh}的{person.kind_zh}"
        talk.mention(name)
        return text

    def _pair(self, slot: Slot, args: tuple[str, ...]) -> str:
        first, second, talk = args[0], args[1], self.talk
        mine = talk.narrator in (first, second) and talk.narrator != ""
        short = slot.how == "o" or (self.random() < 0.75 and talk.clear_pair(first, second))
        talk.mention_pair(first, second)
        self.named = False
        if slot.how == "nm":
            talk.introduced.update((first, second))
        if not short or slot.how == "nm":
            if mine:
                return f"我和{PEOPLE[second if first == talk.narrator else first].zh}"
            return f"{PEOPLE[first].zh}和{PEOPLE[second].zh}"
        if mine:
            return "我们俩" if self.random() < 0.3 else "我们"
        both = "她们" if SEX[first] == SEX[second] == "f" else "他们"
        return both + "俩" if self.random() < 0.3 else both

    def _thing(self, slot: Slot, args: tuple[str, ...]) -> str:
        thing, how, talk = args[slot.role], slot.how, self.talk
        noun = lexicon.things()[thing]
        adjective = self.adjectives.get(thing, "")
        full = (lexicon.ADJECTIVES[adjective].zh if adjective else "") + noun.zh
        if how == "":
            text = self._known(thing, full, noun.measure)
        elif how == "a":
            text = f"一{noun.measure}{full}"
        elif how == "my":
            text = f"我的{full if self.random() < 0.4 and '的' not in full else noun.zh}"
        elif how == "your":
            text = f"你的{noun.zh}"
        elif how == "the":
            text = f"那{noun.measure}{full if self.random() < 0.4 else noun.zh}" if self.random() < 0.4 else noun.zh
        elif how == "this":
            text = f"这{noun.measure}{full if self.random() < 0.4 else noun.zh}"
        elif how == "his":
            text = f"{self._pronoun(args[slot.owner])}的{noun.zh}"
        elif how == "of":
            owner = args[slot.owner]
            short = owner == talk.narrator or talk.clear_person(owner)
            talk.mention(owner)
            text = f"{self._pronoun(owner) if short else PEOPLE[owner].zh}的{noun.zh}"
        else:
            text = noun.zh
        talk.mention_thing(thing)
        return text

    def _known(self, thing: str, full: str, measure: str) -> str:
        draw = self.random()
        if draw < 0.45 and self.talk.clear_thing(thing):
            return "它"
        if draw > 0.85:
            return f"那{measure}{full if draw > 0.93 else lexicon.things()[thing].zh}"
        return lexicon.things()[thing].zh


def _forced_en(name: str, how: str, *, narrator: bool) -> str:
    if narrator:
        return {"he": "I", "him": "me", "his": "my", "himself": "myself"}[how]
    sex = SEX[name]
    return {"he": NOM[sex], "him": OBJ[sex], "his": POS[sex], "himself": OBJ[sex] + "self"}[how]


@cache
def _place_en(place: str, how: str) -> str:
    if how == "to":
        return f"to the {place}"
    return f"{lexicon.PLACES[place].at_en} the {place}" if how == "at" else f"the {place}"


@cache
def _place_zh(place: str, how: str) -> str:
    entry = lexicon.PLACES[place]
    if how == "near":
        return lexicon.NEAR_ZH.get(entry.zh, entry.zh)
    return f"在{entry.zh}{entry.at_zh}" if how == "at" else entry.zh
