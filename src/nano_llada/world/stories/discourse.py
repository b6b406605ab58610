"""What a listener knows in the middle of a story: whom a pronoun can mean, what has been introduced.

Teller and reader keep the same state, so that a pronoun is used only where it is resolved to the person it means.
"""

from __future__ import annotations

from nano_llada.world.stories.lexicon import people

SEX = {name: person.sex for name, person in people().items()}


class Discourse:
    """Who was mentioned in the sentence before (`prev`) and so far in this one (`cur`), and in which roles."""

    __slots__ = (
        "adjective", "cur", "introduced", "narrator", "pair", "pair_leads", "prev", "recent", "subject", "subject_cur",
        "thing", "things_cur", "things_prev",
    )  # fmt: skip

    def __init__(self, narrator: str = "") -> None:
        self.narrator = narrator
        self.prev: list[str] = []
        self.cur: list[str] = []
        self.recent: list[str] = []
        self.subject = ""
        self.subject_cur = ""
        self.pair: tuple[str, str] | None = None
        self.things_prev: list[str] = []
        self.things_cur: list[str] = []
        self.thing = ""
        self.introduced: set[str] = {narrator} if narrator else set()
        self.adjective: dict[str, str] = {}
        self.pair_leads = False

    def mention(self, person: str) -> None:
        """A person is named or meant."""
        if not self.subject_cur:
            self.subject_cur = person
        self.cur.append(person)

    def mention_pair(self, first: str, second: str) -> None:
        """Two persons are meant together."""
        if not self.subject_cur:
            self.subject_cur = first
            self.pair_leads = True
        self.cur += (first, second)
        self.pair = (first, second)

    def mention_thing(self, thing: str) -> None:
        """A thing is named or meant."""
        self.things_cur.append(thing)
        self.thing = thing

    def end_sentence(self) -> None:
        """What was said in this sentence becomes the context of the next."""
        if self.cur:
            distinct = set(self.cur)
            if len(distinct) == 2:
                first = self.subject_cur
                (second,) = distinct - {first}
                if self.pair is None or set(self.pair) != distinct:
                    self.pair = (first, second)
            elif len(distinct) > 2 or not (self.pair and distinct <= set(self.pair)):
                self.pair = None
            self.recent += self.cur
            # Two subjects are none: which of them "he" would mean is not known.
            self.subject = "" if self.pair_leads else self.subject_cur
            self.pair_leads = False
            self.prev = self.cur
            self.cur = []
            self.subject_cur = ""
        self.things_prev, self.things_cur = self.things_cur, []

    def clear_person(self, person: str) -> bool:
        """Whether "he" or "she" can mean nobody but this person."""
        sex, found, narrator = SEX[person], False, self.narrator
        for other in self.prev:
            if other == person:
                found = True
            elif SEX[other] == sex and other != narrator:
                return False
        for other in self.cur:
            if other == person:
                found = True
            elif SEX[other] == sex and other != narrator:
                return False
        return found

    def clear_object(self, person: str) -> bool:
        """Whether "him" or "her" can mean nobody but this person, given that it is not the subject."""
        sex, found, subject, narrator = SEX[person], False, self.subject_cur, self.narrator
        if not subject or person == subject:
            return False
        for other in (*self.prev, *self.cur):
            if other == person:
                found = True
            elif SEX[other] == sex and other not in (subject, narrator):
                return False
        return found

    def clear_pair(self, first: str, second: str) -> bool:
        """Whether "they" can mean nobody but these two."""
        pair = self.pair
        if pair is None or not (pair == (first, second) or pair == (second, first)):
            return False
        near = {*self.prev, *self.cur}
        return first in near and second in near and len(near) == 2

    def clear_thing(self, thing: str) -> bool:
        """Whether "it" can mean nothing but this thing."""
        near = {*self.things_prev, *self.things_cur}
        return len(near) == 1 and thing in near

    def resolve(self, sex: str, *, subject: bool) -> str:
        """Whom "he" or "she" means; empty if nobody is known."""
        near = [name for name in (*self.prev, *self.cur) if SEX[name] == sex and name != self.narrator]
        if not near:
            near = [name for name in self.recent if SEX[name] == sex and name != self.narrator]
            return near[-1] if near else ""
        if subject and self.subject in near and not self.cur:
            return self.subject
        if not subject:
            others = [name for name in near if name != self.subject_cur]
            return (others or near)[-1]
        return near[-1]

    def last_two(self) -> tuple[str, str] | None:
        """The two persons mentioned last, for a "they" after a sentence about one of them."""
        found = dict.fromkeys(reversed((*self.recent, *self.cur)))
        names = list(found)[:2]
        return (names[1], names[0]) if len(names) == 2 else None

    def resolve_thing(self) -> str:
        """What "it" means; empty if nothing is known."""
        near = self.things_cur or self.things_prev
        return near[-1] if near else self.thing

    def omitted(self, letter: str, taken: tuple[str, ...]) -> str:
        """The argument that a sentence leaves out: the subject, else the last one mentioned who is not taken."""
        if letter in "tu":
            return self.thing
        subject = self.subject_cur or self.subject
        if subject in taken:
            subject = self.subject
        if subject and subject not in taken:
            return subject
        for name in reversed((*self.prev, *self.cur)):
            if name not in taken:
                return name
        return ""
