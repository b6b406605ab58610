"""Where a run's text comes from and how it becomes rows of tokens."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


def default_cache() -> Path:
    """Where tokenised data is kept: $NANO_LLADA_CACHE, or a folder in the user's cache, or one for temporary files."""
    if chosen := os.environ.get("NANO_LLADA_CACHE"):
        return Path(chosen)
    try:
        return Path.home() / ".cache" / "nano-llada"
    except RuntimeError:  # no HOME, and a user id that the machine does not know
        user = getattr(os, "getuid", lambda: "user")()
        return Path(tempfile.gettempdir()) / f"nano-llada-{user}"


@dataclass(frozen=True)
class DataConfig:
    """Files, their shape, and rows of a fixed length."""

    data: tuple[str, ...] = ()
    """Training data: .jsonl, .json, .txt, .parquet files (or .gz, .zst), folders, globs, hf:NAME[:CONFIG][@SPLIT]."""
    validation: tuple[str, ...] = ()
    """Validation data; none: a `validation_share` of the training documents is held out."""
    validation_share: float = 0.01
    """Share of training documents (conversations, pairs) held out when no validation data is given; at least one."""
    held_out: Literal["by_place", "by_count"] = "by_place"
    """Which are held out: `by_place` depends on a document's number alone, so that more data later moves none of them;
    `by_count`, the rule of version 0.1.0, depends on how many there are. A resumed run keeps the rule it began with."""
    format: Literal["text", "chat", "preference", "prompts"] = "text"
    """`text`: one document a row, in `text_field`; `chat`: conversations, of which the assistant's turns are learnt;
    `preference`: a prompt with a chosen and a rejected answer, for DPO; `prompts`: conversations whose last answer is
    drawn anew and rewarded, for reinforcement learning."""
    text_field: str = "text"
    """The field of a row that holds its text."""
    txt_split: Literal["file", "paragraph", "line"] = "file"
    """What a document is in a .txt file: the whole `file` (in pieces of 64 KiB where it has over 1 MiB), or every
    `paragraph` or `line`. Lines that are <|endoftext|> always end a document."""
    marks: Literal["text", "tokens"] = "text"
    """What <|endoftext|>, <|im_start|> and <|im_end|> written in a text are: ordinary `text`, or the `tokens` of these
    names. Only for format `text`; in conversations they are always text."""
    sequence_length: int = 256
    """Tokens in a row of a batch."""
    packing: bool = True
    """Several documents in a row, which do not see each other; otherwise one document a row, padded."""
    document_mask: bool = True
    """Packed documents do not see each other (LLaDA 2.0, eq. 4); off, a row is read as one text."""
    turns: Literal["all", "each", "last"] = "all"
    """Chat: `all` answers of a conversation in one document, a document for `each`, or only the `last`."""
    eos_fill: int | None = 0
    """Fill shorter answers with <|endoftext|> to this many tokens: a diffusion model learns its length from them.
    None: to the batch's longest answer (without packing). 0: off. Not for format `text`."""
    fill_multiple: int = 1
    """Fill further, to a conversation of a multiple of this many tokens; for block diffusion the block size, so that
    the last block is whole (LLaDA 2.0's effective length). Not for format `text`."""
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
        if not self.document_mask and not self.packing:
            raise ValueError("without packing a row is one document: document_mask off has no effect")
        if self.fill_multiple < 1:
            raise ValueError(f"fill_multiple must be at least 1, got {self.fill_multiple}")
        if self.fill_multiple > 1 and (self.format == "text" or self.eos_fill is None):
            raise ValueError("fill_multiple has no effect with format 'text' or eos_fill 'None'")
        self._check_format()

    def _check_format(self) -> None:
        if self.format != "text" and self.marks != "text":
            raise ValueError(f"marks {self.marks!r} is for format 'text': in conversations they are always text")
        if self.format == "text" and self.turns != "all":
            raise ValueError(f"turns {self.turns!r} is about conversations; it has no effect with format 'text'")
        if self.format == "prompts" and (self.packing or self.eos_fill or self.validation or self.turns != "all"):
            raise ValueError("format 'prompts' draws its answers: turn packing off, leave eos_fill, turns, validation")
        if self.format == "preference" and self.packing:
            raise ValueError("format 'preference' keeps each answer in a row of its own; turn packing off")
        if self.format == "preference" and self.turns != "all":
            raise ValueError(f"turns {self.turns!r} has no effect with format 'preference': its last answer is learnt")
