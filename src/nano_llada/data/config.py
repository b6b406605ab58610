"""Where a run's text comes from and how it becomes rows of tokens."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


def default_cache() -> Path:
    """Where tokenised data is kept: $NANO_LLADA_CACHE, or a folder in the user's cache."""
    return Path(os.environ.get("NANO_LLADA_CACHE") or Path.home() / ".cache" / "nano-llada")


@dataclass(frozen=True)
class DataConfig:
    """Files, their shape, and rows of a fixed length."""

    data: tuple[str, ...] = ()
    """Training data: .jsonl, .json, .txt, .parquet files (or .gz, .zst), folders, globs, hf:NAME[:CONFIG][@SPLIT]."""
    validation: tuple[str, ...] = ()
    """Validation data; none: a `validation_share` of the training documents is held out."""
    validation_share: float = 0.01
    """Share of training documents held out when no validation data is given."""
    format: Literal["text", "chat"] = "text"
    """`text`: one document a row, in `text_field`; `chat`: conversations, of which the assistant's turns are learnt."""
    text_field: str = "text"
    """The field of a row that holds its text."""
    sequence_length: int = 256
    """Tokens in a row of a batch."""
    packing: bool = True
    """Several documents in a row, which do not see each other; otherwise one document a row, padded."""
    turns: Literal["all", "each", "last"] = "all"
    """Chat: `all` answers of a conversation in one document, a document for `each`, or only the `last`."""
    eos_fill: int | None = 0
    """Chat: fill shorter answers with <|endoftext|> to this many tokens: a diffusion model learns its length from them.
    None: to the batch's longest answer (without packing). 0: off."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What to do about a row that cannot be used: stop with its place and the reason, or skip, count and report."""
    cache: Path = field(default_factory=default_cache)
    """Folder for tokenised data, keyed by content and tokenizer."""

    def __post_init__(self) -> None:
        if self.sequence_length < 2:
            raise ValueError(f"sequence_length must be at least 2, got {self.sequence_length}")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share must be in [0, 1), got {self.validation_share}")
        if self.eos_fill is not None and self.eos_fill >= self.sequence_length:
            raise ValueError(
                f"eos_fill {self.eos_fill} leaves no room for a prompt in sequence_length {self.sequence_length}"
            )
        if self.eos_fill is None and self.packing:
            raise ValueError("eos_fill 'None' fills to the batch's longest answer, which needs packing off")
        if self.format == "text" and self.eos_fill is not None and self.eos_fill > 0:
            raise ValueError("eos_fill is about answers; it has no effect with format 'text'")
