"""What a checkpoint says about its model: which kind it is, how it was trained, how it is to be decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from nano_llada.config.checks import CountOrZero, Tokens
from nano_llada.config.kinds import check_values

Track = Literal["ar", "diffusion", "both"]
Predicts = Literal["self", "next"]
Decode = Literal["ar", "block", "speculative"]
STAGES = ("pretrain", "sft", "dpo", "rl")
ANSWERING = ("sft", "dpo", "rl")  # stages after which a model answers; before them it continues texts


@dataclass(frozen=True)
class MergedPart:
    """One of the checkpoints whose mean a model is."""

    name: str
    """Its folder."""
    run: str | None = None
    """The run it belongs to."""
    step: int | None = None
    """Its optimizer step."""
    validation_loss: float | None = None
    """Its validation loss, where it was measured."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True)
class ModelCard:
    """Saved with every checkpoint in model.json."""

    track: Track
    """`ar` reads left to right; `diffusion` fills in masks; `both` does either, with the same weights (tri-mode)."""
    stage: str = "pretrain"
    """The last stage of its training: pretrain, sft, dpo or rl."""
    run: str | None = None
    """Name of the run."""
    step: CountOrZero | None = None
    """Optimizer steps of that run."""
    tokens: int | None = None
    """Tokens seen in that run, without padding."""
    objective: str | None = None
    """Name of the objective; FILE.py:NAME for a class of the user's own. None: written before 0.2."""
    answer_length: Tokens | None = None
    """Tokens that training filled answers to; a diffusion model knows no longer canvas."""
    block_size: Tokens | None = None
    """Tokens that are denoised together; None: no blocks."""
    turns: bool = True
    """Whether its conversations had several turns; if not, `chat` shows the model only the last message."""
    edits: bool = False
    """Whether the model learnt to change tokens that are already written."""
    predicts: Predicts = "self"
    """Which token an output for a masked text predicts: that of its own place, or the `next` one, as in AR models."""
    decode: Decode | None = None
    """How a model of track `both` is decoded by default; None: `speculative`."""
    drafts: CountOrZero | None = None
    """Tokens that self-speculation drafts in a pass; None: 2."""
    infills: bool = False
    """Whether a model decoded left to right or in blocks learnt to fill gaps, by what follows put in front."""
    fill_multiple: Tokens = 1
    """Conversations were filled to a multiple of this many tokens."""
    merged_from: tuple[MergedPart, ...] = ()
    """The checkpoints whose mean it is; empty: it was trained as it is."""

    def __post_init__(self) -> None:
        check_values(self)
        if self.track not in get_args(Track):
            raise ValueError(f"track {self.track!r} is not one of {', '.join(get_args(Track))}")
        if self.stage not in STAGES:
            raise ValueError(f"stage {self.stage!r} is not one of {', '.join(STAGES)}")

    @property
    def autoregressive(self) -> bool:
        """Whether the model predicts the next token: its likelihoods are exact, and it decodes left to right."""
        return self.track in ("ar", "both")

    @property
    def denoising(self) -> bool:
        """Whether the model fills in masks: it can infill, and its likelihoods are bounds."""
        return self.track in ("diffusion", "both")

    @property
    def decodes(self) -> tuple[Decode, ...]:
        """The ways in which the model can be decoded, the usual one first. A denoiser of whole texts has no blocks."""
        if self.track == "ar":
            return ("ar",)
        if self.track == "diffusion":
            return ("block",) if self.block_size else ()
        usual = self.decode or "speculative"
        ways: tuple[Decode, ...] = ("speculative", "ar", "block")
        return (usual, *(way for way in ways if way != usual))

    @property
    def answers(self) -> bool:
        """Whether the model was trained to answer; if not, it continues texts."""
        return self.stage in ANSWERING

    @classmethod
    def from_format_1(cls, track: Track, info: Mapping[str, Any]) -> ModelCard:
        """The card of a checkpoint that version 0.1.0 wrote, from the `track` and `info` of its model.json."""
        known = {name: info[name] for name in cls.__dataclass_fields__ if info.get(name) is not None}
        parts = tuple(MergedPart(**part) for part in known.pop("merged_from", ()))
        return cls(**{**known, "track": track, "merged_from": parts})
