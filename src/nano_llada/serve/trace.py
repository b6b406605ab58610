"""Saved traces: how one answer was written, pass by pass. The format is described in docs/studio.md."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from nano_llada.core.errors import UserError
from nano_llada.core.text import decode_text, printable

FORMAT = "nano-llada-trace"
VERSION = 1
MAX_BYTES = 64 * 2**20
MAX_FRAMES = 100_000
MAX_PLACES = 100_000
MAX_TOKENS = 1_000_000
MAX_TEXT = 1_000_000
MAX_ID = 2**31


@dataclass(frozen=True)
class Alternative:
    """A token that could have been written."""

    id: int | None
    text: str
    probability: float | None


@dataclass(frozen=True)
class Token:
    """What an edit inserts at one place; without text: a mask."""

    id: int | None
    text: str | None
    confidence: float | None
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True)
class Change:
    """An edit: ``text[start:start + removed] = inserted``."""

    start: int
    removed: int
    inserted: tuple[Token, ...]
    final: bool


@dataclass(frozen=True)
class Frame:
    """What one forward pass did; pass 0 is the opening."""

    number: int
    milliseconds: float | None  # since the request was sent
    edits: tuple[Change, ...]


@dataclass(frozen=True)
class SavedTrace:
    """One answer and how it was written."""

    model: str
    kind: str
    created: str
    prompt: str
    before: str  # known text in front of the first place, of a text with gaps
    after: str  # and behind the last one
    text: str  # the whole answer, "" if unknown
    ends: frozenset[int]  # ids of tokens that end a text
    finish_reason: str
    seconds: float | None
    decoding: Mapping[str, Any]
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Place:
    """One place of the text at some pass."""

    token: Token | None = None  # None: masked
    number: int | None = None  # the pass that wrote it
    given: bool = False  # known text between gaps, not written
    earlier: tuple[str, ...] = ()  # what was written here before


@dataclass
class Writing:
    """The text as far as it is written."""

    ends: frozenset[int] = frozenset()
    places: list[Place] = field(default_factory=list)
    number: int = 0
    edits: int = 0  # written tokens that were changed, inserted or deleted later

    def apply(self, frame: Frame) -> None:
        """Apply the edits of a pass."""
        self.number = frame.number
        for change in frame.edits:
            self._apply(change, frame.number)

    def _apply(self, change: Change, number: int) -> None:
        end = change.start + change.removed
        self.places += [Place()] * (end - len(self.places))
        opens = any(token.text is None for token in change.inserted)  # then the others are given
        inside = end < len(self.places) and not opens
        old = self.places[change.start : end]
        new = []
        for i, token in enumerate(change.inserted):
            place = old[i] if i < len(old) else Place()
            now = None if token.text is None else token
            before = None if place.token is None else place.token.text
            if before is not None and before != token.text:
                place = replace(place, earlier=(*place.earlier, before))
                self.edits += 1
            elif i >= len(old) and inside:
                self.edits += 1
            if before != token.text:
                place = replace(place, number=number, given=opens and now is not None)
            new.append(replace(place, token=now))
        self.edits += sum(place.token is not None for place in old[len(new) :])
        self.places[change.start : end] = new

    @property
    def shown(self) -> list[Place]:
        """The places before the first end token."""
        for i, place in enumerate(self.places):
            if place.token is not None and place.token.id in self.ends:
                return self.places[:i]
        return self.places

    @property
    def written(self) -> int:
        """Tokens that the model wrote, up to the end."""
        return sum(place.token is not None and not place.given for place in self.shown)


def passes(trace: SavedTrace) -> Iterator[Writing]:
    """The text after each frame; always the same object."""
    writing = Writing(trace.ends)
    for frame in trace.frames:
        writing.apply(frame)
        yield writing


def spelled(places: Sequence[Place], answer: str) -> list[str | None]:
    """The text of each place; None where it is masked.

    A token that is part of a character reads as U+FFFD. Where the whole answer is known and nothing is masked, the
    first token of such a run has its characters and the others none.
    """
    texts = [None if place.token is None else place.token.text for place in places]
    whole = [text for text in texts if text is not None]
    if not answer or len(whole) < len(texts):
        return texts
    found = _aligned(whole, answer)
    return list(found) if found is not None else texts


def _aligned(texts: list[str], answer: str) -> list[str] | None:
    """Texts that join to the answer, or None if the answer is not theirs."""
    out, at, i = list(texts), 0, 0
    while i < len(texts):
        if "\N{REPLACEMENT CHARACTER}" not in texts[i]:
            if not answer.startswith(texts[i], at):
                return None
            at += len(texts[i])
            i += 1
            continue
        begin = i
        while i < len(texts) and "\N{REPLACEMENT CHARACTER}" in texts[i]:
            i += 1
        following = answer.find(texts[i], at + 1) if i < len(texts) else len(answer)
        if following < 0:
            return None
        out[begin:i] = [answer[at:following], *[""] * (i - begin - 1)]
        at = following
    return out


def read_trace(path: Path) -> SavedTrace:
    """A saved trace.

    Raises:
        UserError: if it cannot be read, is no trace, has another version or is damaged or too large; it names the
            place in the file.
    """
    name = printable(str(path))
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{name} is too large for a trace: {size} bytes, at most {MAX_BYTES}")
        text = decode_text(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"cannot read the trace {name}: {error.strerror}") from error
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise UserError(f"{name} is not a trace: its values are nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{name} is not JSON, so it is not a trace: {printable(str(error))}") from error
    return _Reader(name).trace(data)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


@dataclass(frozen=True)
class _Reader:
    """Checks every value; `where` names it as a path from the top of the file."""

    name: str

    def wrong(self, where: str, expected: str) -> UserError:
        return UserError(f"{self.name} is damaged: {where} is not {expected}")

    def record(self, value: Any, where: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(where, "an object")
        return value

    def items(self, value: Any, where: str, most: int) -> list[Any]:
        if not isinstance(value, list):
            raise self.wrong(where, "a list")
        if len(value) > most:
            raise UserError(f"{self.name} is too large: {where} has {len(value)} entries, at most {most}")
        return value

    def text(self, value: Any, where: str, default: str | None = None) -> str:
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise self.wrong(where, f"a text of at most {MAX_TEXT} characters")
        return value

    def whole(self, value: Any, where: str, most: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise self.wrong(where, f"a whole number from 0 to {most}")
        return value

    def number(self, value: Any, where: str, most: float) -> float | None:
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
            raise self.wrong(where, f"a number from 0 to {most:g}")
        return float(value)

    def identity(self, value: Any, where: str) -> int | None:
        return None if value is None else self.whole(value, where, MAX_ID)

    def trace(self, data: Any) -> SavedTrace:
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise UserError(f'{self.name} is not a trace: "format" is not "{FORMAT}". The studio saves traces')
        if type(data.get("version")) is not int or data["version"] != VERSION:
            told = printable(str(data.get("version"))[:20])
            raise UserError(
                f"{self.name} is a trace of version {told}; this nano-llada reads version {VERSION}: use the one that "
                "wrote it, or a newer one"
            )
        frames = self.items(data.get("frames"), "frames", MAX_FRAMES)
        read = tuple(self.frame(frame, f"frames[{i}]") for i, frame in enumerate(frames))
        self.check_sizes(read)
        names = ("model", "kind", "created", "prompt", "before", "after", "text", "finish_reason")
        ends = self.items(data.get("ends", []), "ends", 100)
        return SavedTrace(
            **{name: self.text(data.get(name), name, "") for name in names},
            ends=frozenset(self.whole(end, f"ends[{i}]", MAX_ID) for i, end in enumerate(ends)),
            seconds=self.number(data.get("seconds"), "seconds", 1e9),
            decoding=self.decoding(data.get("decoding", {})),
            frames=read,
        )

    def decoding(self, value: Any) -> Mapping[str, Any]:
        options = self.record(value, "decoding")
        for name, option in options.items():
            plain = option is None or isinstance(option, str | bool | int | float)
            if not plain or (isinstance(option, float) and not math.isfinite(option)):
                raise self.wrong(f"decoding.{printable(name[:40])}", "a number, a text, true, false or null")
        if len(options) > 100:
            raise UserError(f"{self.name} is too large: decoding has {len(options)} entries, at most 100")
        return options

    def frame(self, value: Any, where: str) -> Frame:
        frame = self.record(value, where)
        edits = self.items(frame.get("edits"), f"{where}.edits", MAX_PLACES)
        return Frame(
            self.whole(frame.get("pass"), f"{where}.pass", MAX_ID),
            self.number(frame.get("ms"), f"{where}.ms", 1e12),
            tuple(self.change(edit, f"{where}.edits[{i}]") for i, edit in enumerate(edits)),
        )

    def change(self, value: Any, where: str) -> Change:
        edit = self.record(value, where)
        start = self.whole(edit.get("start"), f"{where}.start", MAX_PLACES)
        removed = self.whole(edit.get("removed"), f"{where}.removed", MAX_PLACES - start)
        inserted = self.items(edit.get("inserted"), f"{where}.inserted", MAX_PLACES)
        tokens = tuple(self.token(token, f"{where}.inserted[{i}]") for i, token in enumerate(inserted))
        return Change(start, removed, tokens, edit.get("final") is True)

    def token(self, value: Any, where: str) -> Token:
        token = self.record(value, where)
        others = self.items(token.get("alternatives") or [], f"{where}.alternatives", 100)
        text = token.get("text")
        return Token(
            self.identity(token.get("id"), f"{where}.id"),
            None if text is None else self.text(text, f"{where}.text"),
            self.number(token.get("confidence"), f"{where}.confidence", 1),
            tuple(self.alternative(other, f"{where}.alternatives[{i}]") for i, other in enumerate(others)),
        )

    def alternative(self, value: Any, where: str) -> Alternative:
        other = self.record(value, where)
        return Alternative(
            self.identity(other.get("id"), f"{where}.id"),
            self.text(other.get("text"), f"{where}.text"),
            self.number(other.get("probability"), f"{where}.probability", 1),
        )

    def check_sizes(self, frames: Sequence[Frame]) -> None:
        """Refuses a text that grows beyond the limits, and passes that are out of order."""
        places = tokens = before = 0
        for i, frame in enumerate(frames):
            if frame.number < before:
                raise self.wrong(f"frames[{i}].pass", f"at least {before}, the pass before it")
            before = frame.number
            for change in frame.edits:
                places = max(places, change.start + change.removed) - change.removed + len(change.inserted)
                tokens += len(change.inserted)
            if places > MAX_PLACES or tokens > MAX_TOKENS:
                raise UserError(
                    f"{self.name} is too large: at frames[{i}] its text has {places} places (at most {MAX_PLACES}) "
                    f"after {tokens} tokens (at most {MAX_TOKENS})"
                )
