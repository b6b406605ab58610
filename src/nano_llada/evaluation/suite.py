"""What is measured, and of what: a suite asks a subject and gives one record for each example."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.decoding import Decoding
from nano_llada.core.errors import UserError
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.decode.types import Sampler
from nano_llada.evaluation.figures import ALL
from nano_llada.evaluation.metric import Metric
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.record import Record
from nano_llada.language_model import encode_start, make_sampler


@dataclass(frozen=True)
class Subject:
    """A model under test, and one way in which it decodes."""

    name: str
    checkpoint: Checkpoint
    decoding: Decoding
    decoder: str  # the decoding's name in tables
    run: int = 0  # which of the seeds that share the name

    def sampler(self) -> Sampler:
        """The model as something that writes."""
        return make_sampler(self.checkpoint.model, self.checkpoint.tokenizer.vocab, self.decoding)

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        """Tokens before what is to be written: a user's turn for a chat model, else the start of a text."""
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
            UserError: for values that are not finite, as broken weights give, or a task with the reserved name "all".
        """
        numbers = {name: float(value) for name, value in values.items()}
        if broken := [name for name, value in numbers.items() if not math.isfinite(value)]:
            raise UserError(
                f"{suite.name}: {self.name} gives {broken[0]} = {numbers[broken[0]]} for {task}, {item}: are its "
                "weights broken?"
            )
        if task == ALL:
            raise UserError(f"a task or file may not be called {ALL!r}: that name means all tasks together")
        decoder = self.decoder if suite.writes else ""
        return Record(self.name, decoder, suite.name, task, language, item, numbers, self.run, detail=detail)


@dataclass(frozen=True)
class NoOptions:
    """For a suite that needs nothing but the shared options."""


class Suite(ABC):
    """A kind of measurement with its examples, and all that commands and reports have to know about it.

    A subclass is a frozen dataclass; its fields are the examples and settings that decide its figures. Figures must
    not depend on batch size, order or padding.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # heading in reports
    explanation: ClassVar[str] = ""  # a sentence under the heading
    metrics: ClassVar[tuple[Metric, ...]]  # the most important one first
    meanings: ClassVar[Mapping[str, str]] = {}  # what they mean, by name
    writes: ClassVar[bool]  # whether it asks for text, so that each decoder is measured
    Options: ClassVar[type] = NoOptions  # a frozen dataclass of command-line options, without torch
    default_for: ClassVar[tuple[str, ...]] = ()  # options that are enough to run it when no suites are named
    reads: ClassVar[tuple[str, ...]] = ()  # which of the shared options `SuiteOptions` it uses

    @classmethod
    @abstractmethod
    def build(cls, shared: SuiteOptions, own: Any, context: int, device: torch.device | str) -> Suite:
        """The suite with its examples.

        Args:
            own: an instance of `Options`.
            context: tokens that all models can see at once.

        Raises:
            UserError: if examples are missing or cannot be read.
            ValueError: for options out of range.
        """

    @abstractmethod
    def run(self, subject: Subject) -> Iterator[Record]:
        """A record for each example. Raises UserError where the subject cannot be measured."""
