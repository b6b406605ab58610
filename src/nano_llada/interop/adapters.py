"""Adapters in the format of the peft library: ours written, beside the model that they change, and others' read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nano_llada.checkpoint.files import Checkpoint, load_unmerged, read_description, read_tensors, unusable
from nano_llada.config.adapter import Adapter, Target
from nano_llada.config.record import read_config
from nano_llada.core.errors import UserError
from nano_llada.core.files import write_json
from nano_llada.core.text import printable
from nano_llada.interop.imported import ImportedModel
from nano_llada.interop.layout import HUGGING_FACE, tensor_layout
from nano_llada.model.lora import PLACES, adapter_weights, frozen_weights
from nano_llada.model.transformer import Transformer

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."  # of peft, before the name of a module
PARTS = {".lora_A.weight": "A", ".lora_B.weight": "B"}
# fields of adapter_config.json that change nothing of what the tensors mean
HARMLESS = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "r"),
    *("inference_mode", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "bias", "use_rslora"),
    *("init_lora_weights", "layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size"),
    *("runtime_config", "ensure_weight_tying"),
}
STARTS = (None, True, False, "gaussian", "orthogonal", "eva")  # other ways to begin also change the base


def without_adapter(path: Path) -> Checkpoint:
    """The model that a checkpoint's adapters change: what `peft` needs beside them.

    Raises:
        UserError: for a checkpoint without adapters, and as `load_checkpoint` does.
    """
    checkpoint, _ = _adapted(path)
    model = Transformer(checkpoint.model.config)
    model.load_state_dict(frozen_weights(checkpoint.model))
    return Checkpoint(model.eval(), checkpoint.tokenizer, checkpoint.card, checkpoint.folder)


def fill_adapter(path: Path, folder: Path, base: str) -> Checkpoint:
    """Write the adapters of a checkpoint into an existing folder for `peft`; gives the checkpoint.

    Args:
        path: run or checkpoint folder.
        folder: gets adapter_config.json and adapter_model.safetensors.
        base: name or folder of the exported model that they change.

    Raises:
        UserError: as `without_adapter` does.
    """
    checkpoint, adapter = _adapted(path)
    modules = {part for target in adapter.targets for part in _parts(target)}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": None if checkpoint.card.denoising else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_json(folder / CONFIG, config)
    save_file(_split(checkpoint.model, adapter), folder / WEIGHTS, metadata={"format": "pt"})
    return checkpoint


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters of the peft library."""
    return (folder / CONFIG).is_file()


def base_of(folder: Path) -> Path:
    """The folder that adapters name as the model that they change. Raises UserError if there is no such folder here."""
    named = read_config(folder / CONFIG).get("base_model_name_or_path")
    if isinstance(named, str) and named and Path(named).is_dir():
        return Path(named)
    raise UserError(f"{folder} holds adapters of {ascii(named)[:200]}, which is no folder here: give it as --base")


def merge_adapter(folder: Path, base: ImportedModel, stage: str | None = None) -> ImportedModel:
    """A model with adapters of the peft library merged into it: ``W + scale * B A`` for each matrix that has some.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        base: the model that they change; it is the one that is returned.
        stage: the last stage of the adapters' training; None: the base's.

    Raises:
        UserError: for anything but plain LoRA of matrices that the base has, damaged files, pickles, and numbers that
            are not finite. The base is then unchanged.
    """
    config = read_config(folder / CONFIG)
    rank, scale = _plain_lora(config, str(folder / CONFIG))
    pairs = _read_pairs(folder)
    model, state = base.model, base.model.state_dict()
    places = {name.removesuffix(".weight"): place for name, place in _places(model).items()}
    for module, pair in pairs.items():
        if module not in places:
            raise UserError(
                f"{folder / WEIGHTS} has adapters of {ascii(module)[:120]}, a matrix that the base does not have"
            )
        _, _, (rows, columns) = places[module]
        for part, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            if tuple(pair[part].shape) != shape:
                raise UserError(
                    f"{folder / WEIGHTS}: lora_{part} of {module} is {tuple(pair[part].shape)}, must be {shape}"
                )
    with torch.no_grad():
        for module, pair in pairs.items():
            ours, first, (rows, _) = places[module]
            state[ours][first : first + rows] += scale * (pair["B"].float() @ pair["A"].float())
    card = replace(base.card, run=folder.name, step=0, stage=stage or base.card.stage)
    return ImportedModel(model, base.tokenizer, card, (*base.remarks, f"merged adapters of {len(pairs)} matrices"))


def _plain_lora(config: Mapping[str, Any], where: str) -> tuple[int, float]:
    """Rank and scale. Raises UserError for what is not plain LoRA, by the name of its field."""
    if config.get("peft_type") != "LORA":
        raise UserError(f"{where}: peft_type is {ascii(config.get('peft_type'))[:80]}; only LORA is read")
    for name, value in config.items():
        if name not in HARMLESS and value:
            raise UserError(f"{where}: {printable(name)[:80]} is {ascii(value)[:80]}; only plain LoRA is read")
    if config.get("bias", "none") != "none":
        raise UserError(f"{where}: bias is {ascii(config['bias'])[:80]}; only adapters without biases are read")
    if config.get("init_lora_weights") not in STARTS:
        how = ascii(config["init_lora_weights"])[:80]
        raise UserError(f"{where}: init_lora_weights is {how}, which also changes the base: merge them with peft")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 0 < rank <= 2**16:
        raise UserError(f"{where}: r is {ascii(rank)[:80]}; it must be a number from 1 to 65536")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise UserError(f"{where}: lora_alpha is {ascii(alpha)[:80]}; it must be a number")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read_pairs(folder: Path) -> dict[str, dict[str, Tensor]]:
    """A and B of each module, by its name."""
    path = folder / WEIGHTS
    if not path.is_file() and (pickles := sorted(other.name for other in folder.glob("*.bin"))):
        raise UserError(
            f"{folder / pickles[0]} is a pickle file, and unpickling can run anything; save the adapters with peft as "
            f"{WEIGHTS} and import that"
        )
    tensors = read_tensors(path)
    for problem in unusable(tensors):
        raise UserError(f"{path}: {problem}")
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        end = next((end for end in PARTS if name.endswith(end)), "")
        if not end or not name.startswith(PREFIX):
            raise UserError(f"{path} has {ascii(name)[:120]}, which is no part of plain LoRA")
        pairs.setdefault(name.removeprefix(PREFIX).removesuffix(end), {})[PARTS[end]] = tensor
    if halves := sorted(module for module, pair in pairs.items() if len(pair) < 2):
        raise UserError(f"{path}: {ascii(halves[0])[:120]} has only one of lora_A and lora_B")
    if not pairs:
        raise UserError(f"{path} holds no adapters")
    return pairs


def _places(model: Transformer) -> dict[str, tuple[str, int, torch.Size]]:
    """For each matrix of other programs which of ours it is a part of, from which row on, and its shape."""
    found: dict[str, tuple[str, int, torch.Size]] = {}
    for ours, parts in tensor_layout(model.config).items():
        first = 0
        for name, shape in parts:
            if len(shape) == 2:
                found[name] = (ours, first, shape)
            first += shape[0]
    return found


def _adapted(path: Path) -> tuple[Checkpoint, Adapter]:
    checkpoint = load_unmerged(path)
    adapter = read_description(checkpoint.folder).adapter
    if adapter is None:
        raise UserError(f"{checkpoint.folder} holds all weights and no adapters: it was trained without --lora-rank")
    return checkpoint, adapter


def _parts(target: Target) -> list[str]:
    """The modules of other programs that are rows of one of ours."""
    return [part.split(".")[-1] for part in HUGGING_FACE.inner[PLACES[target]]]


def _split(model: Transformer, adapter: Adapter) -> dict[str, Tensor]:
    """Each part of a stacked matrix has its rows of B, and the A that they share."""
    ours, theirs = adapter_weights(model), dict[str, Tensor]()
    layout = tensor_layout(model.config)
    for layer in range(model.config.num_layers):
        for target in adapter.targets:
            stem = f"blocks.{layer}.{PLACES[target]}"
            parts = layout[f"{stem}.weight"]
            rows = ours[f"{stem}.lora_b"].split([shape[0] for _, shape in parts])
            for (name, _), b in zip(parts, rows, strict=True):
                module = PREFIX + name.removesuffix(".weight")
                theirs[f"{module}.lora_A.weight"] = ours[f"{stem}.lora_a"].clone(memory_format=torch.contiguous_format)
                theirs[f"{module}.lora_B.weight"] = b.contiguous()
    return theirs
