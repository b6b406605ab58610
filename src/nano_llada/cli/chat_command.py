"""`nano-llada chat`: talk to a model in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nano_llada.cli.default_model import DEFAULT
from nano_llada.cli.options import WRITING, parse
from nano_llada.cli.stdin import StandardInput
from nano_llada.config.checks import Threads, check_numbers
from nano_llada.config.decoding import DecodingOptions, decoding_for
from nano_llada.core.errors import UserError
from nano_llada.core.terminal import visible

if TYPE_CHECKING:
    from nano_llada.data.rows import Message
    from nano_llada.language_model import LanguageModel


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoint: Path = DEFAULT
    """Run folder or checkpoint folder of a fine-tuned model; default: the model that comes with the package."""
    system: str = ""
    """System message at the start of the conversation."""
    history: bool | None = None
    """Show the model the earlier turns; default: if it was trained on conversations of several turns."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """CPU threads; default: PyTorch's choice."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    """How to write."""

    def __post_init__(self) -> None:
        check_numbers(self)


SHOWN = {"options": "system history device threads", **WRITING}
LEAVE = ("/exit", "/quit")
HELP = f"""Type a message and Enter. {LEAVE[0]}, {LEAVE[1]} or Ctrl-D ends the chat; /help shows this.
Options, given when the chat starts, are listed by `nano-llada chat --help`: --history, --system, --temperature ..."""


def main(arguments: Sequence[str]) -> int:
    """Run the command until the input ends; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="chat",
        about=f"Talk to a fine-tuned model. Ctrl-D or {LEAVE[0]} ends.",
        leading="checkpoint",
        shown=SHOWN,
    )
    from rich.console import Console

    from nano_llada.cli.view import watch
    from nano_llada.core.device import choose_machine, use_threads
    from nano_llada.data.rows import Message
    from nano_llada.decode.types import collect
    from nano_llada.language_model import LanguageModel

    use_threads(options.threads)
    writer = LanguageModel.load(options.checkpoint, choose_machine(options.device).device)
    tokenizer = writer.checkpoint.tokenizer
    decoding = decoding_for(writer.checkpoint.card, options.decoding, default_length=64)
    start = [Message("system", options.system)] if options.system else []
    history = writer.checkpoint.card.turns if options.history is None else options.history
    console, messages, status = Console(), list(start), 0
    if console.is_terminal:
        seen = "" if history else " The model sees only your last message (--history shows it all)."
        console.print(
            f"Type a message. {LEAVE[0]} or Ctrl-D ends the chat, /help helps.{seen}", style="dim", highlight=False
        )
    if not writer.card.answers:
        print(
            f"note: {options.checkpoint} was not fine-tuned on conversations: its answers mean little", file=sys.stderr
        )
    typed = StandardInput(lambda: console.input("[bold]> [/]") if console.is_terminal else input())
    while True:
        try:
            asked = [*(messages if history else start), Message("user", _next_message(typed))]
            asked = fitting(writer, asked, len(start), decoding.max_new_tokens)
            steps = writer.steps(asked, decoding, chat=True)
            if console.is_terminal:
                steps = watch(steps, tokenizer, console)
            (done,) = collect(steps, 1, tokenizer.vocab.ends)
        except EOFError:
            return 0 if console.is_terminal else status
        except UserError as error:  # of this message; the conversation continues without it
            print(f"error: {error}", file=sys.stderr)
            status = 2
            continue
        answer = tokenizer.decode(done.tokens, specials=False)
        messages = [*asked, Message("assistant", answer)]
        shown = (visible(answer).strip() or "(an empty answer)") if console.is_terminal else answer
        console.print(shown, highlight=False, markup=False, soft_wrap=True)
        if console.is_terminal:
            rate = len(done.tokens) / max(done.seconds, 1e-9)
            passes = f"{done.forwards} forwards ({done.tokens_per_forward:.1f} tokens each)"
            console.print(f"{len(done.tokens)} tokens, {passes}, {rate:.0f} tokens/s", style="dim")


def _next_message(typed: StandardInput) -> str:
    """What is typed next; blank lines and /help are no messages. Raises EOFError at the end of the chat."""
    while True:
        line = typed.line()
        word = line.strip()
        if word in LEAVE:
            raise EOFError
        if word == "/help":
            print(HELP)
        elif word:
            return line


def fitting(writer: LanguageModel, messages: list[Message], kept: int, room: int) -> list[Message]:
    """The conversation without its oldest turns (the first `kept` messages stay), so that an answer still fits.

    Args:
        room: tokens of the answer; turns are dropped for at most half of the context.
    """
    context = writer.checkpoint.model.config.max_length
    room = min(room, context // 2)
    while len(messages) > kept + 1 and len(writer.encode(messages, chat=True)) + room > context:
        messages = messages[:kept] + messages[kept + 2 :]
    return messages
