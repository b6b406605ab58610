"""What training needs of memory, by part, with adapters and with all weights.

    python -m benchmarks.lora_memory --batches 1 8 --out docs/experiments/lora-memory/results.jsonl
    python -m benchmarks.lora_memory --base runs/smollm2/base --batches 1

One row for each way (`lora`, `full`), stage and batch, each measured in a process of its own, in MiB: `weights`,
`gradients` and `optimizer` are counted; `kept` is the most that the graph holds for the backward pass at once, model
and data left out; `libraries` is what the process has before the model; `peak_loading` and `peak_step` are the highest
resident sizes until training begins and in its steps (Linux). Peaks do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import record
from nano_llada.checkpoint.files import load_checkpoint, model_weights, save_model
from nano_llada.config.card import ModelCard
from nano_llada.config.data import DataConfig
from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import BlockSizeSchedule, NextToken, ObjectiveConfig, TriMode
from nano_llada.config.run import RunConfig
from nano_llada.config.train import TrainConfig
from nano_llada.core import device as hardware
from nano_llada.data.tokenizer import BUNDLED_TOKENIZER, Tokenizer
from nano_llada.model.transformer import Transformer
from nano_llada.session.run import assemble, choose_tokenizer

MIB = 2**20
SHAPES: dict[str, dict[str, int]] = {"30M": {}, "tiny": {"hidden_size": 32, "num_layers": 2, "num_heads": 2}}
STAGES: dict[str, ObjectiveConfig] = {"ar": NextToken(), "tri": TriMode(blocks=BlockSizeSchedule(block_size=4))}


def resident(name: str) -> float:
    """`VmRSS`, now, or `VmHWM`, the highest since `forget_peak`, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("memory is read from /proc: this needs Linux")


def forget_peak() -> None:
    """Let the highest resident size begin at the present one."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


class Kept:
    """Counts what the graph holds for the backward pass, each storage once, without those of `known`."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._held: dict[int, int] = {}
        self.now = self.most = 0

    def hooks(self) -> AbstractContextManager[Any]:
        """While it is entered, what is saved is counted until it is freed."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held[0])

    def _pack(self, tensor: Tensor) -> tuple[Tensor, object]:
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        token = _Token()
        if address in self._known or not size:
            return tensor, token
        if self._held.setdefault(address, 0) == 0:
            self.now += size
            self.most = max(self.most, self.now)
        self._held[address] += 1
        weakref.finalize(token, self._release, address, size)
        return tensor, token

    def _release(self, address: int, size: int) -> None:
        self._held[address] -= 1
        if self._held[address] == 0:
            self.now -= size


class _Token:
    """Is freed with the graph."""


def measure(way: str, stage: str, batch: int, base: str, folder: str, rank: int, length: int) -> dict[str, float]:
    """One row, of the process that calls it."""
    torch.set_num_threads(1)
    hardware.keep_freed_memory()
    libraries = resident("VmRSS")
    forget_peak()
    config = RunConfig(
        name=f"{way}-{stage}-{batch}",
        runs=Path(folder),
        init_from=Path(base),
        objective=STAGES[stage],
        data=DataConfig(data=(f"{folder}/text.jsonl",), sequence_length=length, validation_share=0.0),
        train=TrainConfig(
            steps=3, batch_size=batch, lora_rank=rank if way == "lora" else 0, device="cpu", warmup_steps=0
        ),
    )
    machine = hardware.choose_machine("cpu")
    start = load_checkpoint(Path(base))
    config.folder.mkdir(parents=True, exist_ok=True)
    trainer, _ = assemble(config, machine, choose_tokenizer(config, start), start, resume=False)
    loading = resident("VmHWM")
    forget_peak()
    kept = Kept([*trainer.model.parameters(), *trainer.model.buffers()])
    for _ in range(2):
        trainer._train_step()
    peak = resident("VmHWM")
    with kept.hooks():  # apart, so that counting is not in the peak
        trainer._train_step()
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    state = trainer.state()[0]
    sizes = {
        "libraries": libraries,
        "weights": sum(p.nbytes for p in trainer.model.parameters()) / MIB,
        "gradients": sum(p.nbytes for p in trained) / MIB,
        "optimizer": sum(t.nbytes for t in state.values()) / MIB,
        "kept": kept.most / MIB,
        "peak_loading": loading,
        "peak_step": peak,
    }
    return {name: round(size, 1) for name, size in sizes.items()}


def write_base(folder: Path, shape: str) -> Path:
    """A random model with the bundled tokenizer."""
    tokenizer = Tokenizer.load(BUNDLED_TOKENIZER)
    config = ModelConfig(vocab_size=tokenizer.vocab.size, **SHAPES[shape])
    model = Transformer(config).initialise(torch.Generator().manual_seed(0))
    folder.mkdir()
    save_model(folder, model_weights(model), config, tokenizer, ModelCard("ar"))
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="30M", choices=list(SHAPES))
    parser.add_argument("--base", type=Path, help="a checkpoint, instead of a random model of this shape")
    parser.add_argument("--ways", nargs="+", default=["lora", "full"], choices=["lora", "full"])
    parser.add_argument("--stages", nargs="+", default=["ar"], choices=list(STAGES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="rows in a step")
    parser.add_argument("--length", type=int, default=256, help="tokens in a row")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--out", type=Path, default=None, help="results.jsonl to append to")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = options.base or write_base(folder / "base", options.shape)
        text = " ".join(f"number {i} and the word after it" for i in range(1200))
        lines = [json.dumps({"text": f"{i} {text}"[: 40 * options.length]}) for i in range(4 * max(options.batches))]
        (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        context = multiprocessing.get_context("spawn")
        for stage in options.stages:
            for batch in options.batches:
                for way in options.ways:
                    case = (way, stage, batch, str(base), name, options.rank, options.length)
                    with context.Pool(1) as pool:
                        sizes = pool.apply(measure, case)
                    plain = {"benchmark": "lora-memory", "model": options.base.name if options.base else options.shape}
                    plain |= {"way": way, "stage": stage, "batch": batch, "length": options.length}
                    record(options.out, plain | sizes)


if __name__ == "__main__":
    main()
