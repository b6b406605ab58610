"""The shape of a model. Saved with every checkpoint, so that nothing is ever inferred from tensors."""

from __future__ import annotations

from dataclasses import dataclass

FREE_FIELDS = ("dropout", "max_length", "yarn")  # may change when training goes on from a checkpoint


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv:2309.00071): stretch rotary embeddings to contexts longer than those trained on."""

    factor: float = 4.0
    """How many times longer the context becomes."""
    original_length: int = 512
    """Context length the model was trained on."""
    beta_fast: float = 32.0
    """Dimensions turning more often than this over the original length stay as they are."""
    beta_slow: float = 1.0
    """Dimensions turning less often than this are interpolated in full."""


@dataclass(frozen=True)
class ModelConfig:
    """A Llama/Qwen3-shaped Transformer. The defaults, with 6400 tokens, are about 30M parameters.

    Raises:
        ValueError: for shapes that cannot be, with both numbers.
    """

    vocab_size: int = 6400
    """Number of tokens; a run takes it from its tokenizer."""
    hidden_size: int = 512
    """Width of the residual stream."""
    num_layers: int = 8
    """Number of Transformer blocks."""
    num_heads: int = 8
    """Query heads of each attention layer."""
    num_kv_heads: int | None = None
    """Key and value heads (grouped-query attention); default: as many as query heads."""
    head_size: int | None = None
    """Width of a head; default: hidden_size / num_heads."""
    intermediate_size: int | None = None
    """Width of the SwiGLU layer; default: 8/3 of hidden_size, rounded up to a multiple of 64."""
    max_length: int = 512
    """Longest context, in tokens, that the model is used with."""
    qk_norm: bool = True
    """Normalise queries and keys per head before rotating them, as Qwen3 does."""
    tie_embeddings: bool = False
    """Share the input embedding with the output head."""
    rope_theta: float = 10_000.0
    """Base of the rotary embeddings."""
    yarn: YarnScaling | None = None
    """Context extension; None: off."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMSNorm."""
    dropout: float = 0.0
    """Dropout on embeddings and on the output of each attention and SwiGLU layer."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.head_size is None and self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.kv_heads}")
        if self.head_width % 2:
            raise ValueError(f"a head must have an even width to be rotated, got {self.head_width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

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

    def train_flops(self, tokens: int, head_tokens: int, length: int) -> float:
        """Floating-point operations of one forward and backward pass.

        Six per weight and token, with the head and the last block's output and SwiGLU counted only where logits are
        computed, and attention over rows of `length` tokens (causal attention is counted in full, as is usual).
        """
        attention = 12 * self.num_layers * self.num_heads * self.head_width * length
        last = self.hidden_size * (self.head_width * self.num_heads + 3 * self.mlp_width)
        body = tokens * (6 * (self.num_layers * self.block_parameters - last) + attention)
        return float(body + head_tokens * 6 * (self.hidden_size * self.vocab_size + last))
