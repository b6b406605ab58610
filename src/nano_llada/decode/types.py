"""What a sampler is asked for, and what it says while it writes: the same for both tracks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Request:
    """A text with something left to write.

    `prompt` comes before what is written and `suffix` after it; `given` are tokens that stand in between already, as
    (place, token), places counted from the first token after the prompt. What is drawn for a request depends on its own
    `seed`, never on the other requests of a batch.
    """

    prompt: tuple[int, ...]
    suffix: tuple[int, ...] = ()
    seed: int = 0
    max_new_tokens: int | None = None  # of this request; default: the sampler's
    given: tuple[tuple[int, int], ...] = ()
    fill: bool = False  # infilling: every hidden place is written, and end tokens end nothing and are not written


@dataclass(frozen=True)
class Write:
    """Tokens of one request written by one forward pass; places count from the first token to be written."""

    request: int
    places: tuple[int, ...]
    tokens: tuple[int, ...]
    finished: bool
    stopped: bool = False  # by the stop test
    edited: tuple[tuple[int, int, int], ...] = ()  # (place, token before, token now) of what stood there already


# called with a request's number and its tokens so far (None where nothing stands yet); True ends it
StopTest = Callable[[int, Sequence[int | None]], bool]


class Sampler(Protocol):
    """Anything that writes. One event list a forward pass; the generator may be closed at any time."""

    ends: tuple[int, ...]

    def stream(self, requests: Sequence[Request], stop: StopTest | None = None) -> Iterator[list[Write]]: ...


@dataclass
class Completion:
    """What was written for one request."""

    tokens: list[int]  # up to the end token, which is left out; or as many as were asked for
    finish: str  # "stop": the model ended its answer, or the stop test did; "length": it ran out of room
    forwards: int
    seconds: float  # from the start of the batch to this request's last token
    first_seconds: float  # until its first token or block stood
    order: list[int] = field(default_factory=list)  # forward pass that wrote each place last, from 0
    draft: list[int] = field(default_factory=list)  # what would stand there if nothing had been edited
    edits: int = 0  # tokens changed after they had been written

    @property
    def tokens_per_forward(self) -> float:
        """New tokens up to the end, over forward passes (TPF)."""
        return len(self.tokens) / max(self.forwards, 1)


class _Canvas:
    """What stands for one request while it is written."""

    def __init__(self) -> None:
        self.done = Completion([], "length", 0, 0.0, 0.0)
        self._now: dict[int, tuple[int, int]] = {}  # place -> token, forward pass that wrote it last
        self._first: dict[int, int] = {}  # place -> token as it was written first

    def apply(self, write: Write, seconds: float) -> None:
        """Take over one forward pass."""
        done = self.done
        first = dict(zip(write.places, write.tokens, strict=True))
        self._first |= first
        for place, token in (first | {place: token for place, _, token in write.edited}).items():
            self._now[place] = (token, done.forwards)
        done.edits += len(write.edited)
        done.forwards += 1
        if done.first_seconds == 0.0 and 0 in self._now:
            done.first_seconds = seconds
        if write.finished:
            done.seconds, done.finish = seconds, "stop" if write.stopped else "length"

    def completion(self, ends: Sequence[int]) -> Completion:
        """The text up to its end."""
        done = self.done
        for index, place in enumerate(sorted(self._now)):
            token, forward = self._now[place]
            if token in ends:
                done.finish = "stop"
                break
            if done.finish == "stop" and place != index:
                break  # stopped with holes: what stands behind one is no text yet
            done.tokens.append(token)
            done.order.append(forward)
        for place in sorted(self._first):
            if self._first[place] in ends or place != len(done.draft):
                break
            done.draft.append(self._first[place])
        return done


def collect(
    steps: Iterable[list[Write]], count: int, ends: Sequence[int], clock: Callable[[], float] = time.perf_counter
) -> list[Completion]:
    """Run a stream to its end and gather what each of `count` requests got."""
    begin = clock()
    canvases = [_Canvas() for _ in range(count)]
    for writes in steps:
        now = clock() - begin
        for write in writes:
            canvases[write.request].apply(write, now)
    return [canvas.completion(ends) for canvas in canvases]
