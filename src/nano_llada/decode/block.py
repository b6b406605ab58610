"""Block diffusion at work (LLaDA 2.0): one block after another, each from masks, with an exact cache of those before.

The keys and values of a finished block are those of its final tokens: they are computed in the first pass over the next
block, which has the finished one in front of it. So a pass computes one block, and now and then two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.core.random import generator
from nano_llada.core.types import Vocabulary
from nano_llada.decode.autoregressive import check_room
from nano_llada.decode.config import Block
from nano_llada.decode.proposal import choose, confidence, forbid, penalise
from nano_llada.decode.types import Request, StopTest, Write
from nano_llada.model.cache import KVCache
from nano_llada.model.transformer import Transformer


class _Row:
    """One request's text so far, which ends with the block that is being written."""

    def __init__(self, number: int, request: Request, count: int, vocab: Vocabulary, config: Block) -> None:
        self.number, self.vocab, self.config = number, vocab, config
        self.tokens, self.first = list(request.prompt), len(request.prompt)
        self.limit = self.first + count
        self.rng = generator(config.seed, "decode", request.seed)
        self._open(self.first // config.block_size * config.block_size)

    def _open(self, begin: int) -> None:
        """Start the block at `begin`; a prompt that ends within it stands there already."""
        self.begin = begin
        end = min(begin + self.config.block_size, self.limit)
        self.tokens += [self.vocab.mask] * (end - len(self.tokens))

    def masked(self) -> list[int]:
        """Places of the current block that are still hidden."""
        return [i for i in range(max(self.begin, self.first), len(self.tokens)) if self.tokens[i] == self.vocab.mask]

    @property
    def written(self) -> list[int | None]:
        """The answer so far."""
        return [None if token == self.vocab.mask else token for token in self.tokens[self.first :]]

    def pick(self, scores: Sequence[float]) -> list[int]:
        """Indices into `masked()` to write now: all that are sure enough, or else the surest."""
        sure = [i for i, score in enumerate(scores) if score > self.config.threshold]
        return sure or [max(range(len(scores)), key=lambda i: (scores[i], -i))]

    def write(self, places: Sequence[int], tokens: Sequence[int]) -> bool:
        """Put tokens into the block and, when it is full, open the next; True when nothing is left to do."""
        for place, token in zip(places, tokens, strict=True):
            self.tokens[place] = token
        for token in self.tokens[max(self.begin, self.first) :]:
            if token == self.vocab.mask:
                return False
            if token in self.vocab.ends:
                return True
        if len(self.tokens) == self.limit:
            return True
        self._open(len(self.tokens))
        return False


class BlockSampler:
    """Writes requests together; rows stand at different places and finish their blocks at different times."""

    def __init__(self, model: Transformer, vocab: Vocabulary, config: Block) -> None:
        self.model, self.vocab, self.config = model, vocab, config
        self.ends = vocab.ends

    def stream(self, requests: Sequence[Request], stop: StopTest | None = None) -> Iterator[list[Write]]:
        """One event list a forward pass, with what it wrote in each row.

        Raises:
            UserError: for an empty prompt, one that leaves no room in the context, or something to write between texts.
        """
        if any(request.suffix or request.given or request.fill for request in requests):
            raise UserError("a block model cannot see what follows a gap: infilling needs one trained on whole rows")
        rows = []
        for number, request in enumerate(requests):
            count = check_room(request, self.model.config.max_length, self.config.max_new_tokens)
            rows.append(_Row(number, request, count, self.vocab, self.config))
        if not rows:
            return
        cache = self.model.new_cache(len(rows), max(row.limit for row in rows))
        while rows:
            events, keep = [], []
            for i, (row, (places, tokens)) in enumerate(zip(rows, self._step(rows, cache), strict=True)):
                complete = row.write(places, tokens)
                stopped = bool(stop and stop(row.number, row.written))
                answer = tuple(place - row.first for place in places)
                events.append(Write(row.number, answer, tuple(tokens), complete or stopped, stopped))
                if not (complete or stopped):
                    keep.append(i)
            yield events
            if len(keep) < len(rows):
                cache.keep_rows(torch.tensor(keep, dtype=torch.int64, device=self.model.embed.weight.device))
                rows = [rows[i] for i in keep]

    @torch.inference_mode()
    def _step(self, rows: Sequence[_Row], cache: KVCache) -> list[tuple[list[int], list[int]]]:
        """Places and tokens that this forward pass writes in each row."""
        held = cache.starts if self.config.cached else [0] * len(rows)
        cache.place(held, [len(row.tokens) - start for row, start in zip(rows, held, strict=True)])
        hidden = [row.masked() for row in rows]
        logits = self._logits(rows, hidden, cache)
        streams = [row.rng for row, places in zip(rows, hidden, strict=True) for _ in places]
        tokens = choose(logits, self.config, streams)
        scores = confidence(logits, tokens, "low_confidence").tolist()
        result, first, chosen = [], 0, tokens.tolist()
        for row, places in zip(rows, hidden, strict=True):
            picked = row.pick(scores[first : first + len(places)])
            result.append(([places[i] for i in picked], [chosen[first + i] for i in picked]))
            first += len(places)
        return result

    def _logits(self, rows: Sequence[_Row], hidden: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """(N, V) for the hidden places of all rows, in order; finished text that is not cached yet is, after this."""
        device = self.model.embed.weight.device
        held = cache.starts
        news = [row.tokens[start:] for row, start in zip(rows, held, strict=True)]
        width = max(map(len, news))
        tokens = torch.tensor([new + [self.vocab.eos] * (width - len(new)) for new in news])
        keys = torch.arange(cache.slots(width))
        slots = (torch.tensor(held)[:, None] + torch.arange(width)).clamp(max=len(keys) - 1)
        ends = torch.tensor([len(row.tokens) for row in rows])
        select = torch.zeros_like(tokens, dtype=torch.bool)
        for i, places in enumerate(hidden):
            select[i, torch.tensor(places) - held[i]] = True
        pattern = AttentionPattern(
            "block_causal",
            key_docs=torch.where(keys < ends[:, None], 0, -1).to(device),
            key_blocks=(keys // self.config.block_size).expand(len(rows), -1).to(device),
            query_slots=slots.to(device),
        )
        commit = [row.begin - start for row, start in zip(rows, held, strict=True)]
        tokens, select, slots = tokens.to(device), select.to(device), slots.to(device)
        logits = self.model(tokens, pattern, positions=slots, select=select, cache=cache, commit=commit)
        early = [
            place - row.first < self.config.min_new_tokens
            for row, own in zip(rows, hidden, strict=True)
            for place in own
        ]
        logits = forbid(logits, self.vocab, no_end=torch.tensor(early, device=device))
        if self.config.repetition_penalty != 1.0:
            seen = torch.zeros(len(rows), self.vocab.size, dtype=torch.bool)
            for i, row in enumerate(rows):
                seen[i, row.tokens] = True
            owner = select.nonzero()[:, 0]
            logits = penalise(logits, seen.to(device)[owner], self.config.repetition_penalty, self.vocab)
        return logits
