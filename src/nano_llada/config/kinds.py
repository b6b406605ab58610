"""Values of a wrong type, which only Python can give to a record: refused by the name of the field.

What a file or the command line says has been converted by then; see `record` and `cli.fields`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any

from nano_llada.config.checks import check_numbers, hints_of
from nano_llada.core.words import did_you_mean


def check_values(config: object) -> None:
    """Check each field of a record: its type, and of a number its range.

    Text is taken as a path where a field holds a path, and a list as a tuple.

    Raises:
        ValueError: naming the field, what it takes and the value.
    """
    for name, hint, usual in _fields_of(type(config)):  # type: ignore[arg-type]
        given = getattr(config, name)
        if isinstance(given, usual):
            continue
        value = _usual(hint, given)
        if value is not given:
            object.__setattr__(config, name, value)
        if not _fits(hint, value):
            raise ValueError(f"{name} {_problem(hint, value)}")
    check_numbers(config)


@cache
def _fields_of(cls: type) -> tuple[tuple[str, Any, tuple[type, ...]], ...]:
    """Of each field the name, the type, and classes of which every instance fits: a record is made often."""
    hints = hints_of(cls)
    return tuple((f.name, hints[f.name], _usual_classes(hints[f.name])) for f in dataclasses.fields(cls))


def _usual_classes(hint: Any) -> tuple[type, ...]:
    classes = [kind for kind in _parts(hint) if isinstance(kind, type) and _origin(kind) is None]
    return tuple(cls for kind in classes for cls in (_family(kind) if dataclasses.is_dataclass(kind) else (kind,)))


@cache
def _parts(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


@cache
def _origin(hint: Any) -> Any:
    return typing.get_origin(hint)


def _usual(hint: Any, value: Any) -> Any:
    kinds = _parts(hint)
    if isinstance(value, str) and Path in kinds:
        return Path(value)
    if isinstance(value, list) and any(_origin(kind) is tuple for kind in kinds):
        return tuple(value)
    return value


def _fits(hint: Any, value: Any) -> bool:
    return any(_is(kind, value) for kind in _parts(hint))


def _is(kind: Any, value: Any) -> bool:
    """Whether a value is of a kind; numbers are left to their range, and what is none of the known kinds passes."""
    if kind in (int, float):
        return not isinstance(value, (str, tuple)) and value is not None
    origin = _origin(kind)
    if origin is typing.Literal:
        return any(value == one and type(value) is type(one) for one in typing.get_args(kind))
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(typing.get_args(kind)[0], one) for one in value)
    if dataclasses.is_dataclass(kind):
        return isinstance(value, _family(kind))
    return not isinstance(kind, type) or isinstance(value, kind)


def _family(kind: Any) -> tuple[type, ...]:
    """A record's class and those that it derives from, of which a user's own class derives, too."""
    return tuple(cls for cls in kind.__mro__ if cls.__module__.startswith("nano_llada."))


def _problem(hint: Any, value: Any) -> str:
    lists = [kind for kind in _parts(hint) if _origin(kind) is tuple]
    if lists and isinstance(value, tuple):
        inner = typing.get_args(lists[0])[0]
        return _problem(inner, next(one for one in value if not _fits(inner, one)))
    choices = [kind for kind in _parts(hint) if _origin(kind) is typing.Literal]
    words = [str(word) for kind in choices for word in typing.get_args(kind)]
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]} ..."
    if words and isinstance(value, str):
        return f"{shown} is not one of {', '.join(words)}{did_you_mean(value, words)}"
    return f"must be {' or '.join(dict.fromkeys(map(_name, _parts(hint))))}, got {shown}"


def _name(kind: Any) -> str:
    """A type in words."""
    if kind is type(None):
        return "None"
    origin = _origin(kind)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if origin is tuple:
        return f"a list, each {_name(typing.get_args(kind)[0])}"
    plain = {str: "text", bool: "True or False", int: "a whole number", float: "a number", Path: "a path"}
    return plain.get(kind) or f"a {kind.__name__}"
