"""Bits per byte on held-out text: exact for an AR model, an upper bound for a diffusion one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.core.errors import UserError
from nano_llada.core.types import TokenBatch
from nano_llada.objectives.likelihood import bound_nll, exact_nll


@dataclass(frozen=True)
class TextLikelihood:
    """Of a set of texts, without their end tokens."""

    bits_per_byte: float
    standard_error: float  # of bits_per_byte, from the Monte-Carlo draws alone; 0 where exact
    nats_per_token: float
    tokens: int
    text_bytes: int
    draws: int


def text_likelihood(
    checkpoint: Checkpoint, texts: Sequence[str], *, window: int, draws: int = 8, seed: int = 0, batch_size: int = 16
) -> TextLikelihood:
    """How well a model predicts texts, cut into windows of at most `window` tokens that do not see each other.

    Raises:
        UserError: if there is no text, or windows are longer than the model's context.
    """
    if window > checkpoint.model.config.max_length:
        raise UserError(f"window {window} is longer than the model's context {checkpoint.model.config.max_length}")
    if not texts:
        raise UserError("no texts to measure")
    nats = variance = 0.0
    tokens = 0
    for batch in _windows(checkpoint, texts, window, batch_size):
        batch = batch.to(checkpoint.model.embed.weight.device)
        if checkpoint.track == "ar":
            nll = exact_nll(checkpoint.model, batch)
        else:
            vocab, size = checkpoint.tokenizer.vocab, checkpoint.info.get("block_size")
            nll = bound_nll(checkpoint.model, batch, vocab, draws=draws, seed=seed, block_size=size)
        nats += float(nll.mean.sum())
        variance += float(nll.standard_error.square().sum())
        tokens += int(nll.tokens.sum())
    size = sum(len(text.encode()) for text in texts)
    unit = math.log(2) * size
    used = 1 if checkpoint.track == "ar" else draws
    return TextLikelihood(nats / unit, math.sqrt(variance) / unit, nats / tokens, tokens, size, used)


def _windows(checkpoint: Checkpoint, texts: Sequence[str], window: int, batch_size: int) -> Iterator[TokenBatch]:
    """Rows that start with <|endoftext|>, as documents do in training; shorter ones together, padded on the right."""
    eos = checkpoint.tokenizer.vocab.eos
    pieces = []
    for ids in checkpoint.tokenizer.encode_many(texts):
        pieces += [[eos, *ids[first : first + window - 1]] for first in range(0, len(ids), window - 1)]
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i]))
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        longest = max(len(pieces[i]) for i in rows)
        tokens = torch.full((len(rows), longest), eos)
        docs, positions = torch.full_like(tokens, -1), torch.arange(longest).expand(len(rows), -1)
        for j, i in enumerate(rows):
            tokens[j, : len(pieces[i])] = torch.tensor(pieces[i])
            docs[j, : len(pieces[i])] = 0
        scored = docs == 0
        scored[:, 0] = False
        yield TokenBatch(tokens, scored, docs, positions.contiguous(), torch.tensor(rows))
