"""The options of the recorded experiments. Imports no torch, so that --help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RealData:
    """Options of the experiment; the defaults are an 8M-parameter model that two cores train in about two hours."""

    data: Path
    """Folder with pretrain_{zh,en}.jsonl.gz, sft_{zh,en}.jsonl.gz, eval/val_{zh,en}.jsonl and tokenizers/."""
    tokenizer: Path
    """Folder with the tokenizer.json to use."""
    runs: Path = Path("runs/real-data")
    """Folder for the runs."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    hidden_size: int = 256
    """Width of the model."""
    num_layers: int = 8
    """Depth of the model."""
    steps: int = 800
    """Optimizer steps of each pretraining run."""
    sft_steps: int = 250
    """Optimizer steps of each SFT run."""
    batch_size: int = 8
    """Rows of 256 tokens in a step."""
    draws: int = 8
    """Monte-Carlo draws a window for the diffusion bound."""
    threads: int | None = None
    """CPU threads; default: all."""
    seed: int = 0
    """Seed of all runs."""


@dataclass(frozen=True)
class SmallWorld:
    """Options of the experiment; the defaults take about an hour on two cores for each seed."""

    runs: Path = Path("runs/small-world")
    """Folder for the runs."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of training."""
    pretrain_steps: int = 1000
    """Steps of each pretraining run; the diffusion model's come on top of the AR model it starts from."""
    sft_steps: int = 4000
    """Steps of each fine-tuning run."""
    hidden_size: int = 192
    """Width of the models."""
    num_layers: int = 6
    """Depth of the models."""
    items: int = 100
    """Test questions a skill and language."""
    threads: int | None = None
    """CPU threads; default: all."""
