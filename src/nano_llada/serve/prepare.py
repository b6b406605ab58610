"""From the body of a request to what the engine writes. Everything that can be refused is refused here."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nano_llada.config.decoding import Autoregressive, Constraint, Decoding
from nano_llada.config.serving import ServingOptions
from nano_llada.core.errors import UserError
from nano_llada.data.pieces import is_text
from nano_llada.data.rows import Message
from nano_llada.decode.constraint.tokens import TokenAutomaton
from nano_llada.decode.types import Request, StopTest
from nano_llada.language_model import GAP, Gaps, stop_at
from nano_llada.serve import protocol
from nano_llada.serve.in_turn import Turns
from nano_llada.serve.models import Served
from nano_llada.serve.protocol import GENERAL
from nano_llada.serve.refusal import Refusal, bad

LONGEST_TOKEN = 128  # bytes; a text of more than this for each place of the context cannot fit


@dataclass(frozen=True)
class Task:
    """What is to be written for a request.

    Attributes:
        requests: one a choice; those of a prompt follow each other.
        prompt_tokens: of all prompts.
        stop: ends a choice early.
        logprobs: likeliest tokens whose log-probabilities the answer lists; None: it has none.
        gaps: of a text that is filled.
        turns: how, if one after the other.
    """

    served: Served
    requests: Sequence[Request]
    seed: int
    prompt_tokens: int
    stops: Sequence[str] = ()
    stop: StopTest | None = None
    frames: bool = False
    logprobs: int | None = None
    gaps: Gaps | None = None
    turns: Turns | None = None


def chat(body: protocol.ChatRequest, served: Served, options: ServingOptions) -> Task:
    """The task of a conversation.

    Raises:
        Refusal: if it cannot be answered with this model.
    """
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        raise bad("max_tokens and max_completion_tokens are the same thing: give one of them", "max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise bad("top_logprobs needs logprobs", "top_logprobs")
    messages = [
        Message("system" if one.role == "developer" else one.role, _whole(one.text, served, "messages"))
        for one in body.messages
    ]
    prompt = _encoded(served, messages, chat=True, param="messages")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return _task(body, served, options, [prompt], logprobs)


def completion(body: protocol.CompletionRequest, served: Served, options: ServingOptions) -> Task:
    """The task of one or more texts to continue.

    Raises:
        Refusal: if they cannot be continued with this model.
    """
    texts = [_whole(text, served, "prompt") for text in body.prompts]
    return _task(body, served, options, [_encoded(served, text, chat=False) for text in texts], body.logprobs)


def infill(body: protocol.InfillRequest, served: Served, options: ServingOptions) -> Task:
    """The task of a text with gaps.

    Raises:
        Refusal: if this model cannot fill them.
    """
    if not served.infill:
        why = "that needs a model trained on whole rows, or one pretrained with a suffix_share"
        raise bad(f"model {served.name} cannot fill gaps: {why}", "model")
    around = (body.prefix, body.suffix)
    if (body.text is None) == (around == (None, None)):
        raise bad("give either text with ___ at each gap, or prefix and suffix of one gap", "text")
    parts = body.text.split(GAP) if body.text is not None else [part or "" for part in around]
    if len(parts) == 1:
        raise bad(f"no gap in the text: mark one with {GAP}", "text")
    for part in parts:
        _whole(part, served, "text")
    if sum(body.gaps) > options.max_tokens:
        raise bad(f"gaps: {sum(body.gaps)} tokens are more than this server's {options.max_tokens}", "gaps")
    try:
        gaps = served.writer.gaps(parts, body.gaps)
    except UserError as error:
        raise bad(str(error), "gaps") from error
    seed = _seed(body)
    decoding, watch = _decoding(body, served, seed, None), _watch(body, None)
    tokens = sum(map(len, (gaps.before, gaps.canvas, gaps.after))) - sum(end - start for start, end in gaps.spans)
    if served.kind == "canvas":
        _fits(len(gaps.before) + len(gaps.canvas) + len(gaps.after), served.writer.model.config.max_length + 1, "text")
        request, turns = gaps.request(seed=0, decoding=decoding, watch=watch), None
    else:
        steps = served.writer.gaps_in_turn(parts, body.gaps, decoding)
        try:
            request = replace(next(steps), watch=watch)
        except UserError as error:
            raise bad(str(error), "text", "context_length_exceeded") from error
        turns = Turns(request, steps, watch)
    return Task(served, [request], seed, tokens, frames=body.watched.frames, gaps=gaps, turns=turns)


def _task(
    body: protocol.Completing,
    served: Served,
    options: ServingOptions,
    prompts: Sequence[tuple[int, ...]],
    logprobs: int | None,
) -> Task:
    n = body.n or 1
    if n * len(prompts) > options.max_choices:
        raise bad(f"n: {n * len(prompts)} texts are more than this server's {options.max_choices}", "n")
    if (body.length or 0) > options.max_tokens:
        raise bad(f"max_tokens: {body.length} is more than this server's {options.max_tokens}", "max_tokens")
    for prompt in prompts:
        _fits(len(prompt), served.writer.model.config.max_length, "prompt")
    seed = _seed(body)
    decoding = _decoding(body, served, seed, body.length)
    if logprobs is not None and not isinstance(decoding, Autoregressive):
        raise bad("logprobs: only text written left to right has exact ones; /v1/score gives bounds", "logprobs")
    watch = _watch(body, logprobs)
    automaton = _automaton(body, served)
    requests = [
        Request(
            prompt, seed=i, decoding=decoding, automaton=automaton, watch=watch
        )  # each prompt as if it had been sent alone
        for prompt in prompts
        for i in range(n)
    ]
    return Task(
        served,
        requests,
        seed,
        sum(map(len, prompts)),
        body.stops,
        stop_at(served.writer.tokenizer, body.stops),
        body.watched.frames,
        logprobs,
    )


def _automaton(body: protocol.Completing, served: Served) -> TokenAutomaton | None:
    """What every text of the request must be; None: anything."""
    form = body.form()
    if not form:
        return None
    param = "constraint" if body.constraint is not None else "response_format"
    if body.stops:
        raise bad("stop: a text that must have a form says itself where it ends", "stop")
    try:
        return served.writer.automaton(Constraint(**form))
    except (UserError, ValueError) as error:
        raise bad(f"{param}: {error}", param) from error


def _watch(body: protocol.Writing, logprobs: int | None) -> int | None:
    """How many alternatives the engine is to report."""
    watched = body.watched
    if watched.frames and not body.stream:
        raise bad("diffusion.frames: frames come in a stream, so they need stream: true", "diffusion.frames")
    if watched.alternatives and not watched.frames:
        raise bad("diffusion.alternatives: frames show them, so they need frames: true", "diffusion.alternatives")
    if body.stream_options and not body.stream:
        raise bad("stream_options needs stream: true", "stream_options")
    if not watched.frames and logprobs is None:
        return None
    return max(watched.alternatives, logprobs or 0)


def _seed(body: protocol.Writing) -> int:
    return secrets.randbits(31) if body.seed is None else body.seed


def _decoding(body: protocol.Writing, served: Served, seed: int, length: int | None) -> Decoding:
    """How the model is to write: its own defaults, changed by what the request says."""
    given = body.options() | {"seed": seed} | ({} if length is None else {"max_new_tokens": length})
    try:
        return served.writer.decoding(**given)
    except UserError as error:
        raise bad(str(error), _blamed(str(error), body)) from error


def _blamed(message: str, body: protocol.Writing) -> str | None:
    """The first field of the request that a message about decoding options speaks of."""
    words = {word.strip(",:;.") for word in message.split()}
    name = next((name for name in body.options() if name in words), None)
    return name if name is None or name in GENERAL else f"diffusion.{name}"


def _whole(text: str, served: Served, param: str) -> str:
    """The text; refused if it is so long that it need not be encoded to see that it does not fit, or is no Unicode."""
    room = served.writer.model.config.max_length
    if len(text) > room * LONGEST_TOKEN:
        raise _too_long(f"at least {len(text) // LONGEST_TOKEN}", room, param)
    if not is_text(text):  # errors are logged, so this one does not repeat the text
        raise bad("the text cannot be encoded: it is not valid Unicode", param)
    return text


def _encoded(served: Served, prompt: str | Sequence[Message], *, chat: bool, param: str = "prompt") -> tuple[int, ...]:
    try:
        return served.writer.encode(prompt, chat=chat)
    except UserError as error:  # which would repeat a part of the text, and errors are logged
        raise bad("the text cannot be encoded with this model's tokenizer", param) from error


def _fits(tokens: int, room: int, param: str) -> None:
    if tokens >= room:
        raise _too_long(str(tokens), room, param)


def _too_long(tokens: str, room: int, param: str) -> Refusal:
    message = f"the text has {tokens} tokens, the model's context is {room}: nothing can be written after it"
    return bad(message, param, "context_length_exceeded")


def check_score(body: protocol.ScoreRequest, served: Served) -> None:
    """Refuse a text that cannot be scored, before the model is asked.

    Raises:
        Refusal: if it cannot fit into the model's context.
    """
    _whole(body.prompt, served, "prompt")
    _whole(body.text, served, "text")
