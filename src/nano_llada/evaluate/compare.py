"""AR and diffusion side by side: the same questions, answers checked by program, speed measured in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.data.world import Example
from nano_llada.decode.config import Decoding
from nano_llada.decode.types import Completion, Request, Sampler, collect
from nano_llada.evaluate.answers import Answer, answer_examples, exact_match
from nano_llada.sampling import Writer, make_sampler

LANGUAGES = ("zh", "en")


@dataclass(frozen=True)
class Entry:
    """A model and how it is made to write."""

    name: str
    checkpoint: Checkpoint
    decoding: Decoding


@dataclass(frozen=True)
class Speed:
    """Of writing one text at a time; only tokens up to the end count."""

    tokens_per_second: float
    forwards: float  # a text
    tokens_per_forward: float
    first_seconds: float  # until the first token stood, mean


@dataclass(frozen=True)
class Measured:
    """What one entry did."""

    name: str
    track: str
    answers: list[Answer]
    texts: list[str]  # for prompts without a right answer
    speed: Speed
    parameters: int

    def accuracy(self, skill: str | None = None, language: str | None = None) -> float:
        """Exact match of a skill and language, or of all."""
        return exact_match(self.answers, skill=skill, language=language)


@dataclass(frozen=True)
class Comparison:
    """All entries over the same questions."""

    entries: list[Measured]
    skills: list[str]
    prompts: list[str]
    notes: list[str] = field(default_factory=list)


def compare(
    entries: Sequence[Entry],
    questions: Sequence[Example],
    prompts: Sequence[str] = (),
    *,
    chat: bool = True,
    timed: int = 12,
) -> Comparison:
    """Answer all questions with all entries, continue the prompts, and time `timed` texts one by one."""
    skills = list(dict.fromkeys(question.skill for question in questions))
    measured = []
    for entry in entries:
        writer = Writer(entry.checkpoint)
        sampler = make_sampler(entry.checkpoint.model, entry.checkpoint.tokenizer.vocab, entry.decoding)
        answers = answer_examples(sampler, entry.checkpoint.tokenizer, questions)
        texts = [text.text for text in writer.write(list(prompts), entry.decoding, chat=chat)]
        count = min(timed, len(questions))
        # odd strides, so that both languages, which stand side by side, are timed
        places = sorted({(i * (len(questions) // count) + i % 2) % len(questions) for i in range(count)})
        shown = [questions[place].prompt for place in places] + list(prompts)
        speed = measure_speed(sampler, [Request(writer.encode(prompt, chat=chat)) for prompt in shown])
        parameters = sum(p.numel() for p in entry.checkpoint.model.parameters())
        measured.append(Measured(entry.name, entry.checkpoint.track, answers, texts, speed, parameters))
    return Comparison(measured, skills, list(prompts))


def measure_speed(sampler: Sampler, requests: Sequence[Request]) -> Speed:
    """Write requests one at a time, after one to warm up."""
    done: list[Completion] = []
    for request in [*requests[:1], *requests]:
        done += collect(sampler.stream([request]), 1, sampler.ends)
    done = done[1:]
    tokens, forwards = sum(len(d.tokens) for d in done), sum(d.forwards for d in done)
    seconds = sum(d.seconds for d in done)
    return Speed(
        tokens / max(seconds, 1e-9),
        forwards / len(done),
        tokens / max(forwards, 1),
        sum(d.first_seconds for d in done) / len(done),
    )
