"""What to measure models by: options that several suites share. Imports no torch, so that --help is quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nano_llada.config.checks import at_least
from nano_llada.core.errors import UserError


@dataclass(frozen=True)
class SuiteOptions:
    """Suites and their examples. A suite adds options of its own: `eval --suites NAME --help` lists them."""

    catalogue: ClassVar[Mapping[str, Any]] = {}  # the suites that options are known of, by what names them

    suites: tuple[str, ...] = ()
    """likelihood, choices, generation, quality, infilling, speed, calibration, stories, or your own as FILE.py:NAME;
    default: those of likelihood, choices, generation and stories that have examples."""
    text: tuple[str, ...] = ()
    """Text files: for likelihood, quality, infilling, speed and calibration."""
    skills: tuple[str, ...] = ()
    """Small-world skills to ask about, from the test split; `all` for every one. For generation and speed."""
    questions: tuple[str, ...] = ()
    """Your own questions with answers to check (or GSM8K's), JSON lines. For generation and speed."""
    verifier: str | None = None
    """FILE.py:FUNCTION that judges the answers to --questions, called with question, answer and row; the file is run.
    Default: the verifier of each row, or exact match. For generation."""
    items: int = 50
    """Questions per skill and language."""
    limit: int | None = None
    """Examples of each file; default: all."""
    text_field: str = "text"
    """The field of a text row."""
    window: int | None = None
    """Tokens of a text seen at once; default: the shortest context of the models."""
    draws: int = 8
    """Monte-Carlo draws of the diffusion bound on texts; on choices four times as many."""
    batch_size: int = 32
    """Rows computed at once; does not change any figure. For speed see --batch-sizes."""
    noise_seed: int = 0
    """Seed of every mask and position, and of which questions are asked."""

    def __post_init__(self) -> None:
        at_least(self, 1, "items", "limit", "draws", "batch_size")

    def window_in(self, context: int) -> int:
        """Tokens seen at once by models that all see `context`. Raises UserError if the option is out of range."""
        window = context if self.window is None else self.window
        if not 2 <= window <= context:
            raise UserError(f"window must be from 2 to the models' shortest context {context}, got {window}")
        return window


def given(files: tuple[str, ...], suite: str, option: str) -> tuple[str, ...]:
    """The files of an option that a suite cannot do without. Raises UserError if there are none."""
    if not files:
        raise UserError(f"the suite {suite} needs {option}")
    return files
