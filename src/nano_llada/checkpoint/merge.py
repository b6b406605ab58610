"""Several checkpoints of one model become one whose weights are their mean, often better than each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nano_llada.checkpoint.files import (
    PROGRESS,
    WEIGHTS,
    Track,
    find_checkpoint,
    load_checkpoint,
    read_json,
    read_tensors,
    save_model,
    step_folders,
    write_atomically,
)
from nano_llada.core.errors import UserError
from nano_llada.core.record import to_plain
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.model.config import ModelConfig


@dataclass(frozen=True)
class _Source:
    """A checkpoint without its weights."""

    folder: Path
    config: ModelConfig
    track: Track
    tokenizer: Tokenizer
    info: Mapping[str, Any]


def merge_checkpoints(folders: Sequence[Path], output: Path) -> Path:
    """Write a checkpoint that holds the mean of others' weights; gives its folder, `output`.

    Sums are float64, the mean has the types in which the first checkpoint stores its weights; one model at a time is
    read. A run folder stands for its best checkpoint. The new `info` is the first one's, with the largest `tokens`,
    and `merged_from`: name, run, step and validation loss of each checkpoint, as far as they are known.

    Raises:
        UserError: for no checkpoint, one that is given twice or is broken, two that differ in shape, track or
            tokenizer, and an output that exists or cannot be written.
    """
    if not folders:
        raise UserError("nothing to merge: give at least one checkpoint")
    if output.exists():
        raise UserError(f"{output} exists already; give the name of a new folder")
    found = [find_checkpoint(folder) for folder in folders]
    for one, other in combinations(found, 2):
        if one.resolve() == other.resolve():
            raise UserError(f"{other} is given twice: a mean counts each checkpoint once")
    sources = [_read_source(folder) for folder in found]
    first = sources[0]
    for source in sources[1:]:
        _check_alike(first, source)
    weights, info = _mean_weights([folder / WEIGHTS for folder in found]), _merged_info(sources)
    write_atomically(
        output, lambda folder: save_model(folder, weights, first.config, first.tokenizer, first.track, info)
    )
    return output


def best_checkpoints(run: Path, k: int) -> list[Path]:
    """The `k` checkpoints of lowest validation loss among those that a run kept, the best first.

    Raises:
        UserError: if it kept fewer with a validation loss, or is no run folder.
    """
    if k < 1:
        raise UserError(f"top_k must be at least 1, got {k}")
    folders = step_folders(run)
    if not folders:
        raise UserError(f"no step-N folder in {run}: the best checkpoints are those of a run folder")
    losses = {folder: loss for folder in folders if (loss := validation_loss(folder)) is not None}
    if len(losses) < k:
        raise UserError(
            f"{run} holds {len(losses)} of the {k} checkpoints with a validation loss that top_k {k} needs; "
            f"train it with validation data and --keep-best {k}, which keeps them"
        )
    return sorted(losses, key=lambda folder: (losses[folder], folder.name))[:k]


def validation_loss(folder: Path) -> float | None:
    """The loss that was measured when a run saved this checkpoint; None if there was none, or it is of no run.

    Raises:
        UserError: if its training.json is broken.
    """
    if not (folder / PROGRESS).is_file():
        return None
    losses: dict[str, float] = read_json(folder / PROGRESS, "validation_losses")["validation_losses"]
    return losses.get(folder.name)


def _read_source(folder: Path) -> _Source:
    checkpoint = load_checkpoint(folder)  # refuses weights that are not those of the shape
    return _Source(folder, checkpoint.model.config, checkpoint.track, checkpoint.tokenizer, checkpoint.info)


def _check_alike(first: _Source, other: _Source) -> None:
    one, two = ({"track": s.track, "tokenizer hash": s.tokenizer.hash} | to_plain(s.config) for s in (first, other))
    if differing := [f"{name} is {one[name]} and {two[name]}" for name in one if one[name] != two[name]]:
        raise UserError(f"{first.folder} and {other.folder} cannot be merged: {', '.join(differing)}")


def _mean_weights(files: Sequence[Path]) -> dict[str, Tensor]:
    start = read_tensors(files[0])
    types = {name: tensor.dtype for name, tensor in start.items()}
    # not from zeros, which would make 0 of a weight that is -0
    sums = {name: tensor.to(torch.float64) for name, tensor in start.items()}
    for file in files[1:]:
        for name, tensor in read_tensors(file).items():
            sums[name] += tensor.to(torch.float64)
    return {name: (total / len(files)).to(types[name]) for name, total in sums.items()}


def _merged_info(sources: Sequence[_Source]) -> dict[str, Any]:
    merged_from = []
    for source in sources:
        known = {
            "name": source.folder.name,
            "run": source.info.get("run"),
            "step": source.info.get("step"),
            "validation_loss": validation_loss(source.folder),
        }
        merged_from.append({name: value for name, value in known.items() if value is not None})
    tokens = [source.info["tokens"] for source in sources if "tokens" in source.info]
    return dict(sources[0].info) | {"merged_from": merged_from} | ({"tokens": max(tokens)} if tokens else {})
