r"""JSON schemas as expressions: every text is valid JSON that fits the schema. Not every fitting text is included.

Objects have the schema's properties in its order and no others; one blank may follow a comma or a colon, and there is
no other space outside strings; strings contain no escapes but ``\\``, ``\"``, ``\n`` and ``\t``; numbers have at most
15 digits before and after the point. A keyword that would change the language and is not supported here is refused by
name, as is a schema without a bound on its depth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.decode.constraint.expression import (
    EMPTY,
    Both,
    Characters,
    Either,
    Expression,
    Joined,
    Literal,
    Repeated,
    one_of,
    optional,
    others,
    ranges,
)
from nano_llada.decode.constraint.regex import read_regex, read_search

JSON_DEPTH = 3  # objects and lists inside one another, where a schema does not say what is inside
MOST_LEVELS = 30  # of a schema
DIGITS = 15  # of a number: a double keeps them all

_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
_ANNOTATIONS |= {"$schema", "$id", "$comment", "$defs", "definitions", "$anchor"}
_KEYWORDS = {  # of each type; others belong to no type, or are refused
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum"},
    "boolean": set(),
    "null": set(),
}
_FORMATS = {
    "date": r"[1-9]\d{3}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])",
    "time": r"([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ",
    "date-time": r"[1-9]\d{3}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}

_COMMA, _COLON = (Joined((Literal(mark), optional(Literal(" ")))) for mark in ",:")
_PLAIN = Characters(others(ranges([(0, 0x1F), (34, 34), (92, 92)])))  # what a string holds without an escape
_CHARACTER = Either((_PLAIN, Joined((Literal("\\"), one_of('\\"nt')))))
_DIGIT = one_of("0123456789")
_NATURAL = Either((Literal("0"), Joined((one_of("123456789"), Repeated(_DIGIT, 0, DIGITS - 1)))))
_INTEGER = Joined((optional(Literal("-")), _NATURAL))
_FRACTION = Joined((Literal("."), Repeated(_DIGIT, 1, DIGITS)))
_EXPONENT = Joined((one_of("eE"), optional(one_of("+-")), Repeated(_DIGIT, 1, 2)))
_NUMBER = Joined((_INTEGER, optional(_FRACTION), optional(_EXPONENT)))
_BOOLEAN = Either((Literal("true"), Literal("false")))
_NULL = Literal("null")


def json_object() -> Expression:
    """Any JSON object, nested at most `JSON_DEPTH` deep."""
    return _map(_any_value(JSON_DEPTH - 1))


def read_schema(text: str) -> Expression:
    """The JSON texts of a schema.

    Raises:
        UserError: for what is not a schema, or not supported, with the place in the schema.
    """
    return _Schema(json.loads(text)).value(("#",), ())


def _any_value(depth: int) -> Expression:
    simple = (_string(0, None), _NUMBER, _BOOLEAN, _NULL)
    if not depth:
        return Either(simple)
    inner = _any_value(depth - 1)
    return Either((*simple, _list(Repeated(inner, 0, None, _COMMA)), _map(inner)))


def _list(items: Expression) -> Expression:
    return Joined((Literal("["), items, Literal("]")))


def _map(value: Expression) -> Expression:
    pair = Joined((_string(0, None), _COLON, value))
    return Joined((Literal("{"), Repeated(pair, 0, None, _COMMA), Literal("}")))


def _string(least: int, most: int | None) -> Expression:
    return Joined((Literal('"'), Repeated(_CHARACTER, least, most), Literal('"')))


def _literal(value: Any) -> Expression:
    return Literal(json.dumps(value, ensure_ascii=False))


class _Schema:
    """A schema, read from its root, to which references lead back."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._read: dict[_Place, Expression] = {}
        self.kinds: Mapping[str, Callable[[Mapping[str, Any], _Place, _Path], Expression]] = {
            "object": self.object,
            "array": self.array,
            "string": self.string,
            "integer": self.integer,
            "number": self.number,
            "boolean": lambda schema, place, above: _BOOLEAN,
            "null": lambda schema, place, above: _NULL,
        }

    def value(self, place: _Place, above: _Path) -> Expression:
        """What a part of the schema allows; `above` are the references that led there."""
        if place not in self._read:
            self._read[place] = self._value(place, above)
        return self._read[place]

    def _value(self, place: _Place, above: _Path) -> Expression:
        schema = self._at(place)
        if schema is True:
            return _any_value(JSON_DEPTH - 1)
        if not isinstance(schema, dict):
            raise _wrong(place, "false allows nothing" if schema is False else f"not a schema: {schema!r}")
        if len(place) > MOST_LEVELS * 2:
            raise _wrong(place, f"more than {MOST_LEVELS} levels")
        used = set(schema) - _ANNOTATIONS
        for keyword, read in (("$ref", self.reference), ("const", self.choices), ("enum", self.choices)):
            if keyword in used:
                return read(schema, place, above)
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in used:
                self._only(used, {keyword}, place)
                return self.combined(keyword, place, above)
        return self.typed(schema, used, place, above)

    def typed(self, schema: Mapping[str, Any], used: set[str], place: _Place, above: _Path) -> Expression:
        """A schema with a type, or several; without one it is that of its keywords."""
        names = self._types(schema, place, [kind for kind, keywords in _KEYWORDS.items() if used & keywords][:1])
        if not names:
            self._only(used, set(), place)
            return _any_value(JSON_DEPTH - 1)
        self._only(used, {"type"}.union(*(_KEYWORDS[name] for name in names)), place)
        return Either(tuple(self.kinds[name](schema, place, above) for name in names))

    def reference(self, schema: Mapping[str, Any], place: _Place, above: _Path) -> Expression:
        """A `$ref` within the schema."""
        self._only(set(schema) - _ANNOTATIONS, {"$ref"}, place)
        target = schema["$ref"]
        if not isinstance(target, str) or not target.startswith("#"):
            raise _wrong(place, f"$ref {target!r} leads out of the schema: only # and #/... can be used")
        if target in above:
            raise _wrong(
                place, f"$ref {target!r} leads back to itself, so its depth has no bound: write its levels out"
            )
        parts = tuple(part.replace("~1", "/").replace("~0", "~") for part in target.split("/")[1:] if part)
        return self.value(("#", *parts), (*above, target))

    def choices(self, schema: Mapping[str, Any], place: _Place, above: _Path) -> Expression:
        """`const` and `enum`; a `type` beside them chooses among their values."""
        self._only(set(schema) - _ANNOTATIONS, {"const", "enum", "type"}, place)
        values = schema.get("enum", [schema.get("const")])
        if not isinstance(values, list) or not values:
            raise _wrong(place, "enum must be a list with at least one value")
        types = self._types(schema, place, list(_KEYWORDS))
        fitting = [value for value in values if any(_is(value, kind) for kind in types)]
        if "const" in schema:
            fitting = [value for value in fitting if json.dumps(value) == json.dumps(schema["const"])]
        if not fitting:
            raise _wrong(place, "no value fits both the type and the choices")
        return Either(tuple(_literal(value) for value in fitting))

    def combined(self, keyword: str, place: _Place, above: _Path) -> Expression:
        """`anyOf`, and those uses of `oneOf` and `allOf` that mean the same."""
        parts = self._at(place)[keyword]
        if not isinstance(parts, list) or not parts:
            raise _wrong(place, f"{keyword} must be a list with at least one schema")
        if keyword == "allOf" and len(parts) > 1:
            raise _wrong(place, "allOf with several schemas is not supported: write one schema")
        if keyword == "oneOf" and not all(self._apart(one, other) for one, other in combinations(parts, 2)):
            raise _wrong(place, "oneOf is only supported where the schemas have different types: use anyOf")
        return Either(tuple(self.value((*place, keyword, str(i)), above) for i in range(len(parts))))

    def object(self, schema: Mapping[str, Any], place: _Place, above: _Path) -> Expression:
        """Properties in their order, those that are not required may be left out; without any, a map."""
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        required = schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise _wrong(place, "properties must be an object and required a list")
        if missing := [name for name in required if not isinstance(name, str) or name not in properties]:
            raise _wrong(place, f"required {missing[0]!r} is not among the properties")
        if not properties:
            if more is False:
                return Literal("{}")
            inner = _any_value(JSON_DEPTH - 2) if more is True else self.value((*place, "additionalProperties"), above)
            return _map(inner)
        pairs = [
            (Joined((_literal(name), _COLON, self.value((*place, "properties", name), above))), name in required)
            for name in properties
        ]
        return Joined((Literal("{"), _pairs(pairs), Literal("}")))

    def array(self, schema: Mapping[str, Any], place: _Place, above: _Path) -> Expression:
        """Items of one kind, after some of given kinds."""
        least, most = self._bounds(schema, "minItems", "maxItems", place)
        prefix = schema.get("prefixItems", [])
        if prefix:
            if (
                schema.get("items", True) is not False
                or least not in (0, len(prefix))
                or most not in (None, len(prefix))
            ):
                raise _wrong(place, "prefixItems is only supported with items: false and all of them present")
            parts = [self.value((*place, "prefixItems", str(i)), above) for i in range(len(prefix))]
            return _list(Joined((parts[0], *(Joined((_COMMA, part)) for part in parts[1:]))))
        if schema.get("items", True) is False:
            if least:
                raise _wrong(place, f"minItems {least} but items: false")
            return Literal("[]")
        inner = self.value((*place, "items"), above) if "items" in schema else _any_value(JSON_DEPTH - 2)
        return _list(Repeated(inner, least, most, _COMMA))

    def string(self, schema: Mapping[str, Any], place: _Place, above: _Path) -> Expression:
        """Characters between quotes; with a pattern or a format, those that need no escape."""
        least, most = self._bounds(schema, "minLength", "maxLength", place)
        forms: list[Expression] = []
        if (pattern := schema.get("pattern")) is not None:
            if not isinstance(pattern, str):
                raise _wrong(place, f"pattern must be a text, got {pattern!r}")
            forms.append(read_search(pattern))
        if (name := schema.get("format")) is not None:
            if not isinstance(name, str) or name not in _FORMATS:
                raise _wrong(place, f"format {name!r} is not supported: use {', '.join(_FORMATS)}, or a pattern")
            forms.append(read_regex(_FORMATS[name]))
        if not forms:
            return _string(least, most)
        inner: Expression = Repeated(_PLAIN, least, most)
        for form in forms:
            inner = Both(inner, form)
        return Joined((Literal('"'), inner, Literal('"')))

    def integer(self, schema: Mapping[str, Any], place: _Place, above: _Path) -> Expression:
        """A whole number without exponent, between bounds that may be left out."""
        top = 10**DIGITS - 1
        low = max(_whole(schema, "minimum", place, -top), _whole(schema, "exclusiveMinimum", place, -top - 1) + 1)
        high = min(_whole(schema, "maximum", place, top), _whole(schema, "exclusiveMaximum", place, top + 1) - 1)
        return _between(low, high, place, _whole_range)

    def number(self, schema: Mapping[str, Any], place: _Place, above: _Path) -> Expression:
        """A number, between whole bounds that may be left out; with them it has no exponent."""
        if not {"minimum", "maximum"} & set(schema):
            return _NUMBER
        top = 10**DIGITS - 1
        return _between(
            _whole(schema, "minimum", place, -top), _whole(schema, "maximum", place, top), place, _number_range
        )

    def _at(self, place: _Place) -> Any:
        found: Any = self.root
        for part in place[1:]:
            try:
                found = found[int(part) if isinstance(found, list) else part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise _wrong(place, "there is nothing in this place of the schema") from None
        return found

    def _apart(self, one: Any, other: Any) -> bool:
        """Whether two schemas say that they have different types."""
        types = [schema.get("type") if isinstance(schema, dict) else None for schema in (one, other)]
        return len({"number" if kind == "integer" else kind for kind in types if isinstance(kind, str)}) == 2

    def _types(self, schema: Mapping[str, Any], place: _Place, default: list[str]) -> list[str]:
        """What `type` says: one name or a list of names."""
        given = schema.get("type", default)
        names: list[Any] = given if isinstance(given, list) else [given]
        if unknown := [name for name in names if not isinstance(name, str) or name not in _KEYWORDS]:
            raise _wrong(place, f"unknown type {unknown[0]!r}")
        return names

    def _only(self, used: set[str], supported: set[str], place: _Place) -> None:
        if foreign := sorted(used - supported):
            known = foreign[0] == "type" or any(foreign[0] in keywords for keywords in _KEYWORDS.values())
            raise _wrong(place, f"{foreign[0]!r} is not supported{' here' if known else ''}")

    def _bounds(self, schema: Mapping[str, Any], low: str, high: str, place: _Place) -> tuple[int, int | None]:
        least, most = schema.get(low, 0), schema.get(high)
        for name, number in ((low, least), (high, 0 if most is None else most)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise _wrong(place, f"{name} must be a whole number from 0, got {number!r}")
        if most is not None and most < least:
            raise _wrong(place, f"{low} {least} is above {high} {most}")
        return least, most


_Place = tuple[str, ...]  # of a part within the schema
_Path = tuple[str, ...]  # references that were followed


def _wrong(place: Sequence[str], problem: str) -> UserError:
    return UserError(f"JSON schema, at {'/'.join(place)}: {problem}")


def _is(value: Any, kind: str) -> bool:
    """Whether a value has a JSON type."""
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    kinds: dict[type, str] = {str: "string", dict: "object", list: "array"}
    return kind == kinds.get(type(value), "number") or (whole and kind == "integer")


def _pairs(pairs: Sequence[tuple[Expression, bool]]) -> Expression:
    """Pairs in order, with commas between those that are there; one that is not required may be left out.

    One that is there for sure decides on which side of a pair its comma is: the last required one, or else, for each
    pair, that it is the last.
    """
    needed = [i for i, (_, required) in enumerate(pairs) if required]
    if needed:
        return _around(pairs, needed[-1], len(pairs))
    return Either((EMPTY, *(_around(pairs, i, i + 1) for i in range(len(pairs)))))


def _around(pairs: Sequence[tuple[Expression, bool]], pivot: int, end: int) -> Expression:
    """The pairs before `end`, of which `pivot` is there."""
    parts: list[Expression] = []
    for i, (pair, required) in enumerate(pairs[:end]):
        part = pair if i == pivot else Joined((pair, _COMMA) if i < pivot else (_COMMA, pair))
        parts.append(part if required or i == pivot else optional(part))
    return Joined(tuple(parts))


def _whole(schema: Mapping[str, Any], name: str, place: _Place, default: int) -> int:
    value = schema.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        raise _wrong(place, f"{name} is only supported as a whole number, got {value!r}")
    return int(value)


def _between(low: int, high: int, place: _Place, form: Callable[[int, int], Expression]) -> Expression:
    """Numbers from `low` to `high`, of which `form` gives those that are not negative."""
    if low > high:
        raise _wrong(place, f"no number is at least {low} and at most {high}")
    options: list[Expression] = []
    if low < 0:
        options.append(Joined((Literal("-"), form(max(-high, 0), -low))))
    if high >= 0:
        options.append(form(max(low, 0), high))
    return Either(tuple(options))


def _whole_range(low: int, high: int) -> Expression:
    return Either(tuple(_digits(pattern) for pattern in _cuts(low, high)))


def _number_range(low: int, high: int) -> Expression:
    """Whole parts below the last with any fraction, the last with none but zeros."""
    zeros = Joined((Literal("."), Repeated(Literal("0"), 1, DIGITS)))
    last = Joined((_literal(high), optional(zeros)))
    return Either((Joined((_whole_range(low, high - 1), optional(_FRACTION))), last)) if low < high else last


def _digits(pattern: tuple[str, str]) -> Expression:
    """Numbers digit by digit, each between those of two numbers of equal length."""
    return Joined(tuple(Characters(((ord(low), ord(high)),)) for low, high in zip(*pattern, strict=True)))


def _cuts(low: int, high: int) -> Iterator[tuple[str, str]]:
    """Numbers from `low` to `high` in parts within which the digits vary independently."""
    while low <= high:
        # the most trailing digits that are free: all of them from 0 to 9, within the bounds and one length
        free = 0
        while low % 10 ** (free + 1) == 0 and low and low + 10 ** (free + 1) - 1 <= high:
            free += 1
        size = 10**free
        # as many as fit before the digit in front of them is full
        first = low // size % 10
        count = min(9 - first, (high - low + 1) // size - 1)
        end = low + (count + 1) * size - 1
        end = min(end, 10 ** len(str(low)) - 1)
        yield str(low), str(end)
        low = end + 1
