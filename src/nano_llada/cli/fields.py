"""The fields of a record, and of the records in it, as options: found, converted from texts, and built again."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from nano_llada.config.checks import check_numbers, hints_of
from nano_llada.core.errors import UserError
from nano_llada.core.words import did_you_mean

T = TypeVar("T")

NAMES = {"checkpoint": "RUN", "checkpoints": "RUN", "sources": "FOLDER", "source": "FOLDER", "out": "FOLDER"}


@dataclass(frozen=True)
class Option:
    """One field, reached by `path` from the record of the command."""

    name: str
    """As a field is spelt, with underscores; fields of an optional record have its name in front."""
    path: tuple[str, ...]
    hint: Any
    default: Any
    """MISSING if the option must be given."""
    help: str
    part: str
    """What the record that has the field describes, a heading; empty for the command's own."""

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def many(self) -> bool:
        """Whether it takes any number of words."""
        return any(typing.get_origin(hint) is tuple for hint in _members(self.hint))

    @property
    def optional(self) -> bool:
        """Whether it can be None."""
        return type(None) in typing.get_args(self.hint)

    @property
    def flag_only(self) -> bool:
        """Whether it is switched on by its name and off by --no-NAME."""
        return _members(self.hint) == [bool]


def flatten(cls: type, base: Any = None, path: tuple[str, ...] = (), prefix: str = "", part: str = "") -> list[Option]:
    """The options of a record, its own before those of the records in it.

    Args:
        base: the values of options that are not given; None: those of the class.
    """
    hints, texts = hints_of(cls), field_texts(cls)
    own: list[Option] = []
    inner: list[Option] = []
    for field in dataclasses.fields(cls):
        value, here = _value(field, base), (*path, field.name)
        text = texts.get(field.name, "")
        record = _record(hints[field.name], value)
        if record is None:
            own.append(Option(prefix + field.name, here, hints[field.name], value, text, part))
            continue
        optional = type(None) in typing.get_args(hints[field.name])  # its fields need a name of their own
        inner += flatten(
            record,
            value if dataclasses.is_dataclass(value) else None,
            here,
            f"{prefix}{field.name}_" if optional else prefix,
            field.name.replace("_", " "),
        )
    return own + inner


def build(cls: type[T], base: Any, given: Mapping[tuple[str, ...], Any], path: tuple[str, ...] = ()) -> T:
    """The record with the given values in it, and in the records in it.

    Raises:
        ValueError: from a record, for values outside their ranges or that contradict each other.
    """
    if dataclasses.is_dataclass(base) and not _below(given, path):
        same: Any = base
        return typing.cast("T", same)
    hints = hints_of(cls)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        value, here = _value(field, base), (*path, field.name)
        record = _record(hints[field.name], value)
        if record is not None and (value is not None or _below(given, here)):
            value = build(record, value if dataclasses.is_dataclass(value) else None, given, here)
        values[field.name] = given.get(here, value)
    made = cls(**values)
    check_numbers(made)  # also of records that do not do it themselves
    return made


def _below(given: Mapping[tuple[str, ...], Any], path: tuple[str, ...]) -> bool:
    return any(place[: len(path)] == path for place in given)


def _value(field: dataclasses.Field[Any], base: Any) -> Any:
    if base is not None:
        return getattr(base, field.name)
    return field.default if field.default_factory is MISSING else field.default_factory()


def _record(hint: Any, value: Any) -> type | None:
    """The class whose fields are the options of a field: that of its value, or the only one it can have."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)
    known = [one for one in _members(hint) if isinstance(one, type) and dataclasses.is_dataclass(one)]
    return known[0] if len(known) == 1 else None


def _members(hint: Any) -> list[Any]:
    """The types of a union except None; a type alone is itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [member for member in typing.get_args(hint) if member is not type(None)]
    return [hint]


def metavar(option: Option) -> str:
    """The placeholder of the value in a usage line."""
    members = _members(option.hint)
    if option.flag_only:
        return ""
    if typing.get_origin(members[0]) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(members[0]))) + "}"
    if option.name in NAMES:
        return NAMES[option.name]
    kind = typing.get_args(members[0])[0] if option.many else members[0]
    if option.default is MISSING or kind is str:
        return option.name.rpartition("_")[2].upper()
    return {int: "N", float: "X", Path: "PATH"}.get(kind, option.name.upper())


def convert(option: Option, texts: Sequence[str]) -> Any:
    """The value of an option from the words of a command line.

    Raises:
        UserError: naming the option, for words that are not such a value.
    """
    members = _members(option.hint)
    if option.optional and [text.lower() for text in texts] == ["none"]:
        return None
    if option.many:
        item = next(typing.get_args(hint)[0] for hint in members if typing.get_origin(hint) is tuple)
        return tuple(_one([item], text, option) for text in texts)
    return _one(members, texts[0], option)


def _one(kinds: Sequence[Any], text: str, option: Option) -> Any:
    for kind in kinds:
        try:
            return _scalar(kind, text)
        except ValueError as error:
            problem = str(error)
    raise UserError(f"{option.flag} {text if len(text) <= 60 else text[:60] + ' ...'}: {problem}")


def _scalar(kind: Any, text: str) -> Any:
    """Raises ValueError saying what was expected."""
    if typing.get_origin(kind) is typing.Literal:
        choices = {str(choice): choice for choice in typing.get_args(kind)}
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}{did_you_mean(text, choices)}")
        return choices[text]
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError("expected true or false")
        return words[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"expected a {'whole ' if kind is int else ''}number") from None
    if "\0" in text:
        raise ValueError("it contains a null byte")
    return kind(text)


def field_texts(cls: type) -> dict[str, str]:
    """The strings below the fields of a record, its bases' included; none for a class without source."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        found |= _texts_in(inspect.getmodule(base)).get(base.__name__, {})
    return found


@cache
def _texts_in(module: types.ModuleType | None) -> dict[str, dict[str, str]]:
    """Class -> field -> the string below it, for all classes of a module."""
    try:
        source = Path(str(getattr(module, "__file__", ""))).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    tree = ast.parse(source)
    return {node.name: dict(_texts_of(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _texts_of(node: ast.ClassDef) -> typing.Iterator[tuple[str, str]]:
    for field, text in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            yield field.target.id, inspect.cleandoc(text.value.value)
