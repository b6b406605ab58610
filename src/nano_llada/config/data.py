"""Where a run's text comes from and how it becomes rows of tokens."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from nano_llada.config.checks import BelowOne, Range, TokensOrZero
from nano_llada.config.kinds import check_values


def default_cache() -> Path:
    """Folder for tokenised data: $NANO_LLADA_CACHE, or nano-llada in $XDG_CACHE_HOME or ~/.cache.

    A user without a home directory gets one in the system's folder for temporary files.
    """
    if given := os.environ.get("NANO_LLADA_CACHE"):
        return Path(given)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "nano-llada"
    try:
        return Path.home() / ".cache" / "nano-llada"
    except RuntimeError:  # no HOME, and no entry for this user id
        return Path(tempfile.gettempdir()) / f"nano-llada-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"


@dataclass(frozen=True)
class DataConfig:
    """Files, their shape, and rows of a fixed length."""

    data: tuple[str, ...] = ()
    """Training data: .jsonl, .json, .txt or .parquet files (or .gz, .zst), folders, globs, hf:NAME[:CONFIG][@SPLIT].
    With a weight each (`wiki.jsonl=0.7 code.jsonl=0.3`), so much of the rows is from each."""
    stream: bool = False
    """Tokenise the training data while the model learns, a part at a time, instead of all of it before; needs --steps.
    For data that is too large to wait for, and for Hugging Face data sets that are not downloaded."""
    stream_window: Annotated[int, Range(1, 2**16)] = 4
    """Parts of a stream (16 MiB of JSON lines or parquet, one packed file, one shard) that are shuffled together."""
    validation: tuple[str, ...] = ()
    """Validation data; default: a `validation_share` of the training documents is held out."""
    validation_share: BelowOne = 0.01
    """Share of the training documents to hold out when no validation data is given; at least one is held out."""
    held_out: Literal["by_place", "by_count"] = "by_place"
    """Which documents are held out: `by_place` depends on a document's number alone, so that more data later moves none
    of them; `by_count`, the rule of version 0.1.0, depends on how many there are. A resumed run keeps its rule."""
    format: Literal["text", "chat", "preference", "prompts"] = "text"
    """What a row contains. `text`: a document in `text_field`; `chat`: a conversation, whose assistant turns are
    learnt; `preference`: a prompt with a chosen and a rejected answer (DPO); `prompts`: a conversation whose last
    answer the model draws itself (reinforcement learning)."""
    text_field: str = "text"
    """Field of a row that contains its text."""
    txt_split: Literal["file", "paragraph", "line"] = "file"
    """What a document is in a .txt file: the whole `file` (in pieces of 64 KiB where it has over 1 MiB), or each
    `paragraph` or `line`. A line <|endoftext|> always ends a document."""
    marks: Literal["text", "tokens"] = "text"
    """How to read <|endoftext|>, <|im_start|> and <|im_end|> written in a text: as ordinary `text`, or as the `tokens`
    of these names. Only for format `text`; in conversations they are always text."""
    sequence_length: Annotated[int, Range(2, 2**24)] = 256
    """Tokens in a row of a batch."""
    packing: bool = True
    """Put several documents into a row; without packing a row is one document, padded."""
    document_mask: bool = True
    """Packed documents do not attend to each other (LLaDA 2.0, eq. 4); off: a row is read as one text."""
    turns: Literal["all", "each", "last"] = "all"
    """Conversations: learn `all` answers in one document, make a document for `each` answer, or learn only the
    `last`."""
    eos_fill: TokensOrZero | None = 0
    """Fill shorter answers with <|endoftext|> to this many tokens, from which a diffusion model learns where an answer
    ends. None: to the longest answer of the batch (without packing); 0: off. Not for format `text`."""
    eos_after: TokensOrZero = 0
    """Add this many <|endoftext|> to every answer, from which a model that is decoded in blocks learns what follows an
    end: best the block size. 0: off. Not for format `text`."""
    fill_multiple: Annotated[int, Range(1, 2**24)] = 1
    """Fill on to a conversation length that is a multiple of this; for block diffusion the block size, so that the
    last block is whole (LLaDA 2.0). Not for format `text`."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """When a row cannot be used: `stop` with its place and the reason, or `skip` it, and report how many."""
    cache: Path = field(default_factory=default_cache)
    """Folder for tokenised data, keyed by content and tokenizer."""

    def __post_init__(self) -> None:
        for name in ("data", "validation"):  # in Python, one file may be given as it is
            if isinstance(given := getattr(self, name), (str, Path)):
                object.__setattr__(self, name, (str(given),))
        check_values(self)
        if self.eos_fill is not None and self.eos_fill >= self.sequence_length:
            raise ValueError(
                f"eos_fill {self.eos_fill} leaves no room for a prompt in sequence_length {self.sequence_length}"
            )
        if self.eos_fill is None and self.packing:
            raise ValueError("eos_fill 'None' fills to the longest answer of the batch, which needs packing off")
        if self.format == "text" and self.eos_fill is not None and self.eos_fill > 0:
            raise ValueError("eos_fill applies to answers; it has no effect with format 'text'")
        if self.eos_after and (self.format == "text" or self.eos_fill is None or self.turns == "all"):
            raise ValueError(
                "eos_after adds to the last answer of a document: it needs conversations with turns 'each' or 'last', "
                "and has no effect with eos_fill 'None'"
            )
        if not self.document_mask and not self.packing:
            raise ValueError("without packing a row is one document: document_mask off has no effect")
        if self.fill_multiple > 1 and (self.format == "text" or self.eos_fill is None):
            raise ValueError("fill_multiple has no effect with format 'text' or eos_fill 'None'")
        self._check_format()

    def _check_format(self) -> None:
        if self.stream and self.format in ("preference", "prompts"):
            raise ValueError(f"stream is for pretraining and SFT: format {self.format!r} reads all rows first")
        if self.format != "text" and self.marks != "text":
            raise ValueError(f"marks {self.marks!r} is for format 'text': in conversations they are always text")
        if self.format == "text" and self.turns != "all":
            raise ValueError(f"turns {self.turns!r} applies to conversations; it has no effect with format 'text'")
        if self.format == "prompts" and (self.packing or self.eos_fill or self.validation or self.turns != "all"):
            raise ValueError("format 'prompts' draws its answers: turn packing off, leave eos_fill, turns, validation")
        if self.format == "preference" and self.packing:
            raise ValueError("format 'preference' keeps each answer in a row of its own; turn packing off")
        if self.format == "preference" and self.turns != "all":
            raise ValueError(f"turns {self.turns!r} has no effect with format 'preference': its last answer is learnt")
