"""Text that will not change, out of tokens that will not change."""

from __future__ import annotations

from collections.abc import Sequence

from nano_llada.data.tokenizer import Tokenizer
from nano_llada.language_model import cut_at

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class StableText:
    """Grows the text of a growing list of tokens, piece by piece; joined, the pieces are the text of all of them.

    Held back until more is known: bytes that may be part of a character, and what may be the beginning of a stop text.

    Args:
        stops: the text ends before the first of them.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._sent = ""
        # tokens that were read, up to the end of a character, and their text; decoding goes on from some tokens before
        self._from = self._read = 0
        self._text = ""

    @property
    def sent(self) -> str:
        """All pieces so far."""
        return self._sent

    def more(self, tokens: Sequence[int]) -> str:
        """The next piece, given all tokens that will not change; they continue those of the call before."""
        count = len(tokens)
        while count > self._read and self._tokenizer.is_byte(tokens[count - 1]):
            count -= 1
        text = self._extended(tokens[self._from : count])
        return self._send(text[: len(text) - self._doubtful(text)])

    def _extended(self, window: Sequence[int]) -> str:
        """The text up to the end of a window of tokens, without what may be part of a character."""
        fresh = len(window) - (self._read - self._from)
        if not fresh:
            return self._text
        before, after = (self._tokenizer.decode(some) for some in (window[:-fresh], window))
        whole = after.rstrip(UNKNOWN)
        text = self._text + whole[len(before) :]
        if whole == after:
            self._text, self._from, self._read = text, self._read, self._read + fresh
        return text

    def rest(self, tokens: Sequence[int]) -> str:
        """The last piece, given all tokens of the finished text."""
        return self._send(self._tokenizer.decode(tokens))

    def _send(self, text: str) -> str:
        text = cut_at(text, self._stops)
        piece = text[len(self._sent) :]
        self._sent += piece
        return piece

    def _doubtful(self, text: str) -> int:
        """Characters at the end that may begin a stop text."""
        return max(
            (size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0
        )
