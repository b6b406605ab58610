"""What a request of lm-evaluation-harness means here: its number, its conversation, and how it is to be answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, get_args

from nano_llada.config.decoding import Decoding
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.data.rows import Message, Role
from nano_llada.data.tokenizer import TURN_END, TURN_START

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first one given counts
GREEDY: Mapping[str, Any] = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
BETWEEN = f"{TURN_END}\n{TURN_START}"
Writing = tuple[Decoding, tuple[str, ...]]  # and where to stop


def number_of(request: Any) -> int:
    """The number of the request's document within its task, which noise is drawn by; else one made of its text."""
    if request.doc_id is not None:
        return int(request.doc_id)
    return derive_seed("harness", str(request.args[0]))


def parse_chat(text: str) -> list[Message]:
    """The turns of a conversation that `apply_chat_template` wrote, the last one open; empty for other texts."""
    if not text.startswith(TURN_START):
        return []
    turns = []
    for turn in text.removeprefix(TURN_START).split(BETWEEN):
        role, newline, content = turn.partition("\n")
        known = next((one for one in get_args(Role) if one == role), None)
        if known is None or not newline:
            return []
        turns.append(Message(known, content))
    return turns if turns[-1].role == "assistant" else []


def write_chat(turns: Sequence[Mapping[str, str]], *, answer: bool) -> str:
    """A conversation as text, with the assistant's turn opened for an answer, or else the last turn left open.

    Raises:
        UserError: if the text cannot be parsed back, because a message contains the marks between turns.
    """
    said = [(turn["role"], turn["content"]) for turn in turns]
    said += [("assistant", "")] if answer else []
    text = TURN_START + BETWEEN.join(f"{role}\n{content}" for role, content in said)
    if [(turn.role, turn.content) for turn in parse_chat(text)] != said:
        raise UserError(f"no conversation that ends with the assistant and says no {BETWEEN!r}: {text!r}")
    return text


def changed(decoding: Decoding, options: Mapping[str, Any]) -> Decoding:
    """A decoding config with other options. Raises UserError for one it does not have, or a value that cannot be."""
    known = {field.name for field in fields(decoding)} - {"max_new_tokens"}
    if foreign := sorted(set(options) - known):
        raise UserError(
            f"{', '.join(foreign)}: {type(decoding).__name__} decoding has no such option; its options are "
            f"{', '.join(sorted(known))}"
        )
    try:
        return replace(decoding, **options)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error


def writing_of(
    wishes: Mapping[str, Any], base: Decoding, default: int, max_length: int, longest: int | None
) -> Writing:
    """What a task's generation_kwargs ask for.

    Args:
        base: decoding where the task says nothing.
        default: tokens to write where it says nothing.
        longest: more are never written; None: no such limit.

    Raises:
        UserError: for options that the decoding does not have, or a length that leaves no room for a prompt.
    """
    options = dict(wishes)
    until = options.pop("until", None) or ()
    limits = [options.pop(name, None) for name in LENGTHS]
    length = next((int(limit) for limit in limits if limit is not None), default)
    if not 0 < length < max_length:
        raise UserError(f"max_gen_toks must be 1 to {max_length - 1} for this model, got {length}")
    draws = options.pop("do_sample", None)
    options = {"temperature": base.temperature or float(bool(draws))} | options
    if draws is False or not options["temperature"]:
        options |= GREEDY  # tasks say top_p and the like even then
    stops = (until,) if isinstance(until, str) else until
    decoding = replace(changed(base, options), max_new_tokens=min(length, longest or length))
    return decoding, tuple(stop for stop in stops if stop)
