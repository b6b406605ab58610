"""What to measure models by. Imports no torch, so that --help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SuiteOptions:
    """Suites and their examples."""

    suites: tuple[str, ...] = ()
    """likelihood, choices, generation, quality, infilling, speed, calibration; default: those of the first three that
    examples are given for."""
    text: tuple[str, ...] = ()
    """Text files: for likelihood, quality, infilling, speed and calibration."""
    skills: tuple[str, ...] = ()
    """Small-world skills to ask about, from the test split; `all` for every one. For generation and speed."""
    questions: tuple[str, ...] = ()
    """Your own questions with answers to check (or GSM8K's), JSON lines. For generation and speed."""
    verifier: str | None = None
    """FILE.py:FUNCTION that judges the answers to --questions, called with question, answer and row; the file is run.
    Default: what each row says in `verifier`, or exact match."""
    choices: tuple[str, ...] = ()
    """Multiple-choice questions, JSON lines."""
    judge: Path | None = None
    """The autoregressive model that judges written text, for quality."""
    items: int = 50
    """Questions a skill and language."""
    limit: int | None = None
    """Examples of each file; default: all."""
    text_field: str = "text"
    """The field of a text row."""
    window: int | None = None
    """Tokens of a text seen at once; default: the shortest context of the models."""
    draws: int = 8
    """Monte-Carlo draws of the diffusion bound on texts; on choices four times as many."""
    spans: tuple[int, ...] = (1, 4, 16)
    """Tokens to fill in, for infilling."""
    prompt_tokens: int = 32
    """Tokens of a text that are given when it is to be continued, for quality."""
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    """Texts written at once, for speed."""
    batch_size: int = 32
    """Rows computed at once elsewhere; changes no figure."""
    noise_seed: int = 0
    """Seed of every mask and place, and of which questions are asked."""
