"""A stream of server-sent events, and what ends it: the last token, an error, a client that has gone."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from nano_llada.decode.types import Event
from nano_llada.serve.answers import Answer
from nano_llada.serve.in_turn import InTurn
from nano_llada.serve.note import Note
from nano_llada.serve.refusal import Refusal, our_error
from nano_llada.serve.worker import Events, QueueFull, Stopped

T = TypeVar("T")
log = logging.getLogger("nano_llada.serve")
QUIET = 15.0  # seconds after which a comment says that the connection is alive
GRACE = 5.0  # seconds that a reader has to take the last of what was sent


class Gone(Exception):
    """The client has closed the connection."""


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of some work, which is cancelled when the client goes.

    Raises:
        Gone: if it has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def collected(events: Events | InTurn, answer: Answer, request: Request, seconds: float) -> dict[str, Any]:
    """The whole answer.

    Raises:
        Refusal: if it takes too long, fails, or the client has gone.
    """

    async def work() -> None:
        async with asyncio.timeout(seconds):
            async for number, event in events:
                answer.take(number, event)

    note: Note = request.scope["note"]
    try:
        await while_connected(request.receive, work())
    except Gone:
        note.finish = "cancelled"
        raise Refusal(499, "the client has gone") from None
    except TimeoutError:
        note.finish = "timeout"
        raise too_slow(seconds) from None
    except Stopped as error:
        raise stopping(error) from error
    return answer.whole()


def too_slow(seconds: float) -> Refusal:
    """For a request that takes longer than this server allows."""
    return Refusal(504, f"the text was not finished within {seconds:g} seconds", code="timeout")


def too_many(full: QueueFull) -> Refusal:
    """For a request that finds no room, not even to wait."""
    return Refusal(429, str(full), code="queue_full", headers={"Retry-After": str(full.seconds)})


def stopping(error: Exception) -> Refusal:
    """For a request that the end of the server cut off."""
    return Refusal(503, str(error), code="shutting_down", headers={"Retry-After": "5"})


class EventStream(Response):
    """Sends an answer piece by piece.

    Args:
        resources: closed when the stream ends, however it ends; that cancels what is not finished.
        seconds: the most that it may take.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: Events | InTurn,
        answer: Answer,
        resources: AsyncExitStack,
        note: Note,
        *,
        seconds: float,
        usage: bool,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._answer, self._resources, self._note = events, answer, resources, note
        self._seconds, self._usage = seconds, usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with self._resources:
            try:
                async with asyncio.timeout(self._seconds + GRACE):
                    await while_connected(receive, self._send(send))
            except (Gone, OSError):
                self._note.finish = "cancelled"
            except TimeoutError:  # the client does not read
                self._note.finish = "timeout"

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._parts():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _parts(self) -> AsyncIterator[bytes]:
        """Bytes to send, as soon as there are any; what came meanwhile is sent together."""
        answer = self._answer
        try:
            yield b"".join(map(_line, answer.opening()))
            deadline = time.perf_counter() + self._seconds
            while (found := await self._next(deadline)) is not None:
                yield found
            yield b"".join(map(_line, answer.closing(usage=self._usage))) + b"data: [DONE]\n\n"
        except Refusal as refusal:
            yield self._failed(refusal)
        except Stopped as error:
            yield self._failed(stopping(error))
        except Exception as error:
            log.error("an error of the server", exc_info=error, extra={"note": self._note})
            yield self._failed(our_error())

    def _failed(self, refusal: Refusal) -> bytes:
        """The last event of a stream that fails."""
        self._note.error, self._note.finish = refusal.message, self._note.finish or "error"
        return _line(refusal.body)

    async def _next(self, deadline: float) -> bytes | None:
        """The next events as bytes; None when all has been written."""
        try:
            async with asyncio.timeout(max(min(QUIET, deadline - time.perf_counter()), 0)):
                number, event = await anext(self._events)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            if time.perf_counter() < deadline:
                return b": waiting\n\n"
            self._note.finish = "timeout"
            raise too_slow(self._seconds) from None
        lines = self._lines(number, event)
        while self._events.waiting():
            lines += self._lines(*await anext(self._events))
        return b"".join(lines)

    def _lines(self, number: int, event: Event) -> list[bytes]:
        return [_line(piece) for piece in self._answer.pieces(number, self._answer.take(number, event))]


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _line(content: dict[str, Any]) -> bytes:
    return b"data: " + _JSON.encode(content).encode() + b"\n\n"
