"""Names and shapes of this backbone's tensors in the files of other programs: one table for importers and exporters.

A further target is a further `Names`, and where it has its own record of sizes, a further `Sizes`. What a target cannot
express is for its exporter to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from nano_llada.checkpoint.files import model_weights
from nano_llada.config.card import Track
from nano_llada.config.model import ModelConfig
from nano_llada.core.errors import UserError
from nano_llada.model.transformer import Transformer

Sizes = Mapping[str, str]  # their field -> ours


@dataclass(frozen=True)
class Names:
    """What a kind of file calls the tensors. `.weight` and `.bias` are left out: they are the same everywhere.

    Attributes:
        outer: our tensors outside of the layers -> theirs.
        layer: how the name of a layer's tensor begins, with {} for the number of the layer.
        inner: our tensors in a layer -> theirs; several are the rows of ours, stacked in this order.
        pairs: whether a rotary embedding turns rows 2i and 2i + 1 of a head together. Ours turns i and i + D/2.
    """

    outer: Mapping[str, str]
    layer: str
    inner: Mapping[str, tuple[str, ...]]
    pairs: bool = False


HUGGING_FACE = Names(  # Llama, Mistral, Qwen2, Qwen3, SDAR
    outer={"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"},
    layer="model.layers.{}.",
    inner={
        "attention_norm": ("input_layernorm",),
        "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.out": ("self_attn.o_proj",),
        "attention.q_norm": ("self_attn.q_norm",),
        "attention.k_norm": ("self_attn.k_norm",),
        "mlp_norm": ("post_attention_layernorm",),
        "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "down": ("mlp.down_proj",),
    },
)
LLADA = Names(  # LLaDA-8B and the models made from it
    outer={"embed": "model.transformer.wte", "norm": "model.transformer.ln_f", "head": "model.transformer.ff_out"},
    layer="model.transformer.blocks.{}.",
    inner={
        "attention_norm": ("attn_norm",),
        "attention.qkv": ("q_proj", "k_proj", "v_proj"),
        "attention.out": ("attn_out",),
        "mlp_norm": ("ff_norm",),
        "gate_up": ("ff_proj", "up_proj"),
        "down": ("ff_out",),
    },
)
GGUF = Names(  # llama.cpp: qwen2, qwen3
    outer={"embed": "token_embd", "norm": "output_norm", "head": "output"},
    layer="blk.{}.",
    inner={
        "attention_norm": ("attn_norm",),
        "attention.qkv": ("attn_q", "attn_k", "attn_v"),
        "attention.out": ("attn_output",),
        "attention.q_norm": ("attn_q_norm",),
        "attention.k_norm": ("attn_k_norm",),
        "mlp_norm": ("ffn_norm",),
        "gate_up": ("ffn_gate", "ffn_up"),
        "down": ("ffn_down",),
    },
)
GGUF_PAIRS = Names(GGUF.outer, GGUF.layer, GGUF.inner, pairs=True)  # llama.cpp: llama, llada
GGUF_EXPERTS = Names(  # llama.cpp: llada-moe, whose single expert is our SwiGLU
    GGUF.outer, GGUF.layer, {**GGUF.inner, "gate_up": ("ffn_gate_exps", "ffn_up_exps"), "down": ("ffn_down_exps",)}
)
ROUTER = "blk.{}.ffn_gate_inp.weight"  # of llada-moe, (experts, H)

SIZES: Sizes = {  # config.json of Llama, Mistral, Qwen2, Qwen3, SDAR
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "max_position_embeddings": "max_length",
}
LLADA_SIZES: Mapping[str, str] = {  # LLaDA's name -> that of the other families
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "mlp_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "weight_tying": "tie_word_embeddings",
    "activation_type": "hidden_act",
}
GGUF_SIZES: Mapping[str, str] = {  # metadata, after the architecture's name -> the other families' name
    "vocab_size": "vocab_size",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}


LLADA_FIXED: Mapping[str, Any] = {
    "block_type": "llama",
    "layer_norm_type": "rms",
    "attention_layer_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "layer_norm_with_affine": True,
    "input_emb_norm": False,
    "scale_logits": False,
    "clip_qkv": None,
    "rope": True,
    "alibi": False,
    "block_group_size": 1,
    "multi_query_attention": False,
}
NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Family:
    """A kind of model that a file can hold, as far as it is one of this backbone's shapes.

    Attributes:
        names: of its tensors.
        track: what its models are.
        qk_norm, qkv_bias: whether queries and keys are normalised, and whether they and the values have biases.
        may_vary: whether each file says so itself.
        head_size: width of a head where the file does not say; None: hidden size over heads.
        block_size: tokens that are denoised together, where the file does not say; None: all.
        renamed: its names of settings -> those of the other families.
        fixed: its settings -> the one value that this backbone computes.
    """

    names: Names
    track: Track = "ar"
    qk_norm: bool = False
    qkv_bias: bool = False
    may_vary: bool = False
    head_size: int | None = None
    block_size: int | None = None
    renamed: Mapping[str, str] = field(default_factory=lambda: NONE)
    fixed: Mapping[str, Any] = field(default_factory=lambda: NONE)


FAMILIES: Mapping[str, Family] = {  # model_type of config.json
    "llama": Family(HUGGING_FACE),
    "mistral": Family(HUGGING_FACE),
    "qwen2": Family(HUGGING_FACE, qkv_bias=True),
    "qwen3": Family(HUGGING_FACE, qk_norm=True, head_size=128),
    "llada": Family(LLADA, "diffusion", renamed=LLADA_SIZES, fixed=LLADA_FIXED),
    "sdar": Family(HUGGING_FACE, "diffusion", qk_norm=True, head_size=128, block_size=4),
    "nano_llada": Family(HUGGING_FACE, "diffusion", may_vary=True),  # what `export` writes
}
GGUF_FAMILIES: Mapping[str, Family] = {  # general.architecture of a GGUF file
    "llama": Family(GGUF_PAIRS),
    "qwen2": Family(GGUF, qkv_bias=True),
    "qwen3": Family(GGUF, qk_norm=True),
    "llada": Family(GGUF_PAIRS, "diffusion"),
    "llada-moe": Family(GGUF_EXPERTS, "diffusion", qk_norm=True),
}


def tensor_layout(config: ModelConfig, names: Names = HUGGING_FACE) -> dict[str, list[tuple[str, torch.Size]]]:
    """Each of our tensors, and those of the file that are stacked into it, with their shapes."""
    with torch.device("meta"):
        ours = {name: tensor.shape for name, tensor in model_weights(Transformer(config)).items()}
    layout = {}
    for name, shape in ours.items():
        stem, _, kind = name.rpartition(".")
        if stem in names.outer:
            parts: tuple[str, ...] = (names.outer[stem],)
        else:
            _, layer, stem = stem.split(".", 2)
            if stem not in names.inner:
                raise UserError(f"{name} has no place in such a file")
            parts = tuple(names.layer.format(layer) + part for part in names.inner[stem])
        rows = _rows(config).get(stem, (shape[0],))
        layout[name] = [
            (f"{part}.{kind}", torch.Size((count, *shape[1:]))) for part, count in zip(parts, rows, strict=True)
        ]
    return layout


def _rows(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    queries, keys = config.num_heads * config.head_width, config.kv_heads * config.head_width
    return {"attention.qkv": (queries, keys, keys), "gate_up": (config.mlp_width, config.mlp_width)}


def fuse(theirs: Mapping[str, Tensor], config: ModelConfig, names: Names = HUGGING_FACE) -> dict[str, Tensor]:
    """Our tensors from those of a file, which are all there and have the right shapes: see `check_tensors`."""
    ours = {}
    for name, parts in tensor_layout(config, names).items():
        pieces = [theirs[part] for part, _ in parts]
        if names.pairs:
            pieces = [_turned(piece, name, i, config.head_width, to_pairs=False) for i, piece in enumerate(pieces)]
        ours[name] = torch.cat(pieces)
    return ours


def split(weights: Mapping[str, Tensor], config: ModelConfig, names: Names = HUGGING_FACE) -> dict[str, Tensor]:
    """The tensors of a file from ours, each in a memory of its own."""
    theirs: dict[str, Tensor] = {}
    for name, parts in tensor_layout(config, names).items():
        pieces = weights[name].split([shape[0] for _, shape in parts])
        for i, ((part, _), piece) in enumerate(zip(parts, pieces, strict=True)):
            if names.pairs:
                piece = _turned(piece, name, i, config.head_width, to_pairs=True)
            theirs[part] = piece.contiguous()
    return theirs


def start_rows(weight: Tensor, rows: Sequence[int]) -> Tensor:
    """(max(V, last row + 1), D): the weight with these rows at the mean of those before all of them."""
    if not rows:
        return weight
    grown = weight.new_zeros(max(len(weight), max(rows) + 1), weight.shape[1], dtype=torch.float32)
    grown[: len(weight)] = weight
    grown[list(rows)] = grown[: min(rows)].mean(0)
    return grown


def check_tensors(
    shapes: Mapping[str, tuple[int, ...]], config: ModelConfig, names: Names, where: str, stated: str = "config.json"
) -> None:
    """Whether a file has every tensor of a shape, and no other.

    Raises:
        UserError: naming all that are missing, all that are too many, or the first whose shape differs.
    """
    if config.num_layers > len(shapes):  # before a model of that many layers is thought of
        raise UserError(f"{where} holds {len(shapes)} tensors, too few for the {config.num_layers} layers of {stated}")
    wanted = {name: shape for parts in tensor_layout(config, names).values() for name, shape in parts}
    if missing := sorted(set(wanted) - set(shapes)):
        raise UserError(f"the weights in {where} lack {_listed(missing)}")
    if extra := sorted(set(shapes) - set(wanted)):
        raise UserError(f"the weights in {where} have {_listed(extra)}, which this backbone does not")
    for name, shape in wanted.items():
        if tuple(shapes[name]) != tuple(shape):
            raise UserError(f"{where}: {name} is {tuple(shapes[name])}, {stated} makes it {tuple(shape)}")


def _listed(names: list[str]) -> str:
    shown = ", ".join(name if name.isprintable() and len(name) < 100 else ascii(name[:80]) for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _turned(piece: Tensor, name: str, part: int, width: int, *, to_pairs: bool) -> Tensor:
    """Queries and keys with the rows of each head in the order of the other kind of rotary embedding."""
    is_norm = name.endswith((".q_norm.weight", ".k_norm.weight"))
    if not is_norm and not (".attention.qkv." in name and part < 2):
        return piece
    apart = (2, width // 2) if to_pairs else (width // 2, 2)
    turned: Tensor = piece.unflatten(0, (-1, *apart)).transpose(1, 2).flatten(0, 2)
    return turned
