"""Questions with judges of their answers, from a user's files."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano_llada.data.rows import Message, kind_of, to_messages, to_text
from nano_llada.evaluate.items import read_items, row_language
from nano_llada.verify import REFERENCES, Judge, description_of, judge_of, load_reward

PROMPTS = ("messages", "prompt", "question")  # the first of these fields that a row has


@dataclass(frozen=True)
class Question:
    """Something to ask a model, and the judge of what it answers."""

    prompt: str
    language: str  # zh or en
    task: str
    item: str  # shared by both languages' wordings
    judge: Judge | None  # None: there is no right answer, and the text is for reading alone
    references: tuple[str, ...] = ()  # right answers, for readers
    before: tuple[Message, ...] = ()  # turns of the conversation that the prompt is the last of
    verifier: str = ""  # what the judge depends on, as text

    @property
    def text(self) -> str:
        """All turns before the answer, a line each."""
        return "\n".join([*(message.content for message in self.before), self.prompt])


def read_questions(sources: Sequence[str], limit: int | None = None) -> list[Question]:
    """The first `limit` questions of each file.

    A row has `prompt`, `question` or `messages`; `references` (a list), `reference` or `answer`, or messages that end
    with the right answer; and perhaps `verifier`:

    - `exact` (the default): one of the references, except for spacing and a last full stop;
    - `contains`: a reference occurs in the text, case-sensitively;
    - `regex`: a reference, as a regular expression, is found in the text;
    - `numeric`: `last_number` of the text is within 1e-6 of a reference, relatively;
    - an object: see `Verifier`;
    - `FILE.py:FUNCTION`, relative to the working folder, which is run: called with question, answer and row, it
      returns True or False.

    A reference that ends in `#### N`, as in GSM8K, makes `numeric` the default. `task` (else the file's name), `id`
    (else the row's number) and `language` (else what the prompt looks like) name the record.

    Raises:
        UserError: with file and line for an invalid or repeated row; if there is no row.
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
        judge, references = judge_of(row, last.content, references, load)
        return Question(last.content, language, task, item, judge, references, tuple(before), description_of(row))

    return read_items(sources, question, limit)


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
    opened = {"role": "assistant", "content": "?"}  # or the turns after the last answer would not be read
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
