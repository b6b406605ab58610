"""A whole run as one value, and the defaults of each kind of run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nano_llada.config.card import ModelCard, Track
from nano_llada.config.data import DataConfig
from nano_llada.config.kinds import check_values
from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import (
    BoundScore,
    Denoising,
    ExactScore,
    NextToken,
    Objective,
    ObjectiveConfig,
    Policy,
    Preference,
    TriMode,
)
from nano_llada.config.processes import Processes
from nano_llada.config.train import TrainConfig

if TYPE_CHECKING:
    AnyObjective = ObjectiveConfig  # also one of the user's own
else:
    AnyObjective = Objective

MAX_BATCH_TOKENS = 2**30
TRACKS: Mapping[str, Track] = {"ar": "ar", "diffusion": "diffusion", "tri": "both"}  # by the word in commands
STAGES = {"text": "pretrain", "chat": "sft", "preference": "dpo", "prompts": "rl"}  # by the format of the data


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run computes; saved as config.json in its folder.

    Raises:
        ValueError: for parts that do not fit each other.
    """

    name: str = "run"
    """Name of the run; its folder is RUNS/NAME."""
    runs: Path = Path("runs")
    """Folder that contains the run folders."""
    init_from: Path | None = None
    """Start from the weights, shape and tokenizer of this checkpoint or run; an AR model may start a diffusion one."""
    reference: Path | None = None
    """The frozen model to compare with (dpo, and rl with kl_weight); default: that of --init-from."""
    tokenizer: Path | None = None
    """Folder with a tokenizer.json, or a name (world, story); default: that of --init-from, or `world`."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts to continue (chat: answer) during training and at its end, into samples.jsonl."""
    objective: AnyObjective = field(default_factory=NextToken)
    """What is minimised; FILE.py:NAME for a class of your own that derives from ObjectiveConfig (in Python an instance
    of it)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Shape of the model."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training data and how it becomes rows."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Optimisation, checkpoints and logging."""
    processes: Processes = field(default_factory=Processes)
    """How several processes divide the work."""

    def __post_init__(self) -> None:
        check_values(self)
        if self.name in ("", ".", "..") or any(mark in self.name for mark in "/\\\0"):
            raise ValueError(
                f"name {self.name!r} cannot be the name of a folder in {self.runs}; choose that folder with --runs"
            )
        if (tokens := self.train.batch_size * self.data.sequence_length) > MAX_BATCH_TOKENS:
            raise ValueError(
                f"batch_size {self.train.batch_size} times sequence_length {self.data.sequence_length} is {tokens:,} "
                f"tokens in a step; at most {MAX_BATCH_TOKENS:,} are possible"
            )
        self.objective.check(self.data, self.train)

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.runs / self.name

    @property
    def track(self) -> Track:
        """`ar`, `diffusion` or `both`."""
        return self.objective.track

    @property
    def kind(self) -> str:
        """The stage and the track as commands and recipes name them, such as `sft diffusion` or `pretrain tri`."""
        return next(f"{self.stage} {word}" for word, track in TRACKS.items() if track == self.track)

    def card(self, step: int, tokens: int) -> ModelCard:
        """What a checkpoint of this run says about its model."""
        card = ModelCard(self.track, self.stage, self.name, step, tokens, self.objective.saved_name())
        if not card.denoising:
            return card
        length = self.data.eos_fill if self.objective.answer_length is None else self.objective.answer_length
        return replace(
            card,
            answer_length=length or None,
            block_size=self.objective.block_size,
            edits=self.objective.edits,
            predicts=self.objective.predicts,
            infills=self.objective.suffix_share > 0,
            fill_multiple=self.data.fill_multiple,
        )

    @property
    def stage(self) -> str:
        """`pretrain`, `sft`, `dpo` or `rl`."""
        return STAGES[self.data.format]


def default_run(stage: str, track: str) -> RunConfig:
    """Defaults of `nano-llada STAGE TRACK`: stage pretrain, sft, dpo or rl; track ar, diffusion or tri.

    Raises:
        ValueError: for another stage or track.
    """
    if (stage, track) not in _DEFAULTS:
        known = ", ".join(f"{one} {other}" for one, other in _DEFAULTS)
        raise ValueError(f"there is no kind of run {stage} {track}; there are {known}")
    return replace(_DEFAULTS[stage, track](), name=f"{stage}-{track}")


def _rl(objective: Policy) -> RunConfig:
    train = TrainConfig(learning_rate=1e-4, batch_size=64, schedule="constant", warmup_steps=10, steps=200)
    return RunConfig(objective=objective, data=DataConfig(format="prompts", packing=False), train=train)


def _dpo(objective: Preference, eos_fill: int) -> RunConfig:
    data = DataConfig(format="preference", packing=False, eos_fill=eos_fill)
    train = TrainConfig(learning_rate=2e-5, batch_size=16, eval_every=50)
    return RunConfig(objective=objective, data=data, train=train)


def _sft(objective: ObjectiveConfig, data: DataConfig) -> RunConfig:
    return RunConfig(objective=objective, data=data, train=TrainConfig(learning_rate=3e-4, epochs=2.0))


# a diffusion model learns the length of an answer from the <|endoftext|> that fills it
_DEFAULTS: Mapping[tuple[str, str], Callable[[], RunConfig]] = {
    ("pretrain", "ar"): RunConfig,
    ("pretrain", "diffusion"): lambda: RunConfig(objective=Denoising(random_length=0.01)),
    ("pretrain", "tri"): lambda: RunConfig(objective=TriMode()),
    ("sft", "ar"): lambda: _sft(NextToken(), DataConfig(format="chat")),
    ("sft", "diffusion"): lambda: _sft(
        Denoising(normalise_by="document"), DataConfig(format="chat", turns="each", eos_fill=128)
    ),
    ("sft", "tri"): lambda: _sft(TriMode(), DataConfig(format="chat", turns="each", eos_after=16)),
    ("dpo", "ar"): lambda: _dpo(Preference(ExactScore()), eos_fill=0),
    ("dpo", "diffusion"): lambda: _dpo(Preference(BoundScore()), eos_fill=128),
    ("rl", "ar"): lambda: _rl(Policy(ExactScore())),
    ("rl", "diffusion"): lambda: _rl(Policy(BoundScore(draws=2))),
}
KINDS = tuple(f"{stage} {track}" for stage, track in _DEFAULTS)
