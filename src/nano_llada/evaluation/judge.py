"""Questions from a user's files, and how it is decided by program whether an answer is right."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.data.rows import Message, kind_of, to_messages, to_text
from nano_llada.evaluation.items import read_items, row_language
from nano_llada.session.reward import Reward, load_reward
from nano_llada.world import Verifier, verify

Judge = Callable[[str], bool]  # a model's text -> whether it is right

REFERENCES = ("references", "reference", "answer")  # the first of these fields that a row has
PROMPTS = ("messages", "prompt", "question")  # as well
TOLERANCE = 1e-6  # of a number, relative to the reference

_WIDE = str.maketrans("０１２３４５６７８９．＋－−，", "0123456789.+--,")
_NUMBER = re.compile(
    r"(?P<sign>(?<![0-9A-Za-z)\]%])[-+])?[$¥￥€£]?"  # in 10-5 and COVID-19 it is no sign
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?![\d,]*\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+)(?P<power>[eE][-+]?\d+)?",
    re.ASCII,
)
_MARKS = (  # an answer says which number counts; `#### 1. First step` is a heading
    (re.compile(r"####[ \t]*(?!\d+[.):：、][ \t]*[^\s\d])([-+$¥￥€£]?[-+$¥￥€£]?\.?\d[^\n]*)"), 0),
    (re.compile(r"\\boxed\{([^\n]*?)\}"), -1),
)
_GSM8K = re.compile(r"####[ \t]*[-+$]{0,2}\.?\d[^\n]*\s*\Z")


@dataclass(frozen=True)
class Question:
    """Something to ask a model, and the judge of what it answers."""

    prompt: str
    language: str  # zh or en
    task: str
    item: str  # shared by both languages' wordings
    judge: Judge | None  # None: it has no right answer, and is for reading alone
    references: tuple[str, ...] = ()  # right answers, for readers
    before: tuple[Message, ...] = ()  # turns of the conversation that the prompt is the last of
    verifier: str = ""  # which judge it is, in words

    @property
    def text(self) -> str:
        """All that is said before the answer, a line each."""
        return "\n".join([*(message.content for message in self.before), self.prompt])


def read_questions(sources: Sequence[str], limit: int | None = None) -> list[Question]:
    """The first `limit` questions of each file.

    A row has `prompt`, `question` or `messages`; `references` (a list), `reference` or `answer`, or messages that end
    with the right answer; and perhaps `verifier`:

    - `exact` (unless told otherwise): one of the references, but for spacing and a last full stop;
    - `contains`: a reference stands somewhere in the text, upper and lower case being different;
    - `regex`: a reference, as a regular expression, is found in the text;
    - `numeric`: see `last_number`; it is within 1e-6 of a reference, relatively;
    - an object: a verifier of the small world;
    - `FILE.py:FUNCTION`, sought from the working folder, which is run: called with question, answer and row, it says
      True or False.

    An answer that ends in `#### N`, as in GSM8K, is numeric unless told otherwise. `task` (else the file's name), `id`
    (else the row's number) and `language` (else what the prompt looks like) name the record.

    Raises:
        UserError: with file and line for a row that is none of this, or asked before; if there is no row.
    """
    load = functools.cache(load_reward)
    seen: set[tuple[str, str, str]] = set()

    def question(row: Mapping[str, Any], file: str, number: str) -> Question:
        *before, last, said = _conversation(row)
        references = _references(row) or ((said.content,) if said.content else ())
        task, item = _label(row, "task", file), _label(row, "id", number)
        language = row_language(row, last.content)
        if (task, item, language) in seen:
            raise ValueError(f"task {task!r} has an {language} question {item!r} already: give each row its own `id`")
        seen.add((task, item, language))
        judge, references = _judge(row, last.content, references, load)
        return Question(last.content, language, task, item, judge, references, tuple(before), _told(row))

    return read_items(sources, question, limit)


def last_number(text: str) -> float | None:
    """The number that a text arrives at: in its last `#### N` or `\\boxed{N}`, or else its last number; None of none.

    1,234.5, -3, 1e3, $5 and full-width digits are read; 1/2 is two numbers, and 50% is 50.
    """
    text = re.sub(r"，(?![０-９]{3}(?![０-９]))|(?<![０-９])，", " ", text).translate(_WIDE)
    marked: dict[int, float] = {}
    for pattern, which in _MARKS:
        for mark in pattern.finditer(text):
            if numbers := _numbers(mark[1]):
                marked[mark.start()] = numbers[which]
    if marked:
        return marked[max(marked)]
    return next(reversed(_numbers(text)), None)


def _numbers(text: str) -> list[float]:
    matches = _NUMBER.finditer(text)
    return [float("".join(m[p] or "" for p in ("sign", "digits", "power")).replace(",", "")) for m in matches]


def _judge(
    row: Mapping[str, Any], prompt: str, references: tuple[str, ...], load: Callable[[str], Reward]
) -> tuple[Judge, tuple[str, ...]]:
    """The judge of a row, and the right answers it knows. Raises ValueError."""
    spec = row.get("verifier")
    if spec is None:
        spec = "numeric" if any(map(_GSM8K.search, references)) else "exact"
    try:
        if isinstance(spec, dict):
            verifier = Verifier.from_json(spec)
            return functools.partial(verify, verifier), references or verifier.expected
        if isinstance(spec, str) and ".py:" in spec:
            return functools.partial(_ask, load(spec), spec, prompt, row), references
    except UserError as error:
        raise ValueError(str(error)) from error
    except TypeError as error:
        raise ValueError(f"the row's `verifier` cannot be read: {error}") from error
    makers = {"exact": _exact, "contains": _contains, "regex": _regex, "numeric": _numeric}
    if not isinstance(spec, str) or spec not in makers:
        raise ValueError(f"unknown verifier {spec!r}: use {', '.join(makers)}, an object, or FILE.py:FUNCTION")
    if not references:
        raise ValueError(f"no right answer: give it {' or '.join(REFERENCES)}, or an answer as the last message")
    return makers[spec](references), references


def _told(row: Mapping[str, Any]) -> str:
    """The verifier of a row; of a user's own what it is made of and given: the file's content and the row."""
    spec = row.get("verifier", "")
    if isinstance(spec, str) and ".py:" in spec:
        file, _, name = spec.rpartition(":")
        given = json.dumps({**row, "verifier": name}, sort_keys=True, ensure_ascii=False, default=str)
        return f"{hashlib.sha256(Path(file).read_bytes()).hexdigest()} {given}"
    return json.dumps(spec, sort_keys=True, ensure_ascii=False)


def _ask(function: Reward, spec: str, prompt: str, row: Mapping[str, Any], text: str) -> bool:
    value = function(prompt, text, row)
    if value not in (0.0, 1.0):
        raise UserError(f"verifier {spec!r} gave {value:g} for {text!r}: it must say True or False (1 or 0)")
    return value == 1.0


def _exact(references: tuple[str, ...]) -> Judge:
    return functools.partial(verify, Verifier("exact", references))


def _contains(references: tuple[str, ...]) -> Judge:
    wanted = [" ".join(reference.split()) for reference in references]
    return lambda text: any(reference in " ".join(text.split()) for reference in wanted)


def _regex(references: tuple[str, ...]) -> Judge:
    try:
        patterns = [re.compile(reference) for reference in references]
    except re.error as error:
        raise ValueError(f"{error.pattern!r} is no regular expression: {error}") from error
    return lambda text: any(pattern.search(text) for pattern in patterns)


def _numeric(references: tuple[str, ...]) -> Judge:
    numbers = []
    for reference in references:
        number = last_number(reference)
        if number is None or not math.isfinite(number):
            raise ValueError(f"the right answer {reference!r} holds no number, which the verifier numeric needs")
        numbers.append(number)

    def judge(text: str) -> bool:
        found = last_number(text)
        return found is not None and any(math.isclose(found, number, rel_tol=TOLERANCE) for number in numbers)

    return judge


def _conversation(row: Mapping[str, Any]) -> list[Message]:
    """What is said up to the question, and then the answer, '' if no message gives it. Raises ValueError."""
    name = next((name for name in PROMPTS if row.get(name) is not None), None)
    if name is None:
        raise ValueError(f"no {', '.join(PROMPTS)}; the fields are: {', '.join(map(str, row)) or 'none'}")
    none = Message("assistant", "")
    if name != "messages":
        return [Message("user", to_text(row, name)), none]
    if not isinstance(row[name], list) or not row[name]:
        raise ValueError(f"messages is {kind_of(row[name])}, expected a list with at least one message")
    if not any(isinstance(m, dict) and m.get("role", m.get("from")) in ("user", "human") for m in row[name]):
        raise ValueError("messages has no user turn")
    opened = {"role": "assistant", "content": "?"}  # or what stands behind the last answer would not be read
    turns = to_messages({"messages": [*row[name], opened]})[:-1]
    if turns[-1].role != "assistant":
        turns.append(none)
    if len(turns) < 2 or turns[-2].role != "user":
        raise ValueError("messages has no user turn at its end, or before the answer it ends with")
    return turns


def _references(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The right answers that a row's fields give; () if it has no such field. Raises ValueError for empty ones."""
    name = next((name for name in REFERENCES if row.get(name) is not None), None)
    if name is None:
        return ()
    value = row[name] if name == "references" else [row[name]]
    if not isinstance(value, list) or not value:
        raise ValueError(f"references is {kind_of(value)}, expected a list with at least one right answer")
    return tuple(_reference(one, name) for one in value)


def _reference(value: object, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} is {kind_of(value)}, expected text or a number")
    if not str(value).strip():
        raise ValueError(f"{name} is empty")
    return str(value)


def _label(row: Mapping[str, Any], name: str, default: str) -> str:
    return _reference(row[name], name) if row.get(name) is not None else default
