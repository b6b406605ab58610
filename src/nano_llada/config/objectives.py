"""What is minimised, as records: one class an objective. The classes in `nano_llada.objectives` are built from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from nano_llada.config.card import Track
from nano_llada.core.own import name_of, type_name

if TYPE_CHECKING:
    from nano_llada.config.data import DataConfig
    from nano_llada.config.train import TrainConfig

    Named = str | type  # what Python code may hand over; a record keeps the name
else:
    Named = str

NOISES = ("linear", "cosine")


class ObjectiveConfig:
    """What every objective says about itself; a run, a checkpoint and a sampler ask nothing else.

    An objective of your own is a frozen dataclass that derives from this class and has a `loss` method, see
    `nano_llada.core.batch.Objective`. It overrides what differs.
    """

    track: Track = "diffusion"
    """The kind of model it trains: `ar` reads left to right, `diffusion` fills in masks."""
    needs_reference: bool = False
    """Whether the loss compares with a frozen model."""
    draws_answers: bool = False
    """Whether the model itself writes the texts that it learns from."""
    block_size: int | None = None
    """Tokens that the trained model decodes together; None: no blocks."""
    edits: bool = False
    """Whether the model learns to change tokens that are already written (LLaDA 2.1)."""
    answer_length: int | None = None
    """Tokens in the answers it draws; None: the data decides."""
    formats: ClassVar[tuple[str, ...]] = ("text", "chat")
    """Formats of data that it learns from."""

    @classmethod
    def saved_name(cls) -> str:
        """Name under which runs and checkpoints record the objective: of the class, or FILE.py:NAME."""
        return type_name(cls)

    def check(self, data: DataConfig, train: TrainConfig) -> None:
        """Refuse data and settings that the objective cannot use.

        Raises:
            ValueError: naming both sides of the contradiction.
        """
        if data.format not in self.formats:
            raise ValueError(
                f"the objective {self.saved_name()} learns from data of format {' or '.join(self.formats)}, "
                f"not {data.format!r}"
            )


@dataclass(frozen=True)
class NextToken(ObjectiveConfig):
    """Mean over scored tokens of -log p(x_i | x_<i), within each document."""

    track = "ar"


@dataclass(frozen=True)
class BlockSizeSchedule:
    """How many tokens are denoised together over a run: LLaDA 2.0's warm-up, stable, decay of block sizes.

    From an autoregressive model (size 1 is nearly what it knows) the blocks grow to the whole row, where training is
    cheapest, and shrink at the end to the size that generation will use. A size of a row or more is the whole row.

    Raises:
        ValueError: for sizes or shares that contradict each other.
    """

    block_size: int | None = None
    """Tokens in a block at the end of training and in generation; None: the whole row, as in LLaDA 1.0."""
    block_warmup: tuple[int, ...] = ()
    """Sizes to grow through first, such as 1 4 32 64 128; whole rows follow."""
    block_decay: tuple[int, ...] = ()
    """Sizes to shrink through at the end, such as 128 64 32; the last is block_size."""
    block_warmup_share: float = 0.3
    """Share of the run for block_warmup, the same for each of its sizes."""
    block_decay_share: float = 0.2
    """Share of the run for block_decay."""

    def __post_init__(self) -> None:
        for size in self._sizes:
            if size < 1:
                raise ValueError(f"a block has at least 1 token, got {size}")
        if self.block_decay and self.block_decay[-1] != self.block_size:
            raise ValueError(f"block_decay ends with {self.block_decay[-1]}, but block_size is {self.block_size}")
        if self.block_warmup and not self.block_decay and self.block_size is not None:
            raise ValueError(f"whole rows follow block_warmup: block_size {self.block_size} needs a block_decay")
        shares = {"block_warmup": self.block_warmup_share, "block_decay": self.block_decay_share}
        used = {name: share for name, share in shares.items() if getattr(self, name)}
        if any(not 0 < share <= 1 for share in used.values()) or sum(used.values()) > 1 + 1e-9:
            raise ValueError(f"the shares of block_warmup and block_decay must add up to at most 1, got {used}")
        if list(self.block_warmup) != sorted(self.block_warmup):
            raise ValueError(f"block_warmup must grow, got {self.block_warmup}")
        if list(self.block_decay) != sorted(self.block_decay, reverse=True):
            raise ValueError(f"block_decay must shrink, got {self.block_decay}")

    @property
    def _sizes(self) -> tuple[int, ...]:
        return (*self.block_warmup, *self.block_decay, *(() if self.block_size is None else (self.block_size,)))

    @property
    def changes(self) -> bool:
        """Whether the size changes over the run."""
        return bool(self.block_warmup or self.block_decay)

    def at(self, progress: float) -> int | None:
        """Block size when `progress` in [0, 1] of the run is done; None: the whole row."""
        if not self.changes:
            return self.block_size
        growing, shrinking = self.block_warmup, self.block_decay
        if growing and progress < self.block_warmup_share:
            return growing[int(progress / self.block_warmup_share * len(growing))]
        begin = 1 - self.block_decay_share
        if not shrinking or progress < begin:
            return None
        return shrinking[min(int((progress - begin) / self.block_decay_share * len(shrinking)), len(shrinking) - 1)]

    def check_row(self, length: int) -> None:
        """Refuse sizes that leave a shorter last block in every row of `length` tokens.

        Raises:
            ValueError: naming the sizes that divide it.
        """
        if wrong := sorted({size for size in self._sizes if size < length and length % size}):
            legal = ", ".join(str(size) for size in range(1, length + 1) if length % size == 0)
            raise ValueError(f"block sizes {wrong} do not divide sequence_length {length}; these do: {legal}")


@dataclass(frozen=True)
class Masking:
    """The forward process: which scored tokens are masked.

    `exact` draws how many of a group's n scored tokens to mask, k ~ U{1..n}, masks k of them and weighs each n / k;
    `bernoulli` draws t, masks each token with probability p(t) and weighs it w(t). Both are unbiased at every length.

    Raises:
        ValueError: for options that contradict each other, or an unknown noise.
    """

    mask_count: Literal["exact", "bernoulli"] = "exact"
    """How a document's masks are drawn; the expectation is the same, `exact` varies less."""
    noise: Named = "linear"
    """The schedule alpha(t): linear, cosine, or FILE.py:NAME, a class of your own (in Python: the class). Only
    `bernoulli` can tell schedules apart, since the bound does not depend on them."""
    stratified: bool = True
    """Spread the times of a global batch evenly over [0, 1), which keeps each one uniform and lowers variance."""
    mask_rate_min: float = 0.0
    """Least share of masked tokens that is drawn (LLaDA 2.0's bandwidth). Above 0 the loss bounds no likelihood."""
    mask_rate_max: float = 1.0
    """Largest share of masked tokens that is drawn; below 1 the loss bounds no likelihood."""
    complementary: bool = False
    """Show every row twice, the second time with exactly those tokens masked that were visible the first time, so that
    each is learnt exactly once in a pair (LLaDA 2.0)."""

    def __post_init__(self) -> None:
        noise = self.noise if isinstance(self.noise, str) else name_of(self.noise)
        object.__setattr__(self, "noise", noise)
        if noise not in NOISES and ":" not in noise:
            raise ValueError(f"unknown noise {self.noise!r}: use {', '.join(NOISES)}, or FILE.py:NAME")
        if self.mask_count == "exact" and self.noise != "linear":
            raise ValueError(f"noise {self.noise!r} has no effect with mask_count 'exact'; use mask_count 'bernoulli'")
        check_mask_rates(self.mask_rate_min, self.mask_rate_max)


@dataclass(frozen=True)
class TokenEditing:
    """Of the tokens that stay visible, some are made wrong, and the model learns to restore them (token-to-token, T2T).

    Wrong tokens are drawn at random (`replace_rate`) or are the model's own mistakes (`draft_rate`): in a drafted row
    some of the masked tokens are filled in with what the model predicts there, and it is trained on the result.

    Raises:
        ValueError: for rates outside [0, 1] or negative weights.
    """

    replace_rate: float = 0.0
    """Share of the visible tokens that are replaced by random ones; 0: none. LLaDA 2.1's models learn editing so."""
    draft_rate: float = 0.0
    """Share of the rows in which masked tokens are filled in by the model first (multi-turn forward); each costs one
    more forward pass, without gradient. 0: none."""
    edit_weight: float = 1.0
    """Weight of the cross-entropy at a wrong token; a masked one has weight 1 on average."""
    keep_weight: float = 0.0
    """Weight at a visible token that is right, so that the model learns to leave it; 0: not at all."""
    excluded_tokens: tuple[int, ...] = ()
    """Ids that are never used as wrong tokens, besides the special ones."""

    def __post_init__(self) -> None:
        for name in ("replace_rate", "draft_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, in [0, 1]; got {getattr(self, name)}")
        for name in ("edit_weight", "keep_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}")

    @property
    def active(self) -> bool:
        """Whether any token is made wrong."""
        return self.replace_rate > 0 or self.draft_rate > 0


@dataclass(frozen=True)
class Denoising(ObjectiveConfig):
    """An upper bound on -log p(x_0): weighted cross-entropy at masked positions.

    With no block size this is LLaDA 1.0 (eq. 3 and 5). With one, each block is denoised given the clean blocks before
    it (LLaDA 2.0, eq. 1), all blocks of a row in one pass; a block as long as the row is LLaDA 1.0 again.

    Raises:
        ValueError: for options that contradict each other.
    """

    corruption: Masking = field(default_factory=Masking)
    """The forward process."""
    blocks: BlockSizeSchedule = field(default_factory=BlockSizeSchedule)
    """How many tokens are denoised together."""
    editing: TokenEditing = field(default_factory=TokenEditing)
    """Learning to correct wrong tokens (LLaDA 2.1)."""
    loss_weight: Literal["elbo", "uniform"] = "elbo"
    """`elbo` weighs masked tokens so that the loss bounds the likelihood; `uniform` is a plain mean over masked tokens,
    another objective, never reported as a likelihood."""
    normalise_by: Literal["token", "document"] = "token"
    """`token` divides by all scored tokens (pretraining); `document` averages each answer first (SFT, eq. 5)."""
    random_length: float = 0.0
    """Share of rows cut to a random length, so that the model meets short contexts; LLaDA pretrains with 0.01."""
    confidence_weight: float = 0.0
    """Confidence-Aware Parallel training (CAP): weight of the entropy at masked positions that are predicted rightly.
    It makes the model confident enough to decode more tokens at once; LLaDA 2.0 fine-tunes with it. 0: off."""

    def __post_init__(self) -> None:
        if not 0 <= self.random_length <= 1:
            raise ValueError(f"random_length is a share of rows, in [0, 1]; got {self.random_length}")
        if self.loss_weight == "uniform" and self.normalise_by == "document":
            raise ValueError("loss_weight 'uniform' is a mean over masked tokens; normalise_by must be 'token'")
        if not 0 <= self.confidence_weight < float("inf"):
            raise ValueError(f"confidence_weight must be a finite number of at least 0, got {self.confidence_weight}")

    @property
    def block_size(self) -> int | None:  # type: ignore[override]
        """That of the end of training."""
        return self.blocks.block_size

    @property
    def edits(self) -> bool:  # type: ignore[override]
        """Whether wrong tokens are shown."""
        return self.editing.active

    def check(self, data: DataConfig, train: TrainConfig) -> None:
        """As every objective; and block sizes must divide a row."""
        super().check(data, train)
        self.blocks.check_row(data.sequence_length)


@dataclass(frozen=True)
class ExactScore:
    """log p(answer | prompt) of an autoregressive model."""

    track: ClassVar[Track] = "ar"
    block_size: ClassVar[None] = None
    draws: ClassVar[int] = 1


@dataclass(frozen=True)
class BoundScore:
    """A lower bound on log p(answer | prompt) of a diffusion model (LLaDA 2.0, eq. 7), estimated.

    Raises:
        ValueError: for draws, rates or blocks that contradict each other.
    """

    track: ClassVar[Track] = "diffusion"

    draws: int = 1
    """Noisy versions of each answer, with one mask pattern each; more of them vary less and cost as much more."""
    block_size: int | None = None
    """Of a block-diffusion model; None: the model sees the whole text."""
    mask_rate_min: float = 0.0
    """Least share of a block's tokens that is masked (LLaDA 2.0's bandwidth). Tokens weigh less unevenly in a band, and
    scores vary less; above 0 they bound no likelihood."""
    mask_rate_max: float = 1.0
    """Largest share of a block's tokens that is masked; below 1 scores bound no likelihood."""
    complementary: bool = False
    """Every second draw masks what the one before it did not, so that both together look at each token once; scores
    vary less for it within a band, where tokens have nearly equal weights."""

    def __post_init__(self) -> None:
        check_mask_rates(self.mask_rate_min, self.mask_rate_max)
        if self.complementary and self.draws % 2:
            raise ValueError(f"complementary draws come in pairs, got draws {self.draws}")
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"a block has at least 1 token, got {self.block_size}")


class _Scored(ObjectiveConfig):
    """An objective about the likelihood of answers: its score decides which kind of model it is for."""

    score: ExactScore | BoundScore

    @property
    def track(self) -> Track:  # type: ignore[override]
        """The score's."""
        return self.score.track

    @property
    def block_size(self) -> int | None:  # type: ignore[override]
        """The score's."""
        return self.score.block_size


@dataclass(frozen=True)
class Preference(_Scored):
    """-log sigmoid(beta * margin), where the margin is how much more than a frozen reference the model prefers the
    better answer (DPO; for diffusion models LLaDA 2.0, eq. 8, and LLaDA 1.5).

    Rows 2i and 2i + 1 of a batch are the better and the worse answer to one prompt.

    Raises:
        ValueError: if `beta` is not positive.
    """

    needs_reference = True
    formats = ("preference",)

    score: ExactScore | BoundScore = field(default_factory=BoundScore)
    """How likely an answer is under a model."""
    beta: float = 0.1
    """Weight of a nat of margin: the larger, the closer to the reference the model stays."""
    shared_noise: bool = True
    """Diffusion: show model and reference the same masks, so that most of the noise cancels (VRPO, LLaDA 1.5)."""
    length_normalised: bool = False
    """Count gains per token of the answer. Otherwise training, which makes all answers less likely, favours short
    ones. A nat per token is much: beta is then about 10."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta must be a finite number above 0, got {self.beta}")

    def check(self, data: DataConfig, train: TrainConfig) -> None:
        """As every objective; and a pair of answers takes two rows."""
        super().check(data, train)
        for name in ("batch_size", "micro_batch_size"):
            if (getattr(train, name) or 0) % 2:
                raise ValueError(f"{name} {getattr(train, name)} is odd: a pair of answers takes two rows")


@dataclass(frozen=True)
class Rollouts:
    """How answers are drawn to be rewarded.

    Raises:
        ValueError: for groups too small to compare, or values outside their ranges.
    """

    group_size: int = 8
    """Answers drawn to each question; their rewards are compared with each other."""
    temperature: float = 1.0
    """Of drawing answers; at 0 all answers to a question would be the same."""
    max_new_tokens: int = 32
    """Largest number of tokens in an answer."""
    threshold: float = 0.9
    """Diffusion: confidence above which tokens are unmasked together; see decoding."""
    edit_threshold: float | None = None
    """Diffusion: change a written token when another one is likelier than this; None: never."""
    reuse: int = 1
    """Optimizer steps for each set of answers."""
    reward: str = "verifier"
    """`verifier`: 1 for an answer that the row's own verifier accepts, else 0; or FILE.py:FUNCTION, which is called
    with the question, the answer and the row, and returns a number."""

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(f"group_size must be at least 2, got {self.group_size}: rewards are compared in a group")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"temperature must be a finite number above 0, got {self.temperature}: at 0 all answers are the same"
            )
        if self.max_new_tokens < 1 or self.reuse < 1:
            raise ValueError(f"max_new_tokens and reuse must be at least 1, got {self.max_new_tokens} and {self.reuse}")
        for name in ("threshold", "edit_threshold"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ValueError(f"{name} is a probability, in [0, 1]; got {getattr(self, name)}")


@dataclass(frozen=True)
class Policy(_Scored):
    """min(rho A, clip(rho, 1 - low, 1 + high) A), averaged over answers (LLaDA 2.1, EBPO; with exact scores GRPO).

    rho is how much likelier the model finds an answer now than when it was drawn: exactly, or by the likelihood bound
    with the same masks then and now. A is the answer's reward minus its group's mean, over its group's deviation.

    Raises:
        ValueError: for clips or weights outside their ranges.
    """

    draws_answers = True
    formats = ("prompts",)

    score: ExactScore | BoundScore = field(default_factory=BoundScore)
    """How likely an answer is under a model."""
    rollouts: Rollouts = field(default_factory=Rollouts)
    """How answers are drawn and rewarded."""
    clip_low: float = 0.2
    """How far rho may fall below 1 before an answer has no gradient."""
    clip_high: float = 0.2
    """How far rho may rise above 1 before an answer has no gradient."""
    negative_weight: float = 1.0
    """Factor on the advantages of answers worse than their group's mean. Below 1, right answers are reinforced more
    than wrong ones are suppressed: every token of a wrong answer is penalised, the right ones in it too."""
    kl_weight: float = 0.0
    """Weight of the divergence from the model that training started from; 0: off, and that model is not loaded."""
    log_ratio: Literal["mean", "sum"] = "mean"
    """Over an answer's tokens: `mean` makes rho as steady for long answers as for short ones; `sum` is the ratio."""

    def __post_init__(self) -> None:
        if not (0 < self.clip_low < 1 and 0 < self.clip_high < float("inf")):
            raise ValueError(f"clip_low must be in (0, 1) and clip_high above 0, got {self.clip_low}, {self.clip_high}")
        for name in ("negative_weight", "kl_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}")
        if self.rollouts.edit_threshold is not None and self.score.block_size is None:
            raise ValueError("edit_threshold has no effect where answers are not decoded in blocks: give a block_size")

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        """Only to measure a divergence."""
        return self.kl_weight > 0

    @property
    def answer_length(self) -> int | None:  # type: ignore[override]
        """That of the rollouts."""
        return self.rollouts.max_new_tokens

    def check(self, data: DataConfig, train: TrainConfig) -> None:
        """As every objective; and a batch holds whole groups."""
        super().check(data, train)
        if train.batch_size % self.rollouts.group_size:
            raise ValueError(
                f"batch_size {train.batch_size} is not a multiple of group_size {self.rollouts.group_size}"
            )


def check_mask_rates(low: float, high: float) -> None:
    """Raises ValueError unless 0 <= low < high <= 1."""
    if not 0 <= low < high <= 1:
        raise ValueError(f"mask rates must satisfy 0 <= min < max <= 1, got {low} and {high}")


Objective = NextToken | Denoising | Preference | Policy
