"""The shape of a model. Saved with every checkpoint, so that nothing is ever inferred from tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from nano_llada.config.checks import BelowOne, Positive, Range, Tokens
from nano_llada.config.kinds import check_values

FREE_FIELDS = ("dropout", "max_length", "yarn", "long_rope")  # may change when training continues from a checkpoint

Width = Annotated[int, Range(1, 2**17)]
MAX_PARAMETERS = 2e11  # 800 GB of float32 weights: a larger model is a typing error


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv:2309.00071): stretch rotary embeddings to contexts longer than those trained on."""

    factor: Annotated[float, Range(1, 1e4)] = 4.0
    """How many times longer the context becomes."""
    original_length: Tokens = 512
    """Context length the model was trained on, in tokens."""
    beta_fast: Positive = 32.0
    """Dimensions that turn more often than this over the original length are not changed."""
    beta_slow: Positive = 1.0
    """Dimensions that turn less often than this are fully interpolated."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True)
class LongRope:
    """Llama 3.1's rule for longer contexts: slow dimensions of the rotary embedding are interpolated, fast ones kept.

    With both numbers of turns at or above `original_length` every dimension is interpolated, which is linear scaling.

    Raises:
        ValueError: for a number outside its range.
    """

    factor: Annotated[float, Range(1, 1e4)] = 8.0
    """How many times longer the context becomes."""
    original_length: Tokens = 8192
    """Context length the model was trained on, in tokens."""
    low_turns: Positive = 1.0
    """Dimensions that turn less often than this over the original length are fully interpolated."""
    high_turns: Positive = 4.0
    """Dimensions that turn more often than this are not changed."""

    def __post_init__(self) -> None:
        check_values(self)
        if self.high_turns <= self.low_turns:
            raise ValueError(f"high_turns {self.high_turns} is not above low_turns {self.low_turns}")

    @property
    def linear(self) -> bool:
        """Whether all dimensions are interpolated: none turns more often than once in 2 pi tokens."""
        return self.low_turns >= self.original_length


@dataclass(frozen=True)
class ModelConfig:
    """A Llama/Qwen3-shaped Transformer. The defaults, with 6400 tokens, are about 30M parameters.

    Raises:
        ValueError: for a number outside its range, or numbers that contradict each other.
    """

    vocab_size: Annotated[int, Range(1, 2**24)] = 6400
    """Number of tokens; a run takes it from its tokenizer."""
    hidden_size: Width = 512
    """Width of the residual stream."""
    num_layers: Annotated[int, Range(1, 4096)] = 8
    """Number of Transformer blocks."""
    num_heads: Width = 8
    """Query heads of each attention layer."""
    num_kv_heads: Width | None = None
    """Key and value heads (grouped-query attention); default: as many as query heads."""
    head_size: Width | None = None
    """Width of a head; default: hidden_size / num_heads."""
    intermediate_size: Annotated[int, Range(1, 2**20)] | None = None
    """Width of the SwiGLU layer; default: 8/3 of hidden_size, rounded up to a multiple of 64."""
    max_length: Tokens = 512
    """Longest context, in tokens."""
    qk_norm: bool = True
    """Normalise queries and keys per head before the rotary embedding, as Qwen3 does."""
    qkv_bias: bool = False
    """Add biases to queries, keys and values, as Qwen2 does."""
    tie_embeddings: bool = False
    """Share the input embedding with the output head."""
    rope_theta: Annotated[float, Range(1, 1e12)] = 10_000.0
    """Base of the rotary embeddings."""
    yarn: YarnScaling | None = None
    """Context extension; default: off."""
    long_rope: LongRope | None = None
    """Context extension as in Llama 3.1, or linear; default: off. Not together with `yarn`."""
    norm_eps: Annotated[float, Range(0, 1, above=True)] = 1e-6
    """Added to the mean square in RMSNorm."""
    dropout: BelowOne = 0.0
    """Dropout probability on embeddings and on the output of each attention and SwiGLU layer."""

    def __post_init__(self) -> None:
        check_values(self)
        if self.head_size is None and self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.yarn is not None and self.long_rope is not None:
            raise ValueError("yarn and long_rope both scale the rotary embedding: give one of them")
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.kv_heads}")
        if self.head_width % 2:
            raise ValueError(f"the rotary embedding needs an even head width, got {self.head_width}")
        if self.parameters > MAX_PARAMETERS:
            raise ValueError(
                f"hidden_size {self.hidden_size}, num_layers {self.num_layers} and vocab_size {self.vocab_size} make a "
                f"model of {self.parameters:.3g} parameters; at most {MAX_PARAMETERS:.3g} are possible"
            )

    @property
    def kv_heads(self) -> int:
        """Key and value heads, resolved."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        """Width of one head, resolved."""
        return self.hidden_size // self.num_heads if self.head_size is None else self.head_size

    @property
    def mlp_width(self) -> int:
        """Width of the SwiGLU layer, resolved."""
        return self.intermediate_size or -(-self.hidden_size * 8 // 3 // 64) * 64

    @property
    def block_parameters(self) -> int:
        """Weights of one block that take part in matrix products."""
        attention = self.hidden_size * self.head_width * (2 * self.num_heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden_size * self.mlp_width

    @property
    def parameters(self) -> int:
        """Weights of all matrices."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return embeddings + self.num_layers * self.block_parameters

    def train_flops(self, tokens: int, head_tokens: int, length: int) -> float:
        """Floating-point operations of one forward and backward pass.

        Six per weight and token, with the head and the last block's output and SwiGLU counted only where logits are
        computed, and attention over rows of `length` tokens (causal attention is counted in full, as is usual).
        """
        attention = 12 * self.num_layers * self.num_heads * self.head_width * length
        last = self.hidden_size * (self.head_width * self.num_heads + 3 * self.mlp_width)
        body = tokens * (6 * (self.num_layers * self.block_parameters - last) + attention)
        return float(body + head_tokens * 6 * (self.hidden_size * self.vocab_size + last))
