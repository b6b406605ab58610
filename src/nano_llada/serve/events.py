"""One text while it is written: which of its tokens will not change any more, and what a pass did to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.types import Completion, Edit, Event, Look, Trace
from nano_llada.serve.text import StableText

Frame = dict[str, Any]  # as `protocol.DiffusionFrame` describes it
HIDDEN: Mapping[str, Any] = {"id": None, "text": None, "confidence": None, "alternatives": []}


@dataclass(frozen=True)
class Step:
    """What one forward pass did."""

    frames: tuple[Frame, ...]  # what the pass did, before it the opening if it was the first; empty if not asked for
    done: Completion | None  # the finished text


class Writing:
    """The events of one request, as text that never retracts and as frames. Text is made when it is asked for.

    Args:
        index: the number of the choice.
        stops: texts before which it is cut.
        frames: whether frames are wanted.
    """

    def __init__(self, index: int, tokenizer: Tokenizer, stops: Sequence[str] = (), *, frames: bool = False) -> None:
        self.index, self._tokenizer, self._frames = index, tokenizer, frames
        self._text, self._cut = StableText(tokenizer, stops), bool(stops)
        self._trace = Trace()
        self._final: list[bool] = []  # of each place: whether it will not change
        self._settled: list[int] = []  # tokens of the text that will not change, without its end and without given ones
        self._looks: dict[int, Look] = {}  # at each place that was judged, the last one
        self._opened = False
        self._reported = 0  # tokens given out
        self._done: Completion | None = None
        self.committed = 0  # places from the start that will not change

    @property
    def text(self) -> str:
        """What has been given out."""
        return self._text.sent

    def apply(self, event: Event) -> Step:
        """Take over an event. A text that was cancelled or failed is not finished."""
        frames = []
        for part in self._parts(event) if self._frames else (event,):
            looks = self._take(part)
            if self._frames:
                frames.append(self._frame(part, looks))
        if event.finish_reason in ("stop", "length"):
            self._done = self._trace.completion(self._tokenizer.vocab.ends, 0.0, 0.0)
        return Step(tuple(frames), self._done)

    def more(self) -> str:
        """Text that follows what was given out before, and will not change."""
        return self._text.more(self._settled) if self._done is None else self._text.rest(self._done.tokens)

    def certain(self) -> tuple[tuple[int, Look | None], ...]:
        """The tokens that became certain since the last call, and how likely each was; of a text that was cut, those
        that are in what was given out."""
        written = self._settled if self._done is None else self._done.tokens
        count = len(written)
        if self._done is not None and self._cut:
            while count > self._reported and len(self._tokenizer.decode(written[: count - 1])) >= len(self.text):
                count -= 1
        first, self._reported = self._reported, max(count, self._reported)
        return tuple((written[i], self._looks.get(i)) for i in range(first, count))

    def settled(self, start: int, end: int) -> list[int]:
        """Tokens of the places from `start` that will not change, up to the first one that may."""
        found = []
        for cell, final in zip(self._trace.cells[start:end], self._final[start:end], strict=True):
            if cell.token is None or not final:
                break
            found.append(cell.token)
        return found

    def _parts(self, event: Event) -> Sequence[Event]:
        """The event; the first one as two: the hidden canvas, if there is one, and what the first pass did to it."""
        if self._opened:
            return [event]
        self._opened = True
        if not event.forwards:
            return [event]
        opening = event.edits[:1] if event.edits and event.edits[0].opens else ()
        start = Event(event.request, opening, 0)
        return [start, replace(event, edits=event.edits[len(opening) :])]

    def _take(self, event: Event) -> Mapping[int, Look]:
        """Bring text and finality up to date; gives what was thought of each place."""
        self._trace.apply(event)
        looks = {look.place: look for look in reversed(event.looks)}  # of several the first, which is what was used
        self._looks.update(looks)
        for edit in event.edits:
            end = edit.start + len(edit.removed)
            self._final += [False] * (end - len(self._final))
            # known tokens that are inserted with a canvas are given
            final = edit.final or edit.opens
            self._final[edit.start : end] = [token is not None and final for token in edit.inserted]
        if event.finish_reason in ("stop", "length"):
            self._final = [cell.token is not None for cell in self._trace.cells]
        self._advance()
        return looks

    def _frame(self, event: Event, looks: Mapping[int, Look]) -> Frame:
        return {
            "index": self.index,
            "pass": event.forwards,
            "length": len(self._final),
            "committed": self.committed,
            "edits": [self._shown(edit, looks) for edit in event.edits],
        }

    def _advance(self) -> None:
        cells, ends = self._trace.cells, self._tokenizer.vocab.ends
        while self.committed < len(cells) and self._final[self.committed]:
            if self.committed and cells[self.committed - 1].token in ends:
                return  # what follows the end is no part of the text
            cell = cells[self.committed]
            if cell.forward is not None and cell.token is not None and cell.token not in ends:
                self._settled.append(cell.token)
            self.committed += 1

    def _shown(self, edit: Edit, looks: Mapping[int, Look]) -> dict[str, Any]:
        inserted = [self._place(token, looks.get(edit.start + i)) for i, token in enumerate(edit.inserted)]
        return {"start": edit.start, "removed": len(edit.removed), "inserted": inserted, "final": edit.final}

    def _place(self, token: int | None, look: Look | None) -> Mapping[str, Any]:
        if token is None:
            return HIDDEN
        likely = look.alternatives if look else ()
        known = dict(likely) | ({look.token: look.log_probability} if look else {})
        return {
            "id": token,
            "text": self._tokenizer.token(token),
            "confidence": math.exp(known[token]) if token in known else None,
            "alternatives": [
                {"id": other, "text": self._tokenizer.token(other), "probability": math.exp(value)}
                for other, value in likely
            ],
        }
