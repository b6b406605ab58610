"""The options of the experiments that answer a question about measuring. Imports no torch, so that --help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Epochs:
    """Options of the experiment; the defaults take about half an hour on one core for each seed."""

    data: Path
    """Folder with pretrain_{zh,en}.jsonl.gz and eval/val_{zh,en}.jsonl."""
    tokenizer: Path
    """Folder with the tokenizer.json to use."""
    runs: Path = Path("runs/epochs")
    """Folder for the runs."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    documents: int = 150
    """Passages of each language, from the start of its file, that are all there is to train on."""
    epochs: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    """How often they are seen; each number is a run of its own, with its own learning-rate schedule."""
    held_out: int = 100
    """Passages of each language to measure on."""
    hidden_size: int = 128
    """Width of both models."""
    num_layers: int = 4
    """Depth of both models."""
    batch_size: int = 8
    """Rows of 256 tokens in a step."""
    learning_rate: float = 3e-3
    """Highest learning rate of both models."""
    draws: int = 8
    """Monte-Carlo draws a window for the diffusion bound."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of training."""
    threads: int | None = None
    """CPU threads; default: all."""


@dataclass(frozen=True)
class Evaluation:
    """Options of the experiment, which trains nothing; it takes at most half an hour on two cores for 8M parameters."""

    world: tuple[str, ...] = ()
    """Models that answer the small world's questions, NAME=RUN each; a name given twice is one model with two seeds."""
    real: tuple[str, ...] = ()
    """Models trained on real text, NAME=RUN each."""
    data: Path | None = None
    """Folder with eval/: val_{zh,en}.jsonl, mc_{zh,en}.jsonl and gsm8k_test_200.jsonl, for the models on real text."""
    judge: Path | None = None
    """An autoregressive model, best not one of --real, that judges written text; default: no judge."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    runs: Path = Path("runs/evaluation")
    """Folder for the records with all their texts."""
    items: int = 40
    """Small-world questions a skill and language."""
    skills: tuple[str, ...] = ("reading", "copy", "reversal", "translation", "format", "ordering")
    """Skills to ask about."""
    limit: int = 40
    """Real examples of each file; with 40 a diffusion model of 8M parameters takes some twenty minutes on one core."""
    draws: int = 8
    """Monte-Carlo draws of the diffusion bound on texts; on choices four times as many."""
    threads: int | None = None
    """CPU threads; default: all."""


@dataclass(frozen=True)
class Reversal:
    """Options of the experiment; each seed takes half an hour on one core."""

    runs: Path = Path("runs/reversal")
    """Folder for the runs."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of training."""
    steps: int = 3000
    """Optimizer steps of each model, 2,048 tokens each."""
    documents: int = 100_000
    """Documents to train on."""
    hidden_size: int = 128
    """Width of the models."""
    num_layers: int = 4
    """Depth of the models."""
    threads: int | None = None
    """CPU threads; default: all."""


@dataclass(frozen=True)
class DecodingRules:
    """Options of the experiment, which trains nothing: ten minutes of one core with the model of the demo."""

    model: Path = Path("runs/demo/diffusion-sft")
    """A diffusion model of the small world that answers, such as the demo's: run folder or checkpoint folder."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    skills: tuple[str, ...] = ()
    """Skills to ask about; default: those of the demo."""
    items: int = 24
    """Questions for each skill and language."""
    answer: int = 16
    """Tokens of the canvas."""
    seed: int = 0
    """Seed of what is drawn."""


@dataclass(frozen=True)
class Int8:
    """Options of the experiment, which trains nothing."""

    models: tuple[Path, ...]
    """Run folders or checkpoint folders, such as runs/demo/ar-sft and runs/demo/diffusion-sft."""
    texts: Path
    """JSONL of held-out texts, such as runs/demo/world/pretrain-test.jsonl."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    documents: int = 400
    """Texts to measure bits per byte on."""
    items: int = 40
    """Questions for each skill and language of the small world; 0: none."""
    draws: int = 8
    """Monte-Carlo draws of a diffusion model's bound."""
