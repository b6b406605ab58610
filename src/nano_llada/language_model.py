"""The public face of a trained model: text in, text out, over samplers that see only token ids."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import torch

from nano_llada.checkpoint.files import Checkpoint, load_checkpoint, model_weights, save_model, write_checkpoint
from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Decoding, DecodingOptions, decoding_for
from nano_llada.config.record import from_plain
from nano_llada.core.batch import TokenBatch, Vocabulary
from nano_llada.core.errors import UserError, text_of, texts_of
from nano_llada.core.own import name_of
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message, Role
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.types import Completion, Event, Request, Sampler, StopTest, collect, gather
from nano_llada.model.transformer import Transformer
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
        self, prompt: str, *, chat: bool | None = None, stop: Sequence[str] = (), **options: Any
    ) -> WrittenText: ...

    @overload
    def generate(
        self, prompt: Sequence[str], *, chat: bool | None = None, stop: Sequence[str] = (), **options: Any
    ) -> list[WrittenText]: ...

    def generate(
        self, prompt: str | Sequence[str], *, chat: bool | None = None, stop: Sequence[str] = (), **options: Any
    ) -> WrittenText | list[WrittenText]:
        """Continue a text, or answer it: one prompt gives one text, a list of prompts a list in the same order.

        Args:
            prompt: text; several are decoded in one batch, which changes none of the texts.
            chat: whether the prompt is a user's message to be answered; default: as the model was trained.
            stop: end a text before any of these.
            options: fields of `nano_llada.DecodingOptions`, such as max_new_tokens, temperature or threshold.

        Raises:
            UserError: for options that this model does not have, or a prompt that is empty or too long.
        """
        chat = self.card.answers if chat is None else chat
        prompts = texts_of(prompt, "prompt")
        texts = list(self.write(prompts, self.decoding(**options), chat=chat, stop=stop))
        return texts[0] if isinstance(prompt, str) else texts

    def chat(self, messages: Prompt, *, stop: Sequence[str] = (), **options: Any) -> WrittenText:
        """Answer a conversation: a text, or messages with `role` (system, user, assistant) and `content`.

        Raises:
            UserError: for a conversation without messages, and as `generate` does.
        """
        steps = self.steps(messages, self.decoding(**options), chat=True, stop=stop)
        (done,) = collect(steps, 1, self.tokenizer.vocab.ends)
        asked = as_messages(messages)[-1].content
        return self._written(asked, done, stop)

    def stream(
        self, prompt: Prompt, *, chat: bool | None = None, stop: Sequence[str] = (), **options: Any
    ) -> Iterator[list[Event]]:
        """The forward passes of one text, each as a list of what it wrote; see `nano_llada.decode.types`.

        Raises:
            UserError: as `generate` does.
        """
        chat = (self.card.answers or not isinstance(prompt, str)) if chat is None else chat
        return self.steps(prompt, self.decoding(**options), chat=chat, stop=stop)

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
            size = self.card.block_size
            found = bound_nll(self.model, batch, self.tokenizer.vocab, draws=draws, seed=seed, block_size=size)
        nats, error = float(found.mean[0]), float(found.standard_error[0])
        return TextScore(nats, error, self.card.autoregressive, len(tokens), len(text.encode()))

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint folder that `load` reads. Raises UserError if it exists or cannot be written."""
        place = Path(folder if isinstance(folder, Path) else text_of(folder, "the folder"))
        if place.exists():
            raise UserError(f"{place} exists already; give the name of a new folder")
        weights, shape = model_weights(self.model), self.model.config
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

    def steps(
        self, prompt: Prompt, decoding: Decoding, *, chat: bool, stop: Sequence[str] = ()
    ) -> Iterator[list[Event]]:
        """As `stream`, with decoding settings that are complete."""
        request = Request(self.encode(prompt, chat=chat))
        return self._sampler(decoding).stream([request], stop_at(self.tokenizer, stop))

    def write(
        self,
        prompts: Sequence[str],
        decoding: Decoding,
        *,
        chat: bool,
        samples: int = 1,
        stop: Sequence[str] = (),
        batch_size: int = 16,
    ) -> Iterator[WrittenText]:
        """As `generate`, with decoding settings that are complete, and `samples` texts for each prompt."""
        sampler = BatchSampler(self.model, self.tokenizer.vocab, decoding, rows=batch_size)
        encoded = [self.encode(prompt, chat=chat) for prompt in prompts]
        if len(prompts) > 1:  # before anything is written; one alone needs no number, and the sampler refuses it
            refuse_long("prompt", encoded, self.model.config.max_length)
        pairs = zip(prompts, encoded, strict=True)
        jobs = [(prompt, Request(tokens, seed=i)) for prompt, tokens in pairs for i in range(samples)]
        steps = sampler.stream([request for _, request in jobs], stop_at(self.tokenizer, stop))
        done, finished = gather(steps, sampler.ends), dict[int, Completion]()
        for number, (prompt, _) in enumerate(jobs):
            while number not in finished:
                finished.update([next(done)])
            yield self._written(prompt, finished.pop(number), stop)

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
        if not self.card.denoising:
            raise UserError("an autoregressive model cannot see what follows a gap: infilling needs a diffusion model")
        parts = text_of(text, "the text to fill").split(GAP)
        if len(parts) == 1:
            raise UserError(f"no gap in the text: mark one with {GAP}")
        if len(gap_lengths) not in (1, len(parts) - 1):
            raise UserError(f"{len(parts) - 1} gaps but {len(gap_lengths)} lengths: give one for all, or one for each")
        lengths = list(gap_lengths) * (len(parts) - 1) if len(gap_lengths) == 1 else list(gap_lengths)
        tokens, spans = [self.tokenizer.vocab.eos], []
        for part, length in zip(parts, [*lengths, 0], strict=True):
            tokens += self.tokenizer.encode(part)
            spans.append((len(tokens), length))
            tokens += [self.tokenizer.vocab.mask] * length
        return self._fill(tokens, spans[:-1], decoding)

    def _fill(self, tokens: list[int], spans: Sequence[tuple[int, int]], decoding: Decoding) -> str:
        """Everything between the first and the last masked token is one request, whose known tokens are given."""
        first, last = spans[0][0], spans[-1][0] + spans[-1][1]
        known = {i - first: token for i, token in enumerate(tokens) if first <= i < last}
        given = {place: token for place, token in known.items() if token != self.tokenizer.vocab.mask}
        request = Request(
            tuple(tokens[:first]),
            tuple(tokens[last:]),
            max_new_tokens=last - first,
            given=tuple(sorted(given.items())),
            fill=True,
        )
        filled = list(tokens)
        for events in self._sampler(decoding).stream([request]):
            for event in events:
                for place, token in event.writes:
                    filled[first + place] = token
        return self.tokenizer.decode(filled[1:])

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
