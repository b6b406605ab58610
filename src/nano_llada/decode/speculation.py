"""The acceptance rule of speculative decoding: drafts are verified so that the text has the verifier's distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def verified(wanted: Tensor, drafts: Sequence[int], drawn_from: Sequence[Tensor], rng: torch.Generator) -> list[int]:
    """The tokens that take the place of drafts: those accepted, then one of its own.

    A draft d drawn from q is accepted with probability ``min(1, p(d) / q(d))``; the first that is not is replaced by a
    draw from ``(p - q)_+``, normalised. So every token has the distribution p, given those before it. Behind accepted
    drafts one more token is drawn from p.

    Args:
        wanted: (n + 1, V) float64, p at each of the n drafts and behind them.
        drafts: n tokens.
        drawn_from: (V,) float64 for each draft, the q that it was drawn from.
    """
    tokens: list[int] = []
    for p, q, draft in zip(wanted, drawn_from, drafts, strict=False):
        chance = float(torch.rand((), dtype=torch.float64, generator=rng))
        rest = (p - q).clamp(min=0)
        if chance * float(q[draft]) < float(p[draft]) or not float(rest.sum()):  # 0: p and q are the same
            tokens.append(draft)
            continue
        return [*tokens, drawn(rest, rng)]
    return [*tokens, drawn(wanted[len(drafts)], rng)]


def drawn(weights: Tensor, rng: torch.Generator) -> int:
    """A token drawn in proportion to weights (V,) float64, by Gumbel noise."""
    noise = torch.rand(len(weights), dtype=torch.float64, generator=rng).clamp_(min=1e-300)
    return int((weights.log() - (-noise.log()).log().to(weights.device)).argmax())
