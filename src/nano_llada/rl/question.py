"""What reinforcement learning asks: the prompts of conversations, whose last answer is drawn anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.data.chat import encode_prompt
from nano_llada.data.read import BadRow, BadRows, Row, Source, read_rows
from nano_llada.data.rows import Where, to_messages
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.verify import verifier_of


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
    """The questions of conversation rows: everything before the last answer. Longer ones than `longest` are left out.

    Raises:
        UserError: for a bad row under the policy `stop` (if `verified`, also one without a verifier), or no question.
    """
    questions, long = [], 0
    for source in sources:
        for row in read_rows(source):
            if isinstance(row, BadRow):
                bad_rows.report(row.where, row.reason)
                continue
            try:
                question = _question(row, tokenizer, verified=verified)
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
    if long:
        print(f"{long:,} of {long + len(questions):,} questions are longer than {longest} tokens and are left out")
    return questions


def _question(row: Row, tokenizer: Tokenizer, *, verified: bool) -> Question:
    """Raises ValueError or UserError with the reason when the row is none."""
    if verified:
        verifier_of(row.value)
    *asked, _ = to_messages(row.value)
    return Question(asked[-1].content, tuple(encode_prompt(tokenizer, asked)), row.value, row.where)
