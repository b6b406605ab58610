"""What is measured, of what: a suite asks a subject, and gives a record an example."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.decoding import Decoding
from nano_llada.core.errors import UserError
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.decode.types import Sampler
from nano_llada.evaluation.metric import Metric
from nano_llada.evaluation.record import Record
from nano_llada.language_model import encode_start, make_sampler

ALL = "all"  # the task that is all tasks of a suite together


@dataclass(frozen=True)
class Subject:
    """A model under test, and one way in which it is made to write."""

    name: str
    checkpoint: Checkpoint
    decoding: Decoding
    decoder: str  # the decoding's name in tables
    run: int = 0  # which of the seeds that share the name

    def sampler(self) -> Sampler:
        """The model as something that writes."""
        return make_sampler(self.checkpoint.model, self.checkpoint.tokenizer.vocab, self.decoding)

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        """Tokens before what is to be written: a user's turn for a model that answers, else the start of a text."""
        tokenizer = self.checkpoint.tokenizer
        if self.checkpoint.card.answers:
            return tuple(encode_prompt(tokenizer, [Message("user", text)]))
        return tuple(encode_start(tokenizer, text))

    def record(
        self,
        suite: Suite,
        task: str,
        language: str,
        item: str,
        values: Mapping[str, float],
        **detail: Any,
    ) -> Record:
        """A record of this subject; a suite that writes nothing has no decoder.

        Raises:
            UserError: for numbers that are none, as broken weights give, or a task called as all of them are.
        """
        numbers = {name: float(value) for name, value in values.items()}
        if broken := [name for name, value in numbers.items() if not math.isfinite(value)]:
            raise UserError(
                f"{suite.name}: {self.name} gives {broken[0]} = {numbers[broken[0]]} for {task}, {item}: are its "
                "weights broken?"
            )
        if task == ALL:
            raise UserError(f"a task or file may not be called {ALL!r}: that is what all of them together are called")
        decoder = self.decoder if suite.writes else ""
        return Record(self.name, decoder, suite.name, task, language, item, numbers, self.run, detail=detail)


class Suite(Protocol):
    """A kind of measurement with its examples. Figures must not depend on batch size, order or padding."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    writes: ClassVar[bool]  # whether it asks for text, so that each way of writing is measured by itself

    def run(self, subject: Subject) -> Iterator[Record]: ...


def language_of(text: str) -> str:
    """zh where at least a third of the letters are Chinese characters, else en."""
    letters = [letter for letter in text if unicodedata.category(letter).startswith("L")]
    chinese = sum("\u3400" <= letter <= "\u9fff" for letter in letters)
    return "zh" if letters and 3 * chinese >= len(letters) else "en"
