"""Models from and for the `transformers` library: its Llama, Mistral and Qwen3 folders read, our AR models written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from nano_llada.checkpoint.files import WEIGHTS, load_checkpoint, model_weights, read_tensors, write_checkpoint
from nano_llada.config.model import ModelConfig, YarnScaling
from nano_llada.config.record import read_config
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import MASK, Tokenizer
from nano_llada.model.transformer import Transformer

Plain = Mapping[str, Any]
N = TypeVar("N", int, float)

SHARDS = f"{WEIGHTS}.index.json"
FAMILIES = ("llama", "mistral", "qwen3")
FIXED: Plain = {  # their field -> the one value this backbone can take
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}
FIXED_ROPE: Plain = {"partial_rotary_factor": 1.0, "mscale": None, "mscale_all_dim": None, "truncate": True}
YARN_FIELDS = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor")
SIZES: Mapping[str, str] = {  # theirs -> ours
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "max_position_embeddings": "max_length",
}
PARTS: Mapping[str, tuple[str, ...]] = {  # our weight -> theirs, stacked in this order
    "embed": ("model.embed_tokens",),
    "norm": ("model.norm",),
    "head": ("lm_head",),
    "attention_norm": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "attention.q_norm": ("self_attn.q_norm",),
    "attention.k_norm": ("self_attn.k_norm",),
    "mlp_norm": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def import_model(folder: Path) -> tuple[Transformer, Tokenizer]:
    """A model in float32 and evaluation mode, and its tokenizer, from a local `transformers` folder.

    A tokenizer without a mask token gets one; its embedding, and its row of an untied head, start at the mean of
    the rows before it. Rows that only pad a vocabulary, which no token has, are left out.

    Raises:
        UserError: for missing or broken files, pickles, and anything that this backbone does not compute.
    """
    config = _read_shape(folder)
    tokenizer = Tokenizer.load(folder)
    mask_is_new = _check_tokenizer(folder, config)
    weights = _fuse(_read_weights(folder), config, folder)
    for name in {"embed.weight", "head.weight"} & set(weights):
        if mask_is_new:
            weights[name] = start_row(weights[name], tokenizer.vocab.mask)
        weights[name] = weights[name][: tokenizer.vocab.size]
    model = Transformer(replace(config, vocab_size=tokenizer.vocab.size))
    if config.tie_embeddings:
        weights["head.weight"] = weights["embed.weight"]
    model.load_state_dict(weights)
    return model.eval(), tokenizer


def export_model(checkpoint_folder: Path, out: Path) -> None:
    """Write an AR checkpoint (or a run's best) as a new folder for `transformers`: Qwen3, or Llama without QK-norm.

    Dropout is left out: it is not part of the shape there. Early releases of transformers 4 take YaRN's factor to be
    max_length / original_length, and compute something else where it is not.

    Raises:
        UserError: for a diffusion checkpoint, a shape that `transformers` refuses, or a folder that is there already.
    """
    if out.exists():
        raise UserError(f"{out} exists already; give the name of a new folder")
    checkpoint = load_checkpoint(checkpoint_folder)
    config, tokenizer = checkpoint.model.config, checkpoint.tokenizer
    if not checkpoint.card.autoregressive:
        raise UserError(
            f"{checkpoint.folder} is a {checkpoint.card.track} checkpoint, and transformers has no bidirectional class "
            "that could run it; only the weights of ar checkpoints are exported"
        )
    if not config.qk_norm and config.hidden_size % config.num_heads:
        raise UserError(
            f"{checkpoint.folder}: LlamaForCausalLM needs a hidden_size ({config.hidden_size}) that is a multiple of "
            f"num_heads ({config.num_heads}), whatever the head_size; only models with qk_norm may differ"
        )
    weights = _split(model_weights(checkpoint.model), config)

    def fill(hidden: Path) -> None:
        _write_json(hidden / "config.json", _their_config(config, tokenizer.vocab))
        _write_json(hidden / "generation_config.json", _their_ids(tokenizer.vocab))
        save_file(weights, hidden / WEIGHTS, metadata={"format": "pt"})  # transformers insists on the format
        tokenizer.save(hidden)

    write_checkpoint(out, fill)


def _read_shape(folder: Path) -> ModelConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"no config.json in {folder}; give a local folder with a model of transformers")
    plain = read_config(path)
    _check_family(plain, path)
    sizes = {ours: _number(plain, theirs, int, None, path) for theirs, ours in SIZES.items()}
    heads, qwen3 = sizes["num_heads"], plain["model_type"] == "qwen3"
    theta, yarn = _read_rope(plain, sizes["max_length"], path)
    try:
        return ModelConfig(
            **sizes,
            num_kv_heads=_number(plain, "num_key_value_heads", int, heads, path),
            head_size=_number(plain, "head_dim", int, 128 if qwen3 else sizes["hidden_size"] // heads, path),
            intermediate_size=_number(plain, "intermediate_size", int, None, path),
            qk_norm=qwen3,
            tie_embeddings=plain.get("tie_word_embeddings") is True,
            rope_theta=theta,
            yarn=yarn,
            norm_eps=_number(plain, "rms_norm_eps", float, 1e-6, path),
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _check_family(plain: Plain, path: Path) -> None:
    family = plain.get("model_type")
    if family not in FAMILIES:
        raise UserError(f"{path}: model_type is {family!r}; this backbone can be {', '.join(FAMILIES)}")
    _check_fixed(plain, FIXED, path)
    if family == "mistral" and (window := plain.get("sliding_window", 4096)) is not None:  # 4096 where it is absent
        raise UserError(f"{path}: sliding_window is {window!r}; this backbone can only take None")
    for kind in plain.get("layer_types") or ():
        if kind != "full_attention":
            raise UserError(f"{path}: layer_types has {kind!r}; this backbone can only take 'full_attention'")


def _check_fixed(plain: Plain, fixed: Plain, where: Path | str) -> None:
    for name, only in fixed.items():
        value = plain.get(name)
        if value is not None and value != only:
            raise UserError(f"{where}: {name} is {value!r}; this backbone can only take {only!r}")


def _number(plain: Plain, name: str, kind: type[N], default: N | None, where: Path | str) -> N:
    value = plain.get(name)
    if value is None:
        if default is None:
            raise UserError(f"{where} lacks {name}")
        return default
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not value > 0:
        raise UserError(f"{where}: {name} is {value!r}; it must be a positive {'whole ' * (kind is int)}number")
    return kind(value)


def _read_rope(plain: Plain, length: int, path: Path) -> tuple[float, YarnScaling | None]:
    """Base and scaling, from `rope_parameters` of transformers 5 or the `rope_theta` and `rope_scaling` before it."""
    name = "rope_scaling" if plain.get("rope_scaling") else "rope_parameters"
    given, where = plain.get(name) or {}, f"{path}: {name}"
    if not isinstance(given, dict):
        raise UserError(f"{where} is {given!r}; it must be an object")
    rope = {"rope_theta": plain.get("rope_theta"), **given}
    kind = rope.pop("rope_type", None) or rope.get("type") or "default"
    if kind not in ("default", "yarn"):
        raise UserError(f"{where}: rope_type is {kind!r}; this backbone can be default, yarn")
    for field in sorted(set(rope) - {"type", "rope_theta", *YARN_FIELDS, *FIXED_ROPE}):
        raise UserError(f"{where}: {field} is {rope[field]!r}; this backbone has nothing like it")
    _check_fixed(rope, FIXED_ROPE, where)
    theta = _number(rope, "rope_theta", float, 10_000.0, where)
    if kind == "default":
        return theta, None
    original = _number(rope, "original_max_position_embeddings", int, length, where)
    original = _number(plain, "original_max_position_embeddings", int, original, path)  # the outer one comes first
    factor = _number(rope, "factor", float, length / original, where)
    if factor < 1:
        raise UserError(f"{where}: factor is {factor}; YaRN stretches a context, so it must be at least 1")
    usual = 0.1 * math.log(factor) + 1
    if not math.isclose(_number(rope, "attention_factor", float, usual, where), usual, rel_tol=1e-6):
        raise UserError(f"{where}: attention_factor is {rope['attention_factor']}; this backbone can only take {usual}")
    fast, slow = _number(rope, "beta_fast", float, 32.0, where), _number(rope, "beta_slow", float, 1.0, where)
    return theta, YarnScaling(factor, original, fast, slow)


def _their_ids(vocab: Vocabulary) -> dict[str, Any]:
    return {"bos_token_id": vocab.turn_start, "eos_token_id": list(vocab.ends), "pad_token_id": vocab.eos}


def _their_config(config: ModelConfig, vocab: Vocabulary) -> dict[str, Any]:
    yarn = None
    if config.yarn is not None:
        values = (config.yarn.factor, config.yarn.original_length, config.yarn.beta_fast, config.yarn.beta_slow)
        scale = 0.1 * math.log(config.yarn.factor) + 1
        yarn = {"rope_type": "yarn", **dict(zip(YARN_FIELDS, (*values, scale), strict=True))}
    return {
        "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if config.qk_norm else "llama",
        **{theirs: getattr(config, ours) for theirs, ours in SIZES.items()},
        "intermediate_size": config.mlp_width,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,  # these two names are understood by transformers 4 and 5
        "rope_scaling": yarn,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": "float32",
        **_their_ids(vocab),
    }


def _check_tokenizer(folder: Path, config: ModelConfig) -> bool:
    """Whether the file lacks the mask token. Raises UserError if the model has no embedding for some token."""
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(folder / "tokenizer.json"))
    largest = max(backend.get_vocab(with_added_tokens=True).values())
    if largest >= config.vocab_size:
        raise UserError(
            f"{folder}: tokenizer.json has ids up to {largest}, but config.json a vocab_size of {config.vocab_size}; "
            "they are not of the same model"
        )
    return backend.token_to_id(MASK) is None


def _read_weights(folder: Path) -> dict[str, Tensor]:
    files = [WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        if not (folder / SHARDS).is_file():
            if pickles := sorted(path.name for end in ("bin", "pt", "pth") for path in folder.glob(f"*.{end}")):
                raise UserError(
                    f"{folder / pickles[0]} is a pickle file, and unpickling can run anything; save the model with "
                    f"transformers as {WEIGHTS} and import that"
                )
            raise UserError(f"no weights in {folder}: neither {WEIGHTS} nor {SHARDS}")
        places = read_config(folder / SHARDS).get("weight_map")
        if not isinstance(places, dict) or any(str(Path(str(file)).name) != file for file in places.values()):
            raise UserError(f"{folder / SHARDS}: weight_map must name a file of the same folder for each tensor")
        files = sorted(set(places.values()))
    tensors = {name: tensor for file in files for name, tensor in read_tensors(folder / file).items()}
    # old Llama files carry the angles, which follow from the shape
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}


def tensor_layout(config: ModelConfig) -> dict[str, list[tuple[str, torch.Size]]]:
    """Each of our weights, and the tensors of transformers that are stacked into it, with their shapes."""
    with torch.device("meta"):
        ours = {name: tensor.shape for name, tensor in model_weights(Transformer(config)).items()}
    queries, keys = config.num_heads * config.head_width, config.kv_heads * config.head_width
    stacked = {"attention.qkv": (queries, keys, keys), "gate_up": (config.mlp_width, config.mlp_width)}
    layout = {}
    for name, shape in ours.items():
        stem, before = name.removesuffix(".weight"), ""
        if stem.startswith("blocks."):
            _, layer, stem = stem.split(".", 2)
            before = f"model.layers.{layer}."
        rows = stacked.get(stem, (shape[0],))
        parts = zip(PARTS[stem], rows, strict=True)
        layout[name] = [(f"{before}{part}.weight", torch.Size((count, *shape[1:]))) for part, count in parts]
    return layout


def _fuse(theirs: dict[str, Tensor], config: ModelConfig, folder: Path) -> dict[str, Tensor]:
    layout = tensor_layout(config)
    wanted = {name: shape for parts in layout.values() for name, shape in parts}
    if missing := sorted(set(wanted) - set(theirs)):
        raise UserError(f"the weights in {folder} lack {', '.join(missing)}")
    head = theirs.pop("lm_head.weight", None) if config.tie_embeddings else None  # some files hold it twice
    if head is not None and not torch.equal(head, theirs["model.embed_tokens.weight"]):
        raise UserError(f"{folder}: tie_word_embeddings is true, but lm_head.weight is not the embedding")
    if extra := sorted(set(theirs) - set(wanted)):
        raise UserError(f"the weights in {folder} have {', '.join(extra)}, which this backbone does not")
    for name, shape in wanted.items():
        if theirs[name].shape != shape:
            raise UserError(f"{folder}: {name} is {tuple(theirs[name].shape)}, config.json makes it {tuple(shape)}")
    return {name: torch.cat([theirs[part] for part, _ in parts]) for name, parts in layout.items()}


def start_row(weight: Tensor, row: int) -> Tensor:
    """(max(V, row + 1), D): the weight with this row at the mean of those before it."""
    grown = weight.new_zeros(max(len(weight), row + 1), weight.shape[1], dtype=torch.float32)
    grown[: len(weight)] = weight
    grown[row] = grown[:row].mean(0)
    return grown


def _split(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    theirs: dict[str, Tensor] = {}
    for name, parts in tensor_layout(config).items():
        pieces = weights[name].split([shape[0] for _, shape in parts])
        theirs |= {part: piece.contiguous() for (part, _), piece in zip(parts, pieces, strict=True)}
    return theirs


def _write_json(path: Path, plain: Plain) -> None:
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
