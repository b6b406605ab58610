"""Frozen dataclasses to and from plain JSON values; strict, so that a misspelt option is an error."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from nano_llada.core.errors import UserError
from nano_llada.core.own import load_own, type_name
from nano_llada.core.text import read_text

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dataclasses become objects, nested ones carry their class name under `type`; paths become text."""
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
    """The inverse of `to_plain`. Fields that are absent keep the value of `base`, or their default.

    Raises:
        UserError: for an unknown field (with the nearest known one), a missing one, or a value of another type.
    """
    if not isinstance(plain, dict):
        raise UserError(f"{where or cls.__name__}: expected an object, got {json.dumps(plain)}")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values = {} if base is None else {name: getattr(base, name) for name in names}
    for key, value in plain.items():
        place = f"{where}.{key}" if where else key
        if key == "type":
            if value not in (cls.__name__, type_name(cls)):
                raise UserError(f"{place}: expected {type_name(cls)}, got {value!r}")
            continue
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            raise UserError(
                f"{place}: unknown option; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}")
            )
        values[key] = _convert(hints[key], value, values.get(key), place)
    try:
        return cls(**values)
    except TypeError as error:
        raise UserError(f"{where or cls.__name__}: {error}") from error


def _convert(hint: Any, value: Any, base: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, base, where)
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, value, base=base if isinstance(base, hint) else None, where=where)  # type: ignore
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{where}: {value!r} is not one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list, got {value!r}")
        return tuple(_convert(args[0], item, None, f"{where}[{i}]") for i, item in enumerate(value))
    return _scalar(hint, value, where)


def _convert_union(args: tuple[Any, ...], value: Any, base: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    options = [arg for arg in args if arg is not type(None)]
    if isinstance(value, dict):
        classes = {arg.__name__: arg for arg in options if isinstance(arg, type) and dataclasses.is_dataclass(arg)}
        name = value.get("type", type_name(type(base)) if base is not None else "")
        if base is not None and name == type_name(type(base)):
            return _convert(type(base), value, base, where)
        if isinstance(name, str) and ":" in name:  # the user's own class, recorded by the place of its file
            return _convert(load_own(name, _common_base(classes.values()), what=where), value, None, where)
        if name not in classes:
            raise UserError(f"{where}.type: {name!r} is not one of {', '.join(classes)}")
        return _convert(classes[name], value, base, where)
    errors = []
    for option in options:
        try:
            return _convert(option, value, base, where)
        except UserError as error:
            errors.append(str(error))
    raise UserError(errors[0])


def _common_base(classes: Iterable[type]) -> type:
    """The nearest class that all derive from."""
    first, *others = classes
    return next(cls for cls in first.__mro__[1:] if all(issubclass(other, cls) for other in others))


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)):
        return value
    raise UserError(f"{where}: expected {hint.__name__}, got {value!r}")


def read_config(path: Path) -> dict[str, Any]:
    """A JSON or TOML file as plain values. Raises UserError with the place of a syntax error."""
    text = read_text(path, "the config file ")
    try:
        plain = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:  # syntax, numbers of thousands of digits, thousands of brackets
        raise UserError(f"{path}: not valid {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}") from error
    if not isinstance(plain, dict):
        raise UserError(f"{path}: expected an object of options")
    return plain
