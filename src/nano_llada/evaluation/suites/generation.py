"""Generated answers: how often they are right, and how many forward passes they take."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from nano_llada.config.checks import at_least
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.decode.types import Completion, Request
from nano_llada.evaluation.answers import complete
from nano_llada.evaluation.metric import Metric, Ratio, Share
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.questions import Question, read_questions
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import Subject, Suite
from nano_llada.world import SKILLS, examples
from nano_llada.world.verifier import verify


@dataclass(frozen=True)
class Generation(Suite):
    """Each question is asked once, and a program checks the answer if the question has a judge.

    A question that fills the model's whole context is not asked: it counts as wrong, its record has `too_long` 1, and
    it is left out of the figures about decoding. So models with different contexts get the same questions.
    """

    name: ClassVar[str] = "generation"
    title: ClassVar[str] = "Generated answers"
    explanation: ClassVar[str] = (
        "A program checks every answer. Decoding several tokens in a pass saves forward passes."
    )
    metrics: ClassVar[tuple[Metric, ...]] = (
        Share("exact_match", "right"),
        Ratio("tpf", "tokens", "forwards", unit="tokens/pass"),
        Ratio("forwards", "forwards", better="low", unit="passes/answer"),
        Ratio("tokens", "tokens", better="", unit="tokens/answer"),
        Share("ended", "ended"),
    )
    meanings: ClassVar[Mapping[str, str]] = {
        "exact_match": "share of answers that are entirely right",
        "tpf": "tokens per forward pass, the end token not counted: just below 1 for autoregressive decoding",
        "ended": "share of texts that the model ended itself",
    }
    default_for: ClassVar[tuple[str, ...]] = ("skills", "questions")
    writes: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("skills", "questions", "verifier")

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

    @classmethod
    def build(cls, shared: SuiteOptions, own: object, context: int, device: torch.device | str) -> Generation:
        return cls(asked_questions(shared, cls.name), shared.noise_seed, shared.batch_size)

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
            # by name, not by number: the same draws whatever other questions are asked
            seed = derive_seed(self.seed, "generation", question.task, question.item, question.language)
            asked.append(question)
            requests.append(Request(prompt, seed=seed))
        for number, completion in complete(subject.sampler(), requests, self.batch_size):
            yield self._record(subject, asked[number], completion)

    def _record(self, subject: Subject, question: Question, completion: Completion) -> Record:
        text = subject.checkpoint.tokenizer.decode(completion.tokens, specials=False)
        values = {} if question.judge is None else {"right": float(question.judge(text))}
        values |= {
            "tokens": len(completion.tokens),  # up to the end token, which is not counted
            "forwards": completion.forwards,
            "ended": completion.finish == "stop",
            "edits": completion.edits,
            "too_long": 0,
        }
        detail: dict[str, Any] = {"prompt": question.text, "answer": text, "references": list(question.references)}
        if subject.checkpoint.card.denoising:  # left to right the order says nothing
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


def asked_questions(shared: SuiteOptions, suite: str) -> tuple[Question, ...]:
    """The questions of --skills and of --questions. Raises UserError if neither is given or a file is broken."""
    if not shared.skills and not shared.questions:
        raise UserError(f"the suite {suite} needs --skills or --questions")
    if shared.verifier and not shared.questions:
        raise UserError("--verifier judges the answers to --questions: give both, or leave it out")
    skills = SKILLS if shared.skills == ("all",) else shared.skills
    found = list(world_questions(skills, shared.items, shared.noise_seed)) if skills else []
    return (*found, *(read_questions(shared.questions, shared.limit, shared.verifier) if shared.questions else ()))


def encode_question(subject: Subject, question: Question) -> tuple[int, ...]:
    """Tokens before the answer: a conversation for a chat model, else the start of a text."""
    if question.before and subject.checkpoint.card.answers:
        turns = [*question.before, Message("user", question.prompt)]
        return tuple(encode_prompt(subject.checkpoint.tokenizer, turns))
    return subject.encode_prompt(question.text)
