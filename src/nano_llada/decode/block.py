"""Block diffusion at work (LLaDA 2.0 and 2.1): one block after another, each from masks, with an exact cache.

The keys and values of a finished block are those of its final tokens: they are computed in the first pass over the next
block, which has the finished one in front of it. So a pass computes one block, and now and then two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nano_llada.config.decoding import Block
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.decode.autoregressive import check_room
from nano_llada.decode.block_row import BlockRow
from nano_llada.decode.proposal import choose, confidence, forbid, penalise
from nano_llada.decode.types import Request, StopTest, Write
from nano_llada.model.cache import KVCache
from nano_llada.model.transformer import Transformer


class BlockSampler:
    """Writes requests together; rows stand at different places and finish their blocks at different times."""

    def __init__(self, model: Transformer, vocab: Vocabulary, config: Block) -> None:
        self.model, self.vocab, self.config = model, vocab, config
        self.ends = vocab.ends

    def stream(self, requests: Sequence[Request], stop: StopTest | None = None) -> Iterator[list[Write]]:
        """One event list a forward pass, with what it wrote and edited in each row.

        Raises:
            UserError: for an empty prompt, one that leaves no room in the context, or something to write between texts.
        """
        if any(request.suffix or request.given or request.fill for request in requests):
            raise UserError("a block model cannot see what follows a gap: infilling needs one trained on whole rows")
        rows = []
        for number, request in enumerate(requests):
            count = check_room(request, self.model.config.max_length, self.config.max_new_tokens)
            rows.append(BlockRow(number, request, count, self.vocab, self.config))
        if not rows:
            return
        cache = self.model.new_cache(len(rows), max(row.limit for row in rows))
        while rows:
            events, keep = [], []
            for i, (row, (tokens, scores)) in enumerate(zip(rows, self._look(rows, cache), strict=True)):
                event = row.update(tokens, scores)
                stopped = bool(stop and stop(row.number, row.written))
                events.append(Write(row.number, *event, row.finished or stopped, stopped, row.edited))
                if not (row.finished or stopped):
                    keep.append(i)
            yield events
            if len(keep) < len(rows):
                cache.keep_rows(torch.tensor(keep, dtype=torch.int64, device=self.model.embed.weight.device))
                rows = [rows[i] for i in keep]

    @torch.inference_mode()
    def _look(self, rows: Sequence[BlockRow], cache: KVCache) -> list[tuple[list[int], list[float]]]:
        """For each row the chosen token at every place it looks at, and how likely it is."""
        logits = self._logits(rows, cache)
        streams = [row.rng for row in rows for _ in row.places]
        hidden = [row.tokens[place] == self.vocab.mask for row in rows for place in row.places]
        best = logits.argmax(-1)
        # what stands is judged by the likeliest token, never by a drawn one
        tokens = torch.where(torch.tensor(hidden, device=best.device), choose(logits, self.config, streams), best)
        judged = tokens if self.config.certainty == "chosen" else best
        scores, chosen = confidence(logits, judged, "low_confidence").tolist(), tokens.tolist()
        result, first = [], 0
        for row in rows:
            last = first + len(row.places)
            result.append((chosen[first:last], scores[first:last]))
            first = last
        return result

    def _logits(self, rows: Sequence[BlockRow], cache: KVCache) -> Tensor:
        """(N, V) for the places of all rows, in order; finished text that was computed with them is then cached."""
        device = self.model.embed.weight.device
        held = [row.held if self.config.cached else 0 for row in rows]
        news = [row.tokens[start:] for row, start in zip(rows, held, strict=True)]
        width = max(map(len, news))
        cache.place(held, list(map(len, news)))
        tokens = torch.tensor([new + [self.vocab.eos] * (width - len(new)) for new in news])
        keys = torch.arange(cache.slots(width))
        slots = (torch.tensor(held)[:, None] + torch.arange(width)).clamp(max=len(keys) - 1)
        ends = torch.tensor([len(row.tokens) for row in rows])
        select = torch.zeros_like(tokens, dtype=torch.bool)
        for i, row in enumerate(rows):
            select[i, torch.tensor(row.places) - held[i]] = True
        pattern = AttentionPattern(
            "block_causal",
            key_docs=torch.where(keys < ends[:, None], 0, -1).to(device),
            key_blocks=(keys // self.config.block_size).expand(len(rows), -1).to(device),
            query_slots=slots.to(device),
        )
        tokens, select, slots = tokens.to(device), select.to(device), slots.to(device)
        logits = self.model(tokens, pattern, positions=slots, select=select, cache=cache)
        early = [place - row.first < self.config.min_new_tokens for row in rows for place in row.places]
        logits = forbid(logits, self.vocab, no_end=torch.tensor(early, device=device))
        if self.config.repetition_penalty != 1.0:
            seen = torch.zeros(len(rows), self.vocab.size, dtype=torch.bool)
            for i, row in enumerate(rows):
                seen[i, row.tokens] = True
            owner = select.nonzero()[:, 0]
            logits = penalise(logits, seen.to(device)[owner], self.config.repetition_penalty, self.vocab)
        return logits
