"""A whole run as one value, and the defaults of each kind of run. Imports no torch, so that --help is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nano_llada.data.config import DataConfig
from nano_llada.model.config import ModelConfig
from nano_llada.objectives.denoising import Denoising
from nano_llada.objectives.next_token import NextToken
from nano_llada.objectives.policy import Policy
from nano_llada.objectives.preference import BoundScore, ExactScore, Preference
from nano_llada.train.config import TrainConfig

Objective = NextToken | Denoising | Preference | Policy
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
    """Folder that holds run folders."""
    init_from: Path | None = None
    """Start from the weights, shape and tokenizer of this checkpoint or run (an AR model may start a diffusion one)."""
    reference: Path | None = None
    """DPO: the frozen model that answers are compared under; default: that of --init-from."""
    tokenizer: Path | None = None
    """Folder with a tokenizer.json; default: that of --init-from, or the bundled bilingual one."""
    sample_prompts: tuple[str, ...] = ()
    """Texts that are continued (chat: answered) during training and at its end, into samples.jsonl."""
    objective: Objective = field(default_factory=NextToken)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or any(mark in self.name for mark in "/\\\0"):
            raise ValueError(
                f"name {self.name!r} is no name of a folder inside {self.runs}; --runs says where runs are"
            )
        pairs = self.data.format == "preference"
        for form, objective in (("preference", Preference), ("prompts", Policy)):
            if isinstance(self.objective, objective) != (self.data.format == form):
                raise ValueError(f"data of format {form!r} and the objective {objective.__name__} need each other")
        if isinstance(self.objective, Policy) and self.train.batch_size % self.objective.rollouts.group_size:
            raise ValueError(
                f"batch_size {self.train.batch_size} is no multiple of group_size {self.objective.rollouts.group_size}"
            )
        for name in ("batch_size", "micro_batch_size") if pairs else ():
            if (getattr(self.train, name) or 0) % 2:
                raise ValueError(f"{name} {getattr(self.train, name)} is odd: a pair of answers takes two rows")
        if isinstance(self.objective, Denoising):
            self.objective.blocks.check_row(self.data.sequence_length)

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.runs / self.name

    @property
    def track(self) -> str:
        """`ar` or `diffusion`."""
        score = getattr(self.objective, "score", None)
        return "ar" if isinstance(self.objective, NextToken) or isinstance(score, ExactScore) else "diffusion"

    @property
    def block_size(self) -> int | None:
        """Tokens that the trained model will write together; None: as LLaDA 1.0, or autoregressive."""
        if isinstance(self.objective, Denoising):
            return self.objective.blocks.block_size
        return getattr(getattr(self.objective, "score", None), "block_size", None)

    @property
    def edits(self) -> bool:
        """Whether the run teaches a model to change what it has written (LLaDA 2.1)."""
        if not isinstance(self.objective, Denoising):
            return False
        return self.objective.editing.replace_rate > 0 or self.objective.editing.draft_rate > 0

    @property
    def stage(self) -> str:
        """`pretrain`, `sft`, `dpo` or `rl`."""
        return STAGES[self.data.format]


def default_run(stage: str, track: str) -> RunConfig:
    """Defaults of `nano-llada STAGE TRACK`, with stage pretrain, sft, dpo or rl and track ar or diffusion."""
    name = f"{stage}-{track}"
    if stage == "pretrain":
        objective: Objective = NextToken() if track == "ar" else Denoising(random_length=0.01)
        return RunConfig(name=name, objective=objective)
    if stage == "rl":
        policy = Policy(ExactScore() if track == "ar" else BoundScore(draws=2))
        train = TrainConfig(learning_rate=1e-4, batch_size=64, schedule="constant", warmup_steps=10, steps=200)
        return RunConfig(name=name, objective=policy, data=DataConfig(format="prompts", packing=False), train=train)
    if stage == "dpo":
        score = ExactScore() if track == "ar" else BoundScore()
        data = DataConfig(format="preference", packing=False, eos_fill=0 if track == "ar" else 128)
        train = TrainConfig(learning_rate=2e-5, batch_size=16, eval_every=50)
        return RunConfig(name=name, objective=Preference(score), data=data, train=train)
    train = TrainConfig(learning_rate=3e-4, epochs=2.0)
    if track == "ar":
        return RunConfig(name=name, objective=NextToken(), data=DataConfig(format="chat"), train=train)
    # a diffusion model learns the length of an answer from the <|endoftext|> that fills it
    data = DataConfig(format="chat", turns="each", eos_fill=128)
    return RunConfig(name=name, objective=Denoising(normalise_by="document"), data=data, train=train)
