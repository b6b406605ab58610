"""No loader runs code that a file brings along: pickles and their kin under every name that anything is read from."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nano_llada
from nano_llada.checkpoint.files import load_checkpoint, step_folders
from nano_llada.checkpoint.manager import RunCheckpoints
from nano_llada.config.data import DataConfig
from nano_llada.config.record import read_config
from nano_llada.core.errors import UserError
from nano_llada.data.read import BadRows, read_rows, resolve
from nano_llada.data.store import Encoding, open_store
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.interop.export import export_transformers as export_model
from nano_llada.interop.transformers import import_model
from nano_llada.model.transformer import Transformer
from nano_llada.session.inputs import read_inputs
from nano_llada.session.lock import RunLock
from nano_llada.session.outcome import read_outcome
from nano_llada.session.recipe import read_recipe
from nano_llada.session.run import check_same_config
from nano_llada.training.log import forget_after, read_metrics
from tiny import Place, family, texts, write_rows


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def payloads(mark: Path) -> Iterator[bytes]:
    """Files that run code in whoever unpickles, evaluates or imports them."""
    bomb = Bomb(mark)
    code = f"__import__('os').mkdir({str(mark)!r})"
    for protocol in (0, 2, 4):
        yield pickle.dumps(bomb, protocol)
    buffer = io.BytesIO()
    torch.save({"model": bomb}, buffer)
    yield buffer.getvalue()
    buffer = io.BytesIO()
    torch.save(bomb, buffer, _use_new_zipfile_serialization=False)
    yield buffer.getvalue()
    buffer = io.BytesIO()
    np.save(buffer, np.array([bomb], dtype=object), allow_pickle=True)
    yield buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(bomb))
    yield buffer.getvalue()
    yield gzip.compress(pickle.dumps(bomb))
    yield f"{code}\n".encode()
    yield f"!!python/object/apply:os.mkdir [{str(mark)!r}]\n".encode()
    yield json.dumps({"__reduce__": code, "text": code, "type": f"{mark}.py:f", "py/reduce": code}).encode()
    yield json.dumps([{"text": code, "verifier": f"{mark}.py:f"}]).encode()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Place:
    return family(tmp_path_factory.getbasetemp())


def loaders(run: Path, root: Path, trained: Place) -> Iterator[tuple[Path, Callable[[], object]]]:
    """Each file that is read, and what reads it."""
    step = load_checkpoint(run).folder
    model = Transformer(load_checkpoint(run).model.config)
    checkpoints = RunCheckpoints(run, 2, 1)
    for name in ("model.safetensors", "model.json", "tokenizer.json", "checksums.json"):
        yield step / name, lambda: load_checkpoint(step)
    for name in ("training.safetensors", "training.json"):
        yield step / name, lambda: checkpoints.resume(model)
    yield run / "best.json", lambda: load_checkpoint(run)
    yield run / "outcome.json", lambda: read_outcome(run)
    yield run / "config.json", lambda: check_same_config(run / "config.json", {})
    yield run / "inputs.json", lambda: read_inputs(run / "inputs.json")
    yield run / ".lock", lambda: RunLock.acquire(run).release()
    yield run / "metrics.jsonl", lambda: (forget_after(run, 1), read_metrics(run))
    for name in ("x.pt", "x.pth", "x.bin", "x.ckpt", "x.pkl", "pytorch_model.bin", "model.safetensors"):
        yield root / "lone" / name, lambda name=name: nano_llada.load(root / "lone" / name)
    export_model(trained.runs / "ar", root / "theirs")
    for name in ("pytorch_model.bin", "model.safetensors", "config.json", "tokenizer.json"):
        yield root / "theirs" / name, lambda: import_model(root / "theirs")
    yield root / "tokenizer.json", lambda: Tokenizer.load(root / "tokenizer.json")
    for name in ("c.json", "c.toml"):
        yield root / name, lambda name=name: read_config(root / name)
        yield root / name, lambda name=name: read_recipe(root / name, {})
    for ending in (".jsonl", ".json", ".txt", ".parquet", ".jsonl.gz", ".json.gz", ".txt.gz"):
        yield root / f"data{ending}", lambda ending=ending: _read(root / f"data{ending}")
    tokenizer, cache = Tokenizer.load(trained.tokenizer), root / "cache"
    data = str(write_rows(root / "rows.jsonl", texts(5)))

    def store() -> Any:
        return open_store(resolve((data,)), tokenizer, Encoding("text"), cache=cache, bad_rows=BadRows("stop"))

    for name in sorted(path.name for path in store().folder.iterdir()):
        yield store().folder / name, lambda: store().slice(0, 3)


def _read(path: Path) -> None:
    for row in read_rows(resolve(DataConfig(data=(str(path),)).data)[0]):
        assert row is not None


def test_nothing_that_is_read_is_run(trained, tmp_path):
    mark = tmp_path / "ran"
    offers = list(payloads(mark))
    pickle.loads(offers[0])
    mark.rmdir()  # it was made: the bombs are live
    run = shutil.copytree(trained.runs / "ar", tmp_path / "ar")
    for path in run.rglob("checksums.json"):
        path.unlink()  # a sender writes those too
    for folder in step_folders(run)[:-1]:
        shutil.rmtree(folder)  # a damaged checkpoint is then refused, not put aside
    (tmp_path / "lone").mkdir()
    made, tracebacks = 0, []
    for path, load in loaders(run, tmp_path, trained):
        before = path.read_bytes() if path.exists() else None
        for payload in offers:
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(payload)
            try:
                load()
            except UserError:
                pass
            except Exception as error:
                tracebacks.append(f"{path.name}: {type(error).__name__}: {str(error)[:200]}")
            made += 1
            assert not mark.exists(), path
        if before is not None:
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(before)
        elif path.exists():
            path.unlink()
    assert made >= 500
    assert tracebacks == []
