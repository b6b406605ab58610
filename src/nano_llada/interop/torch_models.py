"""Models from the `.pt` files of the original Nano-LLaDA and of minimind, in two layouts of tensors.

The original normalises the embeddings and has no gains, so its embedding rows are stored normalised and its gains are
ones. It normalises queries and keys after the rotation; a rotation keeps their length, so with gains of one this equals
the norm before it. Its YaRN does not scale the rotated vectors, and this backbone's does by m = 0.1 ln(factor) + 1
(arXiv:2309.00071): gains of 1/m on queries and keys take that back. All of this is exact but for rounding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nano_llada.config.card import ModelCard, Track
from nano_llada.config.model import ModelConfig, YarnScaling
from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.interop.imported import ImportedModel, assemble
from nano_llada.interop.layout import tensor_layout
from nano_llada.interop.torch_files import StoredTensor, TorchFile

Plain = Mapping[str, Any]
Stage = Literal["pretrain", "sft", "dpo"]
Stored = dict[str, StoredTensor]

WEIGHTS_OF = ("model_state_dict", "model", "state_dict")  # under which a file with more than weights keeps them
WRAPPERS = ("_orig_mod.", "module.")  # of torch.compile and of DistributedDataParallel
DERIVED = ("freqs_cos", "freqs_sin", "rotary_emb.inv_freq")  # endings of tensors that follow from the shape
ORIGINAL: Mapping[str, str] = {  # the original's names -> those of transformers
    "token_emb": "model.embed_tokens",
    "lm_head": "lm_head",
    "attn.c_q": "self_attn.q_proj",
    "attn.c_k": "self_attn.k_proj",
    "attn.c_v": "self_attn.v_proj",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.gate_proj": "mlp.gate_proj",
    "mlp.up_proj": "mlp.up_proj",
    "mlp.down_proj": "mlp.down_proj",
}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LONGEST = 2**20  # tokens of a context that a file is believed
FIRST = "model.layers.0."
YARN = YarnScaling(factor=16.0, original_length=2048, beta_fast=32.0, beta_slow=1.0)
GUESSED_HEADS, GUESSED_WIDTHS = (16, 12, 10, 8, 6, 4, 2, 1, 32, 24), (32, 48, 64, 80, 96, 128)


@dataclass(frozen=True)
class Hints:
    """What a file of tensors may not say about its model. What it does say comes first, and must not contradict."""

    track: Track | None = None
    stage: Stage | None = None
    num_heads: int | None = None
    max_length: int | None = None
    rope_theta: float | None = None
    norm_eps: float | None = None
    rope_scaling: bool | None = None


@dataclass
class _Source:
    """An open file: its weights under the names of transformers, the options saved beside them, and remarks."""

    path: Path
    file: TorchFile
    weights: Stored
    original: bool
    options: Plain
    step: int | None
    remarks: list[str] = field(default_factory=list)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: stored.shape for name, stored in self.weights.items()}

    def number(self, name: str, told: float | None, saved: str, default: float) -> float:
        """The given value, else what the file says, else the default of this kind of model, with a remark.

        Raises:
            UserError: if the file contradicts the given value, or for anything but a positive number.
        """
        stated = self.options.get(saved)
        option = f"--{'norm-eps' if saved == 'rms_norm_eps' else 'rope-theta'}"
        if told is not None and stated is not None and stated != told:
            raise UserError(
                f"{self.path}: {option} is {told:g}, but the file says {name} {ascii(stated)[:40]}; leave it out"
            )
        if told is None and stated is None:
            self.remarks.append(f"{self.path} does not state its {name}: {default:g} is assumed; {option} changes it")
        value = next((value for value in (told, stated) if value is not None), default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise UserError(f"{self.path}: the {name} must be a positive number, got {ascii(value)[:40]}")
        return float(value)


def import_torch_model(path: Path, tokenizer: Tokenizer, hints: Hints) -> ImportedModel:
    """The model of a `.pt` file of the original (full state or state_dict) or of minimind 2 or 3.

    Raises:
        UserError: for a file that is not plain tensors, another layout, a number of heads that neither the file nor
            `hints` states, or anything that this backbone does not compute.
    """
    source = _open(path)
    config = _shape(source, hints)
    _check(source, config)
    card = _card(source, hints)
    weights = _tensors(source, config)
    size, rows = tokenizer.vocab.size, config.vocab_size
    if rows < size - 1 or (rows == size - 1 and tokenizer.vocab.mask != rows):
        raise UserError(
            f"{path} has embeddings of {rows} tokens, the tokenizer {size}: it is not the tokenizer of this model"
        )
    if rows > size:
        source.remarks.append(f"{rows - size} rows of the vocabulary belong to no token and are left out")
    new = [tokenizer.vocab.mask] if rows < size else []  # an autoregressive model without a mask token
    model = assemble(weights, config, tokenizer, new, str(path))
    return ImportedModel(model, tokenizer, card, tuple(source.remarks))


def guessed_heads(hidden_size: int) -> int:
    """The heads that the original's diffusion fine-tuning and evaluation take for a width, whatever was trained."""
    for heads in GUESSED_HEADS:
        if hidden_size % heads == 0 and hidden_size // heads in GUESSED_WIDTHS:
            return heads
    return 8 if hidden_size % 8 == 0 else 1


def _open(path: Path) -> _Source:
    file = TorchFile(path)
    plain = _text_keys(file.content, path)
    weights = next((_text_keys(plain[name], path) for name in WEIGHTS_OF if isinstance(plain.get(name), dict)), plain)
    stored: Stored = {}
    for name, tensor in weights.items():
        name = _unwrapped(name)
        if not isinstance(tensor, StoredTensor) or name.endswith(DERIVED) or name in ("cos", "sin"):
            continue
        if name in stored:
            raise UserError(f"{path} has two tensors called {name[:80]!a}")
        stored[name] = tensor
    original = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    source = _Source(path, file, stored, False, _options(plain, path), _step(plain))
    if "token_emb.weight" in original:
        source.original = True
        source.weights = {_theirs(name, path): tensor for name, tensor in original.items()}
        _read_sibling(source)
    elif EMBEDDING not in stored:
        raise UserError(
            f"{path} has no token_emb.weight (the original) and no {EMBEDDING} (minimind); its tensors are: "
            f"{', '.join(ascii(name[:80]) for name in list(stored)[:4]) or 'none'}"
        )
    return source


def _text_keys(value: object, path: Path) -> Plain:
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, expected a dict of tensors")
    return {key: item for key, item in value.items() if isinstance(key, str)}


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _options(plain: Plain, path: Path) -> Plain:
    options = plain.get("args")
    if not isinstance(options, dict):
        return {}
    return {name: _plain(value) for name, value in _text_keys(options, path).items()}


def _plain(value: object) -> object:
    """A value that can be compared and printed: of anything nested or huge, a word on what it is."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < 64 else f"<a number of {value.bit_length()} bits>"
    return value[:200] if isinstance(value, str) else f"<a {type(value).__name__}>"


def _step(plain: Plain) -> int | None:
    step = _plain(plain.get("step"))
    return step if type(step) is int else None


def _read_sibling(source: _Source) -> None:
    """The original writes NAME.pt, with the options of the run, and NAME_state_dict.pt without them."""
    name = source.path.name
    sibling = source.path.with_name(name.replace("_state_dict.pt", ".pt"))
    if source.options or not name.endswith("_state_dict.pt") or not sibling.is_file():
        return
    plain = _text_keys(TorchFile(sibling).content, sibling)
    source.options, source.step = _options(plain, sibling), _step(plain)
    if source.options:
        source.remarks.append(f"the options of the run were read from {sibling}")


def _theirs(name: str, path: Path) -> str:
    match = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.weight", name)
    if match is None or match[2] not in ORIGINAL:
        raise UserError(f"{path} has the tensor {name[:80]!a}, which the original's models do not")
    return (f"model.layers.{match[1]}." if match[1] is not None else "") + f"{ORIGINAL[match[2]]}.weight"


def _shape(source: _Source, hints: Hints) -> ModelConfig:
    shapes, path = source.shapes, source.path
    wanted = (EMBEDDING, *(f"{FIRST}{part}.weight" for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")))
    for name in wanted:
        if len(shapes.get(name, ())) != 2:
            raise UserError(f"{path} has no matrix {name}")
    (vocab, hidden), (queries, _), (keys, _), (mlp, _) = (shapes[name] for name in wanted)
    gain = shapes.get(f"{FIRST}self_attn.q_norm.weight")
    heads = _heads(source, hints, queries, gain[0] if gain else None)
    if queries % heads or keys % (queries // heads):
        raise UserError(f"{path}: {heads} heads do not share {queries} rows of queries and {keys} of keys")
    _check_activation(source)
    eps = 1e-6 if gain and not source.original else 1e-5
    try:
        config = ModelConfig(
            vocab_size=vocab,
            hidden_size=hidden,
            num_layers=_layers(source),
            num_heads=heads,
            num_kv_heads=keys * heads // queries,
            head_size=queries // heads,
            intermediate_size=mlp,
            max_length=_max_length(source, hints),
            qk_norm=source.original or gain is not None,
            tie_embeddings=not source.original and _tied(source),
            rope_theta=source.number("RoPE base", hints.rope_theta, "rope_theta", 1e6),
            norm_eps=source.number("norm epsilon", hints.norm_eps, "rms_norm_eps", eps),
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return replace(config, yarn=YARN) if _stretched(source, hints, config) else config


def _layers(source: _Source) -> int:
    found = {match[1] for name in source.weights if (match := re.match(r"model\.layers\.(\d+)\.", name))}
    if found != {str(layer) for layer in range(len(found))}:  # before a model of that many layers is thought of
        raise UserError(f"{source.path} has the layers {', '.join(sorted(found)[:20])}, which are not 0, 1, 2, ...")
    return len(found)


def _heads(source: _Source, hints: Hints, queries: int, gain_width: int | None) -> int:
    stated = source.options.get("num_attention_heads")
    if gain_width and not source.original:
        stated = queries // gain_width  # a gain is as wide as a head
    told, asked = hints.num_heads, ""
    if source.original and _fine_tuned_diffusion(source.options) and source.options.get("load_from"):
        trained = guessed_heads(source.shapes[EMBEDDING][1])
        if stated != trained:
            asked = (
                f": it was fine-tuned by a script that took {trained}, whatever the pretrained model had (its option "
                f"says {stated}). {trained} computes what that script trained"
            )
            stated = None
    if told is not None and stated is not None and told != stated:
        raise UserError(f"{source.path}: --num-heads is {told}, but the file says {ascii(stated)[:40]} heads")
    heads = told if told is not None else stated
    if heads is None:
        raise UserError(
            f"{source.path} does not state how many attention heads its model has"
            f"{asked or ', and the shapes do not determine it'}; give --num-heads (scripts: --num-attention-heads)"
        )
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise UserError(
            f"{source.path}: the number of heads must be a whole number of at least 1, got {ascii(heads)[:40]}"
        )
    return heads


def _check_activation(source: _Source) -> None:
    activation = source.options.get("hidden_act", "silu")
    if activation != "silu":
        raise UserError(f"{source.path}: hidden_act is {ascii(activation)[:40]}; this backbone can only take 'silu'")


def _max_length(source: _Source, hints: Hints) -> int:
    """The context it was trained with, and room for answers; not the length of the table of angles."""
    lengths = [source.options.get(name) for name in ("seq_len", "max_seq_len")]
    return hints.max_length or max(512, *(n for n in lengths if type(n) is int and n <= LONGEST), 0)


def _tied(source: _Source) -> bool:
    head = source.weights.pop(HEAD, None)
    if head is None:
        return True
    if torch.equal(source.file.read(head), source.file.read(source.weights[EMBEDDING])):
        return True
    source.weights[HEAD] = head
    return False


def _stretched(source: _Source, hints: Hints, config: ModelConfig) -> bool:
    """Whether the angles are YaRN's."""
    if not source.original:
        if hints.rope_scaling:
            raise UserError(f"{source.path}: --rope-scaling is for models of the original; minimind trains without it")
        return False
    stated = source.options.get("inference_rope_scaling")
    on = stated if hints.rope_scaling is None else hints.rope_scaling
    if stated is not None and on != stated:
        raise UserError(f"{source.path}: the file says that RoPE scaling is {'on' if stated else 'off'}; leave it out")
    if on is None:
        source.remarks.append(
            f"{source.path} does not state its RoPE scaling: none is assumed; --rope-scaling changes it"
        )
    table = source.options.get("max_position_embeddings", 32768)
    if on is not True or (type(table) is int and table <= YARN.original_length):  # a short table is not scaled there
        return False
    turns = math.log(YARN.original_length / (YARN.beta_slow * 2 * math.pi)) / (2 * math.log(config.rope_theta))
    if math.ceil(config.head_width * turns) > config.head_width // 2 - 1:
        raise UserError(
            f"{source.path}: RoPE scaling with base {config.rope_theta:g} and heads of {config.head_width} is computed "
            "in another way there, and cannot be imported"
        )
    return True


def _check(source: _Source, config: ModelConfig) -> None:
    """Every tensor of the shape, and no other. Raises UserError naming the first that differs."""
    wanted = {name: tuple(shape) for parts in tensor_layout(config).values() for name, shape in parts}
    gains = {name for name in wanted if len(wanted[name]) == 1} if source.original else set()
    shapes = source.shapes
    if missing := sorted(set(wanted) - set(shapes) - gains):
        raise UserError(f"{source.path} lacks {missing[0]}" + f" and {len(missing) - 1} more" * (len(missing) > 1))
    if extra := sorted(set(shapes) - set(wanted)):
        raise UserError(
            f"{source.path} has {extra[0][:80]!a}, which this backbone does not (a mixture of experts, or biases?)"
        )
    for name, shape in shapes.items():
        if shape != wanted[name]:
            raise UserError(f"{source.path}: {name} is {shape}; beside the other tensors it must be {wanted[name]}")
        if not source.weights[name].dtype.is_floating_point:
            raise UserError(f"{source.path}: {name} holds {source.weights[name].dtype}, not weights")


def _tensors(source: _Source, config: ModelConfig) -> dict[str, Tensor]:
    """Our weights by name, in float32."""
    scale = 1.0 if config.yarn is None else 1.0 / (0.1 * math.log(config.yarn.factor) + 1.0)

    def tensor(name: str, shape: torch.Size) -> Tensor:
        if name not in source.weights:  # the original has no gains
            return torch.full(shape, scale if ".self_attn." in name else 1.0)
        read = source.file.read(source.weights[name]).float()
        if not bool(torch.isfinite(read).all()):
            raise UserError(
                f"{source.path}: {name} holds values that are not finite; the run that wrote it had diverged"
            )
        return read

    layout = tensor_layout(config)
    weights = {ours: torch.cat([tensor(*part) for part in parts]) for ours, parts in layout.items()}
    if source.original:
        rows = weights["embed.weight"]
        weights["embed.weight"] = rows * torch.rsqrt(rows.square().mean(1, keepdim=True) + config.norm_eps)
    return weights


def _fine_tuned_diffusion(options: Plain) -> bool:
    return "iid_mask_eps" in options and "mask_schedule" not in options


def _card(source: _Source, hints: Hints) -> ModelCard:
    """Which of the original's scripts wrote a file follows from the options that only it has."""
    options, stated = source.options, None
    if source.original and options:
        if "mask_schedule" in options:
            stated = ("diffusion", "pretrain")
        elif _fine_tuned_diffusion(options):
            stated = ("diffusion", "dpo" if "dpo_beta" in options else "sft")
        elif "epochs" in options:
            stated = ("ar", "pretrain" if "tokenizer_json" in options else "sft")
    track, stage = stated or (None, None)
    if not source.original:
        track = "ar"
    for what, says, told in (("track", track, hints.track), ("stage", stage, hints.stage)):
        if says and told and says != told:
            source.remarks.append(f"{source.path} says that its {what} is {says}, not {told}")
    if track is None and hints.track is None:
        raise UserError(
            f"{source.path} does not say whether its model is autoregressive or a diffusion model, which have the same "
            "tensors; give --track ar or --track diffusion"
        )
    if stage is None and hints.stage is None:
        source.remarks.append(f"{source.path} does not state its stage: pretrain is assumed; --stage changes it")
    chosen: Any = track or hints.track
    return ModelCard(chosen, stage=stage or hints.stage or "pretrain", run=source.path.stem, step=source.step)
