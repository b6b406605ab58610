"""Long texts in pieces, so that memory and time do not grow with the longest of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# Encoding takes 100 to 300 bytes of memory for a byte of text: long texts are cut, and few are encoded at once.
PIECE, BATCH = 2**14, 2**18  # characters
LONGEST_PIECE = 64  # characters without a break that training looks at together: its time grows with their square
LONGEST_TOKEN = 32  # bytes; longer ones are rulers of ==== and sentences that occur many times
# Between a letter and a space or mark behind it every usual pre-tokenizer cuts, whatever follows.
_SAFE_CUT = re.compile(r"(?<=[^\W\d_])(?=[ \t\n.,;:!?，。；：！？、])")
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
