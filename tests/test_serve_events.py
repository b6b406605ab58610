"""Text that is given out never changes: over random tokens, random edits, and texts that are cut off at any moment."""

from __future__ import annotations

import functools
import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_llada.core.pattern import AttentionPattern
from nano_llada.data.tokenizer import BUNDLED_TOKENIZER, Tokenizer, train_characters
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.proposal import forbid
from nano_llada.decode.types import Edit, Event, Request, Trace
from nano_llada.language_model import cut_at
from nano_llada.serve.events import Writing
from nano_llada.serve.text import UNKNOWN, StableText
from serving import CARDS, LETTERS, writers


@functools.cache
def tokenizer(name: str) -> Tokenizer:
    """One whose bytes are tokens of their own, and one whose tokens are parts of UTF-8."""
    return train_characters([LETTERS]) if name == "characters" else Tokenizer.load(BUNDLED_TOKENIZER)


NAMES = st.sampled_from(["characters", "bytes"])
STOPS = st.lists(st.sampled_from(["a", "ab", "你", "你好", "aba", UNKNOWN, "<|im"]), max_size=3)
TEXTS = st.text(alphabet="ab 你好é🙂", max_size=12)


@st.composite
def token_lists(draw, words: Tokenizer) -> list[int]:
    """Tokens of texts, and any others between them."""
    found = []
    for text in draw(st.lists(TEXTS, max_size=3)):
        found += words.encode(text)
        found += draw(st.lists(st.integers(0, words.vocab.size - 1), max_size=3))
    return found


@settings(max_examples=150, deadline=None)
@given(st.data(), NAMES, STOPS)
def test_pieces_of_a_text_are_the_text(data, name, stops):
    words = tokenizer(name)
    tokens = data.draw(token_lists(words))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=6)))
    text = StableText(words, stops)
    pieces = [text.more(tokens[:cut]) for cut in cuts]
    pieces.append(text.rest(tokens))
    assert "".join(pieces) == text.sent == cut_at(words.decode(tokens), stops)


def test_what_may_still_change_is_held_back():
    characters = tokenizer("characters")
    smile = characters.encode("🙂")
    assert len(smile) == 4
    text = StableText(characters)
    assert [text.more(characters.encode("a") + smile[:count]) for count in range(5)] == ["a", "", "", "", ""]
    assert text.more(characters.encode("a🙂b")) == "🙂b"
    text = StableText(characters, ["cat"])
    assert [text.more(characters.encode(said)) for said in ("a c", "a ca", "a can", "a can c")] == [
        "a ",
        "",
        "can",
        " ",
    ]
    assert text.rest(characters.encode("a can cat go")) == ""


class Author:
    """Changes a text at random, but never what it has called final."""

    def __init__(self, draw, words: Tokenizer) -> None:
        self.draw, self.words = draw, words
        self.tokens: list[int | None] = []
        self.final: list[bool] = []

    def token(self) -> int:
        ids = st.sampled_from([*self.words.encode("ab你好🙂 "), *self.words.vocab.ends])
        return self.draw(ids)

    def edit(self) -> Edit | None:
        """One edit, made here too."""
        loose = 1 + max((i for i, final in enumerate(self.final) if final), default=-1)  # nothing final from here on
        free = [i for i, final in enumerate(self.final) if not final]
        kind = self.draw(st.sampled_from(["open", "write", "write", "write", "change", "insert", "delete", "settle"]))
        if kind == "open":
            return self.make(len(self.tokens), 0, [None] * self.draw(st.integers(1, 4)), final=False)
        if kind == "insert":
            place = self.draw(st.integers(loose, len(self.tokens)))
            return self.make(place, 0, [self.token()], final=False)
        if not free:
            return None
        place = self.draw(st.sampled_from(free))
        if kind == "delete":
            return self.make(place, 1, [], final=False) if place >= loose else None
        if kind == "settle":
            known = self.tokens[place]
            return None if known is None else self.make(place, 1, [known], final=True)
        if (self.tokens[place] is None) != (kind == "write"):
            return None
        return self.make(place, 1, [self.token()], final=self.draw(st.booleans()))

    def make(self, start: int, count: int, inserted: list[int | None], *, final: bool) -> Edit:
        removed = tuple(self.tokens[start : start + count])
        self.tokens[start : start + count] = inserted
        self.final[start : start + count] = [final] * len(inserted)
        return Edit(start, removed, tuple(inserted), final)


def random_edits(met: Counter[str], data, name: str, stops: list[str], frames: bool) -> None:
    """One text, from its first event to its last."""
    words = tokenizer(name)
    author, writing = Author(data.draw, words), Writing(0, words, stops, frames=frames)
    shown: list[int | None] = []  # the text as one who follows the frames has it
    pieces, committed, trace = [], 0, Trace()
    passes = data.draw(st.integers(1, 14))
    for number in range(1, passes + 1):
        if number == 1 and data.draw(st.booleans()):
            edits = [author.make(0, 0, [None] * data.draw(st.integers(1, 6)), final=False)]
        else:
            edits = []
        edits += [edit for _ in range(data.draw(st.integers(0, 3))) if (edit := author.edit()) is not None]
        last = number == passes
        reason = data.draw(st.sampled_from(["stop", "length", "cancelled", "failed"])) if last else None
        event = Event(7, tuple(edits), number, reason)
        trace.apply(event)
        met["changes after text was given out"] += bool(writing.text and (event.changes or event.writes))
        step = writing.apply(event)
        pieces.append(writing.more())
        assert bool(step.frames) == frames
        for frame in step.frames:
            for edit in frame["edits"]:
                inserted = [place["id"] for place in edit["inserted"]]
                removed = shown[edit["start"] : edit["start"] + edit["removed"]]
                assert edit["start"] >= committed or removed == inserted
                shown[edit["start"] : edit["start"] + edit["removed"]] = inserted
            assert frame["committed"] >= committed
            assert frame["length"] == len(shown)
            committed = frame["committed"]
            assert None not in shown[:committed]
        assert not frames or shown == author.tokens
        assert writing.text == "".join(pieces)
        if step.done is None:  # text is given out only of what comes before anything hidden
            solid = itertools.takewhile(lambda token: token not in (None, *words.vocab.ends), author.tokens)
            assert cut_at(words.decode(list(solid)), stops).startswith(writing.text)
    met["text before the end"] += any(pieces[:-1])
    met["cut off"] += reason in ("cancelled", "failed")
    if reason in ("stop", "length"):
        done = trace.completion(words.vocab.ends, 0, 0)
        assert step.done == done
        assert "".join(pieces) == cut_at(words.decode(done.tokens), stops)
    else:
        assert step.done is None


def test_committed_text_never_retracts():
    met: Counter[str] = Counter()

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(st.data(), NAMES, STOPS, st.booleans())
    def all_of_them(data, name, stops, frames):
        random_edits(met, data, name, stops, frames)

    all_of_them()
    assert met["text before the end"] > 20
    assert met["cut off"] > 20
    assert met["changes after text was given out"] > 10


@pytest.mark.parametrize("name", [name for name in CARDS if name != "tri"])
def test_looking_changes_nothing_and_sees_what_the_model_computes(name):
    writer = writers((name,))[name]
    vocab, decoding = writer.tokenizer.vocab, writer.decoding()
    prompt = writer.encode("a有 cat", chat=True)
    plain = list(BatchSampler(writer.model, vocab, decoding).stream([Request(prompt)]))
    watched = list(BatchSampler(writer.model, vocab, decoding).stream([Request(prompt, watch=2)]))
    edits = [[event.edits for event in step] for step in watched]
    assert edits == [[event.edits for event in step] for step in plain]
    assert not any(event.looks for step in plain for event in step)
    (first,) = watched[0]
    # the first pass by hand
    masks = {"ar": 0, "canvas": decoding.max_new_tokens}.get(name, 4 - len(prompt) % 4)
    tokens = torch.tensor([[*prompt, *[vocab.mask] * masks]])
    blocks = torch.arange(tokens.shape[1])[None] // 4
    patterns = {"ar": AttentionPattern("causal"), "canvas": AttentionPattern("full")}
    pattern = patterns.get(name, AttentionPattern("block_causal", torch.zeros_like(blocks), blocks))
    with torch.no_grad():
        logits = writer.model(tokens, pattern)[0]
    expected = forbid(logits, vocab).log_softmax(-1)
    assert [look.place for look in first.looks] == ([0] if name == "ar" else list(range(masks)))
    for look in first.looks:
        row = expected[len(prompt) + look.place - (name == "ar")]
        assert look.log_probability == pytest.approx(float(row[look.token]), abs=1e-5)
        values, ids = row.topk(2)
        assert [token for token, _ in look.alternatives] == ids.tolist()
        assert [value for _, value in look.alternatives] == pytest.approx(values.tolist(), abs=1e-5)


def test_a_text_that_does_not_fit_its_edits_is_an_error():
    writing = Writing(0, tokenizer("characters"))
    with pytest.raises(ValueError, match="does not fit"):
        writing.apply(Event(0, (Edit(0, (3,), (4,), final=True),), 1))
