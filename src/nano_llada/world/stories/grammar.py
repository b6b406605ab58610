"""The bilingual grammar: one table of sentence forms, compiled for saying events and for recognising sentences.

Every form of `forms.txt` becomes a `Form`: the parts that a teller fills in, and a skeleton that a reader looks up. A
skeleton is the sentence with each mention of a person, thing, place and so on replaced by one character of its class.
So one pass of a regular expression and one dictionary look-up recognise a sentence, whatever it is about.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product

from nano_llada.world.splits import Language
from nano_llada.world.stories.lexer import Lexer, uncapitalised

CLASSES = {"a": "@", "b": "@", "c": "@", "g": "&", "t": "#", "u": "#", "p": "%", "s": "*", "k": "^", "f": "~", "n": "="}
SLOT = re.compile(r"\{([a-z])(?:\.([a-z]+))?\}")
CHOICE = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True, slots=True)
class Slot:
    """A mention: `role` is the index of the argument (-1: the first two together), `how` its grammatical form.

    `letter` is the role's letter in the table; `owner` is the index of the possessor in forms such as "her kite".
    """

    letter: str
    role: int
    how: str
    owner: int = 0


@dataclass(frozen=True, slots=True)
class Form:
    """One way to say one kind of event.

    `tokens` holds, for each class character of `skeleton`, its slot or its literal. `omitted` are the indices of the
    arguments that the sentence leaves to the context; `bound` forms say "them" and leave both persons to it.
    `agent_first` forms begin with the agent, so that two of them can share it; `plain` ones may follow a connective.
    """

    kind: str
    parts: tuple[str | Slot, ...]
    skeleton: str
    tokens: tuple[Slot | str, ...]
    omitted: tuple[int, ...]
    bound: bool
    agent_first: bool
    plain: bool
    source: int


@dataclass(frozen=True)
class Grammar:
    """All forms of one language: by kind of event for telling, by skeleton for reading; clauses are kept apart."""

    language: Language
    signatures: dict[str, str]
    forms: dict[str, tuple[tuple[Form, ...], ...]]
    sentences: dict[str, tuple[Form, ...]]
    clauses: dict[str, tuple[Form, ...]]


def expanded(text: str) -> list[str]:
    """The texts that result from taking one of each `[x|y]`."""
    pieces = CHOICE.split(text)
    options = [piece.split("|") if index % 2 else [piece] for index, piece in enumerate(pieces)]
    return ["".join(choice) for choice in product(*options)]


@cache
def _table() -> list[tuple[str, str, list[tuple[Language, str]]]]:
    text = (files("nano_llada.world.stories") / "forms.txt").read_text(encoding="utf-8")
    blocks: list[tuple[str, str, list[tuple[Language, str]]]] = []
    for line in text.splitlines():
        if line.startswith("== "):
            kind, *roles = line[3:].split()
            blocks.append((kind, "".join(roles), []))
        elif line.startswith(("en", "zh")):
            mark, text = line.split(" ", 1)
            # A star marks sentences that bear no connective before them.
            blocks[-1][2].append(("en" if mark[0] == "e" else "zh", ("*" if mark.endswith("*") else "") + text))
    return blocks


@cache
def signatures() -> dict[str, str]:
    """The role letters of each kind of event."""
    return {kind: roles for kind, roles, _ in _table()}


@cache
def grammar(language: Language) -> Grammar:
    """The compiled grammar of one language."""
    lexer = Lexer.of(language)
    forms: dict[str, list[tuple[Form, ...]]] = defaultdict(list)
    sentences: dict[str, list[Form]] = defaultdict(list)
    clauses: dict[str, list[Form]] = defaultdict(list)
    for kind, roles, lines in _table():
        own = [text for found, text in lines if found == language]
        for source, text in enumerate(own):
            concrete = tuple(_compiled(kind, roles, option, source, lexer) for option in dict.fromkeys(expanded(text)))
            forms[kind].append(concrete)
            for form in concrete:
                (clauses if kind.startswith("why.") else sentences)[form.skeleton].append(form)
    return Grammar(
        language,
        signatures(),
        {kind: tuple(found) for kind, found in forms.items()},
        {key: tuple(found) for key, found in sentences.items()},
        {key: tuple(found) for key, found in clauses.items()},
    )


def _slot(letter: str, how: str, roles: str) -> Slot:
    role = -1 if letter == "g" else roles.index(letter)
    if how == "ofb":
        return Slot(letter, role, "of", roles.index("b"))
    owner = roles.index("a") if "a" in roles else 0
    return Slot(letter, role, how, owner)


def _compiled(kind: str, roles: str, text: str, source: int, lexer: Lexer) -> Form:
    free, text = not text.startswith("*"), text.lstrip("*")
    text = re.sub(r" +", " ", text).strip().replace(" ,", ",").replace(' "', ' "')
    parts: list[str | Slot] = []
    skeleton = ""
    tokens: list[Slot | str] = []
    pieces = SLOT.split(text)
    for index in range(0, len(pieces), 3):
        literal = pieces[index]
        if literal:
            shown = uncapitalised(literal) if index == 0 and lexer.language == "en" else literal
            shape, found = lexer.lex(shown)
            skeleton += shape
            tokens += [mention.surface for mention in found]
            parts.append(literal)
        if index + 1 < len(pieces):
            how = pieces[index + 2] or ""
            # At the start a new person is the subject ("I" if it is the narrator), elsewhere the object.
            slot = _slot(pieces[index + 1], how + "s" if how in ("new", "fr") and not parts else how, roles)
            parts.append(slot)
            skeleton += CLASSES[slot.letter] + ("的" if lexer.language == "zh" and _possessive(slot) else "")
            tokens.append(slot)
    said = {slot.role for slot in parts if isinstance(slot, Slot)} | (
        {0, 1} if any(isinstance(slot, Slot) and slot.role < 0 for slot in parts) else set()
    )
    said |= {
        slot.owner for slot in parts if isinstance(slot, Slot) and slot.how in ("his", "of") and slot.letter in "tu"
    }
    first = parts[0]
    agent = isinstance(first, Slot) and first.letter in "ag" and first.how == "" and first.role <= 0
    closed = not any(mark in skeleton for mark in ('"', "“", ":", "：", ",", "，", " and "))
    return Form(
        kind=kind,
        parts=tuple(parts),
        skeleton=skeleton.rstrip(".。"),
        tokens=tuple(tokens),
        omitted=tuple(role for role in range(len(roles)) if role not in said),
        bound=any(isinstance(part, Slot) and (part.letter, part.how) == ("g", "o") for part in parts),
        agent_first=agent and closed,
        plain=(free and isinstance(first, Slot)) or kind.startswith("turn."),
        source=source,
    )


def _possessive(slot: Slot) -> bool:
    return slot.letter in "abc" and slot.how in ("s", "his", "names")
