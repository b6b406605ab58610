"""Text in, text out: the bridge between conversations and samplers that know only token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Autoregressive, Block, Decoding, Diffusion, default_decoding
from nano_llada.config.run import RunConfig
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.autoregressive import AutoregressiveSampler
from nano_llada.decode.block import BlockSampler
from nano_llada.decode.diffusion import DiffusionSampler
from nano_llada.decode.types import Request, Sampler, StopTest, Write, collect
from nano_llada.model.transformer import Transformer

GAP = "___"


SAMPLERS: Mapping[type, Callable[..., Sampler]] = {
    Autoregressive: AutoregressiveSampler,
    Block: BlockSampler,
    Diffusion: DiffusionSampler,
}


def make_sampler(model: Transformer, vocab: Vocabulary, decoding: Decoding) -> Sampler:
    """The sampler of a decoding config."""
    return SAMPLERS[type(decoding)](model, vocab, decoding)


def encode_start(tokenizer: Tokenizer, text: str) -> list[int]:
    """The beginning of a document, as pretraining saw beginnings."""
    return [tokenizer.vocab.eos, *tokenizer.encode(text)]


def stop_at(tokenizer: Tokenizer, texts: Sequence[str]) -> StopTest | None:
    """A test that ends a request as soon as one of `texts` stands in what it wrote from the start without a gap."""
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
    places = [text.find(stop) for stop in stops if stop in text]
    return text[: min(places)] if places else text


def encode_sample_prompts(tokenizer: Tokenizer, config: RunConfig, context: int) -> list[list[int]]:
    """A run's sample prompts as tokens.

    Raises:
        UserError: for one that leaves no room in a model's `context`, best before training than in the midst of it.
    """
    if config.data.format != "text":
        prompts = [encode_prompt(tokenizer, [Message("user", text)]) for text in config.sample_prompts]
    else:
        prompts = [encode_start(tokenizer, text) for text in config.sample_prompts]
    _refuse_long("sample prompt", prompts, context)
    return prompts


def _refuse_long(what: str, prompts: Sequence[Sequence[int]], context: int) -> None:
    for number, prompt in enumerate(prompts, 1):
        if len(prompt) >= context:
            raise UserError(f"{what} {number} has {len(prompt)} tokens, the model's context is {context}")


def sample_texts(model: Transformer, tokenizer: Tokenizer, config: RunConfig, card: ModelCard) -> list[str]:
    """Greedy continuations (or answers) of a run's sample prompts."""
    prompts = encode_sample_prompts(tokenizer, config, model.config.max_length)
    room = max(1, min(64, model.config.max_length - max(map(len, prompts))))
    sampler = make_sampler(model, tokenizer.vocab, default_decoding(card, room))
    requests = [Request(tuple(prompt), seed=i) for i, prompt in enumerate(prompts)]
    done = collect(sampler.stream(requests), len(requests), sampler.ends)
    return [tokenizer.decode(completion.tokens) for completion in done]


@dataclass(frozen=True)
class WrittenText:
    """A text and how it came about."""

    prompt: str
    text: str
    finish: str  # "stop" or "length"
    tokens: int
    forwards: int
    seconds: float
    first_seconds: float


class Writer:
    """A trained model that takes and gives text."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Writer:
        """From a run or checkpoint folder. Raises UserError if there is none."""
        return cls(load_checkpoint(path, device))

    def encode(self, prompt: str | Sequence[Message], *, chat: bool) -> tuple[int, ...]:
        """Tokens before what is to be written: a conversation up to the assistant's turn, or a document's start."""
        tokenizer = self.checkpoint.tokenizer
        if not chat:
            if not isinstance(prompt, str):
                raise UserError("a conversation can only be answered, not continued as text")
            return tuple(encode_start(tokenizer, prompt))
        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        return tuple(encode_prompt(tokenizer, messages))

    def stream(
        self, prompt: str | Sequence[Message], decoding: Decoding, *, chat: bool, stop: Sequence[str] = ()
    ) -> Iterator[list[Write]]:
        """The steps of one text."""
        sampler = self._sampler(decoding)
        return sampler.stream([Request(self.encode(prompt, chat=chat))], stop_at(self.checkpoint.tokenizer, stop))

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
        """Texts in the order of the prompts, `samples` of each; batching changes none of them."""
        tokenizer, sampler = self.checkpoint.tokenizer, self._sampler(decoding)
        encoded = [self.encode(prompt, chat=chat) for prompt in prompts]
        if len(prompts) > 1:  # before anything is written; one alone needs no number, and the sampler refuses it
            _refuse_long("prompt", encoded, self.checkpoint.model.config.max_length)
        pairs = zip(prompts, encoded, strict=True)
        jobs = [(prompt, Request(tokens, seed=i)) for prompt, tokens in pairs for i in range(samples)]
        for first in range(0, len(jobs), batch_size):
            some = jobs[first : first + batch_size]
            steps = sampler.stream([request for _, request in some], stop_at(tokenizer, stop))
            for (prompt, _), done in zip(some, collect(steps, len(some), sampler.ends), strict=True):
                text = cut_at(tokenizer.decode(done.tokens), stop)
                yield WrittenText(
                    prompt, text, done.finish, len(done.tokens), done.forwards, done.seconds, done.first_seconds
                )

    def infill(self, text: str, decoding: Decoding, gap_lengths: Sequence[int]) -> str:
        """Fill each ___ of a text with as many tokens as `gap_lengths` says, left to right.

        Raises:
            UserError: for an autoregressive model, no gap, or another number of lengths than gaps.
        """
        if not self.checkpoint.card.denoising:
            raise UserError("an autoregressive model cannot see what follows a gap: infilling needs a diffusion model")
        parts = text.split(GAP)
        if len(parts) == 1:
            raise UserError(f"no gap in the text: mark one with {GAP}")
        if len(gap_lengths) not in (1, len(parts) - 1):
            raise UserError(f"{len(parts) - 1} gaps but {len(gap_lengths)} lengths: give one for all, or one for each")
        lengths = list(gap_lengths) * (len(parts) - 1) if len(gap_lengths) == 1 else list(gap_lengths)
        tokenizer = self.checkpoint.tokenizer
        tokens, spans = [tokenizer.vocab.eos], []
        for part, length in zip(parts, [*lengths, 0], strict=True):
            tokens += tokenizer.encode(part)
            spans.append((len(tokens), length))
            tokens += [tokenizer.vocab.mask] * length
        return self._fill(tokens, spans[:-1], decoding)

    def _fill(self, tokens: list[int], spans: Sequence[tuple[int, int]], decoding: Decoding) -> str:
        """Everything between the first and the last hidden token is one request, whose known tokens are given."""
        first, last = spans[0][0], spans[-1][0] + spans[-1][1]
        known = {i - first: token for i, token in enumerate(tokens) if first <= i < last}
        given = {place: token for place, token in known.items() if token != self.checkpoint.tokenizer.vocab.mask}
        request = Request(
            tuple(tokens[:first]),
            tuple(tokens[last:]),
            max_new_tokens=last - first,
            given=tuple(sorted(given.items())),
            fill=True,
        )
        filled = list(tokens)
        for writes in self._sampler(decoding).stream([request]):
            for write in writes:
                for place, token in zip(write.places, write.tokens, strict=True):
                    filled[first + place] = token
        return self.checkpoint.tokenizer.decode(filled[1:])

    def _sampler(self, decoding: Decoding) -> Sampler:
        return make_sampler(self.checkpoint.model, self.checkpoint.tokenizer.vocab, decoding)
