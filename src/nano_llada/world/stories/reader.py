"""Reads stories: sentences back into events, with the same grammar that says them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

from nano_llada.world.splits import Language
from nano_llada.world.stories import lexicon
from nano_llada.world.stories.discourse import SEX, Discourse
from nano_llada.world.stories.events import Event, Fault
from nano_llada.world.stories.grammar import CLASSES, Form, Grammar, Slot, grammar
from nano_llada.world.stories.lexer import Lexer, Mention, uncapitalised
from nano_llada.world.stories.phrases import opening, times_said

PEOPLE = lexicon.people()
SENTENCE = {
    "en": re.compile(
        r'"[^"]*"[^".!?\n]*(?:"[^"]*"[.!?]?|[.!?]|(?=\n)|$)|[^".!?\s][^".!?\n]*(?:"[^"]*"\.?|[.!?]|(?=\n)|$)'
    ),
    "zh": re.compile(
        r"“[^”]*”[^“”。！？\n]*(?:“[^”]*”|[。！？]|(?=\n)|$)|[^“”。！？\n]+(?:“[^”]*”。?|[。！？]|(?=\n)|$)"
    ),
}
SHAPE = re.compile("[" + re.escape("".join(dict.fromkeys(CLASSES.values()))) + "]")
SPLIT = {"en": re.compile(r",? and then | and "), "zh": re.compile("，然后|，")}
EXPECTED = {
    "": {"he", "she", "i"},
    "he": {"he", "she", "i"},
    "o": {"him", "her", "me"},
    "him": {"him", "her", "me"},
    "s": {"his", "her", "my"},
    "his": {"his", "her", "my"},
    "himself": {"himself", "herself", "myself"},
}
PRONOUN_SEX = {"he": "m", "him": "m", "his": "m", "himself": "m", "她": "f", "他": "m"} | {
    word: "f" for word in ("she", "her", "herself")
}
FIRST = {"i", "me", "my", "myself", "我"}
INTRODUCING = ("new", "nm", "fr", "news", "frs")


@dataclass(slots=True)
class Sentence:
    """One sentence: its text, the events it states, and the faults found while resolving its words."""

    text: str
    events: list[Event] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    understood: bool = True


class NotUnderstood(Exception):
    """No form fits the sentence."""


def sentences(text: str, language: Language) -> list[str]:
    """The sentences of a text."""
    return [found for match in SENTENCE[language].findall(text) if (found := match.strip())]


def read(text: str, language: Language, narrator: str = "") -> list[Sentence]:
    """The events of every sentence of `text`. Sentences that no form fits are marked as not understood."""
    return Reader(language, narrator).read(text)


class Reader:
    """Reads a text sentence by sentence and keeps what a listener knows."""

    def __init__(self, language: Language, narrator: str = "") -> None:
        self.language = language
        self.grammar: Grammar = grammar(language)
        self.lexer = Lexer.of(language)
        self.talk = Discourse(narrator)
        self.faults: list[Fault] = []

    def read(self, text: str) -> list[Sentence]:
        """All sentences of `text`, in order."""
        return [self.sentence(part) for part in sentences(text, self.language)]

    def sentence(self, text: str) -> Sentence:
        """One sentence in the context of those read before."""
        result = Sentence(text)
        self.faults = result.faults
        body = text.rstrip(".!。！") if text[-1] in ".!。！" else text
        match = opening(self.language).match(body)
        try:
            if body in (table := times_said(self.language)):
                result.events.append(("when", table[body]))
            else:
                if match:
                    if match.group(1):
                        result.events.append(("when", table[match.group(1)]))
                    body = body[match.end() :]
                result.events += self._clauses(body)
        except NotUnderstood:
            result.understood = False
        self.talk.end_sentence()
        return result

    def _clauses(self, body: str) -> list[Event]:
        if self.language == "en":
            body = uncapitalised(body)
        shape, mentions = self.lexer.lex(body)
        if len(SHAPE.findall(shape)) != len(mentions):
            raise NotUnderstood
        whole = self._lookup(self.grammar.sentences, shape, mentions)
        if whole:
            return [self._event(whole, mentions)]
        return self._because(shape, mentions) or self._joined(shape, mentions)

    def _lookup(self, table: dict[str, tuple[Form, ...]], shape: str, mentions: list[Mention]) -> Form | None:
        for form in table.get(shape, ()):
            if all(map(self._matches, form.tokens, mentions)):
                return form
        return None

    def _matches(self, token: Slot | str, mention: Mention) -> bool:
        if isinstance(token, str):
            return mention.surface == token or mention.surface.lower() == token.lower()
        return _fits(token, mention, self.language)

    def _because(self, shape: str, mentions: list[Mention]) -> list[Event]:
        if self.language == "zh" and shape.startswith("因为"):
            parts = re.split("，(?:所以)?", shape[2:], maxsplit=1)
            return self._reason(parts, mentions, first=True)
        word = " because " if self.language == "en" else "，因为"
        return self._reason(shape.split(word), mentions, first=False) if word in shape else []

    def _reason(self, parts: list[str], mentions: list[Mention], *, first: bool) -> list[Event]:
        if len(parts) != 2:
            return []
        cut = len(SHAPE.findall(parts[0]))
        halves = (mentions[:cut], mentions[cut:])
        tables = (
            [self.grammar.clauses, self.grammar.sentences] if first else [self.grammar.sentences, self.grammar.clauses]
        )
        forms = [self._lookup(table, part, half) for table, part, half in zip(tables, parts, halves, strict=True)]
        if forms[0] is None or forms[1] is None:
            return []
        events = [self._event(form, half) for form, half in zip(forms, halves, strict=True) if form]
        return events[::-1] if first else events

    def _joined(self, shape: str, mentions: list[Mention]) -> list[Event]:
        for match in SPLIT[self.language].finditer(shape):
            left, right = shape[: match.start()], shape[match.end() :]
            cut = len(SHAPE.findall(left))
            if not left or left[0] not in "@&":
                raise NotUnderstood
            if self.language == "en":
                right = f" {right}"
            first = self._lookup(self.grammar.sentences, left, mentions[:cut])
            rest = [mentions[0], *mentions[cut:]]
            second = self._lookup(self.grammar.sentences, left[0] + right, rest)
            if first and second and first.agent_first and second.agent_first:
                event = self._event(first, mentions[:cut])
                return [event, self._event(second, rest, shared=event[1][:2])]
        raise NotUnderstood

    def _event(self, form: Form, mentions: list[Mention], shared: tuple[str, ...] = ()) -> Event:
        """Resolve the mentions of a form, left to right; with `shared` the first is the agent of the clause before."""
        roles = self.grammar.signatures[form.kind]
        args = [""] * len(roles)
        pending: list[tuple[Slot, Mention]] = []
        for index, (token, mention) in enumerate(zip(form.tokens, mentions, strict=True)):
            if isinstance(token, str):
                continue
            if index == 0 and shared:  # the agent is the first argument, or the first two together
                args[: 2 if token.role < 0 else 1] = shared[: 2 if token.role < 0 else 1]
            elif token.letter in "abc" and token.how in ("he", "him", "his", "himself"):
                pending.append((token, mention))
            else:
                self._resolve(token, mention, args)
        self._complete(form, roles, args, pending)
        if form.kind == "self":
            self.talk.narrator = args[0]
        return form.kind, tuple(args)

    def _complete(self, form: Form, roles: str, args: list[str], pending: list[tuple[Slot, Mention]]) -> None:
        """Fill in what the context supplies, and check the pronouns that refer back within the sentence."""
        for role in form.omitted:
            if not args[role]:
                args[role] = self.talk.omitted(roles[role], tuple(arg for arg in args if arg))
        for token, mention in pending:
            if not args[token.role]:
                args[token.role] = self._antecedent(mention)
            self._agree(args[token.role], mention)

    def _antecedent(self, mention: Mention) -> str:
        word, talk = mention.surface.lower(), self.talk
        if word in FIRST:
            return talk.narrator
        sex = PRONOUN_SEX[word]
        return talk.subject_cur if SEX.get(talk.subject_cur) == sex else talk.resolve(sex, subject=True)

    def _agree(self, name: str, mention: Mention) -> None:
        word = mention.surface.lower()
        wrong = name != self.talk.narrator if word in FIRST else PRONOUN_SEX.get(word) != SEX.get(name)
        if wrong:
            self.faults.append("name")

    def _resolve(self, slot: Slot, mention: Mention, args: list[str]) -> None:
        letter = slot.letter
        if letter in "abc":
            name = self._person(slot, mention)
            if slot.role < 2 <= len(args) and args[1 - slot.role] == name and args[slot.role]:
                args[1 - slot.role] = args[slot.role]  # "they" came first, in the other order
            args[slot.role] = name
        elif letter == "g":
            args[0], args[1] = self._pair(slot, mention)
        elif letter in "tu":
            args[slot.role] = self._thing(slot, mention, args)
        else:
            args[slot.role] = mention.name

    def _person(self, slot: Slot, mention: Mention) -> str:
        talk, name = self.talk, mention.name
        if not name:
            word = mention.surface.lower()
            if word in FIRST:
                name = talk.narrator
            else:
                subject = slot.how in ("", "s") if self.language == "en" else slot.how in ("", "s") and not talk.cur
                name = talk.resolve(PRONOUN_SEX[word], subject=subject)
            if not name:
                self.faults.append("name")
                return ""
            talk.mention(name)
            return name
        self._known(name, slot, mention)
        if slot.how != "call":
            talk.mention(name)
        return name

    def _known(self, name: str, slot: Slot, mention: Mention) -> None:
        """Whoever is introduced becomes known, once; whoever is named otherwise is known (adults always are)."""
        talk, stranger = self.talk, name not in self.talk.introduced and PEOPLE[name].group != "adult"
        if slot.how not in INTRODUCING:
            if stranger:
                self.faults.append("name")
            return
        if mention.kind and mention.kind not in ("friend", "朋友", "好朋友"):
            if mention.kind not in (PEOPLE[name].kind_en, PEOPLE[name].kind_zh):
                self.faults.append("property")
        elif slot.how != "nm" and not mention.kind and stranger:
            self.faults.append("name")
        if slot.how in ("new", "news") and name in talk.introduced:
            self.faults.append("name")  # somebody known already is not met as somebody new
        talk.introduced.add(name)

    def _pair(self, slot: Slot, mention: Mention) -> tuple[str, str]:
        talk = self.talk
        if mention.name:
            first, second = mention.name, mention.second
            if "我" in (first, second) or second == "I":
                first, second = talk.narrator, second if first == "我" else first
            if slot.how == "nm":
                talk.introduced.update((first, second))
            for name in (first, second):
                if name not in talk.introduced and name in PEOPLE and PEOPLE[name].group != "adult":
                    self.faults.append("name")
        elif pair := talk.pair or talk.last_two():
            first, second = pair
            if mention.surface.startswith("她们") and SEX[first] + SEX[second] != "ff":
                self.faults.append("name")
        else:
            self.faults.append("name")
            return "", ""
        if not first or not second:
            self.faults.append("name")
            return "", ""
        talk.mention_pair(first, second)
        return first, second

    def _thing(self, slot: Slot, mention: Mention, args: list[str]) -> str:
        talk, thing = self.talk, mention.name
        if not thing:
            thing = talk.resolve_thing()
            if not thing:
                self.faults.append("name")
            else:
                talk.mention_thing(thing)
            return thing
        known = talk.adjective.get(thing)
        if slot.how == "a" or known is None:
            if known is None and slot.how != "a":
                self.faults.append("name")
            if known and mention.adj and known != mention.adj:
                self.faults.append("property")
            talk.adjective.setdefault(thing, mention.adj)
        elif mention.adj and mention.adj != known:
            self.faults.append("property")
        if slot.how in ("his", "of"):
            self._possessor(slot, mention, args)
        talk.mention_thing(thing)
        return thing

    def _possessor(self, slot: Slot, mention: Mention, args: list[str]) -> None:
        word = mention.det.removesuffix("'s").removesuffix("的")
        named = self.lexer.words.get(word, "")
        if slot.how == "his":
            if not args[slot.owner]:
                sex = PRONOUN_SEX.get(word.lower())
                args[slot.owner] = self.talk.narrator if sex is None else self.talk.resolve(sex, subject=True)
            self._agree(args[slot.owner], Mention("@", word))
            return
        if not named:
            sex = PRONOUN_SEX.get(word.lower())
            named = self.talk.narrator if sex is None else self.talk.resolve(sex, subject=False)
        if named:
            self.talk.mention(named)
            args[slot.owner] = named


@cache
def _determiners(how: str, language: Language) -> frozenset[str]:
    english = {
        "a": "a an",
        "my": "my",
        "your": "your",
        "the": "the",
        "this": "this",
        "his": "his her my",
        "": "the",
        "bare": "",
    }
    return frozenset(english[how].split()) if language == "en" else frozenset()


def _fits(slot: Slot, mention: Mention, language: Language) -> bool:
    """Whether a mention has the grammatical form that a slot asks for."""
    if slot.letter in "abc":
        return _person_fits(slot, mention, language)
    if slot.letter in "tu":
        return _thing_fits(slot, mention, language)
    if slot.letter == "g":
        return _pair_fits(slot, mention, language)
    if slot.letter == "p":
        return _place_fits(slot, mention, language)
    if slot.letter == "k" and language == "en":
        return (mention.surface == mention.name) == (slot.how == "")
    return True


def _person_fits(slot: Slot, mention: Mention, language: Language) -> bool:
    surface, how = mention.surface, slot.how
    if how in ("new", "fr", "news", "frs"):
        if surface in (("我",) if language == "zh" else ("I",) if how.endswith("s") else ("me",)):
            return True
        return bool(mention.name) and not surface.endswith("'s")
    if mention.kind:
        return False
    if how in ("nm", "call", "name", "names") and (mention.name or surface not in FIRST | {"I"} or how == "call"):
        return bool(mention.name) and surface.endswith("'s") == (how == "names" and language == "en")
    if language == "zh":
        return how in ("", "o", "s") or not mention.name
    if mention.name:
        return how in ("", "o", "s") and surface.endswith("'s") == (how == "s")
    return surface.lower() in EXPECTED.get(how, FIRST)


def _pair_fits(slot: Slot, mention: Mention, language: Language) -> bool:
    if language == "zh" or mention.name:
        return bool(mention.name) or slot.how != "nm"
    allowed = {"o": {"them", "us"}, "": {"they", "we", "the two friends", "the two of them"}}
    return mention.surface.lower() in allowed.get(slot.how, ())


def _place_fits(slot: Slot, mention: Mention, language: Language) -> bool:
    if language == "zh":
        place = lexicon.PLACES[mention.name]
        near = lexicon.NEAR_ZH.get(place.zh, place.zh) if slot.how == "near" else place.zh
        return mention.surface == (f"在{place.zh}{place.at_zh}" if slot.how == "at" else near)
    place = lexicon.PLACES[mention.name]
    wanted = {"to": f"to the {place.en}", "at": f"{place.at_en} the {place.en}", "": f"the {place.en}"}[slot.how]
    return mention.surface == wanted or mention.surface == wanted.capitalize()


def _thing_fits(slot: Slot, mention: Mention, language: Language) -> bool:
    how, det, surface = slot.how, mention.det, mention.surface
    if not mention.name:
        return how == ""
    if language == "en":
        if how == "of":
            return det.endswith("'s") or det.lower() in ("his", "her", "my")
        if how == "a":
            return surface.lower() == lexicon.article(surface[len(det) + 1 :])
        return det.lower() in _determiners(how, language) if how != "bare" else not det
    measure = lexicon.things()[mention.name].measure
    wanted = {
        "": ("", "那" + measure),
        "a": ("一" + measure,),
        "my": ("我的",),
        "your": ("你的",),
        "the": ("", "那" + measure),
        "this": ("这" + measure,),
        "his": ("他的", "她的", "我的"),
        "bare": ("",),
    }
    return det.endswith("的") if how == "of" else det in wanted[how]
