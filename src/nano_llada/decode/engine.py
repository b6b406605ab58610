"""The decoding loop: requests of any kind join, are written together, and leave, between any two forward passes.

A request's text depends on its prompt, options and seed alone. A `Row` owns a text, `Slots` decides who is in the
cache, a `Backend` computes logits, `propose` turns them into tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nano_llada.config.decoding import Decoding, Diffusion, EngineOptions
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.decode.forward import BackendOf, Placed
from nano_llada.decode.lean import lean_passes
from nano_llada.decode.look import examine
from nano_llada.decode.proposal import Proposal, propose
from nano_llada.decode.rows import Row, Window, make_row
from nano_llada.decode.slots import Slots
from nano_llada.decode.types import Edit, Event, FinishReason, Look, Request, StopTest
from nano_llada.model.transformer import Transformer


class EngineFull(UserError):
    """The queue of an engine is full: try again when a request has finished."""


@dataclass(eq=False)
class _Job:
    """A request in the engine."""

    handle: int
    row: Row
    stop: StopTest | None
    forwards: int = 0
    begun: bool = False  # whether its prompt has been read
    edits: list[Edit] = field(default_factory=list)  # not yet reported
    looks: list[Look] = field(default_factory=list)  # not yet reported
    cached: int = 0  # tokens of its prompt that an earlier request had computed

    def event(self, reason: FinishReason | None = None) -> Event:
        edits, self.edits = tuple(self.edits), []
        looks, self.looks = tuple(self.looks), []
        return Event(self.handle, edits, self.forwards, reason, looks, self.cached)


class Engine:
    """Writes requests with one model.

    Args:
        decoding: how requests are written that do not say so themselves.
        options: how many at once, within which memory.
        backend: how the model's forward passes are computed.
    """

    def __init__(
        self,
        model: Transformer,
        vocab: Vocabulary,
        decoding: Decoding,
        options: EngineOptions | None = None,
        backend: BackendOf = lean_passes,
    ) -> None:
        self.vocab, self.decoding, self.options = vocab, decoding, options or EngineOptions()
        self.backend = backend(model, vocab)
        self.slots = Slots(self.backend, self.options.max_rows, self.options.budget, keep=self.options.keep_prefixes)
        self._waiting: deque[_Job] = deque()
        self._active: list[_Job] = []  # in the order of their rows in the cache
        self._events: list[Event] = []  # of what happened between passes
        self._handles = 0

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do or to report."""
        return bool(self._waiting or self._active or self._events)

    @property
    def waiting(self) -> int:
        """Requests that wait for room."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Requests that are being written."""
        return len(self._active)

    def add(self, request: Request, stop: StopTest | None = None) -> int:
        """Queue a request; gives its handle, which numbers requests from 0. `stop` is called after every pass.

        Raises:
            UserError: if it cannot be written with this model, these options or this budget.
            EngineFull: if too many requests wait already.
        """
        row = make_row(request, self.vocab, request.decoding or self.decoding, self.backend.context)
        if not self.slots.fits(row.size):
            raise UserError(f"the request needs {row.size} tokens, the engine's budget is {self.options.budget}")
        limit = self.options.max_waiting
        if limit is not None and len(self._waiting) >= limit:
            raise EngineFull(f"{limit} requests are waiting, which is the limit: try again later")
        job = _Job(self._handles, row, stop, edits=row.opening())
        self._handles += 1
        if row.finished:
            self._events.append(job.event("length"))
        else:
            self._waiting.append(job)
        return job.handle

    def cancel(self, handle: int) -> None:
        """End a request now and free its room; the next `step` reports it. A finished one is left as it is."""
        for job in (*self._waiting, *self._active):
            if job.handle == handle:
                if job in self._active:
                    self._leave(job)
                else:
                    self._waiting.remove(job)
                self._events.append(job.event("cancelled"))

    def step(self) -> list[Event]:
        """One forward pass over the requests that are being written; what happened since the last step.

        Requests are admitted first, in the order in which they came. One that is too large for the room that is left
        waits, and so do those behind it: none is overtaken for ever.

        An error of one request's own rule or stop test is raised. That request has then failed and left; the next call
        says so and reports what this one did to the others.
        """
        self._admit()
        looks = self._windows()
        errors: list[Exception] = []
        if looks:
            proposals = self._propose(looks)
            for job, window in looks:
                try:
                    event = self._update(job, window, proposals.get(job.handle))
                except Exception as error:
                    job.row.finished = True
                    errors.append(error)
                    event = job.event("failed")
                self._events.append(event)
            for job in [job for job in self._active if job.row.finished]:
                self._leave(job)
        if errors:
            raise errors[0]
        events, self._events = self._events, []
        return events

    def run(self) -> Iterator[list[Event]]:
        """Steps until nothing is left to do."""
        while self.busy:
            yield self.step()

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self.options.max_rows:
            job, *others = self._waiting
            sizes, behind = ([other.row.size for other in some] for some in (self._active, others))
            if not self.slots.admit(job.row, sizes, behind):
                return
            job.cached = job.row.held
            self._active.append(self._waiting.popleft())

    def _leave(self, job: _Job) -> None:
        number, last = self._active.index(job), self._active.pop()
        if last is not job:
            self._active[number] = last
        self.slots.release(number, job.row)

    def _windows(self) -> list[tuple[_Job, Window]]:
        """Who takes part in this pass, by row of the cache.

        All that write do. Prompts are read in parts, together no longer than `prefill_chunk`, the oldest request first.
        """
        room = self.options.prefill_chunk
        windows: dict[int, Window] = {}
        for job in sorted(self._active, key=lambda job: job.handle):
            window, grain = job.row.window(), job.row.grain
            if room is not None and grain is not None and not job.begun:
                ahead = job.row.known - window.start
                if ahead > room:
                    # a block longer than the chunk is read as a whole
                    count = max(room // grain * grain, grain if room == self.options.prefill_chunk else 0)
                    window = window.begin(count) if count < ahead else window
                    room = 0
                else:
                    room -= ahead
            windows[job.handle] = window
        return [(job, windows[job.handle]) for job in self._active if windows[job.handle].tokens]

    @torch.inference_mode()
    def _propose(self, looks: Sequence[tuple[_Job, Window]]) -> dict[int, Proposal]:
        """Run the model; by handle, what each request is to consider: nothing while its prompt is being read."""
        numbers = {job.handle: number for number, job in enumerate(self._active)}
        placed = [(numbers[job.handle], window) for job, window in looks]
        logits = self.backend.compute(placed)
        guided: list[tuple[Placed, float, slice]] = []
        first = 0
        for (job, window), (number, _) in zip(looks, placed, strict=True):
            span = slice(first, first + len(window.wanted))
            first = span.stop
            if window.blind and isinstance(job.row.config, Diffusion):
                guided.append(((number, replace(window, tokens=window.blind)), job.row.config.guidance, span))
        if guided:
            blind = self.backend.compute([one for one, _, _ in guided])
            for part, (_, guidance, span) in zip(
                blind.split([span.stop - span.start for _, _, span in guided]), guided, strict=True
            ):
                logits[span] = part + (1 + guidance) * (logits[span] - part)
        asked = [(job, window.places) for job, window in looks if window.wanted]
        found = propose(logits, [(job.row, places) for job, places in asked], self.vocab) if asked else []
        self._look(logits, asked, found)
        return {job.handle: proposal for (job, _), proposal in zip(asked, found, strict=True)}

    def _look(self, logits: Tensor, asked: Sequence[tuple[_Job, Sequence[int]]], found: Sequence[Proposal]) -> None:
        """Note what the pass thought of each place, for the requests that are watched."""
        first = 0
        for (job, places), (tokens, _) in zip(asked, found, strict=True):
            if job.row.watched is not None:
                count = job.row.judging(tokens)
                some = logits[first : first + count]
                job.looks += examine(some, job.row, places[:count], tokens[:count], self.vocab)
            first += len(places)

    def _update(self, job: _Job, window: Window, proposal: Proposal | None) -> Event:
        """Let a request take over a pass."""
        row = job.row
        job.forwards += 1
        if proposal is None:
            row.held = window.start + len(window.tokens)
            return job.event()
        job.begun = True
        job.edits += row.update(*proposal)
        stopped = bool(job.stop and job.stop(job.handle, row.written))
        if not (row.finished or stopped):
            return job.event()
        row.finished = True
        return job.event("stop" if stopped or row.ended else "length")


class BatchSampler:
    """Writes a list of requests together, on an engine of their own; see `types.Sampler`.

    Args:
        rows: how many at once; default: all.
        backend: as in `Engine`.
    """

    def __init__(
        self,
        model: Transformer,
        vocab: Vocabulary,
        decoding: Decoding,
        rows: int | None = None,
        backend: BackendOf = lean_passes,
    ) -> None:
        self.model, self.vocab, self.decoding, self.rows, self.backend = model, vocab, decoding, rows, backend
        self.ends = vocab.ends

    def stream(self, requests: Sequence[Request], stop: StopTest | None = None) -> Iterator[list[Event]]:
        """The events of each pass; requests are numbered in their order.

        Raises:
            UserError: for a request that cannot be written, before any is.
        """
        options = EngineOptions(self.rows or max(len(requests), 1), prefill_chunk=None, keep_prefixes=False)
        engine = Engine(self.model, self.vocab, self.decoding, options, self.backend)
        for request in requests:
            engine.add(request, stop)
        yield from engine.run()
