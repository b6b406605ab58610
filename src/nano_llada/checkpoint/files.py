"""Checkpoints: a folder with weights, shape and tokenizer that needs nothing else to be used. Never a pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nano_llada.config.card import ModelCard
from nano_llada.config.model import ModelConfig
from nano_llada.config.record import from_plain, to_plain
from nano_llada.core.errors import UserError
from nano_llada.core.files import write_folder
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.model.transformer import Transformer

FORMAT = 2
WEIGHTS, SHAPE, TRAINING, PROGRESS = "model.safetensors", "model.json", "training.safetensors", "training.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model that can be used, and what it is."""

    model: Transformer
    tokenizer: Tokenizer
    card: ModelCard
    folder: Path


def save_model(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    tokenizer: Tokenizer,
    card: ModelCard,
) -> None:
    """Write the files of a model into an existing folder."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    shape = {
        "format": FORMAT,
        "card": to_plain(card),
        "model": to_plain(config),
        "tokenizer_hash": tokenizer.hash,
    }
    (folder / SHAPE).write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(folder)


def model_weights(model: Transformer) -> dict[str, Tensor]:
    """The weights by name; a tied head is the embedding and stands once."""
    weights = dict(model.state_dict())
    if model.config.tie_embeddings:
        del weights["head.weight"]
    return weights


def write_checkpoint(folder: Path, fill: Callable[[Path], None]) -> None:
    """`core.files.write_folder` for a checkpoint.

    Raises:
        UserError: if the disk is full or the place cannot be written.
    """
    try:
        write_folder(folder, fill)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"cannot write the checkpoint {folder}: {reason}; earlier checkpoints are untouched") from error


def find_checkpoint(path: Path, prefer: Literal["best", "last"] = "best") -> Path:
    """The checkpoint folder that a path means: itself, or the best (or last) one of a run folder.

    Raises:
        UserError: if there is none, or the path is a pickle file.
    """
    if path.is_file():
        if path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl"):
            raise UserError(
                f"{path} is a pickle file, and unpickling can run anything; give a checkpoint folder with {WEIGHTS} "
                f"(nano-llada import {path} --out FOLDER reads its tensors safely)"
            )
        path = path.parent
    if not path.exists():
        raise UserError(f"no checkpoint at {path}: there is no such file or folder")
    if (path / SHAPE).is_file():
        return path
    steps = step_folders(path)
    if not steps:
        raise UserError(f"no checkpoint in {path}: neither {SHAPE} nor a step-N folder")
    best = path / "best.json"
    if prefer == "best" and best.is_file():
        named = path / str(read_json(best, "checkpoint")["checkpoint"])
        if named.is_dir():
            return named
    return steps[-1]


@dataclass(frozen=True)
class Description:
    """What model.json says."""

    card: ModelCard
    config: ModelConfig
    tokenizer_hash: str


def read_description(folder: Path) -> Description:
    """The contents of model.json, of this version or of 0.1.0. Raises UserError if it is broken."""
    path = folder / SHAPE
    found = read_json(path, "format")
    if found["format"] not in (1, FORMAT):
        raise UserError(f"{path} has format {found['format']!r}; this version reads 1 and {FORMAT}")
    first = found["format"] == 1
    plain = read_json(path, "model", "tokenizer_hash", *(("track", "info") if first else ("card",)))
    try:
        config = from_plain(ModelConfig, plain["model"], where=f"{path}: model")
        if first:
            card = ModelCard.from_format_1(plain["track"], plain["info"])
        else:
            card = from_plain(ModelCard, plain["card"], where=f"{path}: card")
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
    return Description(card, config, plain["tokenizer_hash"])


def read_json(path: Path, *fields: str) -> dict[str, Any]:
    """An object with some fields. Raises UserError naming the file if it is broken, or lacks one."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    missing = [name for name in fields if not isinstance(plain, dict) or name not in plain]
    if missing:
        raise UserError(f"{path} is broken: it lacks {', '.join(missing)}")
    found: dict[str, Any] = plain
    return found


def step_folders(run: Path) -> list[Path]:
    """The checkpoints of a run by step."""
    found = [path for path in run.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """The step of a step-N folder."""
    return int(folder.name.removeprefix("step-"))


def load_checkpoint(
    path: Path, device: torch.device | str = "cpu", prefer: Literal["best", "last"] = "best"
) -> Checkpoint:
    """A model ready for use, in evaluation mode.

    Raises:
        UserError: for missing or corrupt files, shapes that do not fit, or a tokenizer that is not the model's.
    """
    folder = find_checkpoint(path, prefer)
    described = read_description(folder)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.hash != described.tokenizer_hash:
        raise UserError(
            f"the tokenizer in {folder} (hash {tokenizer.hash}) is not the one the model was trained with "
            f"({described.tokenizer_hash}); put the original tokenizer.json back"
        )
    model = Transformer(described.config)
    load_weights(model, folder / WEIGHTS)
    return Checkpoint(model.to(device).eval(), tokenizer, described.card, folder)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises UserError if it is missing, truncated or something else."""
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is corrupt or not a safetensors file: {error}") from error


def load_weights(model: Transformer, path: Path) -> None:
    """Strict: every weight, no other, in the model's shapes. Raises UserError naming the first that differs."""
    weights, wanted = read_tensors(path), model_weights(model)
    if missing := sorted(set(wanted) - set(weights)):
        raise UserError(f"{path} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""))
    if extra := sorted(set(weights) - set(wanted)):
        raise UserError(f"{path} has {extra[0]}, which the model does not")
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            raise UserError(f"{path}: {name} is {tuple(tensor.shape)}, the model's is {tuple(wanted[name].shape)}")
    model.load_state_dict(weights, strict=not model.config.tie_embeddings)
