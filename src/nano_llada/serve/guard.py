"""What every request passes before it is looked at: who sends it, how large it is, and a note of what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from nano_llada.config.serving import ServingOptions
from nano_llada.core.text import printable
from nano_llada.serve.keys import Keys
from nano_llada.serve.metrics import Metrics
from nano_llada.serve.note import Note
from nano_llada.serve.refusal import Refusal, our_error

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("nano_llada.serve")
OPEN = ("/", "/health", "/ready", "/openapi.json")  # what needs no key, besides the page
PAGE = "/page"
POSTS = ("/v1/chat/completions", "/v1/completions", "/v1/infill", "/v1/score", "/v1/check")
ROUTES = (*POSTS, *OPEN, "/v1/models", "/metrics")
# of a body that is refused: a client that is still sending would be cut off, and never see why
SWALLOWED_BYTES, SWALLOWED_SECONDS = 2**24, 3.0


class Arriving:
    """What a client sends, as an application receives it, and whether there is more of the body."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.more, self.begun = receive, True, False

    async def __call__(self) -> Message:
        """The next message."""
        self.begun = True
        message = await self._receive()
        self.more = message["type"] == "http.request" and bool(message.get("more_body", False))
        return message

    async def swallow(self) -> None:
        """Read what is left of a body, within bounds, and forget it."""
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SWALLOWED_SECONDS):
                while self.more and size < SWALLOWED_BYTES:
                    size += len((await self()).get("body", b""))


class Guard:
    """Wraps the application.

    Args:
        keys: who may use it; empty: everybody.
        hosts: names under which it may be addressed; None: any. Otherwise a page of another origin could reach a
            server without keys by giving its own name this machine's address.
    """

    def __init__(
        self,
        application: Application,
        options: ServingOptions,
        keys: Keys,
        metrics: Metrics,
        hosts: Collection[str] | None,
    ) -> None:
        self._application, self._options, self._keys = application, options, keys
        self._metrics, self._hosts = metrics, hosts
        self._running: Counter[str] = Counter()  # requests of each key
        self.draining = False  # the server is about to stop: nothing new is begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the life of the application."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        note = Note(secrets.token_hex(12), scope["method"], printable(scope["path"][:200]))
        note.route = scope["path"] if scope["path"] in ROUTES else "other"
        scope["note"] = note

        arriving = Arriving(receive)
        asks = any(name == b"expect" for name, _ in scope["headers"])  # whether to send a body at all

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] >= 400 and (arriving.begun or not asks):
                    await arriving.swallow()
                note.status = message["status"]
                headers = [(b"x-request-id", note.id.encode()), (b"x-content-type-options", b"nosniff")]
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        try:
            await self._pass(scope, arriving, noting, note)
        except Refusal as refusal:
            await self._refuse(refusal, scope, arriving, noting, note)
        except Exception as error:
            log.error("an error of the server", exc_info=error, extra={"note": note})
            await self._refuse(our_error(), scope, arriving, noting, note)
        finally:
            note.seconds = time.perf_counter() - note.begun
            self._metrics.observe(note)
            level = logging.DEBUG if scope["path"] in OPEN else logging.INFO
            log.log(level, "request", extra={"note": note})

    async def _refuse(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send, note: Note) -> None:
        note.error = refusal.message
        if not note.status:  # else the answer has begun, and can only be cut off
            await refusal.response()(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, note: Note) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_host(headers)
        self._check_key(scope["path"], headers, note)
        if scope["method"] != "POST" or scope["path"] not in POSTS:
            await self._application(scope, receive, send)
            return
        if self.draining:
            raise Refusal(503, "the server is stopping", code="shutting_down", headers={"Retry-After": "5"})
        body = await self._body(receive, headers)
        name = note.key or ""
        if note.key and self._running[name] >= self._options.max_per_key:
            message = f"{self._options.max_per_key} requests of this key are running, which is the limit"
            raise Refusal(429, message, code="too_many_requests", headers={"Retry-After": "1"})
        self._running[name] += 1
        try:
            await self._application(scope, _again(body, receive), send)
        finally:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]

    def _check_host(self, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if self._hosts is not None and name.lower() not in self._hosts:
            message = f"this server is not addressed as {printable(name[:100])!r}; --allow-host allows a name"
            raise Refusal(421, message)

    def _check_key(self, path: str, headers: dict[str, str], note: Note) -> None:
        if not self._keys or path in OPEN or path == PAGE or path.startswith(f"{PAGE}/"):
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        note.key = self._keys.owner(key.strip()) if scheme.lower() == "bearer" else None
        if note.key is None:
            what = "wrong API key" if key else "no API key: send Authorization: Bearer KEY"
            raise Refusal(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _body(self, receive: Receive, headers: dict[str, str]) -> bytes:
        """The whole body of a request."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, "the body must be JSON, with Content-Type: application/json")
        limit = self._options.max_body
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            raise Refusal(413, f"the body has {length} bytes, this server takes {limit}")
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._options.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the client has gone")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise Refusal(413, f"the body has more than {limit} bytes, which is what this server takes")
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive within {self._options.body_seconds:g} seconds") from None
        return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """What gives a body that has been read, and then whatever comes."""
    first = [body]

    async def give() -> Message:
        if first:
            return {"type": "http.request", "body": first.pop(), "more_body": False}
        return await receive()

    return give
