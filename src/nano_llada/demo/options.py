"""The options of the demo. Imports no torch, so that --help is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nano_llada.config.data import default_cache
from nano_llada.config.model import ModelConfig
from nano_llada.world import DEMO_SKILLS


@dataclass(frozen=True)
class DemoConfig:
    """The defaults take under ten minutes on two cores."""

    folder: Path = Path("runs/demo")
    """Everything the demo writes."""
    skills: tuple[str, ...] = DEMO_SKILLS
    """Small-world skills to train and test."""
    documents: int = 40_000
    """Documents to pretrain on."""
    chats: int = 60_000
    """Conversations to fine-tune on."""
    ar_steps: int = 400
    """Steps of AR pretraining."""
    ar_sft_steps: int = 900
    """Steps of AR fine-tuning."""
    diffusion_steps: int = 150
    """Steps of diffusion pretraining, from the fine-tuned AR weights."""
    diffusion_sft_steps: int = 1400
    """Steps of diffusion fine-tuning."""
    answer_length: int = 16
    """Tokens of the diffusion model's canvas; the longest answer of the skills fits."""
    items: int = 40
    """Test questions a skill and language."""
    seed: int = 0
    """Seed of data and training."""
    threads: int | None = None
    """CPU threads; default: all."""
    cache: Path = field(default_factory=default_cache)
    """Folder for tokenised data."""
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            hidden_size=128, num_layers=4, num_heads=4, tie_embeddings=True, max_length=256
        )
    )
