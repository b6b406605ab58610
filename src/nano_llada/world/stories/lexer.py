"""Finds the mentions of people, things, places and so on in a sentence, and leaves its skeleton."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from nano_llada.world.splits import Language
from nano_llada.world.stories import lexicon


class Mention(NamedTuple):
    """One mention: its class character, its text, and what its words say (English identifiers).

    `name` is the entity or, of pronouns, empty; `det` is the determiner or possessor's word, `adj` the adjective;
    `kind` is what a new person is said to be; `second` is the second name of a pair.
    """

    shape: str
    surface: str
    name: str = ""
    det: str = ""
    adj: str = ""
    kind: str = ""
    second: str = ""


def uncapitalised(text: str) -> str:
    """`text` with its first letter in lower case, unless its first word is a name or "I"."""
    match = re.match(r'"?([A-Za-z]+)', text)
    if not match or match.group(1) == "I" or _name_start().match(text[match.start(1) :]):
        return text
    at = match.start(1)
    return text[:at] + text[at].lower() + text[at + 1 :]


@cache
def _name_start() -> re.Pattern[str]:
    return re.compile(rf"(?:{_choice(lexicon.people())})\b")


def _choice(words: object) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=lambda w: (-len(w), w)))  # type: ignore[call-overload]


@dataclass(frozen=True)
class Lexer:
    """The mentions of one language as one regular expression; `words` maps their words to identifiers."""

    language: Language
    pattern: re.Pattern[str]
    words: dict[str, str]

    @staticmethod
    @cache
    def of(language: Language) -> Lexer:
        """The lexer of a language."""
        return _english() if language == "en" else _chinese()

    def lex(self, text: str) -> tuple[str, list[Mention]]:
        """The skeleton of `text` and its mentions, in order."""
        found: list[Mention] = []
        words = self.words

        def note(match: re.Match[str]) -> str:
            group = match.lastgroup or ""
            shape = SHAPES[group]
            values = match.groupdict()
            if group == "person":
                name = values["name"]
                found.append(Mention(shape, match.group(), words.get(name, "") if name else ""))
            elif group == "thing":
                noun = values["noun"]
                found.append(
                    Mention(
                        shape,
                        match.group(),
                        words[noun] if noun else "",
                        values["det"] or "",
                        words["adj:" + values["adj"]] if values["adj"] else "",
                    )
                )
            elif group == "new":
                kind = values["kind"] or values["kind2"] or ""
                name = values["newname"] or values["friend"]
                found.append(Mention(shape, match.group(), words[name], kind=kind))
            elif group == "pair":
                first, second = values["one"] or "", values["two"] or ""
                found.append(Mention(shape, match.group(), words.get(first, first), second=words.get(second, second)))
            else:
                key = values["placename"] if group == "place" else match.group()
                found.append(Mention(shape, match.group(), words[key or match.group()]))
            return shape

        return self.pattern.sub(note, text), found


SHAPES = {
    "pair": "&",
    "new": "@",
    "spot": "*",
    "thing": "#",
    "place": "%",
    "skill": "^",
    "feeling": "~",
    "number": "=",
    "person": "@",
}


def _english() -> Lexer:
    people = lexicon.people()
    names = _choice(people)
    kinds = _choice({person.kind_en for person in people.values() if person.kind_en})
    owners = rf"(?:{names})'s|[Hh]is|[Hh]er|[Mm]y|[Yy]our|[Oo]ur|[Tt]heir"
    words = {name: name for name in people}
    words |= {noun: noun for noun in lexicon.things()}
    words |= {"adj:" + adjective: adjective for adjective in lexicon.ADJECTIVES}
    words |= {place: place for place in lexicon.PLACES} | {spot: spot for spot in lexicon.SPOTS}
    words |= {number: number for number in lexicon.NUMBERS}
    words |= {text: skill.en for skill in lexicon.SKILLS.values() for text in (skill.en, skill.ing)}
    words |= {text: name for name, (english, _) in lexicon.FEELINGS.items() for text in english}
    feelings = [text for english, _ in lexicon.FEELINGS.values() for text in english]
    skills = [text for skill in lexicon.SKILLS.values() for text in (skill.en, skill.ing)]
    pattern = rf"""
        (?P<pair>\b(?:(?P<one>{names})\ and\ (?P<two>{names}|I)\b(?!'s)|(?:[Tt]hey|[Tt]hem|[Tt]heir|[Ww]e|[Uu]s|[Oo]ur
            |[Tt]he\ two\ friends|[Tt]he\ two\ of\ them)\b))
      | (?P<new>\b(?:[Aa]n?\ (?:little\ )?(?P<kind>{kinds})\ (?:named|called)|(?:{owners})\ (?P<kind2>friend))
            \ (?P<newname>{names})\b(?!'s)(?P<friend>))
      | (?P<spot>\b(?:{_choice(lexicon.SPOTS)})\b)
      | (?P<thing>\b(?:(?:(?P<det>[Aa]n?|[Tt]he|[Tt]his|{owners})\ )?(?:(?P<adj>{_choice(lexicon.ADJECTIVES)})\ )?
            (?P<noun>{_choice(lexicon.things())})|[Ii]t)\b)
      | (?P<place>\b(?:(?:to|at|in|by|on)\ )?[Tt]he\ (?P<placename>{_choice(lexicon.PLACES)})\b)
      | (?P<skill>\b(?:{_choice(skills)})\b)
      | (?P<feeling>\b(?:{_choice(feelings)})\b)
      | (?P<number>\b(?:{_choice(lexicon.NUMBERS)})\b)
      | (?P<person>\b(?:(?P<name>{names})\b(?:'s\b)?|(?:[Hh]e|[Ss]he|[Hh]im|[Hh]er|[Hh]is|I|[Mm]e|[Mm]y
            |[Hh]imself|[Hh]erself|[Mm]yself)\b))
    """
    return Lexer("en", re.compile(pattern, re.VERBOSE), words)


def _chinese() -> Lexer:
    people, things = lexicon.people(), lexicon.things()
    names = _choice({person.zh for person in people.values()})
    kinds = _choice({person.kind_zh for person in people.values() if person.kind_zh})
    measures = "".join(sorted({thing.measure for thing in things.values()}))
    words = {person.zh: name for name, person in people.items()}
    words |= {thing.zh: noun for noun, thing in things.items()}
    words |= {"adj:" + word.zh: word.en for word in lexicon.ADJECTIVES.values()}
    words |= {place.zh: name for name, place in lexicon.PLACES.items()}
    words |= {word.zh: name for name, word in (lexicon.SPOTS | lexicon.SKILLS).items()}
    words |= {zh: en for en, zh in lexicon.NUMBERS.items()}
    words |= {text: name for name, (_, chinese) in lexicon.FEELINGS.items() for text in chinese}
    feelings = [text for _, chinese in lexicon.FEELINGS.values() for text in chinese]
    adjectives = _choice({word.zh for word in lexicon.ADJECTIVES.values()})
    spots = _choice({word.zh for word in lexicon.SPOTS.values()})
    words |= {near: words[zh] for zh, near in lexicon.NEAR_ZH.items()}
    places = _choice({place.zh for place in lexicon.PLACES.values()} | set(lexicon.NEAR_ZH.values()))
    pattern = rf"""
        (?P<pair>(?P<one>{names}|我)和(?P<two>{names})|他们俩|她们俩|我们俩|他们|她们|我们|两个好朋友)
      | (?P<new>(?:一[个只]名?叫(?P<newname>{names})的(?P<kind>{kinds})
            |(?:{names}的|[他她我]的)?(?P<kind2>好?朋友)(?P<friend>{names})))
      | (?P<spot>{spots})
      | (?P<thing>(?:(?P<det>[一那这][{measures}]|(?:{names}|[他她我你])的))?(?P<adj>{adjectives})?
            (?P<noun>{_choice({thing.zh for thing in things.values()})})|它)
      | (?P<place>(?:在)?(?P<placename>{places})[里上]?)
      | (?P<skill>{_choice({word.zh for word in lexicon.SKILLS.values()})})
      | (?P<feeling>{_choice(feelings)})
      | (?P<number>[{"".join(lexicon.NUMBERS.values())}](?=岁))
      | (?P<person>(?P<name>{names})|[他她我])
    """
    return Lexer("zh", re.compile(pattern, re.VERBOSE), words)
