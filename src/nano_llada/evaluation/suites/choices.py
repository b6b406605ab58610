"""Multiple choice without writing: which of the answers that a question offers a model finds the likeliest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.checks import at_least
from nano_llada.core.batch import TokenBatch
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.data.bad_rows import Row
from nano_llada.data.rows import kind_of, to_text
from nano_llada.evaluation.items import read_items, row_language
from nano_llada.evaluation.likelihood import ScoredRow, row_batches
from nano_llada.evaluation.metric import Metric, Ratio, Share
from nano_llada.evaluation.options import SuiteOptions, given
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import Subject, Suite
from nano_llada.objectives.denoising import Reading
from nano_llada.objectives.likelihood import bound_is_exact, bound_scores, exact_scores
from nano_llada.training import parallel

TIE = 1e-6  # share of a score by which rounding may change it from one batch size to another


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question and possible answers, one of which is right."""

    question: str
    choices: tuple[str, ...]
    answer: int  # which choice is right, from 0
    language: str  # zh or en
    task: str  # what the row calls itself, or its file
    item: str  # which one of the file: the row's id, or its number


def read_choices(sources: Sequence[str], limit: int | None = None) -> list[ChoiceQuestion]:
    """The first `limit` questions of each file, from rows of question, choices and answer (0, 1, ... or A, B, ...).

    Rows may have an `id`, the same for one question's wordings in two languages, a `language`, and a `task` (or else
    `source`) that is not called as the file is.

    Raises:
        UserError: with file and line for an invalid row or a repeated id; if there is no row.
    """
    seen: set[tuple[str, str, str]] = set()

    def question(given: Row, file: str, number: str) -> ChoiceQuestion:
        row = given.value
        text, choices = to_text(row, "question"), _choices(row.get("choices"))
        name = row.get("id", number)
        if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
            raise ValueError(f"id is {kind_of(name)}, expected text or a number")
        language = row_language(row, f"{text} {' '.join(choices)}")
        task = row.get("task", row.get("source", file))
        if not isinstance(task, str) or not task:
            raise ValueError(f"task is {kind_of(task)}, expected text")
        if (task, language, str(name)) in seen:
            raise ValueError(f"id {name!r} occurs twice in language {language} of task {task!r}")
        seen.add((task, language, str(name)))
        answer = _answer(row.get("answer"), len(choices))
        return ChoiceQuestion(text, choices, answer, language, task, str(name))

    return read_items(sources, question, limit)


@dataclass(frozen=True)
class ChoicesOptions:
    """Multiple choice."""

    choices: tuple[str, ...] = ()
    """Multiple-choice questions, JSON lines, for choices."""


@dataclass(frozen=True)
class Choices(Suite):
    """log p(choice | question) of every choice: exact for an autoregressive model, its bound for a diffusion model.

    The scored event is the text that the model would have to generate, the same for both tracks. For a base model: the
    tokens of the choice after the question, separated by a space unless one side is Chinese or has one. For a chat
    model: the assistant's turn with its end token, so that the answer is this choice and nothing more; a diffusion
    model that was trained on answers of a fixed length is also scored on the padding after it, as in training.
    `accuracy_norm` divides the score by the bytes of the choice alone.
    The choices of a question share their masks as far as their lengths allow, so most of the noise cancels.

    Raises:
        ValueError: for options out of range.
    """

    name: ClassVar[str] = "choices"
    title: ClassVar[str] = "Multiple choice"
    explanation: ClassVar[str] = "The model scores every choice; the one with the highest likelihood is its answer."
    metrics: ClassVar[tuple[Metric, ...]] = (
        Share("accuracy_sum", "right_sum"),
        Share("accuracy_norm", "right_norm"),
        Ratio("chance", "chance", better="", unit="fraction"),
    )
    meanings: ClassVar[Mapping[str, str]] = {
        "accuracy_sum": "share of questions whose right choice has the highest total log-likelihood",
        "accuracy_norm": "the same with log-likelihoods divided by the length of the choice in bytes",
        "chance": "expected accuracy of a random guess",
    }
    default_for: ClassVar[tuple[str, ...]] = ("choices",)
    writes: ClassVar[bool] = False
    Options: ClassVar[type] = ChoicesOptions

    questions: tuple[ChoiceQuestion, ...]
    draws: int = 32  # of the noise; of a single one the error would not be known
    seed: int = 0
    batch_size: int = 16  # choices computed at once; changes no figure

    def __post_init__(self) -> None:
        if not self.questions:
            raise ValueError("no questions to measure on")
        at_least(self, 2, "draws")
        at_least(self, 1, "batch_size")

    @classmethod
    def build(cls, shared: SuiteOptions, own: ChoicesOptions, context: int, device: torch.device | str) -> Choices:
        questions = tuple(read_choices(given(own.choices, cls.name, "--choices"), shared.limit))
        return cls(questions, draws=4 * shared.draws, seed=shared.noise_seed, batch_size=shared.batch_size)

    def run(self, subject: Subject) -> Iterator[Record]:
        """A record a question. Raises UserError where a choice alone is longer than the model's context."""
        encoded = [encode_choices(subject, question) for question in self.questions]
        rows = [row for some, _ in encoded for row in some]
        scores: dict[int, Tensor] = {}
        parts = row_batches(subject.checkpoint, rows, self.batch_size)
        for (names, _), found in parallel.shared_out(parts, lambda part: self._scores(subject.checkpoint, part[1])):
            scores |= dict(zip(names, found, strict=True))
        first = 0
        for question, (some, dropped) in zip(self.questions, encoded, strict=True):
            drawn = [scores[first + i] for i in range(len(some))]
            first += len(some)
            values, detail = judge(question, drawn)
            yield subject.record(
                self, question.task, question.language, question.item, values, **detail, dropped_tokens=dropped
            )

    @torch.no_grad()
    def _scores(self, checkpoint: Checkpoint, batch: TokenBatch) -> list[Tensor]:
        """Estimates of each row's log-likelihood, (draws,) float64, or a single one where it is exact."""
        if checkpoint.card.autoregressive:
            return list(exact_scores(checkpoint.model, batch)[:, None].cpu())
        size = checkpoint.card.block_size
        exact = bound_is_exact(batch, size)
        draws = 1 if bool(exact.all()) else self.draws
        vocab, reading = checkpoint.tokenizer.vocab, Reading.of(checkpoint.card)
        found = bound_scores(
            checkpoint.model, batch, vocab, draws=draws, seed=self.seed, block_size=size, reading=reading
        )
        return [row[:1] if one else row for row, one in zip(found.T.cpu(), exact.tolist(), strict=True)]


def encode_choices(subject: Subject, question: ChoiceQuestion) -> tuple[list[ScoredRow], int]:
    """A row for each choice, and how many of the question's first tokens are left out, of all rows, to make room.

    Raises:
        UserError: where the longest choice does not fit the model's context even without the question.
    """
    checkpoint = subject.checkpoint
    turn = checkpoint.card.answers
    asked, *offered = (text.strip() if turn else text for text in (question.question, *question.choices))
    if not turn:
        offered = [_apart(asked, text) for text in offered]
    prompt, frame = subject.encode_prompt(asked), subject.encode_prompt("")
    answers = [_answer_tokens(checkpoint, text) for text in offered]
    dropped = max(0, len(prompt) + max(map(len, answers)) - checkpoint.model.config.max_length)
    if dropped > len(prompt) - len(frame):
        raise UserError(
            f"{question.task}, question {question.item}: a choice takes {max(map(len, answers))} tokens, which do not "
            f"fit the model's context of {checkpoint.model.config.max_length}; leave this question out"
        )
    begin = next((i for i, pair in enumerate(zip(prompt, frame, strict=False)) if pair[0] != pair[1]), len(frame))
    prompt = prompt[:begin] + prompt[begin + dropped :]
    number = derive_seed(question.task, question.language, question.item)
    return [ScoredRow((*prompt, *answer), len(prompt), number) for answer in answers], dropped


def judge(question: ChoiceQuestion, drawn: Sequence[Tensor]) -> tuple[dict[str, float], dict[str, Any]]:
    """Values and detail of a record, from estimates (draws,) or (1,) of each choice's log-likelihood.

    `margin` is how far, in nats, the likeliest choice is ahead of the next; `error` its standard error over the draws,
    in which what all choices have in common has cancelled. Of equals the first is picked.
    """
    scores = [float(some.mean()) for some in drawn]
    lengths = [len(choice.encode()) for choice in question.choices]
    picked = _first_best(scores)
    picked_norm = _first_best([score / length for score, length in zip(scores, lengths, strict=True)])
    others = [i for i in range(len(scores)) if i != picked]
    second = others[_first_best([scores[i] for i in others])]
    values = {
        "right_sum": float(picked == question.answer),
        "right_norm": float(picked_norm == question.answer),
        "chance": 1 / len(scores),
        "margin": scores[picked] - scores[second],
        "error": _standard_error(drawn[picked] - drawn[second]),
    }
    errors = [_standard_error(some) for some in drawn]
    return values, {
        "answer": question.answer,
        "picked": picked,
        "picked_norm": picked_norm,
        "scores": scores,
        "errors": errors,
    }


def _first_best(scores: Sequence[float]) -> int:
    best = max(scores)
    return next(i for i, score in enumerate(scores) if score >= best - TIE * (1 + abs(best)))


def _standard_error(drawn: Tensor) -> float:
    return float(drawn.std()) / len(drawn) ** 0.5 if len(drawn) > 1 else 0.0


def _apart(before: str, text: str) -> str:
    """A text with a space before it where words of one need it: Chinese does not, nor does a text that has one."""
    ends = (before[-1:], text[:1])
    return text if any(not end or end.isspace() or end >= "\u2e80" for end in ends) else f" {text}"


def _answer_tokens(checkpoint: Checkpoint, text: str) -> list[int]:
    tokenizer = checkpoint.tokenizer
    tokens = tokenizer.encode(text)
    if not checkpoint.card.answers:
        return tokens
    tokens.append(tokenizer.vocab.turn_end)
    fill = (checkpoint.card.answer_length or 0) - len(tokens)
    return tokens + [tokenizer.vocab.eos] * fill


def _choices(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"choices is {kind_of(value)}, expected a list of texts")
    if len(value) < 2:
        raise ValueError(f"choices has {len(value)} entries, expected at least 2")
    return tuple(to_text({f"choices[{i}]": choice}, f"choices[{i}]") for i, choice in enumerate(value))


def _answer(value: object, count: int) -> int:
    """The number of the right choice, of 0, 1, ... or of A, B, ..."""
    if isinstance(value, str) and len(value) == 1 and "A" <= value <= "Z":
        number = ord(value) - ord("A")
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        raise ValueError(f"answer is {value!r}, expected the number of a choice, from 0, or its letter, from A")
    if not 0 <= number < count:
        raise ValueError(f"answer {value!r} is not one of the {count} choices")
    return number
