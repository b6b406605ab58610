"""The options of the demo."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nano_llada.config.checks import Count, Seed, Threads, Tokens
from nano_llada.config.data import default_cache
from nano_llada.config.kinds import check_values
from nano_llada.config.model import ModelConfig
from nano_llada.world import DEMO_SKILLS


@dataclass(frozen=True)
class DemoConfig:
    """The defaults take under ten minutes on two cores."""

    folder: Path = Path("runs/demo")
    """Folder for everything the demo writes."""
    skills: tuple[str, ...] = DEMO_SKILLS
    """Small-world skills to train and test."""
    documents: Count = 40_000
    """Documents to pretrain on."""
    chats: Count = 60_000
    """Conversations to fine-tune on."""
    ar_steps: Count = 400
    """Steps of AR pretraining."""
    ar_sft_steps: Count = 900
    """Steps of AR fine-tuning."""
    diffusion_steps: Count = 150
    """Steps of diffusion pretraining, which starts from the fine-tuned AR weights."""
    diffusion_sft_steps: Count = 1400
    """Steps of diffusion fine-tuning."""
    answer_length: Tokens = 16
    """Tokens of the diffusion model's canvas; the longest answer of the skills fits into it."""
    items: Count = 40
    """Test questions per skill and language."""
    seed: Seed = 0
    """Seed of data and training."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """CPU threads; default: PyTorch's choice."""
    cache: Path = field(default_factory=default_cache)
    """Folder for tokenised data."""
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            hidden_size=128, num_layers=4, num_heads=4, tie_embeddings=True, max_length=256
        )
    )
    """Shape of the models."""

    def __post_init__(self) -> None:
        check_values(self)
