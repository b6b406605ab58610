"""Gaps that are filled one after the other, seen from outside as one canvas; see `LanguageModel.gaps_in_turn`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType

from nano_llada.decode.types import Edit, Event, Request, Trace
from nano_llada.language_model import Gaps
from nano_llada.serve.worker import Events, Worker

Fills = Generator[Request, Sequence[int], None]  # the request of the first gap, and of each that follows a filled one


@dataclass(frozen=True)
class Turns:
    """How gaps are filled in turn.

    Attributes:
        first: the request of the first gap.
        rest: those of the others, each in exchange for the tokens of the gap before it.
        watch: alternatives to report of each place; None: none.
    """

    first: Request
    rest: Fills
    watch: int | None

    def after(self, tokens: Sequence[int]) -> Request:
        """The request of the gap that follows one which got these tokens."""
        return replace(self.rest.send(tokens), watch=self.watch)


class InTurn:
    """The events of the gaps, as if one request had a canvas of them and of the known text between them.

    Used like `Events`.
    """

    def __init__(self, worker: Worker, gaps: Gaps, turns: Turns, ends: Sequence[int], *, patient: bool) -> None:
        self._worker, self._gaps, self._turns, self._ends, self._patient = worker, gaps, turns, ends, patient
        self._resources = AsyncExitStack()
        self._number = 0  # of the gap that is being filled
        self._trace = Trace()  # of its text
        self._before = 0  # forward passes over earlier gaps
        self._cached = 0
        hidden = {place for start, end in gaps.spans for place in range(start, end)}
        canvas = tuple(None if place in hidden else token for place, token in enumerate(gaps.canvas))
        self._opening: tuple[Edit, ...] = (Edit(0, (), canvas, final=False),)

    async def __aenter__(self) -> InTurn:
        self._events = await self._begin(self._turns.first)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    async def _begin(self, request: Request) -> Events:
        later = self._number > 0
        return await self._resources.enter_async_context(
            self._worker.open([request], patient=self._patient, later=later)
        )

    def __aiter__(self) -> InTurn:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        if self._number == len(self._gaps.spans):
            raise StopAsyncIteration
        _, event = await anext(self._events)
        self._trace.apply(event)
        found = self._moved(event)
        if event.finish_reason in ("stop", "length"):
            await self._proceed(event)
            found = replace(found, finish_reason=None if self._number < len(self._gaps.spans) else "length")
        return 0, found

    def waiting(self) -> bool:
        """Whether an event can be had without waiting."""
        return self._events.waiting()

    def _moved(self, event: Event) -> Event:
        """An event of a gap as one of the canvas, where its places are masked from the start."""
        first, known = self._gaps.spans[self._number][0], self._opening
        edits = [
            Edit(first + edit.start, edit.removed or (None,) * len(edit.inserted), edit.inserted, edit.final)
            for edit in event.edits
            if not edit.opens
        ]
        looks = tuple(replace(look, place=first + look.place) for look in event.looks)
        self._opening = ()
        self._cached = self._cached or event.cached
        return Event(0, (*known, *edits), self._before + event.forwards, event.finish_reason, looks, self._cached)

    async def _proceed(self, event: Event) -> None:
        """Begin with the next gap."""
        self._before += event.forwards
        tokens = self._trace.completion(self._ends, 0.0, 0.0).tokens
        self._number, self._trace = self._number + 1, Trace()
        if self._number < len(self._gaps.spans):
            self._events = await self._begin(self._turns.after(tokens))
