"""The OpenAPI document: what the server takes and answers, true to what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from nano_llada.serve import protocol
from nano_llada.serve.guard import OPEN

BODIES: Mapping[str, type[BaseModel]] = {
    "/v1/chat/completions": protocol.ChatRequest,
    "/v1/completions": protocol.CompletionRequest,
    "/v1/infill": protocol.InfillRequest,
    "/v1/score": protocol.ScoreRequest,
    "/v1/check": protocol.CheckRequest,
}
ERRORS: Mapping[int, str] = {
    400: "A field that is wrong or not supported; `param` names it.",
    401: "No key, or a wrong one.",
    404: "No such model.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    421: "A host name that this server does not answer for.",
    429: "The queue is full, or the key has too many requests running; Retry-After says when to try again.",
    500: "An error of the server.",
    503: "The server is stopping.",
    504: "The request took longer than this server allows.",
}


def responses(
    model: type[BaseModel], *statuses: int, stream: type[BaseModel] | None = None
) -> dict[int | str, dict[str, Any]]:
    """What a path may answer, for the document."""
    found: dict[int | str, dict[str, Any]] = {200: {"model": model}}
    if stream:
        name = stream.__name__
        chunk = {"contentMediaType": "application/json", "contentSchema": {"$ref": f"#/components/schemas/{name}"}}
        data = {
            "type": "string",
            "description": f"A {name} as JSON; at the end [DONE], or an error object and nothing after it.",
            "anyOf": [chunk, {"const": "[DONE]"}],
        }
        event = {"type": "object", "properties": {"data": data}}
        found[200]["content"] = {"text/event-stream": {"schema": event}}
    for status in statuses:
        found[status] = {"model": protocol.ErrorBody, "description": ERRORS[status]}
    return found


def described(api: FastAPI, names: Sequence[str], *, secured: bool) -> dict[str, Any]:
    """The document.

    Args:
        names: of the models.
        secured: whether keys are needed.
    """
    if api.openapi_schema:
        return api.openapi_schema
    found = FastAPI.openapi(api)
    _complete(found["components"]["schemas"], names)
    for path in found["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # wrong bodies get 400
    if secured:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for name in set(found["paths"]) - set(OPEN):
            for operation in found["paths"][name].values():
                operation["security"] = [{"key": []}]
    return found


def _complete(schemas: dict[str, Any], names: Sequence[str]) -> None:
    """Add what FastAPI cannot know: the pieces of streams, and the names of the models."""
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for chunk in (protocol.ChatChunk, protocol.TextChunk, protocol.InfillChunk):
        found = chunk.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")
        schemas.update(found.pop("$defs"))
        schemas[chunk.__name__] = found
    for body in BODIES.values():
        schemas[body.__name__]["properties"]["model"] = {"enum": [*names, None], "description": "Default: the first."}
