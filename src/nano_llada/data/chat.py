"""Conversations as tokens, and which of them the assistant has to write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from nano_llada.core.batch import Vocabulary
    from nano_llada.data.rows import Message

Turns = Literal["all", "each", "last"]


class Encoder(Protocol):
    """What makes tokens of a text: a tokenizer, or texts that are encoded already."""

    @property
    def vocab(self) -> Vocabulary:
        """The special tokens."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""


def encode_conversation(tokenizer: Encoder, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """ChatML tokens, and True where the assistant writes: its text and the token that ends its turn.

    A turn with `scored` False is shown but not learnt.

    Each piece is encoded by itself, so training and generation cut the text at the same places.
    """
    vocab = tokenizer.vocab
    newline = tokenizer.encode("\n")
    tokens: list[int] = []
    scored: list[bool] = []
    for message in messages:
        if tokens:
            tokens += newline
            scored += [False] * len(newline)
        head = [vocab.turn_start, *tokenizer.encode(f"{message.role}\n")]
        body = [*tokenizer.encode(message.content), vocab.turn_end]
        tokens += head + body
        scored += [False] * len(head) + [is_learnt(message)] * len(body)
    return tokens, scored


def is_learnt(message: Message) -> bool:
    """Whether the model is to write this turn."""
    return message.role == "assistant" and message.scored


def encode_prompt(tokenizer: Encoder, messages: Sequence[Message]) -> list[int]:
    """The conversation so far and the opening of the assistant's turn."""
    tokens, _ = encode_conversation(tokenizer, messages)
    between = tokenizer.encode("\n") if tokens else []
    return [*tokens, *between, tokenizer.vocab.turn_start, *tokenizer.encode("assistant\n")]


def split_turns(messages: Sequence[Message], turns: Turns) -> Iterator[tuple[Sequence[Message], bool]]:
    """Training documents of one conversation, and whether only the last turn of each is to be scored.

    A denoiser sees the whole document, so an earlier answer could be read off the turns that follow it. `each` makes
    one document an answer, with what came before it as the prompt, which is what generation will meet.
    """
    if turns == "all":
        yield messages, False
        return
    ends = [i for i, message in enumerate(messages) if is_learnt(message)]
    for end in ends if turns == "each" else ends[-1:]:
        yield messages[: end + 1], True


def score_last_turn(scored: list[bool]) -> list[bool]:
    """Keep only the last run of True."""
    out = [False] * len(scored)
    i = len(scored) - 1
    while i >= 0 and not scored[i]:
        i -= 1
    while i >= 0 and scored[i]:
        out[i] = True
        i -= 1
    return out
