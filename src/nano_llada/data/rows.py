"""What a row means: a text, a conversation, a question with right answers, or two answers to choose between.

`docs/data.md` lists every shape and field with an example. Training, preferences, reinforcement learning and evaluation
all read rows here, so a field has the same meaning for each of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nano_llada.core.text import unify_line_ends
from nano_llada.data.bad_rows import BadRow, BadRows, Row, Unread, Where, kind_of, parse_row
from nano_llada.data.messages import Fields, Message, Role, read_list, read_message, reasoned, without_reasoning

__all__ = ["BadRow", "BadRows", "Message", "Question", "Role", "Row", "Unread", "Where", "kind_of", "parse_row"]

CONVERSATIONS = ("conversations", "messages", "conversation")
QUESTIONS = ("prompt", "instruction", "question", "query", "input")
BESIDE = ("input", "context")  # shown below the question
ANSWERS = ("response", "output", "answer", "target", "completion")
REFERENCES = ("references", "reference", "ground_truth", "answers", "answer")
SYSTEMS = ("system", "system_prompt")
LABELS = frozenset(("id", "task", "language", "lang", "verifier", "skill", "split", "pair", "key"))  # never text


@dataclass(frozen=True)
class Preference:
    """A conversation up to an answer, a better answer, and a worse one."""

    prompt: list[Message]
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Question:
    """A conversation up to an answer, and the right answers that the row gives, if it gives any."""

    messages: list[Message]
    references: tuple[str, ...]


def looks_like(row: Mapping[str, object]) -> Literal["text", "chat", "preference"]:
    """What a row seems to be made for, by the names of its fields."""
    if {"chosen", "rejected"} <= row.keys():
        return "preference"
    asks = any(row.get(name) is not None for name in (*CONVERSATIONS, *QUESTIONS))
    return "chat" if asks and row.get("text") is None else "text"


def to_text(row: Mapping[str, object], field: str = "text", unread: Unread | None = None) -> str:
    """The document in a row. Raises ValueError with the reason when there is none."""
    if field not in row:
        hint = "; this is a conversation: use it for sft, or --format chat" if looks_like(row) == "chat" else ""
        raise ValueError(f"no field {field}; {_names(row)}{hint}")
    fields = Fields(row)
    text = fields.filled(field)
    _count(fields, unread)
    return text


def to_messages(row: Mapping[str, object], unread: Unread | None = None) -> list[Message]:
    """The conversation in a row, up to the last turn that is learnt.

    Read are a list of turns (`conversations`, `messages`, `conversation`, or a `prompt` that is a list) or a flat
    question (prompt, instruction, question, query or input, with input and context below it), and the answer that
    ends them (response, output, answer, target or completion; text, one turn or a list of turns). `system` or
    `system_prompt`, `tools` and `history` are put in front. Raises ValueError with the reason for any other row.
    """
    fields = Fields(row)
    asked = _asked(fields)
    answer = [] if asked.answered else _answer(fields)
    turns = [*asked.turns, *answer]
    if not asked.name or (asked.name not in CONVERSATIONS and not (turns and turns[-1].role == "assistant")):
        raise ValueError(f"no conversations, no messages, no prompt with a response; {_names(row)}")
    learnt = _until_learnt(turns, asked)
    lost = len(turns) - len(learnt)
    if lost and answer:
        fields.skipped.add(f"{fields.first(ANSWERS)}[] after the last answer")
    if lost > len(answer):
        fields.skipped.add(f"{asked.name}[] after the last answer")
        if all(turn.role != "user" for turn in learnt[asked.before :]):
            fields.skipped.update(asked.beside)
    _count(fields, unread)
    return learnt


def to_question(row: Mapping[str, object], unread: Unread | None = None) -> Question:
    """What is to be answered, and the right answers (see REFERENCES, then ANSWERS, then an answer as the last turn).

    A conversation that ends with another turn than the assistant's is the question as it is; of one that ends with an
    answer, this answer is left out. Raises ValueError with the reason when a row asks nothing.
    """
    fields = Fields(row)
    asked = _asked(fields)
    if not asked.name:
        raise ValueError(f"no question (messages, or one of {', '.join(QUESTIONS)}); {_names(row)}")
    turns, references = list(asked.turns), _references(fields)
    if asked.answered:
        said = _judged(turns.pop().content, fields)
        if references and references != (said,):
            fields.skipped.add(f"{asked.name}[] the last answer")
    else:
        answer = [] if references else _answer(fields)
        said = _judged(answer[-1].content, fields) if answer else ""
        turns += answer[:-1]
    _check_start(turns, asked)
    if turns[-1].role not in ("user", "tool"):
        raise ValueError(f"{asked.name} has no user turn at its end, or before the answer it ends with")
    _count(fields, unread)
    return Question(turns, references or ((said,) if said else ()))


def _judged(content: str, fields: Fields) -> str:
    """The part of an answer that others are compared with; its reasoning is reported as not read."""
    answer = without_reasoning(content)
    if answer != content:
        fields.skipped.add("the reasoning of the right answer")
    return answer


def to_preference(row: Mapping[str, object], unread: Unread | None = None) -> Preference:
    """The prompt and the two answers in a row. Raises ValueError with the reason when there are none.

    chosen and rejected are texts, turns or lists of turns. Lists that begin with a user's or system turn are whole
    conversations, which must not differ before their last answer; others answer the row's own prompt.
    """
    if missing := [name for name in ("chosen", "rejected") if row.get(name) is None]:
        raise ValueError(f"no {' and no '.join(missing)}; {_names(row)}")
    fields = Fields(row)
    chosen, rejected = _side(fields, "chosen", "rejected"), _side(fields, "rejected", "chosen")
    if chosen[0].role == "assistant" and fields.has((*CONVERSATIONS, *QUESTIONS)):
        asked = _asked(fields)
        _check_start(asked.turns, asked)
        if asked.answered:
            raise ValueError(f"{asked.name} ends with an assistant turn, expected a turn to be answered")
    elif isinstance(row["chosen"], str):
        raise ValueError(f"no prompt (messages, or one of {', '.join(QUESTIONS)}); {_names(row)}")
    else:
        start = _start(fields)
        asked = _Asked("chosen", start, len(start))
        for name in QUESTIONS:  # often the same question once more
            if any(row.get(name) == message.content for message in chosen):
                fields.read(name)
    better, worse = _compared(asked, chosen, "chosen"), _compared(asked, rejected, "rejected")
    differing = next((i for i, (a, b) in enumerate(itertools.zip_longest(better[:-1], worse[:-1])) if a != b), None)
    if differing is not None:
        at = differing - len(asked.turns)
        raise ValueError(f"chosen[{at}] and rejected[{at}] differ before the last answer")
    for name, side, whole in (("chosen", chosen, better), ("rejected", rejected, worse)):
        if len(whole) < len(asked.turns) + len(side):
            fields.skipped.add(f"{name}[] after the last answer")
    _count(fields, unread)
    return Preference(better[:-1], better[-1].content, worse[-1].content)


def find_special(text: str, specials: Sequence[str]) -> str | None:
    """The special token that comes first in the text as plain characters, if any does."""
    return min((special for special in specials if special in text), key=text.find, default=None)


def _count(fields: Fields, unread: Unread | None) -> None:
    if unread is not None:
        unread.add(name for name in fields.unread() if name not in LABELS)


def _names(row: Mapping[str, object]) -> str:
    return f"the fields are: {', '.join(map(str, row)) or 'none'}"


@dataclass(frozen=True)
class _Asked:
    """The turns of a row before its flat answer, and the field that most of them are from ('' if none asks)."""

    name: str
    turns: list[Message]
    before: int  # how many were put in front of those of the field
    beside: tuple[str, ...] = ()  # fields that its first question shows, too

    @property
    def answered(self) -> bool:
        return bool(self.turns) and self.turns[-1].role == "assistant"


def _asked(fields: Fields) -> _Asked:
    start = _start(fields)
    name = fields.first(CONVERSATIONS) or fields.first(QUESTIONS)
    if not name:
        return _Asked("", [], 0)
    if name in QUESTIONS and not isinstance(fields.row[name], list):
        beside = {other: text for other in BESIDE if other != name and (text := fields.text_if_any(other)).strip()}
        shown = "\n".join(part for part in (fields.text(name), *beside.values()) if part.strip())
        if not shown.strip():
            raise ValueError(f"{name} is empty")
        return _Asked(name, [*start, Message("user", shown)], len(start), tuple(beside))
    turns, context = read_list(fields, name), ""
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if first is not None and (context := fields.text_if_any("context")):
        turns[first] = Message("user", f"{turns[first].content}\n{context}")
    return _Asked(name, [*start, *turns], len(start), ("context",) if context else ())


def _start(fields: Fields) -> list[Message]:
    """What comes before the first turn: the system's text, the tools that may be called, and earlier turns."""
    told = [fields.text(name) for name in (fields.first(SYSTEMS),) if name]
    if tools := fields.json("tools"):
        told.append(f"<tools>\n{tools}\n</tools>")
    system = "\n".join(text for text in told if text.strip())
    return [*([Message("system", system)] if system else []), *_history(fields)]


def _history(fields: Fields) -> list[Message]:
    """Earlier turns: a list of [question, answer] pairs or of turns."""
    value = fields.get("history")
    if not value:
        return []
    if not isinstance(value, list) or any(isinstance(item, dict) for item in value):
        return read_list(fields, "history")
    turns = []
    for index, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(t, str) and t.strip() for t in pair):
            raise ValueError(f"history[{index}] is not a pair of texts (a question and its answer)")
        turns += [Message("user", unify_line_ends(pair[0])), Message("assistant", unify_line_ends(pair[1]))]
    return turns


def _answer(fields: Fields) -> list[Message]:
    name = fields.first(ANSWERS)
    if not name:
        return []
    value = fields.row[name]
    if isinstance(value, list):
        return _completion(read_list(fields, name), name)
    if isinstance(value, dict):
        return _completion([read_message(value, name, fields.skipped)], name)
    return [Message("assistant", reasoned(fields, fields.filled(name)))]


def _completion(turns: list[Message], name: str) -> list[Message]:
    if not turns or turns[-1].role != "assistant":
        raise ValueError(f"{name} does not end with an assistant turn")
    return turns


def _side(fields: Fields, name: str, other: str) -> list[Message]:
    """One of the two answers of a preference, with the turns before it if it gives them."""
    value, texts = fields.get(name), isinstance(fields.row[other], str)
    if name == "rejected" and texts != isinstance(value, str):
        raise ValueError(f"{name} is {kind_of(value)}, expected {'text' if texts else 'a list'}")
    if isinstance(value, dict):
        return _completion([read_message(value, name, fields.skipped)], name)
    if isinstance(value, list):
        turns = read_list(fields, name)
        if not any(turn.role == "assistant" for turn in turns):
            raise ValueError(f"{name} has no assistant turn")
        return turns
    return [Message("assistant", fields.filled(name))]


def _compared(asked: _Asked, side: list[Message], name: str) -> list[Message]:
    """The turns of a side, after those that were asked, up to the answer that is compared."""
    whole = _until_learnt([*asked.turns, *side], _Asked(name, [], asked.before))
    if len(whole) <= len(asked.turns):  # only the history has an answer that is learnt
        raise ValueError(f"{name} has no assistant turn that is to be learnt")
    return whole


def _references(fields: Fields) -> tuple[str, ...]:
    """The right answers that a row's fields give; () if it has no such field. Raises ValueError for empty ones."""
    name = fields.first(REFERENCES)
    if not name:
        return ()
    value = fields.get(name)
    if isinstance(value, dict) and isinstance(value.get("text"), list):  # SQuAD
        value = value["text"]
    if name == "references" and not isinstance(value, list):
        raise ValueError(f"references is {kind_of(value)}, expected a list with at least one right answer")
    if not isinstance(value, list):
        value = [value]
    if not value:
        raise ValueError(f"{name} is {kind_of(value)}, expected a list with at least one right answer")
    return tuple(reference(one, name) for one in value)


def reference(value: object, name: str) -> str:
    """A right answer or label as text. Raises ValueError for one that is neither text nor a number, or is empty."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} is {kind_of(value)}, expected text or a number")
    if not str(value).strip():
        raise ValueError(f"{name} is empty")
    return unify_line_ends(str(value))


def _check_start(turns: Sequence[Message], asked: _Asked) -> None:
    first = next((index for index, turn in enumerate(turns) if turn.role != "system"), None)
    if first is None:
        raise ValueError(f"{asked.name} has no user turn")
    if turns[first].role != "user":
        place = f"{asked.name}[{first - asked.before}]"
        raise ValueError(f"{place} is the first turn and from {turns[first].role}, expected user")


def _until_learnt(turns: list[Message], asked: _Asked) -> list[Message]:
    """The turns up to the last one that is learnt."""
    last = max((i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.scored), default=None)
    if last is None:
        unlearnt = any(turn.role == "assistant" for turn in turns)
        raise ValueError(f"{asked.name} has no assistant turn" + (" that is to be learnt" if unlearnt else ""))
    _check_start(turns[: last + 1], asked)
    return turns[: last + 1]
