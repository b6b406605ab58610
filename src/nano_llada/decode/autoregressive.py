"""Left-to-right generation with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nano_llada.config.decoding import Autoregressive
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.core.random import generator
from nano_llada.decode.proposal import choose, forbid, penalise
from nano_llada.decode.types import Request, StopTest, Write
from nano_llada.model.transformer import Transformer


class AutoregressiveSampler:
    """Writes requests of unequal length together: prompts are padded on the left, finished rows leave the batch."""

    def __init__(self, model: Transformer, vocab: Vocabulary, config: Autoregressive) -> None:
        self.model, self.vocab, self.config = model, vocab, config
        self.ends = vocab.ends

    def stream(self, requests: Sequence[Request], stop: StopTest | None = None) -> Iterator[list[Write]]:
        """One token a request and forward pass.

        Raises:
            UserError: for an empty prompt, a suffix, or a prompt that leaves no room in the context.
        """
        if any(request.suffix or request.given or request.fill for request in requests):
            raise UserError(
                "an autoregressive model cannot see what follows the gap: infilling needs a diffusion model"
            )
        limits = [check_room(r, self.model.config.max_length, self.config.max_new_tokens) for r in requests]
        if requests:
            yield from self._run(requests, limits, stop)

    @torch.inference_mode()
    def _run(self, requests: Sequence[Request], limits: list[int], stop: StopTest | None) -> Iterator[list[Write]]:
        device = self.model.embed.weight.device
        tokens, docs, positions = pad_left([r.prompt for r in requests], self.vocab.eos)
        tokens, docs, positions = tokens.to(device), docs.to(device), positions.to(device)
        cache = self.model.new_cache(len(requests), tokens.shape[1] + max(limits))
        streams = [generator(self.config.seed, "decode", r.seed) for r in requests]
        seen = torch.zeros(len(requests), self.vocab.size, dtype=torch.bool, device=device)
        for i, request in enumerate(requests):
            seen[i, list(request.prompt)] = True
        rows, written = list(range(len(requests))), [[] for _ in requests]  # type: list[int], list[list[int]]
        while rows:
            last = torch.zeros_like(docs[:, -tokens.shape[1] :], dtype=torch.bool)
            last[:, -1] = True
            pattern = AttentionPattern("causal", docs if bool((docs < 0).any()) else None)
            logits = self.model(tokens, pattern, positions=positions, select=last, cache=cache)
            early = torch.tensor([len(written[row]) < self.config.min_new_tokens for row in rows], device=device)
            logits = penalise(
                forbid(logits, self.vocab, no_end=early), seen, self.config.repetition_penalty, self.vocab
            )
            chosen = choose(logits, self.config, [streams[row] for row in rows])
            events, keep = [], []
            for i, token in enumerate(chosen.tolist()):
                text = written[rows[i]]
                text.append(token)
                stopped = bool(stop and stop(rows[i], text))
                done = stopped or token in self.ends or len(text) == limits[rows[i]]
                events.append(Write(rows[i], (len(text) - 1,), (token,), done, stopped))
                if not done:
                    keep.append(i)
            yield events
            kept = torch.tensor(keep, dtype=torch.int64, device=device)
            if len(keep) < len(rows):
                cache.keep_rows(kept)
            rows = [rows[i] for i in keep]
            tokens, seen = chosen[kept, None], seen[kept].scatter(1, chosen[kept, None], True)
            positions = positions[kept, -1:] + 1
            docs = torch.cat([docs[kept], torch.zeros(len(keep), 1, dtype=docs.dtype, device=device)], dim=1)


def pad_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts aligned at their last token: tokens, documents (-1 is padding) and positions, all (B, longest)."""
    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), pad)
    docs, positions = torch.full_like(tokens, -1), torch.zeros_like(tokens)
    for i, prompt in enumerate(prompts):
        start = longest - len(prompt)
        tokens[i, start:] = torch.tensor(prompt)
        docs[i, start:] = 0
        positions[i, start:] = torch.arange(len(prompt))
    return tokens, docs, positions


def check_room(request: Request, context: int, default: int) -> int:
    """How many tokens to write for a request: as many as were asked for and the context has room for.

    Raises:
        UserError: if there is no room, or nothing to continue.
    """
    wanted = default if request.max_new_tokens is None else request.max_new_tokens
    held = len(request.prompt) + len(request.suffix)
    if wanted < 1:
        raise UserError(f"max_new_tokens must be at least 1, got {wanted}: there is nothing to write")
    if not request.prompt:
        raise UserError("the prompt is empty: give at least one token")
    if held >= context:
        raise UserError(
            f"the prompt has {held} tokens, the model's context is {context}: nothing can be written after it"
        )
    if (request.suffix or request.fill) and held + wanted > context:
        raise UserError(f"prompt, gap and suffix need {held + wanted} tokens, the model's context is {context}")
    return min(wanted, context - held)
