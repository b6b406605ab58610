"""Bits per byte on held-out text: exact for an AR model, an upper bound for a diffusion one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.core.batch import TokenBatch
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.evaluation.items import Passage
from nano_llada.evaluation.metric import Array
from nano_llada.objectives.denoising import Reading
from nano_llada.objectives.likelihood import NLL, bound_nll, exact_nll
from nano_llada.training import parallel

BUCKET = 32  # places of a window that are counted together


@dataclass(frozen=True)
class TextLikelihood:
    """Of a set of texts, without their end tokens."""

    bits_per_byte: float
    standard_error: float  # of bits_per_byte, from the Monte-Carlo draws alone; 0 where exact
    nats_per_token: float
    tokens: int
    text_bytes: int
    draws: int


@dataclass(frozen=True)
class PassageLikelihood:
    """Of one text. Bucket b holds the tokens from `BUCKET` x b on, counted from the start of their window."""

    nats: float
    variance: float  # of `nats`, from the Monte-Carlo draws; 0 where exact, nan of a single draw
    tokens: int
    bucket_nats: tuple[float, ...]
    bucket_tokens: tuple[int, ...]


@dataclass(frozen=True)
class ScoredRow:
    """A stretch of text of which everything from `start` on is scored; the noise is a function of its number."""

    tokens: Sequence[int]
    start: int
    number: int


def text_likelihood(
    checkpoint: Checkpoint, texts: Sequence[str], *, window: int, draws: int = 8, seed: int = 0, batch_size: int = 16
) -> TextLikelihood:
    """How well a model predicts texts, cut into windows of at most `window` tokens that do not see each other.

    Raises:
        UserError: if there is no text, or windows are longer than the model's context.
    """
    check_window(checkpoint, window)
    if not texts:
        raise UserError("no texts to measure")
    numbers = range(len(texts))
    found = passage_likelihoods(
        checkpoint, texts, numbers, window=window, draws=draws, seed=seed, batch_size=batch_size
    )
    nats, tokens = sum(one.nats for one in found), sum(one.tokens for one in found)
    size = sum(len(text.encode()) for text in texts)
    unit = math.log(2) * size
    error = math.sqrt(sum(one.variance for one in found)) / unit
    return TextLikelihood(
        nats / unit, error, nats / tokens, tokens, size, 1 if checkpoint.card.autoregressive else draws
    )


def passage_likelihoods(
    checkpoint: Checkpoint,
    texts: Sequence[str],
    numbers: Sequence[int],
    *,
    window: int,
    draws: int,
    seed: int,
    batch_size: int,
) -> list[PassageLikelihood]:
    """Each text's likelihood, in windows of at most `window` tokens that do not see each other.

    Args:
        numbers: of each text: noise is a function of the seed, this number and the window's place in the text, so
            that neither order nor batch size nor the other texts matter.

    Raises:
        UserError: if windows are longer than the model's context.
    """
    check_window(checkpoint, window)
    buckets = -(-(window - 1) // BUCKET)
    nats, tokens, variance = np.zeros((len(texts), buckets)), np.zeros((len(texts), buckets)), np.zeros(len(texts))

    def measure(part: tuple[list[int], TokenBatch]) -> tuple[Array, Array, Array]:
        nll = row_nll(checkpoint, part[1], draws, seed)
        return _bucketed(nll.places), _bucketed(part[1].scored), nll.standard_error.square().cpu().numpy()

    parts = window_batches(checkpoint, texts, numbers, window, batch_size)
    for (owners, _), (costs, counts, errors) in parallel.shared_out(parts, measure):
        for total, some in ((nats, costs), (tokens, counts)):
            np.add.at(total[:, : some.shape[1]], owners, some)
        np.add.at(variance, owners, errors)
    found = []
    for costs, counts, spread in zip(nats, tokens.astype(int), variance, strict=True):
        used = np.count_nonzero(counts)  # windows are filled from the left
        found.append(
            PassageLikelihood(
                float(costs.sum()),
                float(spread),
                int(counts.sum()),
                tuple(costs[:used].tolist()),
                tuple(counts[:used].tolist()),
            )
        )
    return found


def check_window(checkpoint: Checkpoint, window: int) -> None:
    """Raises UserError where a window is longer than the model's context."""
    if window > checkpoint.model.config.max_length:
        raise UserError(f"window {window} is longer than the model's context {checkpoint.model.config.max_length}")


def passage_numbers(passages: Sequence[Passage]) -> list[int]:
    """Each passage's own number, made of its file and its name there, which its noise is drawn by.

    Raises:
        ValueError: without passages.
    """
    if not passages:
        raise ValueError("no passages to measure on")
    return [derive_seed("passage", passage.file, passage.item) for passage in passages]


def window_batches(
    checkpoint: Checkpoint, texts: Sequence[str], numbers: Sequence[int], window: int, batch_size: int
) -> Iterator[tuple[list[int], TokenBatch]]:
    """Windows of texts, and which text each row is from: rows start with <|endoftext|>, as documents do in training."""
    eos = checkpoint.tokenizer.vocab.eos
    rows, owners = [], []
    for owner, (ids, number) in enumerate(zip(checkpoint.tokenizer.encode_many(texts), numbers, strict=True)):
        for place, first in enumerate(range(0, len(ids), window - 1)):
            rows.append(ScoredRow((eos, *ids[first : first + window - 1]), 1, derive_seed(number, place)))
            owners.append(owner)
    for names, batch in row_batches(checkpoint, rows, batch_size):
        yield [owners[name] for name in names], batch


def row_batches(
    checkpoint: Checkpoint, rows: Sequence[ScoredRow], batch_size: int
) -> Iterator[tuple[list[int], TokenBatch]]:
    """Rows of similar length together on the model's device, padded on the right, and which rows they are."""
    eos, device = checkpoint.tokenizer.vocab.eos, checkpoint.model.embed.weight.device
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].tokens))
    for first in range(0, len(order), batch_size):
        names = order[first : first + batch_size]
        longest = len(rows[names[-1]].tokens)
        tokens = torch.full((len(names), longest), eos)
        docs, positions = torch.full_like(tokens, -1), torch.arange(longest).expand(len(names), -1).contiguous()
        scored = torch.zeros_like(tokens, dtype=torch.bool)
        for j, row in enumerate(rows[name] for name in names):
            length = len(row.tokens)
            tokens[j, :length] = torch.tensor(row.tokens)
            docs[j, :length] = 0
            scored[j, row.start : length] = True
        numbers = torch.tensor([rows[name].number for name in names])
        yield names, TokenBatch(tokens, scored, docs, positions, numbers).to(device)


def row_nll(checkpoint: Checkpoint, batch: TokenBatch, draws: int, seed: int) -> NLL:
    """Of each row: exact for an autoregressive model, the bound for a diffusion model, by block where it has blocks."""
    if checkpoint.card.autoregressive:
        return exact_nll(checkpoint.model, batch)
    vocab, size = checkpoint.tokenizer.vocab, checkpoint.card.block_size
    reading = Reading.of(checkpoint.card)
    return bound_nll(checkpoint.model, batch, vocab, draws=draws, seed=seed, block_size=size, reading=reading)


def _bucketed(values: torch.Tensor) -> Array:
    """(B, buckets): sums over `BUCKET` places each of values (B, L) behind the first place, which is never scored."""
    behind = values[:, 1:].double().cpu()
    padded = torch.nn.functional.pad(behind, (0, -behind.shape[1] % BUCKET))
    sums: Array = padded.reshape(len(padded), -1, BUCKET).sum(2).numpy()
    return sums
