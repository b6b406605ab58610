"""How text is written with a trained model. One class a track, since they share hardly an option."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from nano_llada.config.card import ModelCard
from nano_llada.core.errors import UserError


@dataclass(frozen=True)
class _Common:
    max_new_tokens: int = 128
    """Most tokens to write."""
    temperature: float = 0.0
    """0 always takes the likeliest token; above, tokens are drawn, the more evenly the higher."""
    top_k: int = 0
    """Draw from the k likeliest tokens only; 0: off."""
    top_p: float = 1.0
    """Draw from the fewest tokens that together have this probability; 1: off."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest; 0: off."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that stand in the text already become less likely."""
    min_new_tokens: int = 0
    """No end before this many tokens."""
    seed: int = 0
    """Seed of everything drawn."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}: there is nothing to write")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens must be from 0 to max_new_tokens {self.max_new_tokens}, got {self.min_new_tokens}"
            )
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.min_p < 1:
            raise ValueError(f"min_p must be in [0, 1), got {self.min_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be positive, got {self.repetition_penalty}")
        if self.temperature == 0 and (self.top_k or self.top_p < 1 or self.min_p):
            raise ValueError("top_k, top_p and min_p only matter when tokens are drawn: set a temperature above 0")


@dataclass(frozen=True)
class Autoregressive(_Common):
    """Left to right, one token a forward pass, with a cache of keys and values."""


@dataclass(frozen=True)
class Diffusion(_Common):
    """A canvas of masks, filled in over several forward passes."""

    strategy: Literal["low_confidence", "random", "margin", "entropy"] = "low_confidence"
    """Which masked positions are written first: where the chosen token is likeliest, where it leads the second by most,
    where the distribution has least entropy, or at random."""
    steps: int | None = None
    """Forward passes for the whole canvas; default: one a token. Not together with `threshold`."""
    threshold: float | None = None
    """Write every position whose chosen token is likelier than this, and at least one; instead of `steps`."""
    block_length: int | None = None
    """Fill the canvas in blocks of this many positions, left to right; default: all at once."""
    certainty: Literal["chosen", "likeliest"] = "chosen"
    """When tokens are drawn: how sure a position is, by the probability of the drawn token, or of the likeliest one.
    `chosen` writes unlikely draws late or never, which is safe; `likeliest` keeps the variety of drawing."""
    cache: Literal["none", "prefix", "dual"] = "none"
    """Approximate caches of Fast-dLLM, with block_length: keys and values of what stands before the block (`prefix`),
    or of everything outside it (`dual`), are computed when a block begins and reused until it is full. Other tokens may
    come out; `none` is exact."""
    guidance: float = 0.0
    """Classifier-free guidance against the prompt replaced by masks (LLaDA, eq. 16); doubles the cost; 0: off."""
    end_confidence: float = 1.0
    """Factor on the confidence of end tokens, so that a text is not closed before it is written; 1: off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.steps is not None and self.threshold is not None:
            raise ValueError("steps fixes how many tokens a pass writes, threshold leaves it open: give one of them")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")
        if self.threshold is not None and self.strategy != "low_confidence":
            raise ValueError(
                f"threshold compares probabilities, so it needs strategy low_confidence, not {self.strategy}"
            )
        if self.block_length is not None and self.block_length < 1:
            raise ValueError(f"block_length must be at least 1, got {self.block_length}")
        self._check_cache()
        if self.end_confidence < 1 and self.strategy == "random":
            raise ValueError("end_confidence has no effect with strategy random, which asks for no confidence")
        if not 0 <= self.end_confidence <= 1:
            raise ValueError(f"end_confidence must be in [0, 1], got {self.end_confidence}")

    def _check_cache(self) -> None:
        if self.certainty == "likeliest" and self.strategy != "low_confidence":
            raise ValueError(f"certainty 'likeliest' needs strategy low_confidence, not {self.strategy}")
        if self.cache != "none" and self.block_length is None:
            raise ValueError(f"cache {self.cache!r} keeps what is outside a block: give a block_length")
        if self.cache != "none" and self.guidance:
            raise ValueError("cache cannot be combined with guidance, whose second pass sees another prompt")


@dataclass(frozen=True)
class Block(_Common):
    """Block after block, left to right, each from masks; finished blocks are cached exactly (LLaDA 2.0)."""

    block_size: int = 32
    """Tokens in a block, counted from the start of the text: best the size the model was trained with."""
    threshold: float = 0.95
    """Write every position of the block whose chosen token is likelier than this, and at least one."""
    edit_threshold: float | None = None
    """Change a token that was written before when another one is likelier than this (LLaDA 2.1); None: never."""
    max_post_steps: int = 16
    """Most passes that only edit, once a block is full; a pass that changes nothing is the last."""
    reread_threshold: float = 1.0
    """A full block is looked at again only if the last look was not surer than this of all its tokens up to the end;
    1: always, as LLaDA 2.1 does. Below 1, passes that could only confirm are saved."""
    edit_blocks: int = 0
    """Finished blocks before the current one that may still be edited when a block is opened (multi-block editing)."""
    certainty: Literal["chosen", "likeliest"] = "chosen"
    """When tokens are drawn: how sure a position is, by the probability of the drawn token, or of the likeliest one.
    `chosen` writes unlikely draws late or never, which is safe; `likeliest` keeps the variety of drawing."""
    cached: bool = True
    """Keep keys and values of finished blocks; otherwise compute them anew in every pass, which writes the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {self.block_size}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")
        if self.edit_threshold is not None and not 0 <= self.edit_threshold <= 1:
            raise ValueError(f"edit_threshold must be in [0, 1], got {self.edit_threshold}")
        if not 0 <= self.reread_threshold <= 1:
            raise ValueError(f"reread_threshold must be in [0, 1], got {self.reread_threshold}")
        if self.reread_threshold < 1 and not self.edits:
            raise ValueError("reread_threshold has no effect without an edit_threshold below 1")
        if self.reread_threshold < 1 and self.temperature and self.certainty == "likeliest":
            raise ValueError("reread_threshold trusts what is likely, and certainty 'likeliest' says nothing of a draw")
        if self.max_post_steps < 1 or self.edit_blocks < 0:
            raise ValueError(
                f"max_post_steps must be at least 1 and edit_blocks at least 0, got {self.max_post_steps} and "
                f"{self.edit_blocks}"
            )
        if self.edits and self.repetition_penalty != 1.0:
            raise ValueError("repetition_penalty punishes every written token for standing there: not with editing")
        if self.edit_blocks and not self.edits:
            raise ValueError(f"edit_blocks {self.edit_blocks} has no effect without an edit_threshold below 1")

    @property
    def edits(self) -> bool:
        """Whether anything written can change: nothing is likelier than 1."""
        return self.edit_threshold is not None and self.edit_threshold < 1


# LLaDA 2.1: quality and speed, as (threshold, edit_threshold)
MODES = {"q": (0.7, 0.5), "s": (0.5, 0.0)}

Decoding = Autoregressive | Diffusion | Block


@dataclass(frozen=True)
class DecodingOptions:
    """How text is written; what is not given is the default of the model's track."""

    max_new_tokens: int | None = None
    """Most tokens to write; default: the answer length of its training, else 128 (chat and compare 64, eval 24)."""
    temperature: float | None = None
    """0 (default) always takes the likeliest token; above, tokens are drawn."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | None = None
    """Draw from the fewest tokens that together have this probability."""
    min_p: float | None = None
    """Drop tokens less likely than this share of the likeliest."""
    repetition_penalty: float | None = None
    """Above 1, tokens that stand in the text already become less likely."""
    min_new_tokens: int | None = None
    """No end before this many tokens."""
    seed: int | None = None
    """Seed of everything drawn; default 0."""
    strategy: str | None = None
    """Diffusion: which positions are written first: low_confidence (default), random, margin or entropy."""
    steps: int | None = None
    """Diffusion: forward passes for the whole canvas; default one a token."""
    threshold: float | None = None
    """Diffusion: write all positions surer than this in a pass, and at least one; instead of a number of steps."""
    block_length: int | None = None
    """Diffusion: fill the canvas in blocks of this size, left to right; default all at once."""
    block_size: int | None = None
    """Diffusion in blocks, with an exact cache: tokens in a block; default what the model was trained with."""
    edit_threshold: float | None = None
    """Block models: change a written token when another one is likelier than this; default: never."""
    preset: str | None = None
    """Block models that edit: q for quality (--threshold 0.7 --edit-threshold 0.5), s for speed (0.5 and 0)."""
    max_post_steps: int | None = None
    """Block models: most passes that only edit a full block; default 16."""
    reread_threshold: float | None = None
    """Block models that edit: look at a full block again only if the last look was not surer than this of all its
    tokens; default 1: always."""
    edit_blocks: int | None = None
    """Block models: finished blocks that may still be edited; default 0."""
    cache: str | None = None
    """Diffusion with --block-length: approximate cache, prefix or dual; default none."""
    guidance: float | None = None
    """Diffusion: classifier-free guidance; default 0, off."""
    end_confidence: float | None = None
    """Diffusion: factor on the confidence of end tokens; default 1, off."""


CHOICES = {
    "strategy": ("low_confidence", "random", "margin", "entropy"),
    "cache": ("none", "prefix", "dual"),
    "preset": ("q", "s"),
}


def decoding_for(card: ModelCard, options: DecodingOptions, default_length: int | None = None) -> Decoding:
    """How a model decodes; the one place that says how many tokens it writes, and in which blocks.

    What the user gives comes first, then the model's card: `answer_length`, since a diffusion model fine-tuned on
    answers filled to this length knows no longer canvas, and `block_size`, where it was trained in blocks. Then
    `default_length`, then the default of the kind of decoding.

    Raises:
        UserError: for options that this model does not have, or values outside their ranges.
    """
    given = {name: value for name, value in vars(options).items() if value is not None}
    if card.block_size is not None:
        given.setdefault("block_size", card.block_size)
    for name, choices in CHOICES.items():
        if given.get(name, choices[0]) not in choices:
            raise UserError(f"{name} {given[name]!r} is not one of {', '.join(choices)}")
    cls = decoding_class(card, in_blocks="block_size" in given)
    if cls is Block and "preset" in given:
        threshold, edit_threshold = MODES[given.pop("preset")]
        given = {"threshold": threshold, "edit_threshold": edit_threshold} | given
    if foreign := sorted(set(given) - {field.name for field in fields(cls)}):
        raise UserError(f"{', '.join(foreign)}: {_FOREIGN[cls]}")
    if length := card.answer_length or default_length:
        given.setdefault("max_new_tokens", length)
    try:
        return cls(**given)
    except ValueError as error:
        raise UserError(str(error)) from error


_FOREIGN: Mapping[type, str] = {
    Autoregressive: "for diffusion models only; this model is autoregressive",
    Block: "not for decoding in blocks, which this model was trained for or was asked to do",
    Diffusion: "for models that decode in blocks; give a --block-size",
}


def decoding_class(card: ModelCard, *, in_blocks: bool) -> type[Autoregressive] | type[Block] | type[Diffusion]:
    """The kind of decoding that a model uses."""
    if card.autoregressive:
        return Autoregressive
    return Block if in_blocks else Diffusion


def default_decoding(card: ModelCard, max_new_tokens: int = 64) -> Decoding:
    """Greedy decoding, in blocks where the model was trained in blocks."""
    if card.denoising and card.block_size is not None:
        return Block(max_new_tokens=max_new_tokens, block_size=card.block_size)
    return decoding_class(card, in_blocks=False)(max_new_tokens=max_new_tokens)
