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
    order: list[int] = field(default_factory=list)  # forward pass that wrote each place, from 0

    @property
    def tokens_per_forward(self) -> float:
        """New tokens up to the end, over forward passes (TPF)."""
        return len(self.tokens) / max(self.forwards, 1)


def collect(
    steps: Iterable[list[Write]], count: int, ends: Sequence[int], clock: Callable[[], float] = time.perf_counter
) -> list[Completion]:
    """Run a stream to its end and gather what each of `count` requests got."""
    begin = clock()
    canvases: list[dict[int, tuple[int, int]]] = [{} for _ in range(count)]
    done = [Completion([], "length", 0, 0.0, 0.0) for _ in range(count)]
    for writes in steps:
        now = clock() - begin
        for write in writes:
            result = done[write.request]
            for place, token in zip(write.places, write.tokens, strict=True):
                canvases[write.request][place] = (token, result.forwards)
            result.forwards += 1
            if result.first_seconds == 0.0 and 0 in canvases[write.request]:
                result.first_seconds = now
            if write.finished:
                result.seconds = now
                result.finish = "stop" if write.stopped else "length"
    for result, canvas in zip(done, canvases, strict=True):
        for index, place in enumerate(sorted(canvas)):
            token, forward = canvas[place]
            if token in ends:
                result.finish = "stop"
                break
            if result.finish == "stop" and place != index:
                break  # stopped with holes: what stands behind one is no text yet
            result.tokens.append(token)
            result.order.append(forward)
    return done
