"""Frozen dataclasses to and from plain JSON values. Reading is strict: a misspelt option is an error."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nano_llada.config.checks import hints_of
from nano_llada.core.errors import UserError
from nano_llada.core.files import reason_of, regular
from nano_llada.core.own import load_own, type_name
from nano_llada.core.text import read_text
from nano_llada.core.words import nearest

T = TypeVar("T")

MAX_DEPTH = 20  # levels of objects and lists in a config file; those of runs have five
MAX_BYTES = 16 * 2**20  # of a config file; those of runs have a few kilobytes


def to_plain(value: Any) -> Any:
    """Plain values of a record: dataclasses become objects that carry their class name as `type`, paths become text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type_name(type(value)), **fields}
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def from_plain(cls: type[T], plain: Any, *, base: T | None = None, where: str = "") -> T:
    """The inverse of `to_plain`. Absent fields keep the value of `base`, or their default.

    Args:
        where: put before the name of a field in messages.

    Raises:
        UserError: for an unknown field (with the one that was probably meant), a missing one, or a value of another
            type.
        ValueError: from the record, for a value outside its range or values that contradict each other.
    """
    return _Reader(cls, base).record(cls, plain, base, where)


def read_record(
    cls: type[T],
    path: Path,
    *,
    base: T | None = None,
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda plain: plain,
) -> T:
    """A record from a JSON or TOML file; see `from_plain`.

    Args:
        change: applied to the plain values first, for files of earlier versions.

    Raises:
        UserError: naming the file and the field, whatever is wrong.
    """
    plain = change(read_config(path))
    try:
        return from_plain(cls, plain, base=base)
    except (UserError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error


class _Reader:
    """Converts plain values to a record and its parts, and knows where every option of the whole record belongs."""

    def __init__(self, root: type, base: Any) -> None:
        self._root, self._base = root, base

    def record(self, cls: type[T], plain: Any, base: T | None, where: str) -> T:
        """A dataclass from an object."""
        if not isinstance(plain, dict):
            raise UserError(f"{where or cls.__name__}: expected an object, got {_shown(plain)}")
        hints = hints_of(cls)  # type: ignore[arg-type]
        names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        values = {} if base is None else {name: getattr(base, name) for name in names}
        for key, value in plain.items():
            place = f"{where}.{key}" if where else key
            if key == "type":
                if value not in (cls.__name__, type_name(cls)):
                    raise UserError(f"{place}: expected {type_name(cls)}, got {_shown(value)}")
            elif key not in names:
                raise UserError(f"{place}: unknown option; {self._meant(key, names, cls)}")
            else:
                values[key] = self._convert(hints[key], value, values.get(key), place)
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"{where or cls.__name__}: {error}") from error

    def _meant(self, key: str, names: list[str], cls: type) -> str:
        """Which option was probably meant: one beside it, or one that belongs elsewhere in the record."""
        places: dict[str, str] = {}
        for path in _paths(self._root, self._base):
            places.setdefault(path[-1], ".".join(path))
        for least in (0.9, 0.6):  # a better match elsewhere counts more than a vague one here
            if (here := nearest(key, names, least)) or (found := nearest(key, places, least)):
                return f"did you mean {(here or places[str(found)])!r}?"
        return f"known: {', '.join(names) or 'none'}"

    def _convert(self, hint: Any, value: Any, base: Any, where: str) -> Any:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return self._convert_union(args, value, base, where)
        if dataclasses.is_dataclass(hint):
            known: Any = hint
            return self.record(known, value, base if isinstance(base, known) else None, where)
        if origin is typing.Literal:
            if not any(value == arg and type(value) is type(arg) for arg in args):
                near = nearest(value, map(str, args)) if isinstance(value, str) else None
                hint = f"; did you mean {near!r}?" if near else ""
                raise UserError(f"{where}: {_shown(value)} is not one of {', '.join(map(str, args))}{hint}")
            return value
        if origin is tuple:
            if not isinstance(value, (list, tuple)):
                raise UserError(f"{where}: expected a list, got {_shown(value)}")
            return tuple(self._convert(args[0], item, None, f"{where}[{i}]") for i, item in enumerate(value))
        return _scalar(hint, value, where)

    def _convert_union(self, args: tuple[Any, ...], value: Any, base: Any, where: str) -> Any:
        if value is None and type(None) in args:
            return None
        options = [arg for arg in args if arg is not type(None)]
        if isinstance(value, dict):
            return self._convert_record_of(_records(options), value, base, where)
        errors = []
        for option in options:
            try:
                return self._convert(option, value, base, where)
            except UserError as error:
                errors.append(str(error))
        raise UserError(errors[0])

    def _convert_record_of(self, classes: dict[str, type], value: dict[str, Any], base: Any, where: str) -> Any:
        """An object for one of several classes, which its `type` names; without it that of `base`, or the only one."""
        if not classes:
            raise UserError(f"{where}: expected a value, got {_shown(value)}")
        usual = type_name(type(base)) if base is not None else next(iter(classes)) if len(classes) == 1 else ""
        name = value.get("type", usual)
        if base is not None and name == type_name(type(base)):
            return self.record(type(base), value, base, where)
        if isinstance(name, str) and ":" in name:  # a class of the user's own, recorded by the place of its file
            own: type[Any] = load_own(name, _common_base(classes.values()), what=where)
            same = base if type(base) is own else None
            return self.record(own, {key: item for key, item in value.items() if key != "type"}, same, where)
        if not isinstance(name, str) or name not in classes:
            raise UserError(f"{where}.type: {_shown(name)} is not one of {', '.join(classes)}")
        return self.record(classes[name], value, None, where)


def _paths(cls: type, base: Any = None, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where each option of a record and its parts is, outer ones first."""
    hints = hints_of(cls)
    inner: list[tuple[type, Any, tuple[str, ...]]] = []
    for field in dataclasses.fields(cls):
        value, place = getattr(base, field.name, None), (*above, field.name)
        yield place
        parts = [hints[field.name], *typing.get_args(hints[field.name])]
        known = [type(value)] if dataclasses.is_dataclass(value) else list(_records(parts).values())
        inner += [(part, value if isinstance(value, part) else None, place) for part in known]
    for part, value, place in inner:
        yield from _paths(part, value, place)


def _records(hints: Iterable[Any]) -> dict[str, type]:
    """The dataclasses among some types, by name."""
    return {hint.__name__: hint for hint in hints if isinstance(hint, type) and dataclasses.is_dataclass(hint)}


def _common_base(classes: Iterable[type]) -> type:
    """The nearest class that all derive from."""
    first, *others = classes
    return next(cls for cls in first.__mro__[1:] if all(issubclass(other, cls) for other in others))


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint in (Path, str) and isinstance(value, str):
        return hint(_checked_text(value, where))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{where}: {_shown(value)} is too large") from None
    if hint is Any or (isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)):
        return value
    raise UserError(f"{where}: expected {hint.__name__}, got {_shown(value)}")


def _checked_text(value: str, where: str) -> str:
    if "\0" in value or any("\ud800" <= mark <= "\udfff" for mark in value):
        raise UserError(f"{where}: {_shown(value)} contains a character that cannot be written to a file")
    return value


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    try:
        text = "null" if value is None else json.dumps(value) if isinstance(value, (dict, list)) else repr(value)
    except (RecursionError, TypeError, ValueError):  # nested too deeply, or a number of thousands of digits
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]} ..."


def read_config(path: Path) -> dict[str, Any]:
    """A JSON or TOML file as plain values.

    Raises:
        UserError: naming the file, with the place of a syntax error.
    """
    try:
        if regular(path).is_file() and path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES // 2**20} MiB: this is not a config file")
        text = read_text(path, "the config file ")
    except OSError as error:
        raise UserError(f"cannot read the config file {path}: {reason_of(error)}") from error
    except ValueError as error:  # a null byte in the name
        raise UserError(f"cannot read the config file {path}: {error}") from error
    plain = _parsed(path, text)
    if not isinstance(plain, dict):
        raise UserError(f"{path}: expected an object of options")
    if _deeper(plain, MAX_DEPTH):
        raise UserError(f"{path}: nested too deeply for a config file")
    return plain


def _deeper(value: Any, levels: int) -> bool:
    """Whether a value has more levels of objects and lists than that."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(item, levels - 1) for item in inner)


def _parsed(path: Path, text: str) -> Any:
    kind = "TOML" if path.suffix == ".toml" else "JSON"
    try:
        return tomllib.loads(text) if kind == "TOML" else json.loads(text, object_pairs_hook=_without_repetition)
    except RecursionError:
        raise UserError(f"{path}: not valid {kind}: nested too deeply") from None
    except ValueError as error:  # the syntax, a key given twice, or a number of thousands of digits
        message = "a number has too many digits" if "digits" in str(error) else str(error)
        raise UserError(f"{path}: not valid {kind}: {message}") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    """An object of JSON. Raises ValueError for a key that is given twice, of which one value would be lost."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is given twice")
        found[key] = value
    return found
