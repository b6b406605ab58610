"""Decoding rules: which masked places to unmask after a forward pass, given how sure the model is of each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from nano_llada.config.decoding import Block, Diffusion
from nano_llada.core.errors import UserError
from nano_llada.core.own import load_own


@dataclass(frozen=True)
class Progress:
    """How far a block has been written."""

    step: int  # passes over this block so far
    passes: int  # passes planned for it
    quota: int  # places to unmask now, according to that plan
    rng: torch.Generator  # the request's own

    def again(self, share: float) -> float:
        """The part of the written places to mask again: a share of the most that the noise schedule allows.

        ReMDM (arXiv 2503.00307): from time t to s a written token is masked again with probability sigma, at most
        ``min(1, (1 - alpha_s) / alpha_t)``; here alpha is 1 - t, and sigma is `share` times that.
        """
        left, over = self.passes - self.step, self.step  # of the passes: t and 1 - t
        return share * min(1.0, (left - 1) / over) if over else 0.0


class Rule(ABC):
    """A decoding rule. Derive a class of your own and name it FILE.py:NAME in a decoding's `rule`.

    Attributes:
        score: what `pick` receives for each masked place: `low_confidence` (probability of the proposed token),
            `margin` or `entropy` (its exponential with a minus sign); see `proposal.confidence`.
        may_wait: whether a pass may unmask nothing before the planned passes are over. Otherwise, where a rule picks
            nothing, the place of the highest score is unmasked.
    """

    score: str = "low_confidence"
    may_wait: bool = False

    def __init__(self, config: Diffusion | Block) -> None:
        self.config = config

    @abstractmethod
    def pick(self, scores: Sequence[float], progress: Progress) -> Sequence[int]:
        """Indices into `scores` of the places to unmask now; `scores` are those of the block's masked places."""

    def remask(self, scores: Sequence[float], progress: Progress, hidden: int) -> Sequence[int]:
        """Indices into `scores` of the places to mask again in the same pass; most rules have none.

        Args:
            scores: of the block's written places, as they were when these were written.
            hidden: how many places of the block are masked.
        """
        return ()


def ranked(scores: Sequence[float]) -> list[int]:
    """Indices by falling score; of equal ones the leftmost first."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


class Quota(Rule):
    """A planned number of places per pass, highest scores first (LLaDA, algorithm 5)."""

    config: Diffusion

    def __init__(self, config: Diffusion) -> None:
        super().__init__(config)
        self.score = config.strategy

    def remask(self, scores: Sequence[float], progress: Progress, hidden: int) -> Sequence[int]:
        """The lowest, as many as the others that are unmasked instead."""
        count = min(round(progress.again(self.config.remask) * len(scores)), hidden - progress.quota)
        return ranked(scores)[::-1][: max(count, 0)]

    def pick(self, scores: Sequence[float], progress: Progress) -> Sequence[int]:
        """The `quota` highest."""
        return ranked(scores)[: progress.quota]


class Ancestral(Rule):
    """From time t to s each masked token is unmasked with probability 1 - s/t (LLaDA, algorithm 4)."""

    may_wait = True
    config: Diffusion

    def pick(self, scores: Sequence[float], progress: Progress) -> Sequence[int]:
        """Drawn places, possibly none; more where written ones are masked again, so that as many stay masked."""
        left = progress.passes - progress.step  # t is proportional to the passes left, s to one less
        chance = 1 / left + progress.again(self.config.remask) * progress.step / left
        draws = torch.rand(len(scores), dtype=torch.float64, generator=progress.rng).tolist()
        return [i for i, draw in enumerate(draws) if draw < chance]

    def remask(self, scores: Sequence[float], progress: Progress, hidden: int) -> Sequence[int]:
        """Drawn places."""
        chance = progress.again(self.config.remask)
        if not chance:
            return ()
        draws = torch.rand(len(scores), dtype=torch.float64, generator=progress.rng).tolist()
        return [i for i, draw in enumerate(draws) if draw < chance]


class Threshold(Rule):
    """Every place whose score exceeds a threshold (LLaDA 2.0; 2.1, eq. 1)."""

    def pick(self, scores: Sequence[float], progress: Progress) -> Sequence[int]:
        """All that are sure enough."""
        limit = self.config.threshold
        return [i for i in ranked(scores) if limit is not None and scores[i] > limit]


class EntropyBound(Rule):
    """The most places, lowest entropy first, whose joint dependence is bounded (arXiv 2505.24857).

    Unmasks the largest set U of lowest entropies with ``sum of H over U - max of H over U <= bound`` (nats): an upper
    bound of the error of drawing its tokens independently. One place always qualifies.
    """

    score = "entropy"

    def pick(self, scores: Sequence[float], progress: Progress) -> Sequence[int]:
        """The longest such prefix."""
        bound, total, chosen = bound_of(self.config), 0.0, []
        for i in ranked(scores):
            if total > bound:  # what was chosen before; the highest entropy, this one's, does not count
                break
            chosen.append(i)
            total -= math.log(max(scores[i], 1e-300))
        return chosen


class Factor(Rule):
    """The largest n with ``(n + 1) * (1 - c_n) < bound``, c_n the n-th highest confidence (arXiv 2505.22618)."""

    def pick(self, scores: Sequence[float], progress: Progress) -> Sequence[int]:
        """The n highest."""
        order, bound = ranked(scores), bound_of(self.config)
        fitting = [n for n in range(1, len(order) + 1) if (n + 1) * (1 - scores[order[n - 1]]) < bound]
        return order[: max(fitting, default=0)]


def bound_of(config: Diffusion | Block) -> float:
    """The bound of `entropy_bound` (nats) or `factor`."""
    if config.rule_bound is None:  # the record refuses this
        raise UserError(f"rule {config.rule} needs a rule_bound")
    return config.rule_bound


NAMED: Mapping[str, type[Rule]] = {"entropy_bound": EntropyBound, "factor": Factor}


def make_rule(config: Diffusion | Block) -> Rule:
    """The rule of a decoding.

    Raises:
        UserError: if a rule of one's own cannot be loaded.
    """
    if config.rule is not None:
        name = str(config.rule)
        own: type[Rule] = NAMED.get(name) or load_own(name, Rule, what="decoding rule")  # type: ignore[type-abstract]
        return own(config)
    if config.threshold is not None:
        return Threshold(config)
    assert isinstance(config, Diffusion)  # blocks have a threshold
    return Ancestral(config) if config.strategy == "random" else Quota(config)


def pick(rule: Rule, scores: Sequence[float], progress: Progress) -> list[int]:
    """What a rule picks, checked; at least one place, unless the rule may wait.

    Raises:
        UserError: for an index that is not in `scores`.
    """
    chosen = list(dict.fromkeys(rule.pick(scores, progress)))
    if wrong := [i for i in chosen if not (isinstance(i, int) and 0 <= i < len(scores))]:
        raise UserError(f"decoding rule {type(rule).__name__} picked {wrong[0]!r} of {len(scores)} masked places")
    over = progress.step + 1 >= progress.passes
    return chosen or ([] if rule.may_wait and not over else ranked(scores)[:1])
