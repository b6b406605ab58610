"""Errors as OpenAI's clients expect them: a status, and an object that names what was wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from nano_llada.core.text import printable
from nano_llada.core.words import did_you_mean
from nano_llada.serve.protocol import ChatMessage, unused

LONGEST = 200  # characters of a name that an error repeats


class Refusal(Exception):
    """A request is not answered.

    Args:
        status: of HTTP.
        message: what was wrong, and what to do.
        param: the field that it was about.
        code: a word for programs.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The answer."""
        # characters that are no text, such as half a surrogate pair, are written as escapes
        return Response(json.dumps(self.body), self.status, {**self.headers}, "application/json")


_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def bad(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """A request that is wrong."""
    return Refusal(400, message, param=param, code=code)


def our_error() -> Refusal:
    """A mistake of ours, which the log describes."""
    return Refusal(500, "the server made an error; its log says more")


def wrong_body(errors: Sequence[Mapping[str, Any]], body: object, model: type[BaseModel] | None) -> Refusal:
    """What is wrong with a body, from the errors of its validation: all fields that are not supported, or one other."""
    if any(error["type"] == "json_invalid" for error in errors):
        return bad("the body is not valid JSON")
    if not isinstance(body, dict) or model is None:
        return bad("the body must be a JSON object")
    foreign: dict[str, str] = {}
    for error in errors:
        place = _place(error["loc"], body)
        name = str(place[-1]) if place else ""
        if error["type"] == "extra_forbidden":
            foreign[_written(place)] = name
        elif place and unused(model, str(place[0])):
            foreign[_written(place[:1])] = ""
        elif place[:1] == ["messages"] and unused(ChatMessage, name):
            foreign[_written(place)] = ""
    if foreign:
        near = "".join(did_you_mean(name, model.model_fields) for name in foreign.values() if name)
        named = ", ".join(foreign)
        verb = "is" if len(foreign) == 1 else "are"
        return bad(f"{named} {verb} not supported{near}", next(iter(foreign)), "unsupported_field")
    # of what may have several types, the one that was meant fails deepest
    first = max(errors, key=lambda error: len(_place(error["loc"], body)))
    where = _written(_place(first["loc"], body))
    if first["type"] == "missing":
        return bad(f"{where} is missing", where)
    return bad(f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}", where)


def _place(location: Sequence[str | int], body: object) -> list[str | int]:
    """The keys and indices of an error's location; words that pydantic adds for its own sake are left out."""
    found: list[str | int] = []
    parts = [part for part in location if part != "body"]
    for number, part in enumerate(parts):
        if isinstance(body, dict) and isinstance(part, str):
            if part not in body and number < len(parts) - 1:
                continue
            body = body.get(part)
        elif isinstance(body, list) and isinstance(part, int) and part < len(body):
            body = body[part]
        else:
            continue
        found.append(part)
    return found


def _written(place: Sequence[str | int]) -> str:
    """`messages[0].content`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return printable(text)[:LONGEST] or "the body"
