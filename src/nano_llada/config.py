"""A whole run as one value, and the defaults of each kind of run. Imports no torch, so that --help is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nano_llada.data.config import DataConfig
from nano_llada.model.config import ModelConfig
from nano_llada.objectives.denoising import Denoising
from nano_llada.objectives.next_token import NextToken
from nano_llada.train.config import TrainConfig

Objective = NextToken | Denoising


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run computes; saved as config.json in its folder."""

    name: str = "run"
    """Name of the run; its folder is RUNS/NAME."""
    runs: Path = Path("runs")
    """Folder that holds run folders."""
    init_from: Path | None = None
    """Start from the weights, shape and tokenizer of this checkpoint or run (an AR model may start a diffusion one)."""
    tokenizer: Path | None = None
    """Folder with a tokenizer.json; default: that of --init-from, or the bundled bilingual one."""
    sample_prompts: tuple[str, ...] = ()
    """Texts that are continued (chat: answered) during training and at its end, into samples.jsonl."""
    objective: Objective = field(default_factory=NextToken)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.runs / self.name

    @property
    def track(self) -> str:
        """`ar` or `diffusion`."""
        return "ar" if isinstance(self.objective, NextToken) else "diffusion"

    @property
    def stage(self) -> str:
        """`pretrain` or `sft`."""
        return "sft" if self.data.format == "chat" else "pretrain"


def default_run(stage: str, track: str) -> RunConfig:
    """Defaults of `nano-llada STAGE TRACK`, with stage pretrain or sft and track ar or diffusion."""
    name = f"{stage}-{track}"
    if stage == "pretrain":
        objective: Objective = NextToken() if track == "ar" else Denoising(random_length=0.01)
        return RunConfig(name=name, objective=objective)
    train = TrainConfig(learning_rate=3e-4, epochs=2.0)
    if track == "ar":
        return RunConfig(name=name, objective=NextToken(), data=DataConfig(format="chat"), train=train)
    # a diffusion model learns the length of an answer from the <|endoftext|> that fills it
    data = DataConfig(format="chat", turns="each", eos_fill=128)
    return RunConfig(name=name, objective=Denoising(normalise_by="document"), data=data, train=train)
