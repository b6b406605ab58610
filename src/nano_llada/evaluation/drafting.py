"""How many tokens a tri-mode model should draft: with more drafts a pass writes more tokens, and costs more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nano_llada.config.decoding import Speculative
from nano_llada.core.batch import Vocabulary
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.types import Completion, Request, collect
from nano_llada.model.transformer import Transformer


@dataclass(frozen=True)
class DraftCost:
    """Self-speculation with a number of drafts, texts written one at a time."""

    drafts: int
    tokens: int  # with those that end texts
    forwards: int
    seconds: float

    @property
    def tokens_per_pass(self) -> float:
        """From 1, with no draft accepted, to drafts + 1."""
        return self.tokens / max(self.forwards, 1)

    @property
    def pass_milliseconds(self) -> float:
        """Wall-clock time of a pass."""
        return 1e3 * self.seconds / max(self.forwards, 1)

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / max(self.seconds, 1e-9)


def draft_costs(
    model: Transformer,
    vocab: Vocabulary,
    requests: Sequence[Request],
    decoding: Speculative,
    counts: Sequence[int],
    clock: Callable[[], float] = time.perf_counter,
) -> list[DraftCost]:
    """Write each request alone with each number of drafts, by turns, so that a busy machine disturbs all alike.

    Args:
        decoding: everything but the number of drafts.
        counts: numbers of drafts; 0 is autoregressive decoding.
    """
    samplers = {count: BatchSampler(model, vocab, _with(decoding, count)) for count in counts}
    found: dict[int, list[tuple[Completion, float]]] = {count: [] for count in counts}
    for sampler in samplers.values():  # warm up
        collect(sampler.stream(requests[:1]), 1, sampler.ends)
    for request in requests:
        for count, sampler in samplers.items():
            begin = clock()
            (done,) = collect(sampler.stream([request]), 1, sampler.ends)
            found[count].append((done, clock() - begin))
    return [
        DraftCost(
            count,
            sum(len(one.tokens) + (one.end is not None) for one, _ in found[count]),
            sum(one.forwards for one, _ in found[count]),
            sum(seconds for _, seconds in found[count]),
        )
        for count in counts
    ]


def best_drafts(costs: Sequence[DraftCost]) -> int:
    """The number of drafts with the most tokens per pass over the cost of a pass; of equal ones the smallest."""
    return min(costs, key=lambda cost: (-cost.tokens_per_pass / cost.pass_milliseconds, cost.drafts)).drafts


def _with(decoding: Speculative, drafts: int) -> Speculative:
    return Speculative(**{**vars(decoding), "drafts": drafts})
