"""What is minimised, as records: one class an objective. The classes in `nano_llada.objectives` are built from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from nano_llada.config.card import Predicts, Track
from nano_llada.config.checks import (
    NotNegative,
    Positive,
    Range,
    Share,
    Tokens,
)
from nano_llada.config.kinds import check_values
from nano_llada.core.own import name_of, type_name
from nano_llada.core.words import did_you_mean

if TYPE_CHECKING:
    from nano_llada.config.data import DataConfig
    from nano_llada.config.train import TrainConfig

    Named = str | type  # what Python code may hand over; a record keeps the name
else:
    Named = str

NOISES = ("linear", "cosine")


class ObjectiveConfig:
    """What every objective declares about itself. Runs, checkpoints and samplers depend on nothing else.

    An objective of your own is a frozen dataclass that derives from this class and has a `loss` method (see
    `nano_llada.core.batch.Objective` and examples/own_objective.py). It overrides what differs; its fields become
    command-line options, and a number among them must be finite.

    Raises:
        ValueError: for a number outside its range.
    """

    track: Track = "diffusion"
    """The kind of model it trains: `ar` reads left to right, `diffusion` fills in masks, `both` does either."""
    needs_reference: bool = False
    """Whether the loss compares with a frozen model."""
    draws_answers: bool = False
    """Whether the model generates the texts that it learns from."""
    block_size: int | None = None
    """Tokens per block in decoding; None: no blocks."""
    edits: bool = False
    """Whether the model learns to change tokens that are already written (LLaDA 2.1)."""
    predicts: Predicts = "self"
    """Which token an output of a denoiser predicts: that of its own place, or the `next` one."""
    suffix_share: float = 0.0
    """Share of the documents in which what follows a gap is put in front."""
    answer_length: int | None = None
    """Tokens in the answers that it draws; None: the data decides."""
    formats: ClassVar[tuple[str, ...]] = ("text", "chat")
    """Formats of data that it can learn from."""

    def __post_init__(self) -> None:
        check_values(self)

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

    Starting from an autoregressive model (blocks of 1 are close to what it has learnt), blocks grow to the whole row,
    where training is cheapest, and shrink at the end to the size used in decoding. A size of a row or more means the
    whole row.

    Raises:
        ValueError: for sizes or shares that contradict each other.
    """

    block_size: Tokens | None = None
    """Tokens in a block at the end of training and in decoding; default: the whole row, as in LLaDA 1.0."""
    block_warmup: tuple[Tokens, ...] = ()
    """Block sizes to grow through first, such as 1 4 32 64 128; whole rows follow."""
    block_decay: tuple[Tokens, ...] = ()
    """Block sizes to shrink through at the end, such as 128 64 32; the last one is block_size."""
    block_warmup_share: Share = 0.3
    """Share of the run for block_warmup, divided equally among its sizes."""
    block_decay_share: Share = 0.2
    """Share of the run for block_decay."""

    def __post_init__(self) -> None:
        check_values(self)
        if self.block_decay and self.block_decay[-1] != self.block_size:
            raise ValueError(f"block_decay ends with {self.block_decay[-1]}, but block_size is {self.block_size}")
        if self.block_warmup and not self.block_decay and self.block_size is not None:
            raise ValueError(f"whole rows follow block_warmup: block_size {self.block_size} needs a block_decay")
        shares = {"block_warmup": self.block_warmup_share, "block_decay": self.block_decay_share}
        used = {name: share for name, share in shares.items() if getattr(self, name)}
        if not all(used.values()) or sum(used.values()) > 1 + 1e-9:
            raise ValueError(
                f"block_warmup_share and block_decay_share must be above 0 and add up to at most 1, got {used}"
            )
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
    """How the masks of a document are drawn; the expectation is the same, `exact` has less variance."""
    noise: Named = "linear"
    """The schedule alpha(t): linear, cosine, or FILE.py:NAME, a class of your own (in Python: the class). It needs
    mask_count bernoulli: the bound itself does not depend on the schedule."""
    stratified: bool = True
    """Spread the times of a batch evenly over [0, 1), which keeps each one uniform and reduces variance."""
    mask_rate_min: Share = 0.0
    """Smallest mask rate (LLaDA 2.0's bandwidth). Above 0 the loss is not a likelihood bound."""
    mask_rate_max: Share = 1.0
    """Largest mask rate. Below 1 the loss is not a likelihood bound."""
    complementary: bool = False
    """Use every row twice, the second time with exactly those tokens masked that were visible the first time, so that
    each token is learnt once per pair (LLaDA 2.0)."""

    def __post_init__(self) -> None:
        noise = name_of(self.noise) if isinstance(self.noise, type) else self.noise
        object.__setattr__(self, "noise", noise)
        check_values(self)
        if noise not in NOISES and ":" not in noise:
            near = did_you_mean(noise, NOISES)
            raise ValueError(f"unknown noise {self.noise!r}: use {', '.join(NOISES)}, or FILE.py:NAME{near}")
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

    replace_rate: Share = 0.0
    """Share of the visible tokens that are replaced by random ones, from which the model learns editing; 0: off."""
    draft_rate: Share = 0.0
    """Share of the rows in which the model first fills in masked tokens itself (multi-turn forward); each costs one
    more forward pass without gradient. 0: off."""
    edit_weight: NotNegative = 1.0
    """Weight of the cross-entropy at a wrong token; a masked one has weight 1 on average."""
    keep_weight: NotNegative = 0.0
    """Weight at a visible token that is right, so that the model learns to keep it; 0: off."""
    excluded_tokens: tuple[Annotated[int, Range(0, 2**24)], ...] = ()
    """Token ids that are never used as wrong tokens, in addition to the special ones."""

    def __post_init__(self) -> None:
        check_values(self)

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
    which is another objective and never reported as a likelihood."""
    normalise_by: Literal["token", "document"] = "token"
    """`token` divides by all scored tokens (pretraining); `document` averages each answer first (SFT, eq. 5)."""
    random_length: Share = 0.0
    """Share of rows cut to a random length, so that the model sees short contexts; LLaDA pretrains with 0.01."""
    confidence_weight: NotNegative = 0.0
    """Confidence-Aware Parallel training (CAP): weight of the entropy at masked positions that are predicted correctly.
    It makes the model confident enough to unmask more tokens at once (LLaDA 2.0). 0: off."""
    predicts: Predicts = "self"
    """Which token an output predicts: that of its own place (`self`, as LLaDA), or the `next` one, as the outputs of an
    AR model do, so that its weights need not relearn this. The first token of a text is then never masked."""
    suffix_share: Share = 0.0
    """Share of the documents in which what follows a gap is put in front, so that a model that is decoded left to right
    or in blocks learns to fill gaps (see `nano-llada infill`). For texts. 0: off."""

    def __post_init__(self) -> None:
        check_values(self)
        if self.loss_weight == "uniform" and self.normalise_by == "document":
            raise ValueError("loss_weight 'uniform' is a mean over masked tokens; normalise_by must be 'token'")

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
        self._check_suffixes(data)
        super().check(data, train)
        self.blocks.check_row(data.sequence_length)

    def _check_suffixes(self, data: DataConfig) -> None:
        if self.suffix_share and data.format != "text":
            raise ValueError(f"suffix_share rearranges texts; it cannot be used with format {data.format!r}")
        if self.suffix_share and self.block_size is None:
            raise ValueError("suffix_share has no effect without a block_size: such a model sees both sides of a gap")


@dataclass(frozen=True)
class TriMode(Denoising):
    """One set of weights that decodes left to right, in blocks, and left to right from drafts of its own.

    The noisy and the clean text go through the model side by side, as in block diffusion, but the clean text is read
    left to right and bears the next-token loss, in the same pass: ``(w * L_AR + L_mask) / (1 + w)``, w the `ar_weight`.
    Blocks begin at a random place in each row, so that drafting can start after any token. The first token of a text is
    given in every mode.

    Raises:
        ValueError: for options that contradict each other.
    """

    track = "both"

    blocks: BlockSizeSchedule = field(default_factory=lambda: BlockSizeSchedule(block_size=16))
    """How many tokens are denoised together."""
    predicts: Predicts = "next"
    """Which token an output for a masked text predicts: the `next` one, as the outputs for clean text always do, so
    that AR weights need not relearn it, or that of its own place (`self`)."""
    ar_weight: NotNegative = 1.0
    """Weight of the next-token loss of the clean text; the loss of masked tokens has weight 1."""
    short_blocks: Share = 0.5
    """Share of rows whose blocks have a random size up to block_size: drafts are made in short blocks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_weight == "uniform":
            raise ValueError("loss_weight 'uniform' counts masked tokens alone; the next-token loss needs 'elbo'")

    def check(self, data: DataConfig, train: TrainConfig) -> None:
        """As every objective; blocks begin anywhere, so their size divides nothing."""
        self._check_suffixes(data)
        ObjectiveConfig.check(self, data, train)


@dataclass(frozen=True)
class ExactScore:
    """log p(answer | prompt) of an autoregressive model."""

    track: ClassVar[Track] = "ar"
    block_size: ClassVar[None] = None
    predicts: ClassVar[Predicts] = "self"
    draws: ClassVar[int] = 1


@dataclass(frozen=True)
class BoundScore:
    """A lower bound on log p(answer | prompt) of a diffusion model (LLaDA 2.0, eq. 7), estimated.

    Raises:
        ValueError: for draws, rates or blocks that contradict each other.
    """

    track: ClassVar[Track] = "diffusion"

    draws: Annotated[int, Range(1, 4096)] = 1
    """Noisy versions of each answer, with one mask pattern each; more have less variance and cost proportionally."""
    block_size: Tokens | None = None
    """Tokens per block of a block-diffusion model; default: the model sees the whole text."""
    mask_rate_min: Share = 0.0
    """Smallest mask rate of a block (LLaDA 2.0's bandwidth). Within a band tokens have more equal weights and scores
    less variance; above 0 scores are not likelihood bounds."""
    mask_rate_max: Share = 1.0
    """Largest mask rate of a block; below 1 scores are not likelihood bounds."""
    complementary: bool = False
    """Every second draw masks what the one before it did not, so that a pair scores each token once; this reduces the
    variance within a band, where tokens have nearly equal weights."""
    predicts: Predicts = "self"
    """Which token an output of the model predicts: that of its own place, or the `next` one; as it was trained."""

    def __post_init__(self) -> None:
        check_values(self)
        check_mask_rates(self.mask_rate_min, self.mask_rate_max)
        if self.complementary and self.draws % 2:
            raise ValueError(f"complementary draws come in pairs, got draws {self.draws}")


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

    @property
    def predicts(self) -> Predicts:  # type: ignore[override]
        """The score's."""
        return self.score.predicts


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
    beta: Positive = 0.1
    """Weight of a nat of margin: the larger, the closer the model stays to the reference."""
    shared_noise: bool = True
    """Diffusion: use the same masks for the model and the reference, so that most of the noise cancels (VRPO,
    LLaDA 1.5)."""
    length_normalised: bool = False
    """Divide the gain of an answer by its length; beta is then about 10. Otherwise training, which makes all answers
    less likely, favours short ones."""

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

    group_size: Annotated[int, Range(2, 2**16)] = 8
    """Answers drawn for each question; their rewards are compared with each other."""
    temperature: Annotated[float, Range(0, 1e6, above=True)] = 1.0
    """Temperature of the draws; above 0, or all answers to a question would be the same."""
    max_new_tokens: Tokens = 32
    """Maximum number of tokens in an answer."""
    threshold: Share = 0.9
    """Diffusion: unmask all positions more confident than this in a pass, and at least one."""
    edit_threshold: Share | None = None
    """Diffusion: change a written token when another one is more probable than this; default: never."""
    reuse: Annotated[int, Range(1, 4096)] = 1
    """Optimizer steps for each set of answers."""
    reward: str = "verifier"
    """`verifier`: 1 for an answer that the row's own verifier accepts, else 0; or FILE.py:FUNCTION, which is called
    with the question, the answer and the row, and returns a number."""

    def __post_init__(self) -> None:
        check_values(self)
        if self.reward != "verifier" and ":" not in self.reward:
            near = did_you_mean(self.reward, ["verifier"])
            raise ValueError(f"unknown reward {self.reward!r}: use verifier, or FILE.py:FUNCTION{near}")


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
    clip_low: Annotated[float, Range(0, 1, above=True, below=True)] = 0.2
    """How far rho may fall below 1 before an answer has no gradient."""
    clip_high: Positive = 0.2
    """How far rho may rise above 1 before an answer has no gradient."""
    negative_weight: NotNegative = 1.0
    """Factor on the advantages of answers worse than their group's mean. Below 1, right answers are reinforced more
    than wrong ones are suppressed: a wrong answer penalises all of its tokens, including the right ones."""
    kl_weight: NotNegative = 0.0
    """Weight of the KL divergence from the model that training started from; 0: off, and that model is not loaded."""
    log_ratio: Literal["mean", "sum"] = "mean"
    """Over the tokens of an answer: `mean` keeps rho equally steady for long and short answers; `sum` is the ratio."""

    def __post_init__(self) -> None:
        check_values(self)
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
        raise ValueError(f"mask rates must satisfy 0 <= mask_rate_min < mask_rate_max <= 1, got {low} and {high}")


Objective = NextToken | Denoising | TriMode | Preference | Policy
