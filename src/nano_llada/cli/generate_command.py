"""`nano-llada generate`: continue texts, or answer questions."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nano_llada.cli import stdin
from nano_llada.cli.default_model import DEFAULT, model_and_text
from nano_llada.cli.options import WRITING, parse
from nano_llada.config.checks import Count, Threads, check_numbers
from nano_llada.config.decoding import Constraint, DecodingOptions, decoding_for
from nano_llada.core.errors import UserError
from nano_llada.core.terminal import visible
from nano_llada.core.text import read_text

NO_PROMPT = "no prompt: give one after the run, or lines on standard input"


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoint: Path = DEFAULT
    """Run folder or checkpoint folder; default: the model that comes with the package."""
    prompt: tuple[str, ...] = ()
    """Texts to continue or questions to answer; default: the lines of standard input."""
    mode: Literal["auto", "chat", "text"] = "auto"
    """`chat` answers a prompt, `text` continues it; auto: chat for a fine-tuned model."""
    samples: Count = 1
    """Texts for each prompt; they differ only when the temperature is above 0."""
    stop: tuple[str, ...] = ()
    """End a text before any of these strings."""
    batch_size: Count = 16
    """Texts written at once; does not change them."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """CPU threads; default: PyTorch's choice."""
    show_steps: bool = False
    """Show every forward pass for the first prompt."""
    json_lines: bool = False
    """Print one JSON object per text, with its statistics."""
    json_object: bool = False
    """Write a JSON object, at most three objects and lists inside one another."""
    json_schema: Path | None = None
    """Write JSON that fits the schema in this file."""
    regex: str | None = None
    """Write a text that this regular expression matches as a whole."""
    template: str | None = None
    """Write this text with its gaps filled: ___, ___{1,20} (so many characters) or ___(REGEX)."""
    require: tuple[str, ...] = ()
    """Words that the text must contain."""
    ban: tuple[str, ...] = ()
    """Words that the text must not contain, not even as parts of longer words."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    """How to write."""

    def __post_init__(self) -> None:
        check_numbers(self)


SHOWN = {
    "options": "mode samples stop show_steps json_lines device threads",
    **WRITING,
    "writing": "max_new_tokens temperature top_p seed",
    "diffusion models": "steps threshold",
    "tri-mode models": "decode",
    "what the text must be": "json_schema regex template require ban",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="generate",
        about="Continue texts or answer questions with a trained model.",
        leading=("checkpoint", "prompt"),
        shown=SHOWN,
    )
    model, first = model_and_text(options.checkpoint, "")
    options = replace(options, checkpoint=model, prompt=(*first, *options.prompt))
    arriving = options.json_lines and not options.prompt and not options.show_steps  # each is answered as it comes
    prompts = options.prompt or (() if arriving else tuple(stdin.prompts()))
    if not prompts and not arriving:
        raise UserError(NO_PROMPT)
    constraint = constraint_of(options)
    from rich.console import Console

    from nano_llada.cli.view import watch
    from nano_llada.core.device import choose_machine, use_threads
    from nano_llada.decode.types import collect
    from nano_llada.language_model import LanguageModel

    use_threads(options.threads)
    writer = LanguageModel.load(options.checkpoint, choose_machine(options.device).device)
    decoding = decoding_for(writer.checkpoint.card, options.decoding)
    chat = options.mode == "chat" or (options.mode == "auto" and writer.checkpoint.card.answers)
    if options.show_steps:
        console = Console(stderr=options.json_lines)  # standard output is for programs
        steps = writer.steps(prompts[0], decoding, chat=chat, stop=options.stop, constraint=constraint)
        watched = watch(steps, writer.checkpoint.tokenizer, console)
        (done,) = collect(watched, 1, writer.checkpoint.tokenizer.vocab.ends)
        rate = f"{done.tokens_per_forward:.2f} tokens a pass"
        console.print(f"{len(done.tokens)} tokens in {done.forwards} passes: {rate}", style="dim", highlight=False)
    some: Iterable[Sequence[str]] = stdin.batches(options.batch_size) if arriving else (prompts,)
    empty = True
    for batch in some:
        empty = False
        for text in writer.write(
            batch,
            decoding,
            chat=chat,
            samples=options.samples,
            stop=options.stop,
            constraint=constraint,
            batch_size=options.batch_size,
        ):
            if options.json_lines:
                told = vars(text) | {"tokens_per_forward": text.tokens_per_forward}
                print(json.dumps(told, ensure_ascii=False), flush=arriving)
            else:
                line = text.text if len(prompts) == 1 else f"{text.prompt} -> {text.text}"
                print(visible(line) if sys.stdout.isatty() else line)
    if empty:
        raise UserError(NO_PROMPT)
    return 0


def constraint_of(options: Options) -> Constraint | None:
    """What the texts must be; None if nothing is asked for.

    Raises:
        UserError: for a schema that cannot be read, or an empty word.
    """
    schema = None if options.json_schema is None else read_text(options.json_schema, "the JSON schema ")
    given: dict[str, Any] = {"json_object": options.json_object, "json_schema": schema, "regex": options.regex}
    given |= {"template": options.template, "require": options.require, "ban": options.ban}
    if all(value in (None, False, ()) for value in given.values()):
        return None
    try:
        return Constraint(**given)
    except ValueError as error:
        raise UserError(f"{options.json_schema}: {error}" if schema is not None else str(error)) from error
