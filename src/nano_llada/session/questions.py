"""What reinforcement learning asks: the prompts of conversations, whose last answer is drawn anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.data.chat import encode_prompt
from nano_llada.data.read import BadRow, BadRows, Row, Source, read_rows
from nano_llada.data.rows import Unread, Where, to_question
from nano_llada.data.tokenizer import MASK, Tokenizer
from nano_llada.verify.pattern import Matcher
from nano_llada.verify.reward import verifier_of


@dataclass(frozen=True)
class Question:
    """A prompt, and the row it came from."""

    text: str
    tokens: tuple[int, ...]
    row: Mapping[str, Any]
    where: Where


def read_questions(
    sources: Sequence[Source], tokenizer: Tokenizer, bad_rows: BadRows, longest: int, *, verified: bool = False
) -> list[Question]:
    """The questions of rows (see `to_question`). Those of more than `longest` tokens are left out.

    A conversation that ends with a user's turn is the question; otherwise it is everything before the last answer.

    Raises:
        UserError: for a bad row under the policy `stop` (if `verified`, also one without a verifier), or no question.
    """
    questions, long, unread, matcher = [], 0, Unread(), Matcher()
    for source in sources:
        for row in read_rows(source):
            if isinstance(row, BadRow):
                bad_rows.report(row.where, row.reason)
                continue
            try:
                question = _question(row, tokenizer, unread, matcher if verified else None)
            except (ValueError, UserError) as error:
                bad_rows.report(row.where, str(error))
                continue
            if len(question.tokens) <= longest:
                questions.append(question)
            else:
                long += 1
    if not questions:
        names = ", ".join(source.name for source in sources)
        raise UserError(f"no questions of at most {longest} tokens in {names}\n{bad_rows.summary()}".rstrip())
    if verified and unread.counts:  # a function of the user's is given the whole row
        print(unread.summary())
    if long:
        print(f"{long:,} of {long + len(questions):,} questions are longer than {longest} tokens and are left out")
    return questions


def _question(row: Row, tokenizer: Tokenizer, unread: Unread, matcher: Matcher | None) -> Question:
    """Raises ValueError or UserError with the reason when the row is not a question."""
    asked = to_question(row.value, unread).messages
    for message in asked:
        if MASK in message.content:
            raise ValueError(f"the text contains the literal mask token {MASK}")
    if matcher is not None:
        verifier_of(row.value, matcher)
    return Question(asked[-1].content, tuple(encode_prompt(tokenizer, asked)), row.value, row.where)
