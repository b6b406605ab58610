"""The training state of a model that several processes hold together: each writes its part, any number reads it.

PyTorch's distributed checkpoints, in safetensors files rather than its own format, which needs a pickle. Only what
trains imports this: PyTorch's part takes half a second.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from nano_llada.core.errors import UserError
from nano_llada.core.files import WRITING, writing


def staging(run: Path, step: int) -> Path:
    """Where the parts of a checkpoint are written before it has a name; `core.files.sweep` knows it as unfinished."""
    return run / f".step-{step:06d}.shards{WRITING}"


def fresh(folder: Path) -> None:
    """Make a folder for the parts of a checkpoint. Raises UserError if it cannot be made."""
    with writing(f"the checkpoint in {folder.parent}", "earlier checkpoints are untouched"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()


@dataclass
class ShardWriter:
    """Writes the parts of one checkpoint at a time, in every process of a group, while training goes on.

    The tensors are copied when writing starts. A thread then writes them and talks to the other processes through a
    group of its own, which training does not use.
    """

    _group: Any = None
    _writing: Future[Any] | None = None
    _folder: Path = Path()

    def start(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Begin to write into a folder that exists; every process calls this with its parts of the same tensors."""
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        writer: Any = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        self._folder = folder
        self._writing = async_save(dict(tensors), storage_writer=writer, process_group=self._group)  # type: ignore[assignment]

    @property
    def done(self) -> bool:
        """Whether all processes have written; known by the first of them."""
        return self._writing is not None and self._writing.done()

    def wait(self) -> None:
        """Return when all have written, or if nothing is being written.

        Raises:
            UserError: in all of them, if one could not write.
        """
        if self._writing is None:
            return
        try:
            self._writing.result()
        except (CheckpointException, OSError) as error:
            raise UserError(f"cannot write the training state to {self._folder}: {_reasons(error)}") from error
        finally:
            self._writing = None


def read_shards(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Fill tensors, or this process's parts of them, with what was saved under their names.

    In a group every process calls this; the number that wrote the folder does not matter.

    Raises:
        UserError: for files that are missing or damaged, names that are not there, or other shapes.
    """
    alone = not dist.is_initialized()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # we know
            load(dict(into), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)
    except (CheckpointException, RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{folder} cannot be read: {_reasons(error)}") from error


def _reasons(error: Any) -> str:
    """The first line of each process's error."""
    failures = getattr(error, "failures", None) or {0: (error, None)}
    return "; ".join(sorted({str(one[0]).strip().split("\n")[0][:200] for one in failures.values()}))
