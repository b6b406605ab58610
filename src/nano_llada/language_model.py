"""The public face of a trained model: text in, text out, over samplers that see only token ids."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch

from nano_llada.checkpoint.files import Checkpoint, load_checkpoint, model_weights, save_model, write_checkpoint
from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Constraint, Decoding, DecodingOptions, Diffusion, decoding_for
from nano_llada.config.record import from_plain
from nano_llada.core.batch import TokenBatch, Vocabulary
from nano_llada.core.errors import UserError, text_of, texts_of
from nano_llada.core.own import name_of
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message, Role
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.constraint.compile import Compiler
from nano_llada.decode.constraint.tokens import TokenAutomaton
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.types import Completion, Event, Request, Sampler, StopTest, collect, gather
from nano_llada.diffusion.suffix import suffix_first
from nano_llada.model.quantised import quantise_state
from nano_llada.model.transformer import Transformer
from nano_llada.objectives.denoising import Reading
from nano_llada.objectives.likelihood import bound_nll, exact_nll

GAP = "___"


def make_sampler(model: Transformer, vocab: Vocabulary, decoding: Decoding) -> Sampler:
    """Writes lists of requests with a model."""
    return BatchSampler(model, vocab, decoding)


def encode_start(tokenizer: Tokenizer, text: str) -> list[int]:
    """The beginning of a document, as pretraining saw beginnings."""
    return [tokenizer.vocab.eos, *tokenizer.encode(text)]


def stop_at(tokenizer: Tokenizer, texts: Sequence[str]) -> StopTest | None:
    """A test that ends a request as soon as one of `texts` stands in what it wrote from the start without a gap."""
    texts = texts_of(texts, "stop")
    if not texts:
        return None
    if "" in texts:
        raise UserError("a stop text is empty: every text holds it from the start, so nothing would be written")

    def test(number: int, tokens: Sequence[int | None]) -> bool:
        solid: list[int] = []
        for token in tokens:
            if token is None:
                break
            solid.append(token)
        written = tokenizer.decode(solid)
        return any(text in written for text in texts)

    return test


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Text before the first of `stops`."""
    places = [text.find(stop) for stop in texts_of(stops, "stop") if stop in text]
    return text[: min(places)] if places else text


def refuse_long(what: str, prompts: Sequence[Sequence[int]], context: int) -> None:
    for number, prompt in enumerate(prompts, 1):
        if len(prompt) >= context:
            raise UserError(f"{what} {number} has {len(prompt)} tokens, the model's context is {context}")


@dataclass(frozen=True)
class WrittenText:
    """A text and how it was decoded. `str()` gives the text."""

    prompt: str
    text: str
    finish: str
    """`stop`: the model ended its text, or a stop text was met; `length`: it ran out of room."""
    tokens: int
    """New tokens, without the end token."""
    forwards: int
    """Forward passes of the model."""
    seconds: float
    """Wall-clock time from the start of the first pass to the last token."""
    first_seconds: float
    """Wall-clock time until the first token was final."""

    def __str__(self) -> str:
        return self.text

    @property
    def tokens_per_forward(self) -> float:
        """New tokens over forward passes (TPF)."""
        return self.tokens / max(self.forwards, 1)


@dataclass(frozen=True)
class TextScore:
    """How likely a text is under a model."""

    nats: float
    """-log p(text): exact, or an estimate of an upper bound."""
    standard_error: float
    """Of `nats`, from the Monte-Carlo draws; 0 where exact, nan for a single draw."""
    exact: bool
    """Whether `nats` is the likelihood itself, not a bound."""
    tokens: int
    """Scored tokens."""
    text_bytes: int
    """UTF-8 bytes of the scored text."""

    @property
    def bits_per_byte(self) -> float:
        """Comparable across tokenizers and languages."""
        return self.nats / math.log(2) / max(self.text_bytes, 1)


@dataclass(frozen=True)
class Gaps:
    """A text with gaps, as tokens: what is before the first gap, the canvas from there to the last one, what follows.

    `spans` are the (start, end) places of the gaps in the canvas, which holds masks there and known tokens between.
    """

    before: tuple[int, ...]
    canvas: tuple[int, ...]
    after: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def request(self, **fields: Any) -> Request:
        """The canvas as one request, whose known tokens are given."""
        hidden = {place for start, end in self.spans for place in range(start, end)}
        given = tuple((place, token) for place, token in enumerate(self.canvas) if place not in hidden)
        length = len(self.canvas)
        return Request(self.before, self.after, max_new_tokens=length, given=given, fill=True, **fields)


Prompt = str | Sequence[Message | Mapping[str, str]]


class LanguageModel:
    """A trained model with its tokenizer: text in, text out.

    Attributes:
        model: the Transformer, a torch module in evaluation mode.
        tokenizer: text to token ids and back.
        card: what the model is and how it was trained.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> LanguageModel:
        """From a run folder (its best checkpoint) or a checkpoint folder.

        Raises:
            UserError: if there is no checkpoint, or it is damaged.
        """
        return cls(load_checkpoint(Path(path), device))

    @property
    def model(self) -> Transformer:
        return self.checkpoint.model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.checkpoint.tokenizer

    @property
    def card(self) -> ModelCard:
        return self.checkpoint.card

    def __repr__(self) -> str:
        shape = self.model.config
        return (
            f"LanguageModel({str(self.checkpoint.folder)!r}: {self.card.track}, {self.card.stage}, "
            f"{shape.num_layers} layers of width {shape.hidden_size}, {shape.vocab_size} tokens)"
        )

    @overload
    def generate(
        self,
        prompt: str,
        *,
        chat: bool | None = None,
        stop: Sequence[str] = (),
        constraint: Constraint | None = None,
        **options: Any,
    ) -> WrittenText: ...

    @overload
    def generate(
        self,
        prompt: Sequence[str],
        *,
        chat: bool | None = None,
        stop: Sequence[str] = (),
        constraint: Constraint | None = None,
        **options: Any,
    ) -> list[WrittenText]: ...

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        chat: bool | None = None,
        stop: Sequence[str] = (),
        constraint: Constraint | None = None,
        **options: Any,
    ) -> WrittenText | list[WrittenText]:
        """Continue a text, or answer it: one prompt gives one text, a list of prompts a list in the same order.

        Args:
            prompt: text; several are decoded in one batch, which changes none of the texts.
            chat: whether the prompt is a user's message to be answered; default: as the model was trained.
            stop: end a text before any of these.
            constraint: what every text must be: JSON of a schema, a pattern, a template, with or without some words.
            options: fields of `nano_llada.DecodingOptions`, such as max_new_tokens, temperature or threshold.

        Raises:
            UserError: for options that this model does not have, a prompt that is empty or too long, or a constraint
                that is not supported or has no text of at most max_new_tokens tokens.
        """
        chat = self.card.answers if chat is None else chat
        prompts = texts_of(prompt, "prompt")
        texts = list(self.write(prompts, self.decoding(**options), chat=chat, stop=stop, constraint=constraint))
        return texts[0] if isinstance(prompt, str) else texts

    def chat(
        self, messages: Prompt, *, stop: Sequence[str] = (), constraint: Constraint | None = None, **options: Any
    ) -> WrittenText:
        """Answer a conversation: a text, or messages with `role` (system, user, assistant) and `content`.

        Raises:
            UserError: for a conversation without messages, and as `generate` does.
        """
        steps = self.steps(messages, self.decoding(**options), chat=True, stop=stop, constraint=constraint)
        (done,) = collect(steps, 1, self.tokenizer.vocab.ends)
        asked = as_messages(messages)[-1].content
        return self._written(asked, done, stop)

    def stream(
        self,
        prompt: Prompt,
        *,
        chat: bool | None = None,
        stop: Sequence[str] = (),
        constraint: Constraint | None = None,
        **options: Any,
    ) -> Iterator[list[Event]]:
        """The forward passes of one text, each as a list of what it wrote; see `nano_llada.decode.types`.

        Raises:
            UserError: as `generate` does.
        """
        chat = (self.card.answers or not isinstance(prompt, str)) if chat is None else chat
        return self.steps(prompt, self.decoding(**options), chat=chat, stop=stop, constraint=constraint)

    def score(self, text: str, *, given: str = "", draws: int = 32, seed: int = 0) -> TextScore:
        """How likely a text is, as the start of a document, or as the continuation of `given`.

        Args:
            text: what is scored; together with `given` it must fit into the model's context.
            given: text before it, which is not scored.
            draws: Monte-Carlo draws of a diffusion model's bound (LLaDA, eq. 6); of no effect where it is exact.
            seed: of the draws.

        Raises:
            UserError: for an empty text, or one that does not fit.
        """
        text, given = text_of(text, "the text to score"), text_of(given, "given")
        if not isinstance(draws, int) or draws < 1:
            raise UserError(f"draws must be a whole number of at least 1, got {draws!r}")
        before, tokens = encode_start(self.tokenizer, given), self.tokenizer.encode(text)
        if not tokens:
            raise UserError("the text to score is empty")
        if (length := len(before) + len(tokens)) > self.model.config.max_length:
            raise UserError(f"the text has {length} tokens, the model's context is {self.model.config.max_length}")
        batch = TokenBatch(
            tokens=torch.tensor([[*before, *tokens]]),
            scored=torch.tensor([[False] * len(before) + [True] * len(tokens)]),
            doc_ids=torch.zeros(1, length, dtype=torch.int64),
            positions=torch.arange(length)[None],
            rows=torch.zeros(1, dtype=torch.int64),
        ).to(self.model.embed.weight.device)
        if self.card.autoregressive:
            found = exact_nll(self.model, batch)
        else:
            size, reading, vocab = self.card.block_size, Reading.of(self.card), self.tokenizer.vocab
            found = bound_nll(self.model, batch, vocab, draws=draws, seed=seed, block_size=size, reading=reading)
        nats, error = float(found.mean[0]), float(found.standard_error[0])
        return TextScore(nats, error, self.card.autoregressive, len(tokens), len(text.encode()))

    def save(self, folder: str | Path, *, quantize: Literal["int8"] | None = None) -> None:
        """Write a checkpoint folder that `load` reads.

        Args:
            quantize: `int8` stores matrices in eight bits: a quarter of the size, and slightly other
                weights. Loading makes float32 of them again.

        Raises:
            UserError: if the folder exists or cannot be written, or for another kind of quantisation.
        """
        place = Path(folder if isinstance(folder, Path) else text_of(folder, "the folder"))
        if place.exists():
            raise UserError(f"{place} exists already; give the name of a new folder")
        if quantize not in (None, "int8"):
            raise UserError(f"quantize must be 'int8' or None, not {quantize!r}")
        weights, shape = model_weights(self.model), self.model.config
        if quantize is not None:
            weights = quantise_state(weights)
        write_checkpoint(place, lambda hidden: save_model(hidden, weights, shape, self.tokenizer, self.card))

    def decoding(self, default_length: int | None = None, **options: Any) -> Decoding:
        """How the model decodes with some options; see `nano_llada.config.decoding.decoding_for`.

        Raises:
            UserError: for unknown options, and those that this model does not have.
        """
        named = {name: name_of(value) if isinstance(value, type) else value for name, value in options.items()}
        try:
            return decoding_for(self.card, from_plain(DecodingOptions, named), default_length)
        except ValueError as error:
            raise UserError(str(error)) from error

    def encode(self, prompt: Prompt, *, chat: bool) -> tuple[int, ...]:
        """Tokens before the text to be written: a conversation up to the assistant's turn, or a document's start."""
        if chat:
            return tuple(encode_prompt(self.tokenizer, as_messages(prompt)))
        if not isinstance(prompt, str):
            raise UserError("a conversation can only be answered, not continued as text")
        return tuple(encode_start(self.tokenizer, prompt))

    def automaton(self, constraint: Constraint) -> TokenAutomaton:
        """What a request's text must be, for an engine; the last ones that were asked for are kept.

        Raises:
            UserError: for what is not supported in the constraint, by name, or if no text satisfies it.
        """
        return self._compiler.compile(constraint)

    @cached_property
    def _compiler(self) -> Compiler:
        return Compiler(self.tokenizer.bytes_of_tokens(), self.tokenizer.vocab.ends)

    def steps(
        self,
        prompt: Prompt,
        decoding: Decoding,
        *,
        chat: bool,
        stop: Sequence[str] = (),
        constraint: Constraint | None = None,
    ) -> Iterator[list[Event]]:
        """As `stream`, with decoding settings that are complete."""
        request = Request(self.encode(prompt, chat=chat), automaton=self._required(constraint, stop))
        return self._sampler(decoding).stream([request], stop_at(self.tokenizer, stop))

    def write(
        self,
        prompts: Sequence[str],
        decoding: Decoding,
        *,
        chat: bool,
        samples: int = 1,
        stop: Sequence[str] = (),
        constraint: Constraint | None = None,
        batch_size: int = 16,
    ) -> Iterator[WrittenText]:
        """As `generate`, with decoding settings that are complete, and `samples` texts for each prompt."""
        sampler = BatchSampler(self.model, self.tokenizer.vocab, decoding, rows=batch_size)
        encoded = [self.encode(prompt, chat=chat) for prompt in prompts]
        if len(prompts) > 1:  # before anything is written; one alone needs no number, and the sampler refuses it
            refuse_long("prompt", encoded, self.model.config.max_length)
        pairs = zip(prompts, encoded, strict=True)
        automaton = self._required(constraint, stop)
        jobs = [
            (prompt, Request(tokens, seed=i, automaton=automaton)) for prompt, tokens in pairs for i in range(samples)
        ]
        steps = sampler.stream([request for _, request in jobs], stop_at(self.tokenizer, stop))
        done, finished = gather(steps, sampler.ends), dict[int, Completion]()
        for number, (prompt, _) in enumerate(jobs):
            while number not in finished:
                finished.update([next(done)])
            yield self._written(prompt, finished.pop(number), stop)

    def _required(self, constraint: Constraint | None, stop: Sequence[str]) -> TokenAutomaton | None:
        if constraint is None:
            return None
        if stop:
            raise UserError("a constraint says where a text ends: leave out stop")
        return self.automaton(constraint)

    def infill(self, text: str, length: int | Sequence[int] = 4, **options: Any) -> str:
        """Fill each ___ of a text.

        Args:
            text: with any number of gaps, each marked by three underscores.
            length: tokens in each gap, left to right; one number for all.
            options: as in `generate`.

        Raises:
            UserError: for an autoregressive model, no gap, or another number of lengths than gaps.
        """
        return self.fill(text, self.decoding(**options), [length] if isinstance(length, int) else length)

    def fill(self, text: str, decoding: Decoding, gap_lengths: Sequence[int]) -> str:
        """As `infill`, with decoding settings that are complete."""
        parts = text_of(text, "the text to fill").split(GAP)
        if len(parts) == 1:
            raise UserError(f"no gap in the text: mark one with {GAP}")
        if not isinstance(decoding, Diffusion):
            return self._fill_in_turn(parts, gap_lengths, decoding)
        gaps = self.gaps(parts, gap_lengths)
        filled = list(gaps.canvas)
        for events in self._sampler(decoding).stream([gaps.request()]):
            for event in events:
                for place, token in event.writes:
                    filled[place] = token
        return self.tokenizer.decode([*gaps.before[1:], *filled, *gaps.after])

    def gaps(self, parts: Sequence[str], lengths: Sequence[int]) -> Gaps:
        """Texts with gaps of some lengths (in tokens; one for all, or one for each) between them.

        Raises:
            UserError: for an autoregressive model, or another number of lengths than gaps.
        """
        tokens, spans = [self.tokenizer.vocab.eos], []
        for part, length in zip(parts, [*self._each(parts, lengths), 0], strict=True):
            tokens += self.tokenizer.encode(part)
            spans.append((len(tokens), len(tokens) + length))
            tokens += [self.tokenizer.vocab.mask] * length
        first, last = spans[0][0], spans[-2][1]
        places = [(start - first, end - first) for start, end in spans[:-1]]
        return Gaps(tuple(tokens[:first]), tuple(tokens[first:last]), tuple(tokens[last:]), tuple(places))

    def _each(self, parts: Sequence[str], lengths: Sequence[int]) -> list[int]:
        """A length for each gap. Raises UserError for a model that sees no gaps, or another number of lengths."""
        if not self.card.denoising:
            raise UserError("an autoregressive model cannot see what follows a gap: infilling needs a diffusion model")
        if len(lengths) not in (1, len(parts) - 1):
            raise UserError(f"{len(parts) - 1} gaps but {len(lengths)} lengths: give one for all, or one for each")
        return list(lengths) * (len(parts) - 1) if len(lengths) == 1 else list(lengths)

    def _fill_in_turn(self, texts: Sequence[str], gap_lengths: Sequence[int], decoding: Decoding) -> str:
        parts, turns = [self.tokenizer.encode(text) for text in texts], self.gaps_in_turn(texts, gap_lengths, decoding)
        filled, tokens = parts[0], None
        for part in parts[1:]:
            request = next(turns) if tokens is None else turns.send(tokens)
            sampler = self._sampler(decoding)
            (done,) = collect(sampler.stream([request]), 1, sampler.ends)
            tokens = done.tokens
            filled += [*tokens, *part]
        return self.tokenizer.decode(filled)

    def gaps_in_turn(
        self, texts: Sequence[str], gap_lengths: Sequence[int], decoding: Decoding
    ) -> Generator[Request, Sequence[int], None]:
        """One gap after the other, each with what follows it, up to the next gap, in front; see `diffusion.suffix`.

        Gives the request of the first gap, and for the tokens of each gap the request of the next one.

        Raises:
            UserError: for a model that cannot, another number of lengths than gaps, or more than its context, before
                anything is written.
        """
        lengths = self._each(texts, gap_lengths)
        if not self.card.infills:
            raise UserError(
                "this model cannot see what follows a gap: infilling needs a model trained on whole rows, or one "
                "pretrained with a suffix_share, which learnt to fill gaps"
            )
        parts = [self.tokenizer.encode(text) for text in texts]
        vocab, context = self.tokenizer.vocab, self.model.config.max_length
        before = [vocab.eos, *parts[0]]
        known = list(accumulate(map(len, parts), initial=1))[1:-1]
        for size, part, end in zip(known, parts[1:], accumulate(lengths), strict=True):
            if (needed := size + end + len(part) + 2 * bool(part)) > context:
                raise UserError(f"prompt, gap and suffix need {needed} tokens, the model's context is {context}")
        for part, length in zip(parts[1:], lengths, strict=True):
            prompt = suffix_first(part, before, vocab) if part else before
            exact = replace(decoding, max_new_tokens=length, min_new_tokens=length)
            filled = yield Request(tuple(prompt), decoding=exact)
            before += [*filled, *part]

    def _written(self, prompt: str, done: Completion, stop: Sequence[str]) -> WrittenText:
        text = cut_at(self.tokenizer.decode(done.tokens), stop)
        return WrittenText(prompt, text, done.finish, len(done.tokens), done.forwards, done.seconds, done.first_seconds)

    def _sampler(self, decoding: Decoding) -> Sampler:
        return make_sampler(self.model, self.tokenizer.vocab, decoding)


def as_messages(prompt: Prompt) -> list[Message]:
    """A conversation from a text (a user's message), messages, or objects with `role` and `content`.

    Raises:
        UserError: for no message, or one without those two.
    """
    if isinstance(prompt, str):
        return [Message("user", prompt)]
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise UserError(f"a prompt is text or a list of messages, got {type(prompt).__name__}")
    messages = []
    for number, message in enumerate(prompt, 1):
        if isinstance(message, Message):
            messages.append(message)
            continue
        if not isinstance(message, Mapping):
            raise UserError(f"message {number}: expected an object with role and content, got {type(message).__name__}")
        fields: Mapping[str, Any] = message
        role, content = fields.get("role"), fields.get("content")
        if role not in ("system", "user", "assistant", "tool") or not isinstance(content, str):
            raise UserError(f"message {number}: expected a role (system, user, assistant or tool) and content as text")
        messages.append(Message(cast(Role, role), content))
    if not messages:
        raise UserError("the conversation is empty: give at least one message")
    return messages
