"""Texts that a run writes while it trains, to see what it has learnt."""

from __future__ import annotations

from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import default_decoding
from nano_llada.config.run import RunConfig
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.types import Request, collect
from nano_llada.language_model import encode_start, make_sampler, refuse_long
from nano_llada.model.transformer import Transformer


def encode_sample_prompts(tokenizer: Tokenizer, config: RunConfig, context: int) -> list[list[int]]:
    """A run's sample prompts as tokens.

    Raises:
        UserError: for a prompt that leaves no room in the model's `context`; better before training than during it.
    """
    if config.data.format != "text":
        prompts = [encode_prompt(tokenizer, [Message("user", text)]) for text in config.sample_prompts]
    else:
        prompts = [encode_start(tokenizer, text) for text in config.sample_prompts]
    refuse_long("sample prompt", prompts, context)
    return prompts


def sample_texts(model: Transformer, tokenizer: Tokenizer, config: RunConfig, card: ModelCard) -> list[str]:
    """Greedy continuations (or answers) of a run's sample prompts."""
    prompts = encode_sample_prompts(tokenizer, config, model.config.max_length)
    room = max(1, min(64, model.config.max_length - max(map(len, prompts))))
    sampler = make_sampler(model, tokenizer.vocab, default_decoding(card, room))
    requests = [Request(tuple(prompt), seed=i) for i, prompt in enumerate(prompts)]
    done = collect(sampler.stream(requests), len(requests), sampler.ends)
    model.forget()  # training continues: the weights that were laid out for this are outdated
    return [tokenizer.decode(completion.tokens) for completion in done]
