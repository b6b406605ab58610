"""Questions from a user's files, and how it is decided by program whether an answer is right."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.data.bad_rows import Row, Where
from nano_llada.data.rows import Message, Unread, reference, to_question
from nano_llada.evaluation.items import read_items, row_language
from nano_llada.verify.answer import Judge, judge_of
from nano_llada.verify.number import last_number
from nano_llada.verify.pattern import Matcher
from nano_llada.verify.reward import Reward, load_reward

__all__ = ["Judge", "Question", "last_number", "read_questions"]


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


def read_questions(sources: Sequence[str], limit: int | None = None, verifier: str | None = None) -> list[Question]:
    """The first `limit` questions of each file.

    Rows are read as for training (see `to_question`): what a row asks, all that comes before it, and the right answers
    in `references` (a list), `reference`, `ground_truth` or `answer`, or else the answer that the row gives. `verifier`
    is one of:

    - `exact` (the default): one of the references, but for spacing and a last full stop;
    - `contains`: a reference occurs in the text, upper and lower case being different;
    - `regex`: a reference, as a regular expression, is found in the text, within a time limit;
    - `numeric`: see `last_number`; it is within 1e-6 of a reference, relatively;
    - an object: a verifier of the small world.

    With the argument `verifier`, FILE.py:FUNCTION, that function judges all answers instead: called with question,
    answer and row, it says True or False. It is never taken from a row, so that data cannot run code.

    An answer that ends in `#### N`, as in GSM8K, is numeric by default. `task` (else the file's name), `id`
    (else the row's number) and `language` (else what the prompt looks like) name the record.

    Raises:
        UserError: with file and line for a row of another form, or a repeated one; if there is no row.
    """
    own = None if verifier is None else load_reward(verifier)
    seen: set[tuple[str, str, str]] = set()
    unread, matcher = Unread(), Matcher()

    def question(given: Row, file: str, number: str) -> Question:
        row = given.value
        asked = to_question(row, unread)
        *before, last = asked.messages
        if last.role != "user":
            raise ValueError("no user turn at its end, or before the answer it ends with")
        task, item = _label(row, "task", file), _label(row, "id", number)
        language = row_language(row, last.content)
        if (task, item, language) in seen:
            raise ValueError(f"task {task!r} has an {language} question {item!r} already: give each row its own `id`")
        seen.add((task, item, language))
        judge, references = judge_of(row, asked.references, matcher) if own is None else (None, asked.references)
        if own is not None and verifier is not None:
            judge = functools.partial(_ask, own, verifier, last.content, row)
        if judge is not None:
            judge = functools.partial(_placed, judge, given.where)
        return Question(last.content, language, task, item, judge, references, tuple(before), _named(row, verifier))

    found = read_items(sources, question, limit)
    if own is None and unread.counts:
        print(unread.summary())
    return found


def _named(row: Mapping[str, Any], verifier: str | None) -> str:
    """The verifier of a row; of a user's own what it is made of and given: the file's content and the row."""
    if verifier is None:
        return json.dumps(row.get("verifier", ""), sort_keys=True, ensure_ascii=False)
    file, _, name = verifier.rpartition(":")
    given = json.dumps({**row, "verifier": name}, sort_keys=True, ensure_ascii=False, default=str)
    return f"{hashlib.sha256(Path(file).read_bytes()).hexdigest()} {given}"


def _ask(function: Reward, spec: str, prompt: str, row: Mapping[str, Any], text: str) -> bool:
    value = function(prompt, text, row)
    if value not in (0.0, 1.0):
        raise UserError(f"verifier {spec!r} gave {value:g} for {text!r}: it must say True or False (1 or 0)")
    return value == 1.0


def _placed(judge: Judge, where: Where, text: str) -> bool:
    """What a judge says; what it complains about is said with the row's place."""
    try:
        return judge(text)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _label(row: Mapping[str, Any], name: str, default: str) -> str:
    return reference(row[name], name) if row.get(name) is not None else default
