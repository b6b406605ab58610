"""Answers that show their steps, counted one by one, and after a colon the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def with_steps(steps: Sequence[str], result: str) -> str:
    """`steps: result`, or the result alone if there is no step to make."""
    return f"{' '.join(steps)}: {result}" if steps else result


def tally(words: Sequence[str], counted: Sequence[bool]) -> str:
    """A list of words, a running number after each that counts, and the total: `cat 1 dog cat 2: 2`."""
    steps, number = [], 0
    for word, counts in zip(words, counted, strict=True):
        number += counts
        steps.append(f"{word} {number}" if counts else word)
    return with_steps(steps, str(number))


def near_tallies(words: Sequence[str], counted: Sequence[bool]) -> list[str]:
    """Tallies that count another word once, or miss one that counts or leave it out."""
    texts = []
    for place, counts in enumerate(counted):
        texts.append(tally(words, [*counted[:place], not counts, *counted[place + 1 :]]))
        if counts:
            texts.append(tally([*words[:place], *words[place + 1 :]], [*counted[:place], *counted[place + 1 :]]))
    return texts


@dataclass(frozen=True)
class Walk:
    """A way along numbers, days or months, each named with how many steps have been made: `8 1 9 2: 9`.

    `start` is where it begins (not named), `names` what comes next, perhaps some more than the `steps` that are to be
    made. What is asked is where they lead (with `unit` after it) or, if `counts`, how many they are.
    """

    start: str
    names: tuple[str, ...]
    steps: int
    counts: bool = False
    unit: str = ""

    def answer(self) -> str:
        """The steps and their result."""
        return self._told(self.names[: self.steps])

    def too_short_or_long(self) -> list[str]:
        """The answers with one step less and with one more; never all steps left out, never the first one made up."""
        if not self.steps:
            return []
        lengths = (self.steps - 1, self.steps + 1)
        return [self._told(self.names[:length]) for length in lengths if 1 <= length <= len(self.names)]

    def slipped(self) -> list[str]:
        """The answers that leave out one name, or say it twice, and so arrive elsewhere or count otherwise."""
        texts = []
        for place in range(self.steps - self.counts):
            left_out = self.names[:place] + self.names[place + 1 :]
            if len(left_out) >= self.steps or self.counts:
                texts.append(self._told(left_out[: self.steps - self.counts]))
        for place in range(self.steps - (not self.counts)):
            twice = self.names[: place + 1] + self.names[place:]
            texts.append(self._told(twice[: self.steps + self.counts]))
        return texts

    def _told(self, made: Sequence[str]) -> str:
        result = str(len(made)) if self.counts else (made[-1] if made else self.start) + self.unit
        return with_steps([f"{name} {number}" for number, name in enumerate(made, 1)], result)
