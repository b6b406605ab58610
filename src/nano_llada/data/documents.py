"""From rows to training documents: which texts they hold, and their tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nano_llada.core.batch import Vocabulary
from nano_llada.data.bad_rows import BadRow, BadRows, Row, Unread, Where
from nano_llada.data.chat import Turns, encode_conversation, is_learnt, score_last_turn, split_turns
from nano_llada.data.read import Source, TextSplit, read_rows
from nano_llada.data.rows import Message, find_special, to_messages, to_preference, to_text
from nano_llada.data.tokenizer import EOS, MARKS, MASK, TURN_END, TURN_START, Tokenizer

BATCH = 2**18  # characters of rows that are encoded together
_MARK = re.compile("(" + "|".join(map(re.escape, MARKS)) + ")")


@dataclass(frozen=True)
class Encoding:
    """How rows become documents."""

    format: str  # "text", "chat" or "preference"
    text_field: str = "text"
    turns: Turns = "all"
    txt_split: TextSplit = "file"  # what a document is in a .txt file
    marks: Literal["text", "tokens"] = "text"  # what <|im_start|> and its like are in a text


@dataclass
class Notes:
    """What reading some sources found that is not an error: fields that nothing reads, and marks written as text."""

    unread: Unread = field(default_factory=Unread)
    marked: int = 0  # rows

    def add(self, other: Notes) -> None:
        """What reading other sources found."""
        self.unread.add_counts(other.unread.counts)
        self.marked += other.marked

    def lines(self) -> list[str]:
        """One sentence for each kind; [] if there is nothing to say."""
        found = [self.unread.summary()] if self.unread.counts else []
        if self.marked:
            names = ", ".join(MARKS)
            found.append(
                f"{self.marked:,} row{'s' * (self.marked != 1)} with a mark ({names}) written out, which is read as "
                "ordinary text; for texts, --marks tokens reads the token"
            )
        return found


@dataclass(frozen=True)
class Document:
    """One training document."""

    tokens: list[int]
    scored: list[bool]
    text_bytes: int  # UTF-8 length of the text that is scored: what bits per byte divide by
    where: Where  # the row it is of


def documents(
    sources: Iterable[Source], tokenizer: Tokenizer, encoding: Encoding, bad_rows: BadRows, notes: Notes | None = None
) -> Iterator[Document]:
    """Documents of all sources in order; bad rows go to the policy. Rows are encoded many at a time."""
    notes = Notes() if notes is None else notes
    waiting: list[_Prepared] = []
    size = 0
    for source in sources:
        for row in read_rows(source, encoding.txt_split):
            if isinstance(row, BadRow):
                bad_rows.report(row.where, row.reason)
                continue
            try:
                prepared = _prepare(row, encoding, notes)
            except ValueError as error:
                bad_rows.report(row.where, str(error))
                continue
            waiting.append(prepared)
            size += sum(map(len, prepared.texts))
            if size >= BATCH:
                yield from _encode(waiting, tokenizer, bad_rows)
                waiting, size = [], 0
    yield from _encode(waiting, tokenizer, bad_rows)


@dataclass(frozen=True)
class _Prepared:
    """A row that has been read: all its texts, and its documents once these are encoded."""

    where: Where
    texts: Sequence[str]
    make: Callable[[_Encoded], list[Document]]


class _Encoded:
    """A tokenizer that has encoded some texts already, all at once."""

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        known = list(dict.fromkeys(texts))
        self._ids = dict(zip(known, tokenizer.encode_many(known), strict=True))

    @property
    def vocab(self) -> Vocabulary:
        return self._tokenizer.vocab

    def encode(self, text: str) -> list[int]:
        ids = self._ids.get(text)
        if ids is None:  # such as the heads of turns, which are few
            ids = self._ids[text] = self._tokenizer.encode(text)
        return ids


def _encode(waiting: Sequence[_Prepared], tokenizer: Tokenizer, bad_rows: BadRows) -> Iterator[Document]:
    encoded = _Encoded(tokenizer, (text for prepared in waiting for text in prepared.texts))
    for prepared in waiting:
        try:
            yield from prepared.make(encoded)
        except ValueError as error:
            bad_rows.report(prepared.where, str(error))


def _prepare(row: Row, encoding: Encoding, notes: Notes) -> _Prepared:
    """Raises ValueError with the reason when the row cannot be used."""
    unread = Unread()
    if encoding.format == "text":
        texts = [to_text(row.value, encoding.text_field, unread)]
    elif encoding.format == "preference":
        preference = to_preference(row.value, unread)
        texts = [*(message.content for message in preference.prompt), preference.chosen, preference.rejected]
    else:
        messages = to_messages(row.value, unread)
        texts = [message.content for message in messages]
    for text in texts:
        _refuse_mask(text)
    if encoding.marks == "text":
        notes.marked += any(map(has_mark, texts))
    notes.unread.add(unread.counts)
    if encoding.format == "text":
        parts = [part for part in _MARK.split(texts[0]) if part] if encoding.marks == "tokens" else texts
        return _Prepared(row.where, parts, lambda encoded: [_text_of(row.where, encoded, parts, encoding)])
    if encoding.format == "preference":
        both = [[*preference.prompt, Message("assistant", answer)] for answer in texts[-2:]]
        return _Prepared(row.where, texts, lambda encoded: _pair_of(row.where, encoded, both))
    splits = list(split_turns(messages, encoding.turns))
    return _Prepared(
        row.where, texts, lambda e: [_encode_turns(row.where, e, part, last_only=last) for part, last in splits]
    )


def has_mark(text: str) -> bool:
    """Whether a text holds a mark of documents or turns, written out."""
    return "<|" in text and _MARK.search(text) is not None


def _text_of(where: Where, encoded: _Encoded, parts: Sequence[str], encoding: Encoding) -> Document:
    """A text, of which the parts that are marks are one token each."""
    vocab = encoded.vocab
    marks = {EOS: vocab.eos, TURN_START: vocab.turn_start, TURN_END: vocab.turn_end}
    if encoding.marks == "text":
        marks = {}
    tokens = [vocab.eos]  # gives an AR model something to begin from
    for part in parts:
        tokens += [marks[part]] if part in marks else encoded.encode(part)
    tokens.append(vocab.eos)
    return Document(tokens, [False] + [True] * (len(tokens) - 1), sum(len(part.encode()) for part in parts), where)


def _pair_of(where: Where, encoded: _Encoded, both: Sequence[Sequence[Message]]) -> list[Document]:
    """The chosen and the rejected conversation: both are there, or neither is."""
    chosen, rejected = (_encode_turns(where, encoded, messages, last_only=True) for messages in both)
    if chosen.tokens == rejected.tokens:
        raise ValueError("chosen and rejected are the same answer")
    return [chosen, rejected]


def _encode_turns(where: Where, encoded: _Encoded, messages: Sequence[Message], *, last_only: bool) -> Document:
    tokens, scored = encode_conversation(encoded, messages)
    learnt = messages[-1:] if last_only else messages
    size = sum(len(message.content.encode()) for message in learnt if is_learnt(message))
    return Document(tokens, score_last_turn(scored) if last_only else scored, size, where)


def _refuse_mask(text: str) -> None:
    if find_special(text, (MASK,)):
        raise ValueError(f"the text contains the literal mask token {MASK}")
