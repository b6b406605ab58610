"""The checkpoints of one run: written atomically, the newest and the best kept, resumed exactly."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from nano_llada.checkpoint.checksums import DamagedCheckpoint, check_checksums, read_json
from nano_llada.checkpoint.files import (
    BEST,
    PROGRESS,
    TRAINING,
    WEIGHTS,
    load_adapter,
    load_weights,
    mask_id,
    read_description,
    read_tensors,
    step_folders,
    step_of,
    write_checkpoint,
)
from nano_llada.core.errors import UserError
from nano_llada.core.files import remove_folder, sweep, write_json, writing
from nano_llada.model.transformer import Transformer

FOLDER = "training"  # in a checkpoint, instead of training.safetensors, if several processes hold the state

TrainingState = tuple[Mapping[str, Tensor], Mapping[str, Any]]


@dataclass(frozen=True)
class SavedTraining:
    """What a checkpoint holds for a resumed run beside the weights."""

    folder: Path
    plain: Mapping[str, Any]
    tensors: Mapping[str, Tensor]  # none if they are divided
    shards: Path | None  # the folder of divided ones


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
    notes: list[str] = field(default_factory=list)  # what has to be said about damaged checkpoints

    def save(
        self,
        step: int,
        write_model: Callable[[Path], None],
        state: TrainingState,
        loss: float | None,
        shards: Path | None = None,
    ) -> Path:
        """Write a checkpoint and drop those that need not be kept.

        Args:
            shards: a folder beside the checkpoints with the tensors of the state, which several processes have written
                already; it becomes part of the checkpoint.

        Raises:
            UserError: if it cannot be written; what was there before stays.
        """
        folder = self.run / f"step-{step:06d}"
        tensors, plain = state
        if loss is not None and not math.isfinite(loss):
            loss = None  # it cannot be ranked

        def fill(hidden: Path) -> None:
            write_model(hidden)
            if shards is None:
                save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, hidden / TRAINING)
            else:
                shards.replace(hidden / FOLDER)
            losses = self.losses | ({folder.name: loss} if loss is not None else {})
            progress = dict(plain) | {"validation_losses": losses}
            write_json(hidden / PROGRESS, progress)

        write_checkpoint(folder, fill)
        if loss is not None:
            self.losses[folder.name] = loss
        self.tidy()
        return folder

    def tidy(self) -> None:
        """Bring everything up to date that follows from the checkpoints: best.json, and which of them are kept.

        Raises:
            UserError: if best.json cannot be written.
        """
        folders = step_folders(self.run)
        present = {path.name for path in folders}
        self.losses = {name: loss for name, loss in self.losses.items() if name in present}
        kept = self._ranked()[: self.keep_best]
        self._write_best(kept[0] if kept else None)
        sweep(self.run)
        for path in folders[: -self.keep_last]:
            if path.name not in kept:
                with contextlib.suppress(OSError):  # on Windows a program reads it: deleted after the next checkpoint
                    remove_folder(path)
                    self.losses.pop(path.name, None)

    def _write_best(self, name: str | None) -> None:
        path = self.run / BEST
        wanted = None if name is None else {"checkpoint": name, "validation_loss": self.losses[name]}
        with contextlib.suppress(UserError):  # missing or broken: it is written anew
            if read_json(path) == wanted:
                return
        with writing(str(path), "the checkpoints themselves are untouched"):
            if wanted is None:
                path.unlink(missing_ok=True)
            else:
                write_json(path, wanted)

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

    def resume(self, model: Transformer) -> SavedTraining:
        """Load the newest checkpoint's weights into the model; gives the rest of the training state.

        A damaged one is put aside as `step-N.damaged`, with a note in `notes`, where there is an earlier one.

        Raises:
            UserError: if there is none, none is intact, or it has no training state.
        """
        folders = step_folders(self.run)
        while True:
            if not folders:
                raise UserError(f"no checkpoint in {self.run}: there is no step-N folder")
            folder = folders.pop()
            try:
                check_checksums(folder)
                saved, losses = read_saved(folder, model)
                break
            except DamagedCheckpoint as error:
                if not folders:
                    raise
                self.notes.append(f"{error}; resuming from {folders[-1].name}: {_put_aside(folder)}")
        self.losses = {name: loss for name, loss in losses.items() if math.isfinite(loss)}
        self.tidy()
        return saved


def _put_aside(folder: Path) -> str:
    """Rename a damaged checkpoint, so that nothing takes it for a good one; gives what was done, in words."""
    aside = folder.with_name(f"{folder.name}.damaged")
    with writing(f"{aside}", f"delete or move {folder}, which is damaged"):
        if aside.exists():
            shutil.rmtree(aside)
        folder.replace(aside)
    return f"the damaged one is now {aside.name}"


def read_saved(folder: Path, model: Transformer) -> tuple[SavedTraining, Mapping[str, float]]:
    """Weights into the model; the training state, and the validation losses of the run's checkpoints.

    Raises:
        DamagedCheckpoint: if a file is missing, cut off, or holds values that cannot be.
        UserError: for a checkpoint without training state, and files that may not be read.
    """
    described = read_description(folder)
    if not (folder / PROGRESS).is_file():
        raise UserError(f"{folder} holds a model but no training state; start a new run with --init-from")
    plain = read_json(folder / PROGRESS, "validation_losses", "step")
    _check_progress(plain, folder)
    losses = plain.pop("validation_losses")
    shards = folder / FOLDER if (folder / FOLDER).is_dir() else None
    tensors = {} if shards else read_tensors(folder / TRAINING)
    if described.adapter is None:
        load_weights(model, folder / WEIGHTS)
    else:
        load_adapter(model, folder, mask_id(folder))
    return SavedTraining(folder, plain, tensors, shards), losses


def _check_progress(plain: Mapping[str, Any], folder: Path) -> None:
    """Refuse a training.json whose values have other types, or contradict its folder."""
    losses = plain["validation_losses"]
    counts = [plain[name] for name in ("step", "tokens", "without_improvement", "total_steps") if name in plain]
    if any(isinstance(value, bool) or not isinstance(value, int) or value < 0 for value in counts):
        problem = "step, tokens, without_improvement and total_steps are whole numbers from 0"
    elif plain["step"] != step_of(folder):
        problem = f"step {plain['step']} is not that of its folder"
    elif not isinstance(losses, dict) or not all(map(_is_number, losses.values())):
        problem = "validation_losses maps names of checkpoints to numbers"
    elif not (plain.get("best_loss") is None or _is_number(plain["best_loss"])):
        problem = "best_loss is a number or null"
    else:
        return
    raise DamagedCheckpoint(f"{folder / PROGRESS} is broken: {problem}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
