"""The Transformer of both tracks. The attention pattern decides whether it is autoregressive or a denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, cast
from weakref import ref

import torch
from torch import Tensor, nn
from torch._functorch import config as compiler_options
from torch.utils.checkpoint import checkpoint

from nano_llada.config.model import LongRope, ModelConfig, YarnScaling
from nano_llada.core.pattern import AttentionPattern
from nano_llada.model.cache import KVCache
from nano_llada.model.functional import Mask, attend, by_documents, normed_linear, rms_norm, rotary, swiglu_linear

T = TypeVar("T")

SAMPLED = 16  # numbers of each parameter by which a change is noticed
COMPILED_MEMORY = 0.75  # share of what a compiled block would keep for its backward pass


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension, with a learnt gain."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``x / rms(x) * gain``, (..., D) to (..., D)."""
        return rms_norm(x, self.weight, self.eps)


class Product(nn.Linear):
    """A matrix product that knows what comes before it: in one operation, both keep less for the backward pass."""

    def after_norm(self, norm: RMSNorm, x: Tensor) -> Tensor:
        """``self(norm(x))`` for (..., K) to (..., F)."""
        product = normed_linear(x, norm.weight, self.weight, norm.eps)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def after_swiglu(self, gate_up: Tensor) -> Tensor:
        """``self(silu(gate) * up)`` for (..., 2K), holding both side by side, to (..., F); without a bias."""
        return swiglu_linear(gate_up, self.weight)


class Attention(nn.Module):
    """Grouped-query attention; queries, keys and values come from one matrix product."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        width, heads, kv_heads = config.head_width, config.num_heads, config.kv_heads
        self.qkv = Product(config.hidden_size, (heads + 2 * kv_heads) * width, bias=config.qkv_bias)
        self.out = Product(heads * width, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(width, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(width, config.norm_eps) if config.qk_norm else None

    def stacked(self) -> dict[Tensor, tuple[int, ...]]:
        """Rows of the matrices that the parameter `qkv` (N, H) stacks: queries, keys, values."""
        width, heads, kv_heads = self.config.head_width, self.config.num_heads, self.config.kv_heads
        return {self.qkv.weight: (heads * width, kv_heads * width, kv_heads * width)}

    def forward(
        self, x: Tensor, norm: RMSNorm, angles: tuple[Tensor, Tensor], mask: Mask, causal: bool, cache: KVCache | None
    ) -> Tensor:
        """Attention output per head, (B, L, N) with N = heads * D, before the output matrix; x is (B, L, H)."""
        batch, length, _ = x.shape
        heads, kv_heads = self.config.num_heads, self.config.kv_heads
        qkv = self.qkv.after_norm(norm, x).view(batch, length, heads + 2 * kv_heads, self.config.head_width)
        qk, v = qkv.split([heads + kv_heads, kv_heads], dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            # one pass over both: the gain differs by head, the arithmetic does not
            gain = torch.cat([self.q_norm.weight.expand(heads, -1), self.k_norm.weight.expand(kv_heads, -1)])
            qk = rms_norm(qk, gain, self.config.norm_eps)
        qk = rotary(qk, *angles).transpose(1, 2)
        q, k = qk.split([heads, kv_heads], dim=1)  # split, not slices: its backward pass is one copy
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        y = attend(q, k, v, mask, causal)
        return y.transpose(1, 2).reshape(batch, length, -1)


class Block(nn.Module):
    """Attention, then SwiGLU, each after a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.gate_up = Product(config.hidden_size, 2 * config.mlp_width, bias=False)
        self.down = Product(config.mlp_width, config.hidden_size, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def stacked(self) -> dict[Tensor, tuple[int, ...]]:
        """Rows of the matrices that the parameter `gate_up` (2F, H) stacks: gate, up."""
        return {self.gate_up.weight: (self.gate_up.weight.shape[0] // 2,) * 2}

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        mask: Mask,
        causal: bool,
        cache: KVCache | None,
        select: Tensor | None,
    ) -> Tensor:
        """(B, L, H); with `select` (N,), indices into (B * L), only those, (N, H): of the others only keys matter."""
        gathered = self.attention(x, self.attention_norm, angles, mask, causal, cache)
        if select is not None:
            x, gathered = (tensor.flatten(0, 1).index_select(0, select) for tensor in (x, gathered))
        x = x + self.dropout(self.attention.out(gathered))
        gate_up = self.gate_up.after_norm(self.mlp_norm, x)
        result: Tensor = x + self.dropout(self.down.after_swiglu(gate_up))
        return result


class Transformer(nn.Module):
    """Tokens in, logits out. Implements `core.batch.Model`."""

    inverse_frequencies: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.compiled = False
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embed.weight
        frequencies, self.rotary_scale = rotary_frequencies(config)
        self.register_buffer("inverse_frequencies", frequencies, persistent=False)
        self._derived: dict[Hashable, tuple[_State, Any]] = {}

    def derived(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` computes from the weights. It is kept under a key, and made anew once a parameter has changed.

        Whatever torch does to a parameter counts, such as a step of an optimizer, `load_state_dict` or `to`. Only a
        write to a few numbers through `parameter.data` may go unnoticed: call `forget` then.
        """
        if key not in self._derived or not self._derived[key][0].is_that_of(self):
            self._derived.pop(key, None)  # its memory is free for the new one
            self._derived[key] = (_State(self), make())
        return cast(T, self._derived[key][1])

    def forget(self) -> None:
        """Free what was derived from the weights."""
        self._derived.clear()

    def __getstate__(self) -> dict[str, Any]:
        """A copy derives for itself."""
        return {**self.__dict__, "_derived": {}}

    def initialise(self, rng: torch.Generator) -> Transformer:
        """Fresh weights: normal, deviation 0.02, smaller for what is added to the residual stream."""
        residual = 0.02 / math.sqrt(2 * self.config.num_layers)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() > 1:
                    adds = name.endswith(("attention.out.weight", "down.weight"))
                    parameter.normal_(0.0, residual if adds else 0.02, generator=rng)
                elif name.endswith(".bias"):
                    parameter.zero_()
        return self

    def compile_blocks(self) -> None:
        """Let torch.compile fuse the operations between the matrix products of each block, forward and backward.

        By default, on a CPU, it keeps everything for the backward pass. Limited to 0.75 of that, it recomputes what is
        cheap, as `functional` does: 0.3 GB less of 1.7 GB at 30M parameters, at the same speed.
        """
        if not self.embed.weight.is_cuda:
            compiler_options.activation_memory_budget = COMPILED_MEMORY
        self.compiled = True
        for block in self.blocks:
            block.compile()

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache for `batch` rows of at most `capacity` tokens."""
        return KVCache(self.config, batch, capacity, self.embed.weight.device, self.embed.weight.dtype)

    def forward(
        self,
        tokens: Tensor,
        pattern: AttentionPattern,
        *,
        positions: Tensor | None = None,
        select: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits (B, L, V), or (N, V) with `select` (B, L): see `core.batch.Model`."""
        features = self.features(tokens, pattern, positions=positions, select=select, cache=cache)
        logits: Tensor = self.head(features)
        return logits

    def features(
        self,
        tokens: Tensor,
        pattern: AttentionPattern,
        *,
        positions: Tensor | None = None,
        select: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Input of the head, (B, L, H), or (N, H) with `select` (B, L): see `core.batch.Model`."""
        length = tokens.shape[1]
        keys = cache.slots(length) if cache is not None else length
        if positions is None:
            starts = cache.starts if cache is not None else [0]
            positions = torch.tensor(starts, device=tokens.device)[:, None] + torch.arange(length, device=tokens.device)
        causal = pattern.is_causal(length, keys)
        x = self.dropout(self.embed(tokens))
        # not when compiled: lengths change at every step, and each would be compiled anew
        apart = self.training and not self.compiled
        mask: Mask = by_documents(pattern, length, keys, x) if apart else None
        if not causal and mask is None:
            mask = make_mask(pattern, length, keys, x, training=cache is None)
        angles = self._angles(positions, x.dtype)
        chosen = select.flatten().nonzero()[:, 0] if select is not None else None
        for block in self.blocks:
            wanted = chosen if block is self.blocks[-1] else None  # the others are not used after the last block
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, angles, mask, causal, cache, wanted, use_reentrant=False)
            else:
                x = block(x, angles, mask, causal, cache, wanted)
        if cache is not None:
            cache.advance(length)
        normed: Tensor = self.norm(x)
        return normed

    def _angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angles = (positions[..., None].float() * self.inverse_frequencies)[:, :, None]
        return (angles.cos() * self.rotary_scale).to(dtype), (angles.sin() * self.rotary_scale).to(dtype)


class _State:
    """Which parameters a model had, where their numbers were, how often they had been changed, and some of them.

    Some numbers, because fused optimizers change parameters without counting it.
    """

    def __init__(self, model: nn.Module) -> None:
        weights = list(model.parameters())
        self._seen = [(ref(weight), weight.data_ptr(), _version(weight)) for weight in weights]
        self._sample = _sample(weights)

    def is_that_of(self, model: nn.Module) -> bool:
        """Whether nothing has changed."""
        now = list(model.parameters())
        same = len(now) == len(self._seen) and all(
            seen() is weight and place == weight.data_ptr() and version == _version(weight)
            for weight, (seen, place, version) in zip(now, self._seen, strict=True)
        )
        return same and torch.equal(_sample(now), self._sample)


def _sample(weights: Sequence[Tensor]) -> Tensor:
    """About `SAMPLED` numbers of each tensor, from all over it."""
    return torch.cat([one.detach().reshape(-1)[:: max(one.numel() // SAMPLED, 1)].float() for one in weights])


def _version(weight: Tensor) -> int:
    """How often a tensor was changed; one made in inference mode does not count, and cannot be trained."""
    return 0 if weight.is_inference() else weight._version


def make_mask(pattern: AttentionPattern, queries: int, keys: int, like: Tensor, *, training: bool) -> Mask:
    """The mask for `attend`: FlexAttention's on a GPU, which skips whole tiles; elsewhere a dense one.

    The dense mask is (B|1, 1, Q, K), 0 or -inf, in the type of `like` (B, L, H), so that layers need not convert it.
    It also serves decoding, where lengths change at every step and FlexAttention would be compiled for each of them.
    """
    if like.is_cuda and training:
        return pattern.flex(queries, keys, like.device)
    allowed = pattern.dense(queries, keys, like.device)
    return None if allowed is None else like.new_zeros(()).masked_fill(~allowed, -math.inf)


def rotary_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """(D/2,) angle per position of each pair of dimensions, and YaRN's factor on the rotated vectors."""
    width = config.head_width
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    frequencies = config.rope_theta**-exponents
    if config.long_rope is not None:
        return (frequencies / long_rope_divisors(config.long_rope, frequencies)).float(), 1.0
    if config.yarn is None:
        return frequencies.float(), 1.0
    share = _yarn_share(config.yarn, width, config.rope_theta)
    scaled = frequencies / config.yarn.factor * (1 - share) + frequencies * share
    return scaled.float(), 0.1 * math.log(config.yarn.factor) + 1.0


def long_rope_divisors(rope: LongRope, frequencies: Tensor) -> Tensor:
    """(D/2,) by what each frequency is divided: 1 for fast dimensions, the factor for slow ones, between them
    1 / (share + (1 - share) / factor), where the share rises with the turns over the original length.
    """
    turns = rope.original_length * frequencies / (2 * math.pi)
    share = ((turns - rope.low_turns) / (rope.high_turns - rope.low_turns)).clamp(0, 1)
    return 1 / (share + (1 - share) / rope.factor)


def _yarn_share(yarn: YarnScaling, width: int, theta: float) -> Tensor:
    """(D/2,) share of each frequency that is kept: 1 for fast dimensions, 0 for slow ones, a ramp between."""

    def dimension(turns: float) -> float:
        return width * math.log(yarn.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension(yarn.beta_fast)), 0)
    high = min(math.ceil(dimension(yarn.beta_slow)), width - 1)
    ramp = (torch.arange(width // 2, dtype=torch.float64) - low) / max(high - low, 1e-3)
    return 1 - ramp.clamp(0, 1)
