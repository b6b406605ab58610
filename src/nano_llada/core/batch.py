"""The types that all packages share: batches of clean text, losses, an objective's context, the model's interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from nano_llada.core.pattern import AttentionPattern


@dataclass(frozen=True)
class Vocabulary:
    """Token ids with a meaning. It belongs to the tokenizer, never to a recipe."""

    size: int
    mask: int
    eos: int  # <|endoftext|>: ends a document, pads a row and an answer
    turn_start: int  # <|im_start|>
    turn_end: int  # <|im_end|>
    reserved: tuple[int, ...] = ()  # ids that no text contains

    @property
    def unwritable(self) -> tuple[int, ...]:
        """Ids no sampler may ever write: the mask, an opening of a turn, and empty slots."""
        return (self.mask, self.turn_start, *self.reserved)

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids after which an answer is over."""
        return (self.turn_end, self.eos)


@dataclass(frozen=True)
class TokenBatch:
    """Rows of clean text x_0, all tensors (B, L)."""

    tokens: Tensor  # int64
    scored: Tensor  # bool: may be corrupted and bears loss (answer tokens, never the prompt)
    doc_ids: Tensor  # int64: which packed document a position belongs to, counted per row; -1 is padding
    positions: Tensor  # int64: place within the document, for rotary embeddings
    rows: Tensor  # (B,) int64: index of each row in the global batch; the noise is a function of it

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    def select(self, rows: slice | Tensor) -> TokenBatch:
        """Some rows of the batch, which keep their global indices: a micro-batch, or those where (B,) is True."""
        return replace(self, **{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True)
class PolicyBatch(TokenBatch):
    """Questions with answers that a model drew and that were rewarded; all tensors (B,) float64."""

    rewards: Tensor
    advantages: Tensor  # reward less the group's mean, over the group's deviation
    old_scores: Tensor  # log-likelihood of each answer under the model that drew it


@dataclass(frozen=True)
class LossOutput:
    """A sum and its count, never a mean: then accumulation and data parallelism are exact."""

    total: Tensor  # () differentiable
    count: Tensor  # () what to divide by once the whole global batch is summed
    predicted: Tensor  # () positions whose logits were computed, for counting work
    positions: int  # positions that went through the model, padding included, for counting work
    metrics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # name -> (sum, count)


@dataclass(frozen=True)
class StepContext:
    """What an objective may use besides the batch: vocabulary, seed, step, and a reference model."""

    vocab: Vocabulary
    seed: int
    step: int
    total_steps: int
    global_rows: int  # rows of the global batch, over all micro-batches and processes
    measuring: bool = False  # on validation data: what changes over a run has its final value
    reference: Model | None = None  # a frozen model to compare with, for objectives that need one
    # of several processes, whether one needs a pass through the model that all have to make together
    anywhere: Callable[[bool], bool] = bool

    @property
    def progress(self) -> float:
        """0 at the first step, towards 1 at the last; 1 when measuring."""
        return 1.0 if self.measuring else self.step / max(self.total_steps, 1)


class Cache(Protocol):
    """Keys and values of text that will not change any more."""

    @property
    def length(self) -> int: ...


class Model(Protocol):
    """Anything that maps tokens (B, L) to logits under an attention pattern."""

    @property
    def head(self) -> nn.Linear:
        """The last layer: logits are ``head(features(...))``."""
        ...

    def features(
        self,
        tokens: Tensor,
        pattern: AttentionPattern,
        *,
        positions: Tensor | None = None,
        select: Tensor | None = None,
    ) -> Tensor:
        """Input of the head, (B, L, H); with `select` (B, L) bool only those positions, (N, H). Enough for training."""
        ...

    def __call__(
        self,
        tokens: Tensor,
        pattern: AttentionPattern,
        *,
        positions: Tensor | None = None,
        select: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (B, L, V); with `select` (B, L) bool only those positions, (N, V). A cache is continued."""
        ...


class Objective(Protocol):
    """All that the training loop knows about an objective."""

    def loss(self, model: Model, batch: TokenBatch, ctx: StepContext) -> LossOutput: ...
