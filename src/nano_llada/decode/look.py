"""What a pass thought of the places that it read: for those who watch a text being written."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nano_llada.core.batch import Vocabulary
from nano_llada.decode.proposal import forbid
from nano_llada.decode.rows import Row
from nano_llada.decode.types import Look


def examine(logits: Tensor, row: Row, places: Sequence[int], tokens: Sequence[int], vocab: Vocabulary) -> list[Look]:
    """One `Look` a place: log-probabilities at temperature 1 over all tokens that may be written there.

    Args:
        logits: (N, V) of the places; they are left as they are.
        row: whose places they are; its request says how many alternatives are wanted.
        places: (N,) places of the row whose logits were read.
        tokens: (N,) what is proposed for them.
    """
    early = [row.no_end(place) for place in places]
    no_end = torch.tensor(early, device=logits.device) if any(early) else None
    scores = forbid(logits.clone(), vocab, no_end=no_end).log_softmax(-1)
    chosen = scores.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    best = scores.topk(min(row.watched or 0, scores.shape[-1]), dim=-1)
    likely = [
        tuple((token, value) for token, value in zip(ids, values, strict=True) if value > -math.inf)
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return [
        Look(place - row.first + row.ahead, token, chosen[i], likely[i])
        for i, (place, token) in enumerate(zip(places, tokens, strict=True))
    ]
