"""Adapters in the format of the peft library, beside the model that they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nano_llada.checkpoint.files import Checkpoint, load_unmerged, read_description
from nano_llada.config.adapter import Adapter, Target
from nano_llada.core.errors import UserError
from nano_llada.core.files import write_json
from nano_llada.interop.layout import HUGGING_FACE, tensor_layout
from nano_llada.model.lora import PLACES, adapter_weights, frozen_weights
from nano_llada.model.transformer import Transformer

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."  # of peft, before the name of a module


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
