"""Checkpoints: a folder with weights, shape and tokenizer that needs nothing else to be used. Never a pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nano_llada.core.errors import UserError
from nano_llada.core.record import from_plain, to_plain
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.model.config import ModelConfig
from nano_llada.model.transformer import Transformer

Track = Literal["ar", "diffusion"]
FORMAT = 1
WEIGHTS, SHAPE, TRAINING, PROGRESS = "model.safetensors", "model.json", "training.safetensors", "training.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model that can be used, and what it is."""

    model: Transformer
    tokenizer: Tokenizer
    track: Track
    folder: Path
    info: Mapping[str, Any]  # step, stage, and whatever the run wrote down


def save_model(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    tokenizer: Tokenizer,
    track: Track,
    info: Mapping[str, Any],
) -> None:
    """Write the files of a model into an existing folder."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    shape = {
        "format": FORMAT,
        "track": track,
        "model": to_plain(config),
        "tokenizer_hash": tokenizer.hash,
        "info": dict(info),
    }
    (folder / SHAPE).write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(folder)


def model_weights(model: Transformer) -> dict[str, Tensor]:
    """The weights by name; a tied head is the embedding and stands once."""
    weights = dict(model.state_dict())
    if model.config.tie_embeddings:
        del weights["head.weight"]
    return weights


def write_atomically(folder: Path, fill: Any) -> None:
    """Fill a hidden folder, flush it to the disk, and only then give it its name.

    Whoever is killed half-way leaves no folder that looks finished.

    Raises:
        UserError: if the disk is full or the place cannot be written.
    """
    hidden = folder.parent / f".{folder.name}.writing"
    try:
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        fill(hidden)
        for path in hidden.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(hidden, folder)
        if os.name == "posix":  # the new name, too, has to reach the disk
            parent = os.open(folder.parent, os.O_RDONLY)
            os.fsync(parent)
            os.close(parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(hidden, ignore_errors=True)
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
                f"{path} is a pickle file, and unpickling can run anything; give a checkpoint folder with {WEIGHTS}"
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


def read_shape(folder: Path) -> dict[str, Any]:
    """The contents of model.json. Raises UserError if it is broken."""
    shape = read_json(folder / SHAPE, "format")
    if shape["format"] != FORMAT:
        raise UserError(f"{folder / SHAPE} has format {shape['format']!r}; this version reads {FORMAT}")
    return read_json(folder / SHAPE, "track", "model", "tokenizer_hash", "info")


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
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def load_checkpoint(
    path: Path, device: torch.device | str = "cpu", prefer: Literal["best", "last"] = "best"
) -> Checkpoint:
    """A model ready for use, in evaluation mode.

    Raises:
        UserError: for missing or corrupt files, shapes that do not fit, or a tokenizer that is not the model's.
    """
    folder = find_checkpoint(path, prefer)
    shape = read_shape(folder)
    try:
        config = from_plain(ModelConfig, shape["model"], where=f"{folder / SHAPE}: model")
    except ValueError as error:
        raise UserError(f"{folder / SHAPE}: {error}") from error
    tokenizer = Tokenizer.load(folder)
    if tokenizer.hash != shape["tokenizer_hash"]:
        raise UserError(
            f"the tokenizer in {folder} (hash {tokenizer.hash}) is not the one the model was trained with "
            f"({shape['tokenizer_hash']}); put the original tokenizer.json back"
        )
    model = Transformer(config)
    load_weights(model, folder / WEIGHTS)
    return Checkpoint(model.to(device).eval(), tokenizer, shape["track"], folder, shape["info"])


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
