"""Models side by side: the same questions for all, answers checked by a program, some texts timed one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nano_llada.core.errors import UserError
from nano_llada.evaluation.items import Passage, language_of
from nano_llada.evaluation.measure import PLAN, measured, protocol_of
from nano_llada.evaluation.questions import Question
from nano_llada.evaluation.record import RECORDS, Record, write_records
from nano_llada.evaluation.suite import Subject, Suite
from nano_llada.evaluation.suites.generation import Generation, encode_question
from nano_llada.evaluation.suites.speed import Speed

FREE = "prompts"  # the task of prompts without a reference answer


def free_questions(prompts: Sequence[str]) -> list[Question]:
    """Prompts as questions without a judge."""
    return [Question(prompt, language_of(prompt), FREE, f"{i:03d}", None) for i, prompt in enumerate(prompts)]


def side_by_side(
    subjects: Sequence[Subject], questions: Sequence[Question], folder: Path, timed: int = 12
) -> list[Record]:
    """Ask every model all questions, then time it on `timed` of those that fit into every model's context.

    Args:
        folder: gets records.jsonl, in place of what another comparison left there.

    Raises:
        UserError: if the folder holds an evaluation or cannot be written, or if no question fits.
    """
    if (folder / PLAN).exists():
        raise UserError(f"{folder} holds an evaluation (see {PLAN}): choose another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the report to {folder}: {error.strerror}") from error
    fitting = [question for question in questions if all(_fits(subject, question) for subject in subjects)]
    if not fitting:
        raise UserError("nothing to compare on: every prompt fills the whole context of a model")
    longest = max(subject.checkpoint.model.config.max_length for subject in subjects)
    timing = Speed(chosen(fitting, timed), batch_sizes=(1,), repeats=1, prompt_tokens=longest)
    suites: tuple[Suite, ...] = (Generation(questions), timing)
    protocols = {suite.name: protocol_of(suite) for suite in suites}
    records = [r for suite in suites for subject in subjects for r in measured(suite, subject, protocols[suite.name])]
    write_records(folder / RECORDS, records)
    return records


def chosen(questions: Sequence[Question], count: int) -> tuple[Passage, ...]:
    """`count` of the questions (or all), evenly from the first to the last, as many of each language as can be."""
    languages = list(dict.fromkeys(question.language for question in questions))
    found: list[Question] = []
    for number, language in enumerate(languages):
        some = [question for question in questions if question.language == language]
        share = min(len(some), -(-(count - number) // len(languages)))
        found += [some[i * len(some) // share] for i in range(share)]
    return tuple(Passage(question.prompt, question.language, question.task, question.item) for question in found)


def _fits(subject: Subject, question: Question) -> bool:
    return len(encode_question(subject, question)) < subject.checkpoint.model.config.max_length
