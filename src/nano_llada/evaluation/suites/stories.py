"""Stories: held-out conversations of the story world, each answer checked by the program that knows the world."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from nano_llada.config.checks import at_least
from nano_llada.core.errors import UserError
from nano_llada.data.rows import Message
from nano_llada.decode.types import Completion
from nano_llada.evaluation.metric import Metric, Ratio, Share
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.questions import Question
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites.generation import Generation
from nano_llada.world.stories.answers import passes
from nano_llada.world.stories.check import check
from nano_llada.world.stories.tasks import Conversation, conversations


@dataclass(frozen=True)
class StoriesOptions:
    """Stories."""

    stories: int = 0
    """Held-out conversations about stories of the story world, half in each language, for stories."""

    def __post_init__(self) -> None:
        at_least(self, 0, "stories")


@dataclass(frozen=True)
class Stories(Generation):
    """Every turn of held-out conversations is asked once, after the right answers to the turns before it.

    A task is right if its check passes: an exact answer, a coherent story that fulfils the request, a summary that
    claims only what the story states, a retelling with the same events. Whole stories are also read by the verifier
    alone, whatever was asked for: coherent, a contradiction, or a sentence that it does not understand.
    """

    name: ClassVar[str] = "stories"
    title: ClassVar[str] = "Stories"
    explanation: ClassVar[str] = "A program that knows the story world reads every answer back into events."
    metrics: ClassVar[tuple[Metric, ...]] = (
        Share("exact_match", "right"),
        Share("coherence", "coherent"),
        Share("contradictions", "contradiction", better="low"),
        Share("not_understood", "unknown", better="low"),
        Ratio("tpf", "tokens", "forwards", unit="tokens/pass"),
        Ratio("tokens", "tokens", better="", unit="tokens/answer"),
        Share("ended", "ended"),
    )
    meanings: ClassVar[Mapping[str, str]] = {
        "exact_match": "share of answers that pass the check of their task",
        "coherence": "share of stories in which every sentence is understood and none contradicts those before",
        "contradictions": "share of stories that contradict themselves",
        "not_understood": "share of stories with a sentence outside the grammar of the story world",
        "tpf": "tokens per forward pass, the end token not counted: just below 1 for autoregressive decoding",
        "ended": "share of texts that the model ended itself",
    }
    Options: ClassVar[type] = StoriesOptions
    default_for: ClassVar[tuple[str, ...]] = ("stories",)
    reads: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def build(cls, shared: SuiteOptions, own: Any, context: int, device: torch.device | str) -> Stories:
        if not own.stories:
            raise UserError("the suite stories needs --stories")
        found = conversations("test", own.stories, shared.noise_seed)
        asked = tuple(question for number, talk in enumerate(found) for question in questions(talk, number))
        return cls(asked, shared.noise_seed, shared.batch_size)

    def _record(self, subject: Subject, question: Question, completion: Completion) -> Record:
        record = super()._record(subject, question, completion)
        answer_check = json.loads(question.verifier)
        if answer_check["kind"] not in ("story", "retelling"):
            return record
        answer = str(record.detail["answer"]).strip()
        parts = (answer_check.get("starts", ""), answer, answer_check.get("tail", ""))
        text = ("" if question.language == "zh" else " ").join(part for part in parts if part)
        report = check(text, answer_check["language"])
        told = {
            "coherent": float(bool(answer) and report.coherent),
            "contradiction": float(report.verdict == "contradiction"),
            "unknown": float(report.verdict == "not understood"),
        }
        return replace(record, values={**record.values, **told}, detail={**record.detail, "reading": report.describe()})


def questions(talk: Conversation, number: int) -> Iterator[Question]:
    """Each turn of a conversation as a question; the turns before it are answered as the data answers them."""
    before: list[Message] = []
    for turn, exchange in enumerate(talk.exchanges):
        yield Question(
            exchange.user,
            talk.language,
            exchange.task,
            f"{number}.{turn}",
            functools.partial(passes, exchange.check),
            (exchange.assistant,),
            tuple(before),
            json.dumps(exchange.check, ensure_ascii=False, sort_keys=True),
        )
        before += [Message("user", exchange.user), Message("assistant", exchange.assistant)]
