"""Text in, text out: the bridge between conversations and samplers that know only token ids."""

from __future__ import annotations

from collections.abc import Sequence

from nano_llada.config import RunConfig
from nano_llada.core.types import Vocabulary
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.autoregressive import AutoregressiveSampler
from nano_llada.decode.config import Autoregressive, Decoding, Diffusion
from nano_llada.decode.diffusion import DiffusionSampler
from nano_llada.decode.types import Request, Sampler, StopTest, collect
from nano_llada.model.transformer import Transformer


def make_sampler(model: Transformer, vocab: Vocabulary, decoding: Decoding) -> Sampler:
    """The sampler of a decoding config."""
    if isinstance(decoding, Autoregressive):
        return AutoregressiveSampler(model, vocab, decoding)
    return DiffusionSampler(model, vocab, decoding)


def default_decoding(track: str, max_new_tokens: int = 64) -> Decoding:
    """Greedy decoding for a track."""
    if track == "ar":
        return Autoregressive(max_new_tokens=max_new_tokens)
    return Diffusion(max_new_tokens=max_new_tokens)


def encode_start(tokenizer: Tokenizer, text: str) -> list[int]:
    """The beginning of a document, as pretraining saw beginnings."""
    return [tokenizer.vocab.eos, *tokenizer.encode(text)]


def stop_at(tokenizer: Tokenizer, texts: Sequence[str]) -> StopTest | None:
    """A test that ends a request as soon as one of `texts` stands in what it wrote from the start without a gap."""
    if not texts:
        return None

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


def sample_texts(model: Transformer, tokenizer: Tokenizer, config: RunConfig) -> list[str]:
    """Greedy continuations (or answers) of a run's sample prompts."""
    if config.data.format == "chat":
        prompts = [encode_prompt(tokenizer, [Message("user", text)]) for text in config.sample_prompts]
    else:
        prompts = [encode_start(tokenizer, text) for text in config.sample_prompts]
    room = max(1, min(64, model.config.max_length - max(map(len, prompts))))
    sampler = make_sampler(model, tokenizer.vocab, default_decoding(config.track, room))
    requests = [Request(tuple(prompt), seed=i) for i, prompt in enumerate(prompts)]
    done = collect(sampler.stream(requests), len(requests), sampler.ends)
    return [tokenizer.decode(completion.tokens) for completion in done]
