"""A suite of your own in one file: does a model end its answer with the word that the prompt asks for?

    nano-llada eval runs/sft --suites examples/own_suite.py:LastWord --words red blue --own-items 8
    nano-llada report runs/eval/... --suites examples/own_suite.py:LastWord

The class says everything: its options become options of the command, its metrics and words appear in the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from nano_llada.decode.types import Request
from nano_llada.evaluation.answers import complete
from nano_llada.evaluation.metric import Metric, Ratio, Share
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import Subject, Suite

PROMPTS = {"en": "End your answer with the word {}.", "zh": "请用“{}”这个词结束你的回答。"}


@dataclass(frozen=True)
class LastWordOptions:
    """Options of this suite alone. Their names must differ from those of all other suites."""

    words: tuple[str, ...] = ("red", "blue", "green")
    """Words to ask for."""
    own_items: int = 4
    """Questions for each word and language."""


@dataclass(frozen=True)
class LastWord(Suite):
    """Share of answers that end with the right word, and how long the answers are."""

    name: ClassVar[str] = "last_word"  # in records, tables and file names
    title: ClassVar[str] = "Ends with the right word"
    explanation: ClassVar[str] = "The prompt names a word, and the answer has to end with it."
    metrics: ClassVar[tuple[Metric, ...]] = (
        Share("ends_right", "right"),  # the value `right` of each record is 0 or 1
        Ratio("characters", "characters", better="", unit="characters/answer"),
    )
    meanings: ClassVar[Mapping[str, str]] = {"ends_right": "share of answers whose end is the word asked for"}
    writes: ClassVar[bool] = True  # it generates text, so that every decoder is measured
    Options: ClassVar[type] = LastWordOptions

    # the fields decide the figures: other values are another protocol, which reports refuse to mix
    words: tuple[str, ...]
    items: int
    seed: int = 0
    batch_size: int = 32  # does not change figures, and is not part of the protocol

    @classmethod
    def build(cls, shared: SuiteOptions, own: LastWordOptions, context: int, device: torch.device | str) -> LastWord:
        """From the options of the command: `shared` by all suites, and this suite's own."""
        return cls(own.words, own.own_items, shared.noise_seed, shared.batch_size)

    def run(self, subject: Subject) -> Iterator[Record]:
        """A record for each word, language and number."""
        asked = [(word, language, i) for word in self.words for language in PROMPTS for i in range(self.items)]
        prompts = [subject.encode_prompt(PROMPTS[language].format(word)) for word, language, _ in asked]
        requests = [Request(prompt, seed=self.seed + i) for i, prompt in enumerate(prompts)]
        for number, completion in complete(subject.sampler(), requests, self.batch_size):
            word, language, i = asked[number]
            text = subject.checkpoint.tokenizer.decode(completion.tokens, specials=False)
            right = text.rstrip(".。 \n").endswith(word)
            values = {"right": right, "characters": len(text)}
            yield subject.record(self, word, language, str(i), values, answer=text)
