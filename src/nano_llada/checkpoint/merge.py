"""Several checkpoints of one model become one whose weights are their mean, often better than each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from nano_llada.checkpoint.checksums import read_json
from nano_llada.checkpoint.files import (
    PROGRESS,
    WEIGHTS,
    find_checkpoint,
    load_checkpoint,
    model_weights,
    read_weights,
    save_model,
    step_folders,
    weights_file,
    write_checkpoint,
)
from nano_llada.config.card import MergedPart, ModelCard
from nano_llada.config.model import ModelConfig
from nano_llada.config.record import to_plain
from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class _Source:
    """A checkpoint without its weights."""

    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    card: ModelCard


def merge_checkpoints(folders: Sequence[Path], output: Path) -> Path:
    """Write a checkpoint that holds the mean of others' weights; gives its folder, `output`.

    Sums are float64, the mean has the types in which the first checkpoint stores its weights; one model at a time is
    read. A run folder stands for its best checkpoint. The new card is the first one's, with the largest `tokens` and
    the parts in `merged_from`.

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
    weights, card = _mean_weights(found), _merged_card(sources)
    write_checkpoint(output, lambda folder: save_model(folder, weights, first.config, first.tokenizer, card))
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
    losses = read_json(folder / PROGRESS, "validation_losses")["validation_losses"]
    loss = losses.get(folder.name) if isinstance(losses, dict) else ""
    if isinstance(loss, bool) or not isinstance(loss, (int, float, type(None))):
        raise UserError(f"{folder / PROGRESS} is broken: validation_losses maps names of checkpoints to numbers")
    return loss


def _read_source(folder: Path) -> _Source:
    checkpoint = load_checkpoint(folder)  # refuses weights that are not those of the shape
    return _Source(folder, checkpoint.model.config, checkpoint.tokenizer, checkpoint.card)


def _check_alike(first: _Source, other: _Source) -> None:
    one, two = (
        {"track": s.card.track, "predicts": s.card.predicts, "tokenizer hash": s.tokenizer.hash} | to_plain(s.config)
        for s in (first, other)
    )
    if differing := [f"{name} is {one[name]} and {two[name]}" for name in one if one[name] != two[name]]:
        raise UserError(f"{first.folder} and {other.folder} cannot be merged: {', '.join(differing)}")


def _mean_weights(folders: Sequence[Path]) -> dict[str, Tensor]:
    start = _weights(folders[0])
    types = {name: tensor.dtype for name, tensor in start.items()}
    # not from zeros, which would make 0 of a weight that is -0
    sums = {name: tensor.to(torch.float64) for name, tensor in start.items()}
    for folder in folders[1:]:
        for name, tensor in _weights(folder).items():
            sums[name] += tensor.to(torch.float64)
    return {name: (total / len(folders)).to(types[name]) for name, total in sums.items()}


def _weights(folder: Path) -> dict[str, Tensor]:
    """As they are stored, or merged where only adapters are."""
    path = weights_file(folder)
    return read_weights(path) if path.name == WEIGHTS else model_weights(load_checkpoint(folder).model)


def _merged_card(sources: Sequence[_Source]) -> ModelCard:
    parts = tuple(
        MergedPart(source.folder.name, source.card.run, source.card.step, validation_loss(source.folder))
        for source in sources
    )
    tokens = [source.card.tokens for source in sources if source.card.tokens is not None]
    return replace(sources[0].card, merged_from=parts, tokens=max(tokens, default=None))
