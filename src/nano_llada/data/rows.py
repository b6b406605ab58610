"""What a row is, and what can be made of it: a text, a conversation, or two answers to choose between."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nano_llada.core.errors import UserError

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_SHAREGPT_ROLES: dict[str, Role] = {**_ROLES, "human": "user", "gpt": "assistant"}
_CONVERSATIONS = ("conversations", "messages")
_QUESTIONS = ("prompt", "instruction", "question", "input")
_ANSWERS = ("response", "output", "answer", "target", "completion")


@dataclass(frozen=True)
class Where:
    """A place to send a person to; `line` counts from 1 and is the row's number in parquet and hf sources."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Row:
    """One record as it stood in its file."""

    where: Where
    value: dict[str, object]


@dataclass(frozen=True)
class BadRow:
    """A record that could not be read, and why; reading goes on behind it."""

    where: Where
    reason: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Preference:
    """A conversation up to an answer, a better answer, and a worse one."""

    prompt: list[Message]
    chosen: str
    rejected: str


class BadRows:
    """What to do about rows that are no good: stop at the first one, or skip them and keep count."""

    def __init__(self, policy: Literal["stop", "skip"]) -> None:
        self.policy = policy
        self.count = 0
        self._kinds: dict[str, tuple[int, list[Where]]] = {}

    def report(self, where: Where, reason: str) -> None:
        """Count a bad row. Raises UserError under "stop"."""
        if self.policy == "stop":
            raise UserError(f"{where}: {reason}\nWith `--on-bad-row skip` such rows are skipped and counted.")
        self.count += 1
        # Reasons that differ in a number only are one kind, or a million rows would keep a million reasons.
        kind = re.sub(r"0x[0-9a-f]+|\\u[0-9a-f]{4}|\d+", "#", reason)
        seen, places = self._kinds.get(kind, (0, []))
        self._kinds[kind] = (seen + 1, [*places, where][:5])

    def summary(self) -> str:
        """The total, then a line per kind of reason (`#` stands for any number); '' without bad rows."""
        lines = [f"bad rows skipped: {self.count}"] if self.count else []
        for kind, (seen, places) in sorted(self._kinds.items(), key=lambda item: -item[1][0]):
            more = ", ..." if seen > len(places) else ""
            lines.append(f"  {seen} x {kind} ({', '.join(map(str, places))}{more})")
        return "\n".join(lines)


def parse_row(where: Where, data: bytes) -> Row | BadRow:
    """The row in the bytes of one JSON object, or what is wrong with them."""
    try:
        value = json.loads(data.decode())
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        return BadRow(where, bad_byte(error))
    except UnicodeEncodeError as error:
        return BadRow(where, f"the escape \\u{ord(error.object[error.start]):x} is half a character")
    except json.JSONDecodeError as error:
        return BadRow(where, f"broken JSON: {error.msg} (column {error.colno})")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or thousands of brackets
        return BadRow(where, f"JSON that cannot be read: {error}")
    if not isinstance(value, dict):
        return BadRow(where, f"the row is {kind_of(value)}, expected an object")
    return Row(where, value)


def bad_byte(error: UnicodeDecodeError) -> str:
    """The reason of a `BadRow` that is no UTF-8; bytes count from 1."""
    return f"byte {error.start + 1} (0x{error.object[error.start]:02x}) is not valid UTF-8"


def to_text(row: Mapping[str, object], field: str = "text") -> str:
    """The document in a row. Raises ValueError with the reason when there is none."""
    if field not in row:
        raise ValueError(f"no field {field}; {_fields(row)}")
    return _filled(row[field], field)


def to_messages(row: Mapping[str, object]) -> list[Message]:
    """The conversation in a row, up to its last assistant turn: what follows that has no answer to learn.

    Read are `conversations` or `messages` (lists of role and content, or ShareGPT's from and value), else a
    flat row: prompt, instruction (with input below it), question or input; response, output, answer, target
    or completion; and perhaps system. Raises ValueError with the reason when a row is none of these.
    """
    if name := _first(row, _CONVERSATIONS):
        return _until_answer(row[name], name)
    prompt, answer = _flat_prompt(row), _first(row, _ANSWERS)
    if not prompt or not answer:
        raise ValueError(f"no conversations, no messages, no prompt with a response; {_fields(row)}")
    return [*prompt, Message("assistant", _filled(row[answer], answer))]


def to_preference(row: Mapping[str, object]) -> Preference:
    """The prompt and the two answers in a row. Raises ValueError with the reason when there are none.

    chosen and rejected are two conversations that differ in their last assistant turn only, or two texts
    that answer `messages`, `conversations` or a flat prompt (see `to_messages`).
    """
    if missing := [name for name in ("chosen", "rejected") if row.get(name) is None]:
        raise ValueError(f"no {' and no '.join(missing)}; {_fields(row)}")
    if isinstance(row["chosen"], list):
        return _from_conversations(row["chosen"], row["rejected"])
    name = _first(row, _CONVERSATIONS)
    prompt = _list(row[name], name) if name else _flat_prompt(row)
    if not prompt:
        raise ValueError(f"no prompt (messages, or one of {', '.join(_QUESTIONS)}); {_fields(row)}")
    _check_start(prompt, name)
    if prompt[-1].role == "assistant":
        raise ValueError(f"{name} ends with an assistant turn, expected a turn to be answered")
    return Preference(prompt, _filled(row["chosen"], "chosen"), _filled(row["rejected"], "rejected"))


def find_special(text: str, specials: Sequence[str]) -> str | None:
    """The special token that stands first in the text as plain characters, if any does."""
    return min((special for special in specials if special in text), key=text.find, default=None)


def kind_of(value: object) -> str:
    """What JSON calls a value, in words: "a number", "a list", "null"."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number"}
    names |= {str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def _fields(row: Mapping[str, object]) -> str:
    return f"the fields are: {', '.join(map(str, row)) or 'none'}"


def _first(row: Mapping[str, object], names: Sequence[str]) -> str:
    return next((name for name in names if row.get(name) is not None), "")


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {kind_of(value)}, expected text")
    return value


def _filled(value: object, name: str) -> str:
    text = _text(value, name)
    if not text.strip():
        raise ValueError(f"{name} is empty")
    return text


def _flat_prompt(row: Mapping[str, object]) -> list[Message]:
    question = _first(row, _QUESTIONS)
    if not question:
        return []
    names = ("instruction", "input") if question == "instruction" else (question,)
    parts = [_text(row[name], name) for name in names if row.get(name) is not None]
    user = Message("user", _filled("\n".join(part for part in parts if part.strip()), question))
    system = "" if row.get("system") is None else _text(row["system"], "system")
    return [Message("system", system), user] if system.strip() else [user]


def _list(value: object, name: str) -> list[Message]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {kind_of(value)}, expected a list")
    return [_message(item, f"{name}[{index}]") for index, item in enumerate(value)]


def _message(item: object, name: str) -> Message:
    if not isinstance(item, dict):
        raise ValueError(f"{name} is {kind_of(item)}, expected an object")
    role, content, roles = "role", "content", _ROLES
    if "from" in item:
        role, content, roles = "from", "value", _SHAREGPT_ROLES
    for key in (role, content):
        if key not in item:
            raise ValueError(f"{name} has no {key}; {_fields(item)}")
    known = roles.get(_text(item[role], f"{name}.{role}"))
    if known is None:
        raise ValueError(f"{name}.{role} is {item[role]!r}, expected one of {', '.join(roles)}")
    read = _filled if known in ("user", "assistant") else _text
    return Message(known, read(item[content], f"{name}.{content}"))


def _check_start(messages: list[Message], name: str) -> None:
    turns = [(index, message.role) for index, message in enumerate(messages) if message.role != "system"]
    if not turns:
        raise ValueError(f"{name} has no user turn")
    if turns[0][1] != "user":
        raise ValueError(f"{name}[{turns[0][0]}] is the first turn and from {turns[0][1]}, expected user")


def _until_answer(value: object, name: str) -> list[Message]:
    messages = _list(value, name)
    while messages and messages[-1].role != "assistant":
        messages.pop()
    if not messages:
        raise ValueError(f"{name} has no assistant turn")
    _check_start(messages, name)
    return messages


def _from_conversations(chosen: object, rejected: object) -> Preference:
    better, worse = _until_answer(chosen, "chosen"), _until_answer(rejected, "rejected")
    pairs = enumerate(itertools.zip_longest(better[:-1], worse[:-1]))
    differing = next((index for index, (one, other) in pairs if one != other), None)
    if differing is not None:
        raise ValueError(f"chosen[{differing}] and rejected[{differing}] differ before the last answer")
    return Preference(better[:-1], better[-1].content, worse[-1].content)
