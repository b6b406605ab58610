"""Models from and for GGUF, the files of llama.cpp and the programs built on it."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nano_llada.checkpoint.files import Checkpoint, model_weights
from nano_llada.config.card import ModelCard
from nano_llada.config.model import LongRope, ModelConfig
from nano_llada.core.errors import UserError
from nano_llada.core.text import printable
from nano_llada.interop.foreign_tokenizer import Adopted, adopt_file
from nano_llada.interop.gguf_tokenizer import read_tokenizer, write_tokenizer
from nano_llada.interop.imported import ImportedModel, assemble
from nano_llada.interop.layout import (
    GGUF_FAMILIES,
    GGUF_SIZES,
    ROUTER,
    Family,
    check_tensors,
    fuse,
    split,
)
from nano_llada.interop.shapes import linear, read_shape
from nano_llada.model.transformer import long_rope_divisors

Kind = Literal["f32", "f16", "q8_0"]
ANGLES = "rope_freqs.weight"  # by what the frequencies of the rotary embedding are divided (Llama 3.1)
FEWEST_POINTS, ROUNDING = 2, 1e-6  # points of such a table that determine Llama 3.1's rule, and their precision
DAMAGED = (ValueError, KeyError, IndexError, TypeError, OverflowError, RecursionError, MemoryError, struct.error)


def _library() -> Any:
    """The gguf package, which only these files need."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(f'GGUF files need the gguf package ({error}): pip install "nano-llada[hub]"') from error
    return gguf


def architecture(checkpoint: Checkpoint) -> str:
    """What llama.cpp calls this kind of model.

    Raises:
        UserError: for a model that it does not compute.
    """
    config, card, where = checkpoint.model.config, checkpoint.card, checkpoint.folder
    if card.block_size is not None:
        raise UserError(
            f"{where} was trained in blocks of {card.block_size}: llama.cpp gives every diffusion model full "
            "attention, which would compute something else. `export --to transformers` keeps the blocks"
        )
    if config.qkv_bias and (card.denoising or config.qk_norm):
        raise UserError(f"{where} has biases, which llama.cpp has in AR models without qk_norm only")
    if config.qkv_bias and config.num_heads * config.head_width != config.hidden_size:
        raise UserError(
            f"{where}: llama.cpp's qwen2 needs heads that are together as wide as the hidden size "
            f"({config.num_heads} x {config.head_width} is not {config.hidden_size})"
        )
    if config.yarn is not None and (config.yarn.beta_fast, config.yarn.beta_slow) != (32.0, 1.0):
        raise UserError(f"{where}: llama.cpp computes YaRN with beta_fast 32 and beta_slow 1 whatever a file says")
    if config.long_rope is not None and not config.long_rope.linear and (config.qk_norm or config.qkv_bias):
        raise UserError(f"{where}: llama.cpp has Llama 3.1's long_rope for Llama models only")
    if card.denoising:
        return "llada-moe" if config.qk_norm else "llada"
    return "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"


def fill_gguf(checkpoint: Checkpoint, path: Path, kind: Kind) -> list[str]:
    """Write a model as a GGUF file; gives what has to be said about it.

    A diffusion model is llama.cpp's `llada`; with QK-norm its `llada-moe`, with our SwiGLU as the only expert.

    Raises:
        UserError: for a model that llama.cpp does not compute, or a tokenizer that it cannot hold.
    """
    gguf, arch = _library(), architecture(checkpoint)
    config, family = checkpoint.model.config, GGUF_FAMILIES[arch]
    writer = gguf.GGUFWriter(str(path), arch)
    _write_shape(writer, config, arch)
    if checkpoint.card.denoising:
        writer.add_causal_attention(False)
        writer.add_diffusion_shift_logits(False)
    writer.add_name(printable(checkpoint.card.run or checkpoint.folder.name))
    remarks = write_tokenizer(writer, checkpoint.tokenizer, config.vocab_size)
    for name, tensor in _tensors(checkpoint, family, arch).items():
        stored = "f32" if tensor.dim() == 1 or name.endswith("ffn_gate_inp.weight") else kind
        if stored == "q8_0" and tensor.shape[-1] % 32:
            remarks.append(f"{name} is stored as f16: its rows of {tensor.shape[-1]} are not a multiple of 32")
            stored = "f16"
        if stored == "f16" and float(tensor.abs().max()) > torch.finfo(torch.float16).max:
            raise UserError(f"{name} holds numbers that float16 cannot: use f32 or q8_0")
        array, quantised = tensor.float().numpy(), gguf.GGMLQuantizationType[stored.upper()]
        if stored == "f32":
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, quantised), raw_dtype=quantised)
    writer.add_file_type(gguf.LlamaFileType[{"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}[kind]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return remarks


def _write_shape(writer: Any, config: ModelConfig, arch: str) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_context_length(config.max_length)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_width)
    if arch == "llada-moe":
        writer.add_expert_count(1)
        writer.add_expert_used_count(1)
        writer.add_expert_feed_forward_length(config.mlp_width)
    gguf = _library()
    if config.yarn is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(config.yarn.factor)
        writer.add_rope_scaling_orig_ctx_len(config.yarn.original_length)
    if config.long_rope is not None and config.long_rope.linear:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.long_rope.factor)


def _tensors(checkpoint: Checkpoint, family: Family, arch: str) -> dict[str, Tensor]:
    config = checkpoint.model.config
    theirs = split({k: t.detach().cpu() for k, t in model_weights(checkpoint.model).items()}, config, family.names)
    if config.long_rope is not None and not config.long_rope.linear:
        theirs[ANGLES] = long_rope_divisors(config.long_rope, _frequencies(config)).float()
    if arch != "llada-moe":
        return theirs
    theirs = {name: tensor[None] if "_exps." in name else tensor for name, tensor in theirs.items()}
    theirs.setdefault("output.weight", theirs["token_embd.weight"])  # llama.cpp's llada-moe has no tied head
    for layer in range(config.num_layers):
        theirs[ROUTER.format(layer)] = torch.zeros(1, config.hidden_size)
    return theirs


def _frequencies(config: ModelConfig) -> Tensor:
    width = config.head_width
    return config.rope_theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)


def import_gguf(path: Path, tokenizer: Path | None = None, stage: str | None = None) -> ImportedModel:
    """The model of a GGUF file, dequantised to float32.

    Args:
        path: the file.
        tokenizer: folder with a tokenizer.json to use in place of the file's own.
        stage: the last stage of its training, which the file does not say; None: pretrain.

    Raises:
        UserError: for a damaged file, an architecture or a tokenizer that is not one of ours.
    """
    gguf = _library()
    try:
        reader = gguf.GGUFReader(str(path))
        plain = {name: _exact(field.contents()) for name, field in reader.fields.items()}
        shapes = {str(t.name): tuple(int(n) for n in reversed(t.shape)) for t in reader.tensors}
        stored = {str(t.name): t for t in reader.tensors}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except DAMAGED as error:
        raise UserError(f"{path} is damaged or not a GGUF file: {printable(str(error))[:200]}") from error
    where = str(path)
    arch = plain.get("general.architecture")
    if not isinstance(arch, str) or arch not in GGUF_FAMILIES:
        raise UserError(
            f"{where}: general.architecture is {ascii(arch)[:80]}; this backbone can be {', '.join(GGUF_FAMILIES)}"
        )
    family = GGUF_FAMILIES[arch]
    config = _shape(plain, arch, family, shapes, where)
    divisors = _dequantised(stored.pop(ANGLES), where) if ANGLES in stored else None
    if divisors is not None:
        config = _with_divisors(config, divisors, where)
    flat = {name: shape[1:] if "_exps." in name and shape[0] == 1 else shape for name, shape in shapes.items()}
    routers = {ROUTER.format(layer) for layer in range(config.num_layers)} if arch == "llada-moe" else set()
    known = {name: shape for name, shape in flat.items() if name not in routers | {ANGLES}}
    check_tensors(known, config, family.names, where, "its metadata")
    weights = {name: _dequantised(stored[name], where).reshape(known[name]) for name in known}
    if arch == "llada-moe" and torch.equal(weights["output.weight"], weights["token_embd.weight"]):
        config = replace(config, tie_embeddings=True)  # which such a file cannot say
    adopted = _tokenizer(plain, tokenizer, where)
    if adopted.size > config.vocab_size:
        raise UserError(f"{where}: the tokenizer has ids up to {adopted.size - 1}, the model {config.vocab_size} rows")
    model = assemble(fuse(weights, config, family.names), config, adopted.tokenizer, adopted.new, where)
    card = ModelCard(family.track, stage=stage or "pretrain", run=path.stem, step=0)
    return ImportedModel(model, adopted.tokenizer, card, adopted.remarks)


def _exact(value: Any) -> Any:
    """A float32 as the shortest decimal that it stands for: 1e-6 and not 9.99999997e-07."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _tokenizer(plain: Mapping[str, Any], folder: Path | None, where: str) -> Adopted:
    if folder is not None:
        return adopt_file(folder / "tokenizer.json" if folder.is_dir() else folder, {})
    return read_tokenizer(plain, where)


def _shape(
    metadata: Mapping[str, Any], arch: str, family: Family, shapes: Mapping[str, tuple[int, ...]], where: str
) -> ModelConfig:
    renamed = {f"{arch}.{name}": ours for name, ours in GGUF_SIZES.items()}
    stated = {name: metadata[name] for name in renamed if name in metadata}
    stated.setdefault(f"{arch}.vocab_size", shapes.get("token_embd.weight", (0,))[0])
    if "output.weight" not in shapes:
        stated["tie_word_embeddings"] = True
    _check_extras(metadata, arch, where)
    kind, factor = (metadata.get(f"{arch}.rope.scaling.{name}") for name in ("type", "factor"))
    if kind not in (None, "none", "linear", "yarn"):
        raise UserError(f"{where}: {arch}.rope.scaling.type is {ascii(kind)[:80]}; this backbone can be linear, yarn")
    if kind in ("linear", "yarn"):
        stated["rope_scaling"] = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        theirs = {
            "original_context_length": "original_max_position_embeddings",
            "yarn_beta_fast": "beta_fast",
            "yarn_beta_slow": "beta_slow",
        }
        found = {ours: metadata.get(f"{arch}.rope.scaling.{name}") for name, ours in theirs.items()}
        stated["rope_scaling"] |= {name: value for name, value in found.items() if value is not None}
    return read_shape(stated, replace(family, renamed=renamed), where)


def _check_extras(metadata: Mapping[str, Any], arch: str, where: str) -> None:
    width = metadata.get(f"{arch}.attention.key_length")
    if width is None and isinstance(metadata.get(f"{arch}.embedding_length"), int):
        heads = metadata.get(f"{arch}.attention.head_count")
        width = metadata[f"{arch}.embedding_length"] // heads if isinstance(heads, int) and heads > 0 else None
    only: dict[str, Any] = {
        "rope.dimension_count": width,
        "attention.value_length": width,
        "attention.sliding_window": 0,
        "expert_count": 1 if arch == "llada-moe" else 0,
        "rope.scaling.attn_factor": 1.0,
        "rope.scaling.yarn_log_multiplier": 0.0,
        "attention.scale": 1 / math.sqrt(width) if width else None,
    }
    for name, value in only.items():
        found = metadata.get(f"{arch}.{name}")
        same = found == value or (isinstance(found, float) and value and math.isclose(found, value, rel_tol=1e-6))
        if found is not None and not same:
            raise UserError(f"{where}: {arch}.{name} is {ascii(found)[:80]}; this backbone can only take {value!r}")
    if metadata.get("diffusion.shift_logits") is True:
        raise UserError(f"{where}: diffusion.shift_logits is true: its output at a place predicts the next place")


def _with_divisors(config: ModelConfig, divisors: Tensor, where: str) -> ModelConfig:
    """The shape with the rule behind a table of what frequencies are divided by. Raises UserError if none fits."""
    frequencies = _frequencies(config)
    fits = divisors.shape == frequencies.shape and config.yarn is None and config.long_rope is None
    rope = _rule_of(divisors.double(), frequencies, config.max_length) if fits else None
    if rope is None or not torch.allclose(long_rope_divisors(rope, frequencies), divisors.double(), rtol=1e-5):
        raise UserError(f"{where}: {ANGLES} is not a table of Llama 3.1's rule; this backbone has no other")
    return replace(config, long_rope=rope)


def _rule_of(divisors: Tensor, frequencies: Tensor, length: int) -> LongRope | None:
    """Llama 3.1's rule through a table (D/2,): its ramp is a line over the turns. None: there is none."""
    factor = float(divisors.max())
    if not (math.isfinite(factor) and factor > 1 and bool((divisors > 0).all())):
        return None
    kept = (1 / divisors - 1 / factor) / (1 - 1 / factor)
    if bool((kept < ROUNDING).all()):
        return linear(factor, length)
    inside = (kept > ROUNDING) & (kept < 1 - ROUNDING)
    share, turns = kept[inside], (LongRope.original_length * frequencies / (2 * math.pi))[inside]
    if len(share) < FEWEST_POINTS or share[0] <= share[-1]:
        return None
    slope = float((share[0] - share[-1]) / (turns[0] - turns[-1]))
    low = float(turns[0] - share[0] / slope)
    return LongRope(round(factor, 6), LongRope.original_length, low, low + 1 / slope) if low > 0 else None


def _dequantised(tensor: Any, where: str) -> Tensor:
    gguf = _library()
    try:
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    except (*DAMAGED, NotImplementedError) as error:
        raise UserError(
            f"{where}: {printable(str(tensor.name))[:80]} has the type {tensor.tensor_type.name}, which the gguf "
            f"package cannot dequantise ({printable(str(error))[:100]}); use a file of another quantisation"
        ) from error
    return torch.from_numpy(np.array(array, dtype=np.float32))
