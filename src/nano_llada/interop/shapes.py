"""The shape of a model as other programs state it, read into `ModelConfig` and written from it.

The names are those of config.json of transformers; other files are renamed first (`layout.Family.renamed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from nano_llada.config.model import LongRope, ModelConfig, YarnScaling
from nano_llada.core.errors import UserError
from nano_llada.interop.layout import FAMILIES, NONE, SIZES, Family

Plain = Mapping[str, Any]
N = TypeVar("N", int, float)

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
LLAMA3_FIELDS = ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
ROPE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "yarn": YARN_FIELDS,
    "llama3": LLAMA3_FIELDS,
    "linear": ("factor",),
}
ELSEWHERE: Mapping[str, str] = {  # families that people ask for -> what this backbone lacks
    "dream": "its output at a place predicts the next place (shifted logits)",
    "gemma2": "it caps logits and normalises the output of each layer",
    "gemma3": "it has local attention and normalises the output of each layer",
    "gpt2": "it has learnt positions and layer norms with biases",
    "gpt_neox": "it has parallel layers and layer norms with biases",
    "phi3": "its rotary embedding has tables of factors",
    **dict.fromkeys(
        ("llada2_moe", "lladamoe", "llada_moe", "mixtral", "qwen2_moe", "qwen3_moe", "sdar_moe"),
        "it is a mixture of experts",
    ),
}


def family_of(plain: Plain, where: str) -> Family:
    """The family that a config.json names. Raises UserError for one that this backbone cannot be."""
    name = plain.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        why = f": {ELSEWHERE[name]}" if isinstance(name, str) and name in ELSEWHERE else ""
        raise UserError(f"{where}: model_type is {ascii(name)[:80]}{why}; this backbone can be {', '.join(FAMILIES)}")
    return FAMILIES[name]


def read_shape(stated: Plain, family: Family, where: str) -> ModelConfig:
    """The shape of a model from the fields of its config.json.

    Raises:
        UserError: naming the field, for what is missing, is no number, or is not computed by this backbone.
    """
    check_fixed(stated, family.fixed, where)
    # its own name comes first: some files hold both, with one of them meaningless
    plain = {**stated, **{usual: stated[own] for own, usual in family.renamed.items() if stated.get(own) is not None}}
    own_names = {usual: own for own, usual in family.renamed.items()}
    _check_attention(plain, where)
    sizes = {ours: number(plain, theirs, int, None, where, own_names) for theirs, ours in SIZES.items()}
    heads = sizes["num_heads"]
    width = family.head_size or sizes["hidden_size"] // heads
    theta, scaling = _read_rope(plain, sizes["max_length"], where)
    try:
        return ModelConfig(
            **sizes,
            num_kv_heads=number(plain, "num_key_value_heads", int, heads, where, own_names),
            head_size=number(plain, "head_dim", int, width, where, own_names),
            intermediate_size=number(plain, "intermediate_size", int, None, where, own_names),
            qk_norm=family.qk_norm or (family.may_vary and plain.get("qk_norm") is True),
            qkv_bias=family.qkv_bias or (family.may_vary and plain.get("qkv_bias") is True),
            tie_embeddings=plain.get("tie_word_embeddings") is True,
            rope_theta=theta,
            yarn=scaling if isinstance(scaling, YarnScaling) else None,
            long_rope=scaling if isinstance(scaling, LongRope) else None,
            norm_eps=number(plain, "rms_norm_eps", float, 1e-6, where, own_names),
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def written_shape(config: ModelConfig) -> dict[str, Any]:
    """The fields of a config.json that say the shape, for every family."""
    return {
        **{theirs: getattr(config, ours) for theirs, ours in SIZES.items()},
        "intermediate_size": config.mlp_width,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,  # these two names are understood by transformers 4 and 5
        "rope_scaling": _written_rope(config),
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": "float32",
    }


def _written_rope(config: ModelConfig) -> dict[str, Any] | None:
    if config.long_rope is not None:
        rope = config.long_rope
        if rope.linear:
            return {"rope_type": "linear", "factor": rope.factor}
        numbers: tuple[float, ...] = (rope.factor, rope.original_length, rope.low_turns, rope.high_turns)
        return {"rope_type": "llama3", **dict(zip(LLAMA3_FIELDS, numbers, strict=True))}
    if config.yarn is not None:
        numbers = (config.yarn.factor, config.yarn.original_length, config.yarn.beta_fast, config.yarn.beta_slow)
        scale = 0.1 * math.log(config.yarn.factor) + 1
        return {"rope_type": "yarn", **dict(zip(YARN_FIELDS, (*numbers, scale), strict=True))}
    return None


def _check_attention(plain: Plain, where: str) -> None:
    check_fixed(plain, FIXED, where)
    window = plain.get("sliding_window", 4096)  # which is Mistral's default
    if plain.get("model_type") == "mistral" and window is not None:
        raise UserError(f"{where}: sliding_window is {ascii(window)[:80]}; this backbone can only take None")
    for layer in plain.get("layer_types") or ():
        if layer != "full_attention":
            raise UserError(f"{where}: layer_types has {layer!r}; this backbone can only take 'full_attention'")


def check_fixed(plain: Plain, fixed: Plain, where: str) -> None:
    """Raises UserError naming the first field that is neither absent nor the one value that is possible."""
    for name, only in fixed.items():
        value = plain.get(name)
        if value is not None and value != only:
            raise UserError(f"{where}: {name} is {ascii(value)[:80]}; this backbone can only take {only!r}")


def number(
    plain: Plain, name: str, kind: type[N], default: N | None, where: str, called: Mapping[str, str] = NONE
) -> N:
    """A positive number of a config; `called` has the file's own names, for complaints. Raises UserError."""
    value, shown = plain.get(name), called.get(name, name)
    if value is None:
        if default is None:
            raise UserError(f"{where} lacks {shown}")
        return default
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not value > 0:
        raise UserError(
            f"{where}: {shown} is {ascii(value)[:80]}; it must be a positive {'whole ' * (kind is int)}number"
        )
    return kind(value)


def _read_rope(plain: Plain, length: int, where: str) -> tuple[float, YarnScaling | LongRope | None]:
    """Base and scaling, from `rope_parameters` of transformers 5 or the `rope_theta` and `rope_scaling` before it."""
    name = "rope_scaling" if plain.get("rope_scaling") else "rope_parameters"
    given, place = plain.get(name) or {}, f"{where}: {name}"
    if not isinstance(given, dict):
        raise UserError(f"{place} is {ascii(given)[:80]}; it must be an object")
    rope = {"rope_theta": plain.get("rope_theta"), **given}
    kind = rope.pop("rope_type", None) or rope.get("type") or "default"
    if kind not in ROPE_FIELDS:
        raise UserError(f"{place}: rope_type is {ascii(kind)[:80]}; this backbone can be {', '.join(ROPE_FIELDS)}")
    for field in sorted(set(rope) - {"type", "rope_theta", *YARN_FIELDS, *ROPE_FIELDS[kind], *FIXED_ROPE}):
        raise UserError(f"{place}: {field[:80]} is {ascii(rope[field])[:80]}; this backbone has nothing like it")
    check_fixed(rope, FIXED_ROPE, place)
    theta = number(rope, "rope_theta", float, 10_000.0, place)
    if kind == "default":
        return theta, None
    original = number(rope, "original_max_position_embeddings", int, length, place)
    original = number(plain, "original_max_position_embeddings", int, original, where)  # the outer one comes first
    try:
        return theta, _SCALINGS[kind](rope, original, length, place)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error


def _factor(rope: Plain, default: float | None, place: str) -> float:
    factor = number(rope, "factor", float, default, place)
    if factor < 1:
        raise UserError(f"{place}: factor is {factor}; it stretches a context, so it must be at least 1")
    return factor


def _yarn(rope: Plain, original: int, length: int, place: str) -> YarnScaling:
    factor = _factor(rope, length / original, place)
    usual = 0.1 * math.log(factor) + 1
    if not math.isclose(number(rope, "attention_factor", float, usual, place), usual, rel_tol=1e-6):
        raise UserError(f"{place}: attention_factor is {rope['attention_factor']}; this backbone can only take {usual}")
    fast, slow = number(rope, "beta_fast", float, 32.0, place), number(rope, "beta_slow", float, 1.0, place)
    return YarnScaling(factor, original, fast, slow)


def _llama3(rope: Plain, original: int, length: int, place: str) -> LongRope:
    low, high = (number(rope, f"{name}_freq_factor", float, None, place) for name in ("low", "high"))
    return LongRope(_factor(rope, None, place), original, low, high)


def _linear(rope: Plain, original: int, length: int, place: str) -> LongRope:
    return linear(_factor(rope, None, place), length)


def linear(factor: float, length: int) -> LongRope:
    """Every dimension interpolated: no number of turns over a length is above the length."""
    return LongRope(factor, length, float(length), 2.0 * length)


_SCALINGS: Mapping[str, Callable[[Plain, int, int, str], YarnScaling | LongRope]] = {
    "yarn": _yarn,
    "llama3": _llama3,
    "linear": _linear,
}
