"""Masked-diffusion generation (LLaDA, algorithms 4 and 5): a canvas of masks, written most confident first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nano_llada.config.decoding import Diffusion
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.core.random import generator
from nano_llada.decode.autoregressive import check_room
from nano_llada.decode.proposal import choose, confidence, forbid, penalise
from nano_llada.decode.types import Request, StopTest, Write
from nano_llada.model.cache import KVCache
from nano_llada.model.transformer import Transformer


class _Row:
    """One request's canvas: prompt, masks, suffix; and how far it has come."""

    def __init__(self, number: int, request: Request, count: int, vocab: Vocabulary, config: Diffusion) -> None:
        self.number, self.count, self.config, self.vocab = number, count, config, vocab
        self.canvas = [*request.prompt, *[vocab.mask] * count, *request.suffix]
        self.first, self.fill = len(request.prompt), request.fill
        for place, token in request.given:
            self.canvas[self.first + place] = token
        self.rng = generator(config.seed, "decode", request.seed)
        hidden = [place for place in range(count) if self.canvas[self.first + place] == vocab.mask]
        size = config.block_length or max(len(hidden), 1)
        self.blocks = [hidden[left : left + size] for left in range(0, len(hidden), size)]
        self.quota = spread(config.steps or len(hidden), [len(block) for block in self.blocks])
        self.block, self.step = 0, 0

    def window(self, kind: str) -> tuple[int, int]:
        """Canvas slots to compute in this pass, first and behind the last; all of them when a block begins."""
        if kind == "none" or self.step == 0:
            return 0, len(self.canvas)
        block = self.blocks[self.block]
        return self.first + block[0], len(self.canvas) if kind == "prefix" else self.first + block[-1] + 1

    @property
    def written(self) -> list[int | None]:
        answer = self.canvas[self.first : self.first + self.count]
        return [None if token == self.vocab.mask else token for token in answer]

    def masked(self) -> list[int]:
        """Places of the current block that are still hidden."""
        return [p for p in self.blocks[self.block] if self.canvas[self.first + p] == self.vocab.mask]

    def pick(self, scores: Sequence[float]) -> list[int]:
        """Indices into `masked()` to write now, given how sure the model is of each."""
        ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))  # ties go to the left
        if self.config.threshold is not None:
            sure = [i for i in ranked if scores[i] > self.config.threshold]
            return sure or ranked[:1]
        if self.config.strategy == "random":
            return self._ancestral(len(scores))
        return ranked[: self.quota[self.block][self.step]]

    def _ancestral(self, hidden: int) -> list[int]:
        """From time t to s each masked token is written with probability 1 - s/t (LLaDA, algorithm 4)."""
        left = len(self.quota[self.block]) - self.step  # t is proportional to the passes left, s to one less
        draws = torch.rand(hidden, dtype=torch.float64, generator=self.rng).tolist()
        return [i for i, draw in enumerate(draws) if draw < 1 / left]

    def write(self, places: Sequence[int], tokens: Sequence[int]) -> bool:
        """Put tokens on the canvas and move on; True when nothing is left to do."""
        for place, token in zip(places, tokens, strict=True):
            self.canvas[self.first + place] = token
        self.step += 1
        answer = self.written
        if not self.fill and self._ended(answer):
            return True
        while self.block < len(self.blocks) and not self.masked():
            self.block, self.step = self.block + 1, 0
        return self.block == len(self.blocks)

    def _ended(self, answer: Sequence[int | None]) -> bool:
        for token in answer:
            if token is None:
                return False
            if token in self.vocab.ends:
                return True
        return False


class DiffusionSampler:
    """Writes requests together; each row has blocks, steps and random numbers of its own."""

    def __init__(self, model: Transformer, vocab: Vocabulary, config: Diffusion) -> None:
        self.model, self.vocab, self.config = model, vocab, config
        self.ends = vocab.ends

    def stream(self, requests: Sequence[Request], stop: StopTest | None = None) -> Iterator[list[Write]]:
        """One event list a forward pass, with what it wrote in each row.

        Raises:
            UserError: for an empty prompt, one that leaves no room in the context, or given tokens outside the gap.
        """
        rows = []
        for number, request in enumerate(requests):
            count = check_room(request, self.model.config.max_length, self.config.max_new_tokens)
            if any(not 0 <= place < count for place, _ in request.given):
                raise UserError(f"given tokens must stand in the {count} places between prompt and suffix")
            row = _Row(number, request, count, self.vocab, self.config)
            if row.blocks:
                rows.append(row)
        cached = self.config.cache != "none" and bool(rows)
        cache = self.model.new_cache(len(rows), max(len(row.canvas) for row in rows)) if cached else None
        while rows:
            events, left = [], []
            for i, (row, (places, tokens)) in enumerate(zip(rows, self._step(rows, cache), strict=True)):
                complete = row.write(places, tokens)
                stopped = bool(stop and stop(row.number, row.written))
                done = complete or stopped
                events.append(Write(row.number, tuple(places), tuple(tokens), done, stopped))
                if not done:
                    left.append(i)
            if cache is not None and len(left) < len(rows):
                cache.keep_rows(torch.tensor(left, dtype=torch.int64, device=self.model.embed.weight.device))
            rows = [rows[i] for i in left]
            yield events

    @torch.inference_mode()
    def _step(self, rows: Sequence[_Row], cache: KVCache | None) -> list[tuple[list[int], list[int]]]:
        """Places and tokens that this forward pass writes in each row."""
        config, hidden = self.config, [row.masked() for row in rows]
        logits = self._logits(rows, hidden, cache)
        streams = [row.rng for row, places in zip(rows, hidden, strict=True) for _ in places]
        tokens = choose(logits, config, streams)
        judged = tokens if config.certainty == "chosen" else logits.argmax(-1)
        scores = confidence(logits, judged, config.strategy)
        if config.end_confidence < 1:
            is_end = torch.isin(tokens, torch.tensor(self.ends, device=tokens.device))
            scores = torch.where(is_end, scores * config.end_confidence, scores)
        result, first = [], 0
        for row, places in zip(rows, hidden, strict=True):
            mine = slice(first, first + len(places))
            picked = row.pick(scores[mine].tolist())
            chosen = tokens[mine].tolist()
            result.append(([places[i] for i in picked], [chosen[i] for i in picked]))
            first += len(places)
        return result

    def _logits(self, rows: Sequence[_Row], hidden: Sequence[Sequence[int]], cache: KVCache | None) -> Tensor:
        """(N, V) for the hidden places of all rows, in order, with everything forbidden that must be."""
        device = self.model.embed.weight.device
        longest = max(len(row.canvas) for row in rows)
        tokens = torch.full((len(rows), longest), self.vocab.eos)
        docs, select = torch.full_like(tokens, -1), torch.zeros_like(tokens, dtype=torch.bool)
        prompts = torch.zeros_like(select)
        for i, (row, places) in enumerate(zip(rows, hidden, strict=True)):
            tokens[i, : len(row.canvas)] = torch.tensor(row.canvas)
            docs[i, : len(row.canvas)] = 0
            select[i, [row.first + place for place in places]] = True
            prompts[i, : row.first] = True
        tokens, docs, select, prompts = (t.to(device) for t in (tokens, docs, select, prompts))
        if cache is not None:
            logits = self._window_logits(rows, tokens, docs, select, cache)
        else:
            pattern = AttentionPattern.packed("full", docs)
            logits = self.model(tokens, pattern, select=select).float()
            if self.config.guidance:
                blind = self.model(tokens.masked_fill(prompts, self.vocab.mask), pattern, select=select).float()
                logits = blind + (1 + self.config.guidance) * (logits - blind)
        owner = select.nonzero()[:, 0]
        place = torch.tensor([place for places in hidden for place in places], device=device)
        fill = torch.tensor([row.fill for row in rows], device=device)[owner]
        logits = forbid(logits, self.vocab, no_end=fill | (place < self.config.min_new_tokens))
        if self.config.repetition_penalty != 1.0:
            seen = torch.zeros(len(rows), self.vocab.size, dtype=torch.bool, device=device)
            seen.scatter_(1, tokens, True)
            logits = penalise(logits, seen[owner], self.config.repetition_penalty, self.vocab)
        return logits

    def _window_logits(
        self, rows: Sequence[_Row], tokens: Tensor, docs: Tensor, select: Tensor, cache: KVCache
    ) -> Tensor:
        """The same logits, computing only each row's window; the rest is seen as it was when its block began."""
        windows = [row.window(self.config.cache) for row in rows]
        starts, widths = [a for a, _ in windows], [b - a for a, b in windows]
        cache.place(starts, widths, visible=tokens.shape[1])
        inside = torch.arange(max(widths), device=tokens.device)
        slots = (torch.tensor(starts, device=tokens.device)[:, None] + inside).clamp(max=tokens.shape[1] - 1)
        real = inside < torch.tensor(widths, device=tokens.device)[:, None]
        pattern = AttentionPattern("full", docs, query_slots=slots)
        chosen = select.gather(1, slots) & real
        windowed = tokens.gather(1, slots)
        logits: Tensor = self.model(windowed, pattern, positions=slots, select=chosen, cache=cache)
        return logits.float()


def spread(steps: int, sizes: Sequence[int]) -> list[list[int]]:
    """How many tokens each pass of each block writes.

    Passes are shared out over the blocks in proportion to their size, at least one each and no more than a block has
    tokens; within a block every pass writes ``size // passes`` and the first ``size % passes`` one more. Nothing has to
    divide anything.
    """
    total, done, used = sum(sizes), 0, 0
    plan: list[list[int]] = []
    for size in sizes:
        done += size
        later = len(sizes) - len(plan) - 1  # each of which needs a pass
        passes = min(size, max(1, min(round(steps * done / total), steps - later) - used))
        used += passes
        plan.append([size // passes + (step < size % passes) for step in range(passes)])
    return plan
