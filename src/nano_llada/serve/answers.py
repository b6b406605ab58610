"""Answers as JSON objects, whole and in pieces: one class for each of the three ways to write."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from nano_llada.decode.types import Completion, Event, Look
from nano_llada.serve.events import Step, Writing
from nano_llada.serve.note import Note
from nano_llada.serve.prepare import Task
from nano_llada.serve.refusal import Refusal
from nano_llada.serve.text import UNKNOWN, StableText

Tokens = Sequence[tuple[int, Look | None]]
Object = dict[str, Any]


class Answer(ABC):
    """What is written for one request, and the objects that say so."""

    prefix: ClassVar[str]  # of its id
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, task: Task, note: Note) -> None:
        self.task, self._note = task, note
        self._head = {"id": f"{self.prefix}-{note.id}", "created": int(time.time()), "model": task.served.name}
        tokenizer = task.served.writer.tokenizer
        self.writings = [Writing(i, tokenizer, task.stops, frames=task.frames) for i in range(len(task.requests))]
        self._done: dict[int, Completion] = {}
        self._forwards = [0] * len(task.requests)
        self._cached = [0] * len(task.requests)
        note.model, note.prompt_tokens = task.served.name, task.prompt_tokens

    def take(self, number: int, event: Event) -> Step:
        """Take over an event of the engine.

        Raises:
            Refusal: if the request failed.
        """
        if event.finish_reason == "failed":
            raise Refusal(500, "writing this text failed; the server's log says more")
        note, step = self._note, self.writings[number].apply(event)
        note.forwards += event.forwards - self._forwards[number]
        note.cached_tokens += event.cached - self._cached[number]
        self._forwards[number], self._cached[number] = event.forwards, event.cached
        if step.done is not None:
            self._done[number] = step.done
            note.tokens += len(step.done.tokens)
            if len(self._done) == len(self.writings):
                note.finish = self._done[0].finish
        return step

    def usage(self) -> Object:
        """What the request took."""
        tokens = sum(len(done.tokens) for done in self._done.values())
        forwards = sum(self._forwards)
        return {
            "prompt_tokens": self.task.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.task.prompt_tokens + tokens,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached)},
            "forwards": forwards,
            "tokens_per_pass": round(tokens / max(forwards, 1), 3),
            "seconds": round(time.perf_counter() - self._note.begun, 4),
        }

    def whole(self) -> Object:
        """The finished answer."""
        return {
            **self._head,
            "object": self.whole_object,
            "seed": self.task.seed,
            **self._finished(),
            "usage": self.usage(),
        }

    def chunk(self, **fields: Any) -> Object:
        """A piece of a stream."""
        return {**self._head, "object": self.chunk_object, **fields}

    def pieces(self, number: int, step: Step) -> Iterator[Object]:
        """What a stream says of a step: text if there is any, and a chunk for each frame."""
        *early, last = step.frames or (None,)
        for frame in early:
            yield self.chunk(**self._bare(number), diffusion_frame=frame)
        shown = {"diffusion_frame": last} if last else {}
        text, tokens = self._given(number)
        if text or shown or tokens:
            yield self.chunk(**self._piece(number, text, tokens), **shown)
        if step.done is not None:
            yield from self.ending(number, step.done)

    def _given(self, number: int) -> tuple[str, Tokens]:
        """What can be given out of a choice: text, and its tokens if their log-probabilities are wanted."""
        text = self.writings[number].more()
        if text:
            self._note.first_text()
        return text, () if self.task.logprobs is None else self.writings[number].certain()

    def texts(self) -> list[str]:
        """All texts so far, for the log."""
        return [writing.text for writing in self.writings]

    def opening(self) -> Iterator[Object]:
        """The first chunks of a stream."""
        return iter(())

    @abstractmethod
    def ending(self, number: int, done: Completion) -> Iterator[Object]:
        """The chunks that finish a choice."""

    @abstractmethod
    def closing(self, *, usage: bool) -> Iterator[Object]:
        """The last chunks of a stream."""

    @abstractmethod
    def _piece(self, number: int, text: str, tokens: Tokens) -> Object:
        """The fields of a chunk with text of a choice that will not change."""

    @abstractmethod
    def _bare(self, number: int) -> Object:
        """The fields of a chunk that has no text."""

    @abstractmethod
    def _finished(self) -> Object:
        """The fields of the whole answer."""


class Choices(Answer):
    """Answers that are lists of choices."""

    def ending(self, number: int, done: Completion) -> Iterator[Object]:
        """See `Answer`."""
        yield self.chunk(choices=[{**self._delta(number, None), "finish_reason": done.finish}])

    def closing(self, *, usage: bool) -> Iterator[Object]:
        """See `Answer`."""
        if usage:
            yield self.chunk(choices=[], seed=self.task.seed, usage=self.usage())

    def _piece(self, number: int, text: str, tokens: Tokens) -> Object:
        found = self._logprobs(number, tokens) if tokens else None
        return {"choices": [{**self._delta(number, text, found), "finish_reason": None}]}

    def _bare(self, number: int) -> Object:
        return {"choices": [{**self._delta(number, ""), "finish_reason": None}]}

    def _finished(self) -> Object:
        return {"choices": [self._choice(number) for number in range(len(self.writings))]}

    @abstractmethod
    def _delta(self, number: int, text: str | None, logprobs: Object | None = None) -> Object:
        """A choice of a chunk; text None: its last one."""

    @abstractmethod
    def _choice(self, number: int) -> Object:
        """A finished choice."""

    @abstractmethod
    def _logprobs(self, number: int, tokens: Tokens) -> Object | None:
        """How likely tokens were, if that was asked for."""


class ChatAnswer(Choices):
    """An assistant's message."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self) -> Iterator[Object]:
        """Says who speaks, before there is text."""
        for writing in self.writings:
            delta = {"role": "assistant", "content": ""}
            yield self.chunk(
                choices=[{"index": writing.index, "delta": delta, "finish_reason": None, "logprobs": None}]
            )

    def _delta(self, number: int, text: str | None, logprobs: Object | None = None) -> Object:
        return {"index": number, "delta": {"content": text} if text else {}, "logprobs": logprobs}

    def _choice(self, number: int) -> Object:
        text, tokens = self._given(number)
        message = {"role": "assistant", "content": text, "refusal": None}
        found = self._logprobs(number, tokens)
        return {
            "index": number,
            "message": message,
            "finish_reason": self._done[number].finish,
            "logprobs": found,
        }

    def _logprobs(self, number: int, tokens: Tokens) -> Object | None:
        if self.task.logprobs is None:
            return None
        content = []
        for token, look in tokens:
            if look is not None:
                likely = [self._token(*one) for one in look.alternatives[: self.task.logprobs]]
                content.append({**self._token(token, look.log_probability), "top_logprobs": likely})
        return {"content": content, "refusal": None}

    def _token(self, token: int, value: float) -> Object:
        text = self.task.served.writer.tokenizer.token(token)
        return {"token": text, "logprob": value, "bytes": None if UNKNOWN in text else list(text.encode())}


class TextAnswer(Choices):
    """A text that continues a prompt."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, task: Task, note: Note) -> None:
        super().__init__(task, note)
        self._offsets = [0] * len(task.requests)

    def _delta(self, number: int, text: str | None, logprobs: Object | None = None) -> Object:
        return {"index": number, "text": text or "", "logprobs": logprobs}

    def _piece(self, number: int, text: str, tokens: Tokens) -> Object:
        found = super()._piece(number, text, tokens)
        tokenizer = self.task.served.writer.tokenizer
        self._offsets[number] += sum(len(tokenizer.token(token)) for token, _ in tokens)
        return found

    def _choice(self, number: int) -> Object:
        text, tokens = self._given(number)
        return {
            "index": number,
            "text": text,
            "finish_reason": self._done[number].finish,
            "logprobs": self._logprobs(number, tokens),
        }

    def _logprobs(self, number: int, tokens: Tokens) -> Object | None:
        if self.task.logprobs is None:
            return None
        name, offset = self.task.served.writer.tokenizer.token, self._offsets[number]
        found: Object = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, look in tokens:
            if look is not None:
                likely = look.alternatives[: self.task.logprobs]
                found["tokens"].append(name(token))
                found["token_logprobs"].append(look.log_probability)
                found["top_logprobs"].append({name(other): value for other, value in likely})
                found["text_offset"].append(offset)
                offset += len(name(token))
        return found


class GapsAnswer(Answer):
    """A text whose gaps are filled."""

    prefix, whole_object, chunk_object = "infill", "infill", "infill.chunk"

    def __init__(self, task: Task, note: Note) -> None:
        super().__init__(task, note)
        if task.gaps is None:
            raise ValueError("the task has no gaps")
        self._gaps = task.gaps
        self._texts = [StableText(task.served.writer.tokenizer) for _ in self._gaps.spans]

    def _deltas(self, *, finished: bool) -> list[Object]:
        found = []
        for index, ((start, end), text) in enumerate(zip(self._gaps.spans, self._texts, strict=True)):
            tokens = self.writings[0].settled(start, end)
            over = finished or len(tokens) == end - start
            piece = text.rest(tokens) if over else text.more(tokens)
            if piece:
                self._note.first_text()
                found.append({"index": index, "delta": piece})
        return found

    def _piece(self, number: int, text: str, tokens: Tokens) -> Object:
        return {"gaps": self._deltas(finished=False)}

    def _bare(self, number: int) -> Object:
        return {"gaps": []}

    def pieces(self, number: int, step: Step) -> Iterator[Object]:
        """Gaps fill out of order: what is new may be in any of them."""
        if step.frames:
            yield from super().pieces(number, step)
        elif deltas := self._deltas(finished=False):
            yield self.chunk(gaps=deltas)

    def ending(self, number: int, done: Completion) -> Iterator[Object]:
        """Nothing: the last chunk has it all."""
        return iter(())

    def closing(self, *, usage: bool) -> Iterator[Object]:
        """The whole text."""
        found = {"usage": self.usage()} if usage else {}
        yield self.chunk(seed=self.task.seed, **self._finished(), **found)

    def texts(self) -> list[str]:
        """See `Answer`."""
        return [text.sent for text in self._texts]

    def _finished(self) -> Object:
        self._deltas(finished=True)
        gaps = self._gaps
        filled = self.writings[0].settled(0, len(gaps.canvas))
        text = self.task.served.writer.tokenizer.decode([*gaps.before[1:], *filled, *gaps.after])
        return {
            "text": text,
            "gaps": [{"index": index, "text": text.sent} for index, text in enumerate(self._texts)],
        }


def scored(served_name: str, score: Mapping[str, Any], bits_per_byte: float) -> Object:
    """The answer of /v1/score."""
    error = score["standard_error"]
    return {
        "object": "score",
        "model": served_name,
        "log_likelihood": -score["nats"],
        "exact": score["exact"],
        "standard_error": None if math.isnan(error) else error,
        "tokens": score["tokens"],
        "bytes": score["text_bytes"],
        "bits_per_byte": bits_per_byte,
    }
