"""How text is written with a trained model. One class a track, since they share hardly an option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
