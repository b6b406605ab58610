"""Texts with what follows a gap in front of them, so that a model that reads left to right sees both sides of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from nano_llada.core.batch import StepContext, TokenBatch, Vocabulary
from nano_llada.core.random import generator

GAP = 32  # longest gap in training
LEAST = 12  # tokens of the shortest document that is rearranged


def suffix_first(suffix: Sequence[int], prefix: Sequence[int], vocab: Vocabulary) -> list[int]:
    """The tokens before a gap's own: the text's start, the suffix between marks, and the prefix.

    The marks are the turn tokens: no text begins with a turn that has no role. An end token of the suffix is left out.
    """
    known = [token for token in suffix if token not in vocab.ends]
    start, rest = ([*prefix[:1]], [*prefix[1:]]) if prefix[:1] == [vocab.eos] else ([], [*prefix])
    return [*start, vocab.turn_start, *known, vocab.turn_end, *rest]


def with_suffixes_first(batch: TokenBatch, share: float, ctx: StepContext) -> TokenBatch:
    """In a share of the documents cut out a gap, and put what follows it in front: suffix, prefix, gap, end.

    The suffix is shortened to make room for the marks and the end. It bears no loss. Which documents, and where their
    gaps are, is a function of (seed, step, global row).
    """
    tokens, scored = batch.tokens.clone(), batch.scored.clone()
    turns = {ctx.vocab.turn_start, ctx.vocab.turn_end}
    for i, row in enumerate(batch.rows.tolist()):
        rng = generator(ctx.seed, "suffix", ctx.step, row)
        docs = batch.doc_ids[i]
        for doc in range(int(docs.max()) + 1):
            draws = torch.rand(3, dtype=torch.float64, generator=rng).tolist()
            places = (docs == doc).nonzero()[:, 0]
            text = batch.tokens[i, places].tolist()
            if draws[0] >= share or len(text) < LEAST or not turns.isdisjoint(text):
                continue
            room = len(text) - 5  # a start, a token of the suffix and three that are dropped from it
            gap = 1 + int(draws[1] * min(GAP, room))
            begin = 1 + int(draws[2] * (room - gap + 1))
            before, middle, after = text[:begin], text[begin : begin + gap], text[begin + gap : -3]
            front = suffix_first(after, before, ctx.vocab)
            new = [*front, *middle, ctx.vocab.eos]
            new += [ctx.vocab.eos] * (len(text) - len(new))  # where ends inside the suffix were left out
            tokens[i, places] = torch.tensor(new, device=tokens.device)
            silent = front.index(ctx.vocab.turn_end) + 1
            scored[i, places[:silent]] = False
    return replace(batch, tokens=tokens, scored=scored)
