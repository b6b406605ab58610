"""Long texts in pieces, so that memory and time do not grow with the longest of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# Encoding takes 100 to 300 bytes of memory for a byte of text: long texts are cut, and few are encoded at once.
PIECE, BATCH = 2**14, 2**18  # characters
LONGEST_PIECE = 64  # characters without a break that training looks at together: its time grows with their square
LONGEST_TOKEN = 32  # bytes; longer ones are rulers of ==== and sentences that occur many times
# Between a letter and a space or mark behind it every usual pre-tokenizer cuts, whatever follows.
_SAFE_CUT = re.compile(r"(?<=[^\W\d_])(?=[ \t\n.,;:!?，。；：！？、])")
_HAN = "\u4e00-\u9fff"
_WORDS = re.compile(rf"(?:[{_HAN}]+\|)+\\p\{{Han\}}")  # what `train_bpe` cuts Chinese text by
_USUAL = re.compile(rf"[\0-\u2e7f\u3000-\u3004\u3008-\u3020{_HAN}\uff00-\uffef]*")  # of \\p{{Han}} only _HAN
_UNBROKEN = re.compile(rf"\S{{{LONGEST_PIECE + 1},}}")


def batches(texts: Sequence[str], cuts: bool) -> Iterator[tuple[list[int], list[str]]]:
    """Pieces of texts, with the number of the text each is from, about BATCH characters at a time."""
    owners: list[int] = []
    pieces: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        for piece in cut_text(text) if cuts and len(text) > PIECE else (text,):
            owners.append(number)
            pieces.append(piece)
            size += len(piece)
            if size >= BATCH or len(pieces) >= 4096:
                yield owners, pieces
                owners, pieces, size = [], [], 0
    if pieces:
        yield owners, pieces


def cut_text(text: str) -> Iterator[str]:
    """A long text in pieces of about PIECE characters that have the same tokens as the whole."""
    start = 0
    while len(text) - start > PIECE:
        cut = _SAFE_CUT.search(text, start + PIECE // 2)
        if cut is None:
            break
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def may_be_cut(plain: dict[str, Any]) -> bool:
    """Whether a text's tokens are those of its pieces: nothing is put before a text, and its parts are apart."""
    if plain.get("normalizer") is not None:
        return False
    first = plain.get("pre_tokenizer")
    if first is None:  # without merges every character is by itself
        return plain["model"]["type"] == "BPE" and not plain["model"]["merges"]
    steps = first["pretokenizers"] if first["type"] == "Sequence" else [first]
    if any(step["type"] not in ("ByteLevel", "Split") for step in steps):
        return False
    return not any(step.get("add_prefix_space") for step in steps)


@dataclass(frozen=True)
class Words:
    """How a text is cut into words whose tokens, one after the other, are those of the text.

    The words of a corpus are few, and each is encoded once: that is faster than the library, which encodes them all.
    Chinese has no spaces; it is cut where the tokenizer's own list of words cuts it, if it was made by `train_bpe`.
    """

    cut: Callable[[str], list[str]]
    plain: dict[str, Any] | None = None
    """tokenizer.json without that list, which is slow: it has the same tokens for words that are `cut` already..."""
    fits: Callable[[str], object] = lambda word: False
    """... unless they have Chinese characters that `cut` does not look at."""


def word_cutter(plain: dict[str, Any]) -> Words | None:
    """For a tokenizer.json; None if such cuts are not known for it (see `may_be_cut`)."""
    first = plain.get("pre_tokenizer")
    if first is None or not may_be_cut(plain):
        return None
    steps = first["pretokenizers"] if first["type"] == "Sequence" else [first]
    splits = [step for step in steps if step["type"] == "Split"]
    words = [step["pattern"].get("Regex", "") for step in splits if step["behavior"] == "Isolated"]
    if len(splits) != 1 or not words or not _WORDS.fullmatch(words[0]):
        return Words(_SAFE_CUT.split)
    pattern = _chinese_words(words[0].split("|")[:-1])

    def cut(text: str) -> list[str]:
        if text.isascii():
            return _SAFE_CUT.split(text)
        parts = (_SAFE_CUT.split(p) if p[0] < "\u4e00" or p[0] > "\u9fff" else (p,) for p in pattern.findall(text))
        return list(itertools.chain.from_iterable(parts))

    others = [step for step in steps if step["type"] != "Split"]
    return Words(cut, plain | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": others}}, _USUAL.fullmatch)


def _chinese_words(words: Sequence[str]) -> re.Pattern[str]:
    """`word|word|...|any other character`, where the words wanted first come first, and stretches without Chinese.

    Words are grouped by their first character: few characters begin one, and the others are found at once.
    """
    groups: dict[str, list[str]] = {}
    for word in words:
        groups.setdefault(word[0], []).append(word[1:])
    begin = "".join(groups)
    grouped = "|".join(f"{first}(?:{'|'.join(rest)})" for first, rest in groups.items())
    return re.compile(f"[^{_HAN}]+|(?![{begin}])[{_HAN}]|{grouped}|[{_HAN}]")


def is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def broken(texts: Iterable[str]) -> Iterator[str]:
    """Texts in which nothing is longer than LONGEST_PIECE characters without a break."""
    for text in texts:
        start = 0
        for run in _UNBROKEN.finditer(text):
            for end in range(run.start() + LONGEST_PIECE, run.end(), LONGEST_PIECE):
                yield text[start:end]
                start = end
        yield text[start:]
