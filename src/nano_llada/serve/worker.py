"""A model at work: one thread owns its engine; requests come from event loops and their events go back there."""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

from nano_llada.config.decoding import Decoding, EngineOptions
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.decode.engine import Engine
from nano_llada.decode.types import Event, Request, StopTest
from nano_llada.model.transformer import Transformer

T = TypeVar("T")
log = logging.getLogger("nano_llada.serve")


class QueueFull(Exception):
    """Too many requests wait already.

    Attributes:
        seconds: after which there may be room.
    """

    def __init__(self, waiting: int, seconds: int) -> None:
        super().__init__(f"{waiting} requests are being written or waiting, which is the limit; try again later")
        self.seconds = seconds


class Stopped(Exception):
    """The worker has been stopped."""


@dataclass
class Figures:
    """What a worker has done so far, and what it is doing; written by its thread alone."""

    passes: int = 0
    rows: int = 0  # requests that took part, summed over passes
    tokens: int = 0  # written, changes of a token not counted
    seconds: float = 0.0  # in passes
    active: int = 0
    waiting: int = 0
    finished: int = 0
    mean_seconds: float = 0.0  # a moving average of how long a request took, from its arrival


@dataclass(eq=False)
class Events:
    """The events of some requests that belong together, as they come: (number of the request, event).

    Use as `async with worker.open(...) as events`, then `async for number, event in events`. Leaving it cancels what
    is not finished, at the next pass.
    """

    worker: Worker
    requests: Sequence[Request]
    stop: StopTest | None
    patient: bool = False  # events come when a request is finished, all of them at once: waking a task costs
    held: dict[int, list[Event]] = field(default_factory=dict)  # by request, of a patient one; the worker's thread's
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _queue: asyncio.Queue[tuple[int, Event] | Exception] = field(default_factory=asyncio.Queue)
    _left: int = 0
    begun: float = field(default_factory=time.perf_counter)

    async def __aenter__(self) -> Events:
        self._left = len(self.requests)
        try:
            await self.worker.call(lambda: self.worker.admit(self))
        except BaseException:
            self.worker.cancel(self)  # it may be admitted yet, if what was interrupted is the waiting
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._left:
            self.worker.cancel(self)

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        if not self._left:
            raise StopAsyncIteration
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        self._left -= item[1].finished
        return item

    def waiting(self) -> bool:
        """Whether an event can be had without waiting."""
        return not self._queue.empty()

    def put(self, item: tuple[int, Event] | Exception) -> None:
        """Called in the event loop."""
        self._queue.put_nowait(item)

    def ripe(self, number: int, event: Event) -> list[tuple[int, Event]]:
        """What may be handed over now. Called by the worker's thread."""
        if not self.patient:
            return [(number, event)]
        self.held.setdefault(number, []).append(event)
        return [(number, found) for found in self.held.pop(number)] if event.finished else []


Delivery = tuple[Events, tuple[int, Event] | Exception]


def deliver(items: Sequence[Delivery]) -> None:
    """Hand events to those who wait for them: each event loop is woken once."""
    loops: dict[asyncio.AbstractEventLoop, list[Delivery]] = {}
    for owner, item in items:
        loops.setdefault(owner.loop, []).append((owner, item))
    for loop, its in loops.items():
        try:
            loop.call_soon_threadsafe(_put, its)
        except RuntimeError:  # the loop is closed, so nobody waits
            log.debug("events of a closed loop")


def _put(items: Sequence[Delivery]) -> None:
    for owner, item in items:
        owner.put(item)


class Worker:
    """Runs an engine in a thread of its own. Requests join and are cancelled between passes.

    Args:
        limit: most requests that are written or wait; more raise QueueFull.
    """

    def __init__(
        self,
        model: Transformer,
        vocab: Vocabulary,
        decoding: Decoding,
        options: EngineOptions,
        *,
        limit: int,
        name: str = "engine",
    ) -> None:
        self._engine = Engine(model, vocab, decoding, options)
        self._limit = limit
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._owners: dict[int, tuple[Events, int]] = {}  # of a handle: who waits for it, and its number there
        self._stopping = False  # nothing more is written
        self._lock, self._closed = threading.Lock(), False  # whether the inbox takes no more
        self._failures = 0  # of the engine, one after the other
        self._computing = 0  # calls of `compute` that have not returned; counted by the event loop
        self.figures = Figures()
        self._thread = threading.Thread(target=self._run, name=f"nano-llada {name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the pass that is being made; whoever waits gets `Stopped`. Again: nothing."""
        self._put(self._stop)
        self._thread.join()

    def _put(self, job: Callable[[], None]) -> bool:
        """Hand a job to the thread; false if it takes no more."""
        with self._lock:
            if not self._closed:
                self._inbox.put(job)
            return not self._closed

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._stopping

    def open(self, requests: Sequence[Request], stop: StopTest | None = None, *, patient: bool = False) -> Events:
        """Write some requests; see `Events`. Patient ones get all events of a request when it is finished.

        Raises:
            UserError: (on entering) if one cannot be written with this model.
            QueueFull: if there is no room for all of them.
            Stopped: if the worker was stopped.
        """
        return Events(self, requests, stop, patient)

    async def compute(self, job: Callable[[], T]) -> T:
        """As `call`, for what takes a while: as many may wait as requests may.

        Raises:
            QueueFull: if there are more.
        """
        if self._computing >= self._limit:
            raise QueueFull(self._computing, self._patience())
        self._computing += 1
        try:
            return await self.call(job)
        finally:
            self._computing -= 1

    async def call(self, job: Callable[[], T]) -> T:
        """The result of a function that is run by the worker's thread, between two passes.

        Raises:
            Stopped: if the worker was stopped; and what the function raises.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def settle(value: T | None, error: Exception | None) -> None:
            if result.done():
                return
            if error is not None:
                result.set_exception(error)
            else:
                result.set_result(value)  # type: ignore[arg-type]

        def run() -> None:
            try:
                if self._stopping:
                    raise Stopped("the server is stopping")
                value, error = job(), None
            except Exception as problem:
                value, error = None, problem
            loop.call_soon_threadsafe(settle, value, error)

        if not self._put(run):
            raise Stopped("the server is stopping")
        return await result

    def cancel(self, events: Events) -> None:
        """End requests at the next pass."""
        self._put(lambda: self._cancel(events))

    # --- what follows runs in the thread ------------------------------------------------------------------------------

    def admit(self, events: Events) -> None:
        """Queue all requests of `events`, or none."""
        busy = self._engine.active + self._engine.waiting
        if busy + len(events.requests) > self._limit:
            raise QueueFull(busy, self._patience())
        handles: list[int] = []
        try:
            for request in events.requests:
                handles.append(self._engine.add(request, events.stop))
        except UserError:
            for handle in handles:
                self._engine.cancel(handle)
            raise
        self._owners.update({handle: (events, number) for number, handle in enumerate(handles)})

    def _patience(self) -> int:
        """Seconds until there may be room: until the requests that wait have been written."""
        rounds = 1 + self._engine.waiting / self._engine.options.max_rows
        return max(1, min(60, math.ceil(rounds * self.figures.mean_seconds / 2)))

    def _cancel(self, events: Events) -> None:
        for handle in [handle for handle, (owner, _) in self._owners.items() if owner is events]:
            self._engine.cancel(handle)
            del self._owners[handle]

    def _run(self) -> None:
        while not self._stopping:
            try:
                while True:
                    self._inbox.get(block=not self._engine.busy)()
                    if self._stopping:
                        break
            except queue.Empty:
                self._step()
        self._end(Stopped("the server is stopping"))
        with self._lock:
            self._closed = True
        while not self._inbox.empty():  # calls that came too late learn of it
            self._inbox.get()()

    def _stop(self) -> None:
        self._stopping = True

    def _step(self) -> None:
        begin = time.perf_counter()
        try:
            events = self._engine.step()
        except Exception as error:
            self._failed(error)
            return
        self._failures = 0
        now = time.perf_counter()
        self._count(events, now - begin)
        found: list[Delivery] = []
        for event in events:
            if event.request not in self._owners:
                continue  # cancelled
            owner, number = self._owners[event.request]
            found += [(owner, item) for item in owner.ripe(number, event)]
            if event.finished:
                del self._owners[event.request]
                self._note_end(now - owner.begun)
        deliver(found)

    def _failed(self, error: Exception) -> None:
        """A request's own error has ended it, and the next step says so; an error of the model ends all requests."""
        log.error("a forward pass failed", exc_info=error)
        self._failures += 1
        if self._failures > 1:
            for handle in self._owners:
                self._engine.cancel(handle)
            self._end(error)
            self._failures = 0

    def _end(self, error: Exception) -> None:
        owners = {owner for owner, _ in self._owners.values()}
        self._owners.clear()
        deliver([(owner, error) for owner in owners])

    def _count(self, events: Sequence[Event], seconds: float) -> None:
        figures = self.figures
        figures.active, figures.waiting = self._engine.active, self._engine.waiting
        moved = [event for event in events if event.finish_reason != "cancelled"]
        if moved:
            figures.passes += 1
            figures.rows += len(moved)
            figures.seconds += seconds
            figures.tokens += sum(len(event.writes) for event in moved)

    def _note_end(self, seconds: float) -> None:
        figures = self.figures
        figures.finished += 1
        share = max(1 / figures.finished, 0.1)
        figures.mean_seconds += share * (seconds - figures.mean_seconds)
