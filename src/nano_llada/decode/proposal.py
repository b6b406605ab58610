"""From logits to a token for each position and how sure the model is of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nano_llada.config.decoding import Decoding
from nano_llada.core.batch import Vocabulary


def forbid(logits: Tensor, vocab: Vocabulary, *, no_end: Tensor | None = None) -> Tensor:
    """(N, V) float32 logits in which what must never be written cannot be; rows of `no_end` (N,) cannot end either.

    Done before any softmax, so that neither a token nor a confidence knows of the mask.
    """
    logits = logits.float()
    logits[:, list(vocab.unwritable)] = -torch.inf
    if no_end is not None:
        for end in vocab.ends:
            logits[no_end, end] = -torch.inf
    return logits


def penalise(logits: Tensor, seen: Tensor, penalty: float, vocab: Vocabulary) -> Tensor:
    """Divide positive and multiply negative logits of `seen` (N, V) bool tokens; ends are left alone."""
    if penalty == 1.0:
        return logits
    seen = seen.clone()
    seen[:, list(vocab.ends)] = False
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def truncate(logits: Tensor, config: Decoding) -> Tensor:
    """Remove tokens outside top-k, top-p and min-p, at the configured temperature; (N, V), scaled."""
    logits = logits / config.temperature
    if config.top_k:
        kth = logits.topk(min(config.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if config.min_p:
        floor = logits.max(-1, keepdim=True).values + torch.log(torch.tensor(config.min_p))
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if config.top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # the likeliest is always kept
        drop = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, index, before >= config.top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


def choose(logits: Tensor, config: Decoding, streams: Sequence[torch.Generator]) -> Tensor:
    """(N,) tokens: the likeliest, or drawn with Gumbel noise in float64; row i draws from `streams[i]`."""
    if config.temperature == 0:
        return logits.argmax(-1)
    noise = torch.stack([torch.rand(logits.shape[-1], dtype=torch.float64, generator=rng) for rng in streams])
    gumbel = -(-noise.clamp_(min=1e-300).log()).log()
    return (truncate(logits, config).double() + gumbel.to(logits.device)).argmax(-1)


def confidence(logits: Tensor, tokens: Tensor, strategy: str) -> Tensor:
    """(N,) how sure the model is, always at temperature 1 and over all tokens that may be written.

    `low_confidence`: probability of the chosen token; `margin`: lead of the first over the second; `entropy`: one over
    the number of equally likely tokens that would have the distribution's entropy. All lie in [0, 1].
    """
    if strategy == "margin":
        first, second = logits.softmax(-1).topk(2, dim=-1).values.unbind(-1)
        return first - second
    if strategy == "entropy":
        log_probs = logits.log_softmax(-1)
        return (log_probs.exp() * log_probs.clamp(min=-1e4)).sum(-1).exp()
    return logits.softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
