"""The checkpoints of one run: written atomically, the newest and the best kept, resumed exactly."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from nano_llada.checkpoint.files import (
    PROGRESS,
    TRAINING,
    find_checkpoint,
    load_weights,
    read_description,
    read_json,
    read_tensors,
    step_folders,
    step_of,
    write_checkpoint,
)
from nano_llada.core.errors import UserError
from nano_llada.core.files import write_json
from nano_llada.model.transformer import Transformer

State = tuple[Mapping[str, Tensor], Mapping[str, Any]]


@dataclass(frozen=True)
class BestCheckpoint:
    """Where a run's validation loss was lowest."""

    step: int
    loss: float


@dataclass
class RunCheckpoints:
    """Folders `step-N` inside a run folder, and `best.json` that names the best of them."""

    run: Path
    keep_last: int
    keep_best: int
    losses: dict[str, float] = field(default_factory=dict)  # checkpoint -> validation loss, where measured

    def save(self, step: int, write_model: Callable[[Path], None], state: State, loss: float | None) -> Path:
        """Write a checkpoint and drop those that need not be kept.

        Raises:
            UserError: if it cannot be written; what was there before stays.
        """
        folder = self.run / f"step-{step:06d}"
        tensors, plain = state

        def fill(hidden: Path) -> None:
            write_model(hidden)
            save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, hidden / TRAINING)
            losses = self.losses | ({folder.name: loss} if loss is not None else {})
            progress = dict(plain) | {"validation_losses": losses}
            write_json(hidden / PROGRESS, progress)

        write_checkpoint(folder, fill)
        if loss is not None:
            self.losses[folder.name] = loss
        self._prune()
        return folder

    def _prune(self) -> None:
        folders = step_folders(self.run)
        present = {path.name for path in folders}
        self.losses = {name: loss for name, loss in self.losses.items() if name in present}
        kept = self._ranked()[: self.keep_best]
        if kept:
            plain = {"checkpoint": kept[0], "validation_loss": self.losses[kept[0]]}
            write_json(self.run / "best.json", plain)
        self._sweep("removed")
        for path in folders[: -self.keep_last]:
            if path.name not in kept and _remove(path):
                self.losses.pop(path.name, None)

    def _ranked(self) -> list[str]:
        """Names of the checkpoints with a validation loss, the best first."""
        return sorted(self.losses, key=lambda name: (self.losses[name], name))

    @property
    def best(self) -> BestCheckpoint | None:
        """The checkpoint of lowest validation loss; None: no loss was measured, or none is kept for it."""
        ranked = self._ranked() if self.keep_best else []
        return BestCheckpoint(step_of(self.run / ranked[0]), self.losses[ranked[0]]) if ranked else None

    @property
    def last_step(self) -> int:
        """Step of the newest checkpoint; 0: there is none."""
        folders = step_folders(self.run)
        return step_of(folders[-1]) if folders else 0

    def _sweep(self, kind: str) -> None:
        """Delete what was left of checkpoints that were being written or removed."""
        for leftover in self.run.glob(f".step-*.{kind}"):
            shutil.rmtree(leftover, ignore_errors=True)

    def resume(self, model: Transformer) -> State:
        """Load the newest checkpoint's weights into the model; gives the rest of the training state.

        Raises:
            UserError: if there is none, it has no training state, or it is damaged.
        """
        self._sweep("writing")  # by a run that was killed
        folder = find_checkpoint(self.run, "last")
        read_description(folder)
        if not (folder / PROGRESS).is_file():
            raise UserError(f"{folder} holds a model but no training state; start a new run with --init-from")
        try:
            load_weights(model, folder / "model.safetensors")
            plain = read_json(folder / PROGRESS, "validation_losses", "step")
            tensors = read_tensors(folder / TRAINING)
        except UserError as error:
            earlier = [path.name for path in step_folders(self.run) if path != folder]
            if not earlier:
                raise
            raise UserError(f"{error}; without {folder} --resume goes on from {earlier[-1]}") from error
        self.losses = dict(plain.pop("validation_losses"))
        return tensors, plain


def _remove(folder: Path) -> bool:
    """Remove a checkpoint; whoever is killed meanwhile leaves none that looks whole and is not.

    False, and nothing is done, where a program reads it and the system, as Windows does, lets nobody rename what is
    open. What could not be removed then is when the next checkpoint is saved.
    """
    hidden = folder.with_name(f".{folder.name}.removed")
    try:
        shutil.rmtree(hidden, ignore_errors=True)
        folder.replace(hidden)
    except OSError:
        return False
    shutil.rmtree(hidden, ignore_errors=True)
    return True
