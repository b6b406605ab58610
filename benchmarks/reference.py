"""A small language model written without regard to speed: the reference of the benchmarks.

The same shape as ours (RMSNorm, rotary embeddings, SwiGLU, QK-norm), written plainly: one row a document, padded to the
full length; logits at every position; composed elementwise operations; a fixed canvas of 512 when generating.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CANVAS = 512


class PlainNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class PlainBlock(nn.Module):
    def __init__(self, hidden: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = PlainNorm(hidden), PlainNorm(hidden)
        self.q_norm, self.k_norm = PlainNorm(hidden // heads), PlainNorm(hidden // heads)
        self.q, self.k, self.v, self.o = (nn.Linear(hidden, hidden, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(hidden, width, bias=False), nn.Linear(hidden, width, bias=False)
        self.down = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, causal: bool) -> Tensor:
        batch, length, hidden = x.shape
        h = self.norm1(x)
        q, k, v = (p(h).view(batch, length, self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, hidden))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class PlainModel(nn.Module):
    def __init__(self, vocab: int, hidden: int, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, hidden)
        self.blocks = nn.ModuleList(PlainBlock(hidden, heads, width) for _ in range(layers))
        self.norm, self.head = PlainNorm(hidden), nn.Linear(hidden, vocab, bias=False)
        angles = torch.outer(torch.arange(2048), 1e4 ** -(torch.arange(0, hidden // heads, 2) / (hidden // heads)))
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin(), persistent=False)

    def forward(self, tokens: Tensor, causal: bool) -> Tensor:
        x = self.embed(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin, causal)
        return self.head(self.norm(x))


def ar_loss(model: PlainModel, tokens: Tensor, real: Tensor) -> Tensor:
    """Mean cross-entropy of real next tokens, (B, L) padded rows."""
    logits = model(tokens, causal=True)[:, :-1]
    nll = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1), reduction="none")
    scored = real[:, 1:].reshape(-1)
    return (nll * scored).sum() / scored.sum()


def diffusion_loss(model: PlainModel, tokens: Tensor, real: Tensor, mask: int) -> Tensor:
    """Masked cross-entropy weighted by 1/t, logits everywhere."""
    t = torch.rand(len(tokens), 1).clamp(min=1e-3)
    hidden = (torch.rand(tokens.shape) < t) & real
    logits = model(tokens.masked_fill(hidden, mask), causal=False)
    nll = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens.reshape(-1), reduction="none")
    return (nll.view_as(tokens) * hidden / t).sum() / real.sum()


@torch.no_grad()
def generate(model: PlainModel, prompt: Tensor, new_tokens: int, forwards: int, mask: int) -> Tensor:
    """Most confident first on a canvas of 512, logits and softmax everywhere in each forward pass."""
    canvas = torch.full((1, CANVAS), mask)
    canvas[0, : len(prompt)] = prompt
    region = torch.zeros(CANVAS, dtype=torch.bool)
    region[len(prompt) : len(prompt) + new_tokens] = True
    for step in range(forwards):
        probs = model(canvas, causal=False).softmax(-1)
        confidence, best = probs.max(-1)
        open_places = region & (canvas[0] == mask)
        count = new_tokens * (step + 1) // forwards - new_tokens * step // forwards
        chosen = confidence[0].masked_fill(~open_places, -1).topk(count).indices
        canvas[0, chosen] = best[0, chosen]
    return canvas[0, len(prompt) : len(prompt) + new_tokens]
