"""Exact match on the small world: every answer is checked by its own verifier."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.types import Completion, Request, Sampler, collect
from nano_llada.training import parallel
from nano_llada.world import Example
from nano_llada.world.verifier import verify


@dataclass(frozen=True)
class Answer:
    """One question, what the model wrote, and whether that is right."""

    example: Example
    text: str
    right: bool
    completion: Completion


def answer_examples(
    sampler: Sampler, tokenizer: Tokenizer, examples: Sequence[Example], batch_size: int = 64
) -> list[Answer]:
    """Answers in the order of the examples; similar lengths are written together, which changes no answer."""
    prompts = [tuple(encode_prompt(tokenizer, [Message("user", e.prompt)])) for e in examples]
    requests = [Request(prompt, seed=i) for i, prompt in enumerate(prompts)]
    answers: dict[int, Answer] = {}
    for i, completion in complete(sampler, requests, batch_size):
        text = tokenizer.decode(completion.tokens, specials=False)
        answers[i] = Answer(examples[i], text, verify(examples[i].verifier, text), completion)
    return [answers[i] for i in range(len(examples))]


def complete(sampler: Sampler, requests: Sequence[Request], batch_size: int) -> Iterator[tuple[int, Completion]]:
    """Each request's number and what was written for it; those of similar lengths are written together, short first."""
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt) + len(requests[i].suffix))
    chunks = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]

    def write(chunk: list[int]) -> list[Completion]:
        return list(collect(sampler.stream([requests[i] for i in chunk]), len(chunk), sampler.ends))

    for chunk, done in parallel.shared_out(chunks, write):  # whole chunks: each is computed as one process would
        yield from zip(chunk, done, strict=True)


def exact_match(answers: Iterable[Answer], *, skill: str | None = None, language: str | None = None) -> float:
    """Share of right answers, of one skill or language where given; nan of none."""
    chosen = [
        answer.right
        for answer in answers
        if skill in (None, answer.example.skill) and language in (None, answer.example.language)
    ]
    return sum(chosen) / len(chosen) if chosen else float("nan")
