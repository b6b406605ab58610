"""What a decoder is asked for, and the events it reports: the same for every kind of decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from nano_llada.config.decoding import Decoding
from nano_llada.decode.constraint.tokens import TokenAutomaton

FinishReason = Literal["stop", "length", "cancelled", "failed"]


@dataclass(frozen=True)
class Request:
    """A text of which something is left to write.

    `prompt` comes before what is written and `suffix` after it; `given` are known tokens in between, as (place, token),
    places counted from the first token after the prompt. What is drawn for a request depends on its own `seed` and
    options, never on other requests.
    """

    prompt: tuple[int, ...]
    suffix: tuple[int, ...] = ()
    seed: int = 0
    max_new_tokens: int | None = None  # of this request; default: that of its decoding
    given: tuple[tuple[int, int], ...] = ()
    fill: bool = False  # infilling: every masked place is written; end tokens are not written and end nothing
    decoding: Decoding | None = None  # of this request; default: the engine's
    automaton: TokenAutomaton | None = None  # what the text after the prompt must be; see `constraint.compile`
    watch: int | None = None  # report a `Look` at every place that a pass reads, with this many alternatives


@dataclass(frozen=True)
class Edit:
    """A change of a request's text: ``text[start:start + len(removed)] = inserted``; None stands for a masked place.

    Writing a masked place, changing a token, inserting and deleting are all edits. Places count from the first token
    after the prompt, in the text as it is before this edit; the edits of an event are applied in order.
    """

    start: int
    removed: tuple[int | None, ...]
    inserted: tuple[int | None, ...]
    final: bool  # what was inserted will not change any more

    @property
    def opens(self) -> bool:
        """Whether it adds masked places. Tokens between them are given, not written."""
        return None in self.inserted


@dataclass(frozen=True)
class Look:
    """What a pass thought of one place: log-probabilities at temperature 1, over all tokens that may be written."""

    place: int  # from the first token after the prompt
    token: int  # what was proposed for it
    log_probability: float
    alternatives: tuple[tuple[int, float], ...] = ()  # the likeliest tokens and their log-probabilities, in order


@dataclass(frozen=True)
class Event:
    """What one forward pass did to one request."""

    request: int  # the engine's handle, or the number of the request in a list
    edits: tuple[Edit, ...]
    forwards: int  # forward passes made for this request so far
    finish_reason: FinishReason | None = None  # None: not finished. "stop": an end token, or the stop test
    looks: tuple[Look, ...] = ()  # of the places that the pass read, where the request asks for it
    cached: int = 0  # tokens of the prompt whose keys and values an earlier request had computed

    @property
    def finished(self) -> bool:
        """Whether this is the request's last event; its text is then final."""
        return self.finish_reason is not None

    @property
    def writes(self) -> list[tuple[int, int]]:
        """(place, token) of the tokens written to masked places or appended."""
        return [
            (edit.start + i, token)
            for edit in self.edits
            for i, token in enumerate(edit.inserted)
            if token is not None and (i >= len(edit.removed) or edit.removed[i] is None) and not edit.opens
        ]

    @property
    def changes(self) -> list[tuple[int, int, int]]:
        """(place, token before, token now) of the tokens that were replaced."""
        return [
            (edit.start + i, before, now)
            for edit in self.edits
            for i, (before, now) in enumerate(zip(edit.removed, edit.inserted, strict=False))
            if before is not None and now is not None and before != now
        ]


# called with a request's number and its tokens so far (None: masked); True ends the request
StopTest = Callable[[int, Sequence[int | None]], bool]


class Sampler(Protocol):
    """Anything that writes requests: one list of events per forward pass. The generator may be closed at any time."""

    ends: tuple[int, ...]

    def stream(self, requests: Sequence[Request], stop: StopTest | None = None) -> Iterator[list[Event]]: ...


@dataclass
class Completion:
    """What was written for one request."""

    tokens: list[int]  # up to the end token, which is left out; given tokens are not included
    finish: FinishReason
    forwards: int
    seconds: float  # from the start of this request's first pass to its last token
    first_seconds: float  # until its first token was written
    order: list[int] = field(default_factory=list)  # forward pass that wrote each token last, from 0
    draft: list[int] = field(default_factory=list)  # the tokens as they were written first, up to an end token
    edits: int = 0  # written tokens that were changed, inserted or deleted later
    end: int | None = None  # the end token, where one was written
    reached: int = 0  # places up to the last written one

    @property
    def tokens_per_forward(self) -> float:
        """New tokens up to the end, over forward passes (TPF)."""
        return len(self.tokens) / max(self.forwards, 1)


@dataclass
class Cell:
    """One place of a text under construction."""

    token: int | None = None  # None: masked
    first: int | None = None  # the token that was written here first
    forward: int | None = None  # the pass that wrote the token, from 0; None for a given token


class Trace:
    """The text of one request, rebuilt from its events. Places that no edit has mentioned yet are masked."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.edits = 0
        self.forwards = 0
        self.finish_reason: FinishReason | None = None

    def apply(self, event: Event) -> None:
        """Apply an event's edits.

        Raises:
            ValueError: if an edit removes something else than the text contains there.
        """
        for edit in event.edits:
            self._apply(edit, event.forwards)
        self.forwards = event.forwards
        self.finish_reason = event.finish_reason

    def _apply(self, edit: Edit, forwards: int) -> None:
        end = edit.start + len(edit.removed)
        self.cells += [Cell() for _ in range(end - len(self.cells))]
        old = self.cells[edit.start : end]
        if tuple(cell.token for cell in old) != edit.removed:
            raise ValueError(f"{edit} does not fit the text, which has {[cell.token for cell in old]} there")
        inside = end < len(self.cells)
        given = edit.opens or not forwards  # of a text without any mask all is given
        new = []
        for i, token in enumerate(edit.inserted):
            cell = old[i] if i < len(old) else Cell()
            self.edits += token != cell.token and (cell.token is not None or (i >= len(old) and inside))
            if token != cell.token:
                first = token if cell.first is None and not given else cell.first
                cell = Cell(token, first, None if given else forwards - 1)
            new.append(cell)
        self.edits += sum(cell.token is not None for cell in old[len(new) :])
        self.cells[edit.start : end] = new

    def completion(self, ends: Sequence[int], seconds: float, first_seconds: float) -> Completion:
        """The text up to its end, or up to the first masked place if a stop test ended it."""
        finish = self.finish_reason or "length"
        done = Completion([], finish, self.forwards, seconds, first_seconds, edits=self.edits)
        for cell in self.cells:
            if cell.token in ends:
                done.finish, done.end = "stop", cell.token
                break
            if cell.token is None and finish != "length":
                break
            if cell.token is not None and cell.forward is not None:
                done.tokens.append(cell.token)
                done.order.append(cell.forward)
        for cell in self.cells:
            if cell.first in ends or cell.token is None:
                break
            done.draft += [] if cell.first is None else [cell.first]
        done.reached = max((i + 1 for i, cell in enumerate(self.cells) if cell.token is not None), default=0)
        return done


def gather(
    steps: Iterable[Sequence[Event]], ends: Sequence[int], clock: Callable[[], float] = time.perf_counter
) -> Iterator[tuple[int, Completion]]:
    """Run a stream to its end; gives each request's number and completion as soon as it is finished."""
    traces: dict[int, Trace] = {}
    begun: dict[int, float] = {}  # when the first pass of a request began
    first: dict[int, float] = {}
    before = clock()
    for events in steps:
        now = clock()
        for event in events:
            number = event.request
            trace, begin = traces.setdefault(number, Trace()), begun.setdefault(number, before)
            trace.apply(event)
            if number not in first and trace.cells and trace.cells[0].token is not None:
                first[number] = now - begin
            if event.finished:
                del traces[number]
                yield number, trace.completion(ends, now - begin, first.get(number, 0.0))
        before = now


def collect(
    steps: Iterable[Sequence[Event]],
    count: int,
    ends: Sequence[int],
    clock: Callable[[], float] = time.perf_counter,
) -> list[Completion]:
    """Run a stream to its end; gives the completions of requests 0 to `count` - 1."""
    done = dict(gather(steps, ends, clock))
    return [done.get(i) or Completion([], "length", 0, 0.0, 0.0) for i in range(count)]
