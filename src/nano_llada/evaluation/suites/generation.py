"""Questions answered by writing: how often that is right, and how many forward passes it takes."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from nano_llada.config.checks import at_least
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.decode.types import Completion, Request
from nano_llada.evaluation.answers import complete
from nano_llada.evaluation.judge import Question
from nano_llada.evaluation.metric import Metric, Ratio, Share
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import Subject
from nano_llada.world import examples, verify


@dataclass(frozen=True)
class Generation:
    """Each question is asked once, and a program judges the answer, if the question has a judge.

    A question that fills the model's whole context is not asked: it counts as wrong, its record says `too_long` 1, and
    it has no part in the figures about writing. So models with different contexts are asked the same.
    """

    name: ClassVar[str] = "generation"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Share("exact_match", "right"),
        Ratio("tpf", "tokens", "forwards"),
        Ratio("forwards", "forwards", better="low"),
        Ratio("tokens", "tokens", better=""),
        Share("ended", "ended"),
    )
    writes: ClassVar[bool] = True

    questions: Sequence[Question]
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size")
        if not self.questions:
            raise ValueError("questions must be at least one")
        names = [(question.task, question.item, question.language) for question in self.questions]
        if len(set(names)) < len(names):
            raise ValueError("questions must differ in task, item or language")

    def run(self, subject: Subject) -> Iterator[Record]:
        """A record a question, as they are answered: short questions first."""
        context = subject.checkpoint.model.config.max_length
        asked: list[Question] = []
        requests: list[Request] = []
        for question in self.questions:
            prompt = encode_question(subject, question)
            if len(prompt) >= context:
                yield self._too_long(subject, question, len(prompt))
                continue
            # named, not numbered in the order given: the same draws in whatever company a question is asked
            seed = derive_seed(self.seed, "generation", question.task, question.item, question.language)
            asked.append(question)
            requests.append(Request(prompt, seed=seed))
        for number, completion in complete(subject.sampler(), requests, self.batch_size):
            yield self._record(subject, asked[number], completion)

    def _record(self, subject: Subject, question: Question, completion: Completion) -> Record:
        text = subject.checkpoint.tokenizer.decode(completion.tokens, specials=False)
        values = {} if question.judge is None else {"right": float(question.judge(text))}
        values |= {
            "tokens": len(completion.tokens),  # none behind the end counts, nor the end itself
            "forwards": completion.forwards,
            "ended": completion.finish == "stop",
            "edits": completion.edits,
            "too_long": 0,
        }
        detail: dict[str, Any] = {"prompt": question.text, "answer": text, "references": list(question.references)}
        if subject.checkpoint.card.denoising:  # left to right there is nothing to see
            pieces = [subject.checkpoint.tokenizer.decode([token]) for token in completion.tokens]
            detail |= {"pieces": pieces, "order": completion.order}
        return subject.record(self, question.task, question.language, question.item, values, **detail)

    def _too_long(self, subject: Subject, question: Question, tokens: int) -> Record:
        values = {} if question.judge is None else {"right": 0}
        values["too_long"] = 1
        detail = {"prompt": question.text, "prompt_tokens": tokens, "references": list(question.references)}
        return subject.record(self, question.task, question.language, question.item, values, **detail)


def world_questions(skills: Sequence[str], items: int, seed: int = 0) -> list[Question]:
    """`items` held-out questions of each skill of the small world, each in Chinese and in English.

    Raises:
        UserError: for no or an unknown skill, or fewer than 1 item.
    """
    if not skills or items < 1:
        raise UserError(f"nothing to ask: {len(skills)} skills and {items} questions of each; both must be at least 1")
    return [
        Question(
            example.prompt,
            example.language,
            skill,
            example.pair,
            functools.partial(verify, example.verifier),
            (example.answer,),
            verifier=json.dumps(example.verifier.to_json(), ensure_ascii=False),
        )
        for skill in dict.fromkeys(skills)
        for example in examples(skill, "test", items, seed)
    ]


def encode_question(subject: Subject, question: Question) -> tuple[int, ...]:
    """Tokens before the answer: a conversation for a model that answers, else the start of a text."""
    if question.before and subject.checkpoint.card.answers:
        turns = [*question.before, Message("user", question.prompt)]
        return tuple(encode_prompt(subject.checkpoint.tokenizer, turns))
    return subject.encode_prompt(question.text)
