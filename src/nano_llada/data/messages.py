"""One turn of a conversation, in the ways that the common formats write it, and which fields of a record are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nano_llada.core.text import unify_line_ends
from nano_llada.data.bad_rows import kind_of

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
CALLS = ("function_call", "tool_call")  # roles whose text is a call
ROLE_FIELDS, CONTENT_FIELDS = ("role", "from"), ("content", "value")
REASONING = ("reasoning_content", "reasoning", "thinking")
WEIGHTS = ("weight", "train", "loss")  # 0 or false: shown, not learnt


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    scored: bool = True  # False: an assistant's turn that is shown to the model but not learnt


class Fields:
    """A record, and which of its fields have been read."""

    def __init__(self, row: Mapping[str, object], prefix: str = "") -> None:
        self.row, self.prefix = row, prefix
        self.skipped: set[str] = set()  # names within this record that nothing reads, such as messages[].name
        self._read: set[str] = set()

    def read(self, name: str) -> None:
        """Note that a field has been read."""
        self._read.add(name)

    def get(self, name: str) -> object:
        """A field's value, None if there is none; it counts as read."""
        self._read.add(name)
        return self.row.get(name)

    def first(self, names: Sequence[str]) -> str:
        """The first of some fields that holds anything, or else the first that is not null, or else ''."""
        given = [name for name in names if self.row.get(name) is not None]
        name = next((name for name in given if not _blank(self.row[name])), given[0] if given else "")
        if name:
            self._read.add(name)
        return name

    def has(self, names: Sequence[str]) -> bool:
        """Whether any of some fields is not null."""
        return any(self.row.get(name) is not None for name in names)

    def text(self, name: str) -> str:
        """A field that must be text. Raises ValueError with the reason."""
        value = self.get(name)
        if not isinstance(value, str):
            raise ValueError(f"{self.prefix}{name} is {kind_of(value)}, expected text")
        return unify_line_ends(value)

    def filled(self, name: str) -> str:
        """A field that must be text and not blank. Raises ValueError with the reason."""
        text = self.text(name)
        if not text.strip():
            raise ValueError(f"{self.prefix}{name} is empty")
        return text

    def text_if_any(self, name: str) -> str:
        """A field's text, or its texts a line each; '' and unread for anything else."""
        value = self.row.get(name)
        if isinstance(value, str):
            return self.text(name)
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            self._read.add(name)
            return unify_line_ends("\n".join(value))
        return ""

    def json(self, name: str) -> str:
        """A field's text, or its value written as JSON; '' without one."""
        value = self.get(name)
        if _blank(value):
            return ""
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    def unread(self) -> Iterator[str]:
        """Names of the fields that hold something and have not been read."""
        yield from (str(name) for name, value in self.row.items() if name not in self._read and not _blank(value))
        yield from self.skipped


def read_list(fields: Fields, name: str) -> list[Message]:
    """The turns in a field. Raises ValueError with the place and the reason."""
    value = fields.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{name} is {kind_of(value)}, expected a list")
    return [read_message(item, f"{name}[{index}]", fields.skipped) for index, item in enumerate(value)]


def read_message(item: object, name: str, skipped: set[str]) -> Message:
    """One turn; names of its fields that nothing reads are added to `skipped`. Raises ValueError with the reason."""
    if not isinstance(item, dict):
        raise ValueError(f"{name} is {kind_of(item)}, expected an object")
    fields = Fields(item, f"{name}.")
    role_name = fields.first(ROLE_FIELDS) or next((key for key in ROLE_FIELDS if key in item), "")
    if not role_name:
        raise ValueError(f"{name} has no role; the fields are: {', '.join(map(str, item)) or 'none'}")
    said = fields.text(role_name)
    role = ROLES.get(said.strip().lower())
    if role is None:
        raise ValueError(f"{name}.{role_name} is {said!r}, expected one of {', '.join(ROLES)}")
    content = _content(fields, name, role_name)
    if said.strip().lower() in CALLS:
        content = _call(content)
    if role == "assistant":
        content = reasoned(fields, _with_calls(fields, content))
    if role in ("user", "assistant") and not content.strip():
        raise ValueError(f"{name}.{fields.first(CONTENT_FIELDS) or 'content'} is empty")
    scored = _scored(fields, name)
    place = name.partition("[")[0] + "[]" * ("[" in name)
    skipped.update(f"{place}.{other}" for other in fields.unread())
    return Message(role, content, scored)


def reasoned(fields: Fields, content: str) -> str:
    """An answer behind the reasoning that led to it, which is learnt with it."""
    name = fields.first(REASONING)
    if not name or _blank(fields.row[name]):
        return content
    return f"<think>\n{fields.text(name).strip()}\n</think>\n\n{content}"


def without_reasoning(content: str) -> str:
    """An answer without the reasoning that stands before it: what a right answer is compared with."""
    return re.sub(r"\A<think>\n.*?\n</think>\n\n", "", content, count=1, flags=re.DOTALL)


def _blank(value: object) -> bool:
    """Whether a value holds nothing, or is a struct of which every field holds nothing, as tables write absent ones."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, dict):
        return all(map(_blank, value.values()))
    return value is None or value == []


def _content(fields: Fields, name: str, role_name: str) -> str:
    key = fields.first(CONTENT_FIELDS)
    if not key:
        if fields.has(("tool_calls", "function_call", *REASONING)):
            return ""
        if not any(key in fields.row for key in CONTENT_FIELDS):
            wanted = CONTENT_FIELDS[ROLE_FIELDS.index(role_name)]
            raise ValueError(f"{name} has no {wanted}; the fields are: {', '.join(map(str, fields.row))}")
        return fields.text(next(key for key in CONTENT_FIELDS if key in fields.row))
    value = fields.row[key]
    if not isinstance(value, list):
        return fields.text(key)
    parts = []
    for index, part in enumerate(value):  # text in parts, as for models that also see pictures
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type", "without text") if isinstance(part, dict) else kind_of(part)
            raise ValueError(f"{name}.{key}[{index}] is not text ({kind}), and nothing else can be read")
        parts.append(unify_line_ends(part["text"]))
    return "".join(parts)


def _with_calls(fields: Fields, content: str) -> str:
    """What an assistant says and which tools it calls, a JSON object each."""
    calls = fields.get("tool_calls") or []
    if not isinstance(calls, list):
        raise ValueError(f"{fields.prefix}tool_calls is {kind_of(calls)}, expected a list")
    single = fields.get("function_call")
    written = []
    for call in [*calls, *([single] if single else [])]:
        inner = call.get("function", call) if isinstance(call, dict) else call
        if isinstance(inner, dict) and isinstance(inner.get("arguments"), str):
            inner = inner | {"arguments": _parsed(inner["arguments"])}
        written.append(_call(json.dumps(inner, ensure_ascii=False)))
    return "\n".join(part for part in (content, *written) if part.strip() or not written)


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _call(text: str) -> str:
    return f"<tool_call>\n{text}\n</tool_call>"


def _scored(fields: Fields, name: str) -> bool:
    key = fields.first(WEIGHTS)
    if not key:
        return True
    value = fields.row[key]
    if value not in (0, 1):  # also False and True
        raise ValueError(f"{name}.{key} is {value!r}, expected 0 or 1: an answer is learnt or it is not")
    return bool(value)
