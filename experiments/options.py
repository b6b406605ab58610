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
    """Options of the experiment; the defaults take about two and a half hours on two cores for each seed."""

    runs: Path = Path("runs/small-world")
    """Folder for the runs."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of training."""
    lookup_steps: int = 600
    """Steps of AR on texts to look things up in, before everything else."""
    pretrain_steps: int = 1500
    """Steps of AR pretraining."""
    diffusion_steps: int = 400
    """Steps of each diffusion pretraining, from the fine-tuned AR model."""
    sft_steps: int = 3000
    """Steps of fine-tuning AR, in blocks, and on whole texts after blocks."""
    whole_steps: int = 6000
    """Steps of fine-tuning on whole texts without blocks before: by default what the way through blocks takes."""
    hidden_size: int = 160
    """Width of the models: a multiple of 32, the size of a head."""
    num_layers: int = 4
    """Depth of the models."""
    items: int = 100
    """Test questions a skill and language."""
    threads: int | None = None
    """CPU threads; default: all."""
    compile: bool = False
    """Train with torch.compile."""


@dataclass(frozen=True)
class Llada2Ablation:
    """Options of the experiment; each seed takes an hour and a quarter on one core."""

    runs: Path = Path("runs/llada2-ablation")
    """Folder for the runs."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of training; the third is for the questions (a), (c) and (g) only."""
    ar_steps: int = 400
    """Steps of AR pretraining."""
    ar_sft_steps: int = 600
    """Steps of AR fine-tuning."""
    pretrain_steps: int = 200
    """Steps of diffusion pretraining."""
    sft_steps: int = 600
    """Steps of diffusion fine-tuning."""
    items: int = 40
    """Test questions a skill and language."""
    threads: int | None = None
    """CPU threads; default: all."""


@dataclass(frozen=True)
class Dpo:
    """Options of the experiment; the small world's part takes about half an hour on one core."""

    models: Path = Path("runs/llada2-ablation")
    """Folder of the ablation's runs, whose fine-tuned models are aligned; they are trained if they are not there."""
    runs: Path = Path("runs/dpo")
    """Folder for the runs."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    data: Path | None = None
    """Preference pairs of your own to align other models with, too."""
    validation: Path | None = None
    """Pairs of your own that are held out."""
    own_ar: Path | None = None
    """A fine-tuned AR model for your own pairs."""
    own_diffusion: Path | None = None
    """A fine-tuned diffusion model for your own pairs."""
    own_steps: int = 200
    """Optimizer steps of each run on your own pairs."""
    own_learning_rate: float = 1e-4
    """Learning rate of the AR model on your own pairs."""
    own_diffusion_learning_rate: float = 3e-5
    """That of the diffusion model, whose likelihoods are noisy: with blocks of 32 it strays at 1e-4."""
    own_draws: int = 2
    """Noisy versions of each answer in a training step on your own pairs; of an even number, every second one hides
    what the one before it did not, both within mask rates from 0.25 to 0.75."""
    own_questions: tuple[str, ...] = ()
    """Files of questions with right answers that your own models write answers to, before and after."""
    own_choices: tuple[str, ...] = ()
    """Files of multiple-choice questions that your own models are asked before and after."""
    own_limit: int = 200
    """Questions of each of these files."""
    steps: int = 300
    """Optimizer steps of each run on the small world."""
    learning_rate: float = 2e-5
    """Learning rate on the small world."""
    draws: int = 2
    """Noisy versions of each answer in a training step."""
    items: int = 40
    """Test questions a skill and language."""
    seed: int = 0
    """Seed of all runs."""
    threads: int | None = None
    """CPU threads; default: all."""


@dataclass(frozen=True)
class BlockSpeed:
    """Options of the experiment; training takes about an hour on one core, timing a quarter on two."""

    models: Path = Path("runs/llada2-ablation")
    """Folder of the ablation's runs, whose models of the first seed are trained on; they are made if not there."""
    runs: Path = Path("runs/block-speed")
    """Folder for the runs of the models that are timed."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    steps: int = 2400
    """Steps of fine-tuning in blocks of 32 besides the ablation's; each size is then taught for a sixth of that."""
    ar_steps: int = 600
    """Steps of fine-tuning that the AR model gets besides the ablation's; it learns in fewer."""
    train_only: bool = False
    """Train the models and stop, so that timing can wait for a quiet machine."""
    items: int = 20
    """Test questions a skill and language."""
    repeats: int = 3
    """How often each decoder answers all questions at each setting, in turns with the AR decoder."""
    threads: int | None = None
    """CPU threads; default: all."""


@dataclass(frozen=True)
class Editing:
    """Options of the experiment; each seed takes about fifteen minutes on one core, besides the models.

    Another setting of training needs another folder of runs; the report sets all settings side by side.
    """

    models: Path = Path("runs/llada2-ablation")
    """Folder of the ablation's runs: AR models and 2.0 models are taken from it, or trained if they are not there."""
    runs: Path = Path("runs/editing")
    """Folder for the runs of the models that edit."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of training."""
    replace_rate: float = 0.1
    """Share of the visible tokens that are replaced by random ones in training."""
    draft_rate: float = 0.5
    """Share of the rows in which the model's own first look is what it learns to correct."""
    edit_weight: float = 1.0
    """Weight of a wrong token in the loss; a hidden one counts 1 in the mean."""
    keep_weight: float = 1.0
    """Weight of a visible token that is right."""
    frontier: bool = True
    """Measure at many thresholds and write the report; without it a setting of training is measured at the presets
    alone, for the next report."""
    items: int = 40
    """Test questions a skill and language."""
    threads: int | None = None
    """CPU threads; default: all."""


@dataclass(frozen=True)
class Rl:
    """Options of the experiment; each skill and seed takes about five minutes on one core, besides the models."""

    models: Path = Path("runs/llada2-ablation")
    """Folder of the ablation's runs, whose fine-tuned models are reinforced; they are trained if they are not there."""
    runs: Path = Path("runs/rl")
    """Folder for the runs."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    skills: tuple[str, ...] = ("ordering", "reading")
    """Skills to reinforce, one in each run."""
    together: bool = False
    """Reinforce all these skills in one run, whose questions are drawn from all of them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the models and of the runs."""
    sft_steps: int | None = None
    """Steps of fine-tuning before reinforcement learning, for which models are then trained; fewer leave more to
    learn. Default: the ablation's own models."""
    steps: int = 120
    """Optimizer steps of each run."""
    questions: int = 16
    """Questions in a step."""
    group_size: int = 8
    """Answers drawn to each question."""
    learning_rate: float = 3e-4
    """Highest learning rate of each run; it falls to 0 along a cosine."""
    negative_weight: float = 0.0
    """Factor on the advantages of answers worse than their group's mean."""
    draws: int = 1
    """Noisy versions of each answer in a step of the diffusion model."""
    items: int = 100
    """Test questions a skill and language."""
    threads: int | None = None
    """CPU threads; default: all."""


@dataclass(frozen=True)
class TriMode:
    """Options of the experiment; the defaults take about an hour and a half on one quiet core for each seed, `--seeds 0
    --steps 250 --sft-steps 600 --items 60 --texts 200 --threads 1` about 45 minutes."""

    runs: Path = Path("runs/tri-mode")
    """Folder for the runs."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of data and training."""
    ar_steps: int = 400
    """Steps of the AR model that all variants begin with."""
    steps: int = 400
    """Steps of each variant on texts."""
    sft_steps: int = 900
    """Steps of each variant on answers."""
    learning_rate: float = 2e-3
    """Peak learning rate of each variant on texts."""
    batch_size: int = 16
    """Rows in a step."""
    hidden_size: int = 128
    """Width of the models: a multiple of 32, the size of a head."""
    num_layers: int = 4
    """Depth of the models."""
    block_size: int = 4
    """Tokens in a block."""
    threshold: float = 0.9
    """Confidence above which a token of a block is written."""
    documents: int = 40_000
    """Documents of the small world."""
    chats: int = 60_000
    """Conversations of the small world."""
    texts: int = 600
    """Held-out documents for bits per byte."""
    items: int = 170
    """Test questions of each skill in each language: 2,000 in all."""
    timed: int = 40
    """Questions on which passes are timed, for the best number of drafts."""
    most: int = 4
    """The largest number of drafts."""
    threads: int | None = None
    """CPU threads; default: all."""
    smoke: bool = False
    """Tiny sizes, to see that everything runs."""


@dataclass(frozen=True)
class Story:
    """Options of the measurement of a model of the story world; a 6M model takes about half an hour on one core."""

    model: Path = Path("story")
    """The model: a run, a checkpoint folder, or the name of a bundled one."""
    name: str = "bundled"
    """What its rows are called; a model of several ways of decoding gets NAME-WAY for each."""
    docs: Path = Path("docs/experiments")
    """Folder that results are recorded in."""
    conversations: int = 200
    """Held-out conversations about stories, half in each language."""
    items: int = 20
    """Questions of each skill of the small world in each language."""
    threshold: float = 0.9
    """Confidence above which a token of a block is written."""
    prompts: Path | None = None
    """JSON lines of `prompt` and `language`; the answers are written to docs/story/answers-NAME.md, to be read."""
    batch_size: int = 16
    """Texts written at once."""
    threads: int | None = None
    """CPU threads; default: all."""
