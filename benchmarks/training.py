"""Training speed, memory and MFU: ours against the plain reference, on the same documents.

    python -m benchmarks.training --data FILE.jsonl.gz --tokenizer FOLDER --format text

Tokens that count are those of real text: a reference row is one document cut or padded to the length, ours are packed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from pathlib import Path

import torch

from benchmarks import reference
from benchmarks.measure import by_turns, record
from nano_llada.core import hardware
from nano_llada.core.types import Objective, StepContext, TokenBatch, Vocabulary
from nano_llada.data.config import DataConfig
from nano_llada.data.loader import Batches
from nano_llada.data.read import BadRows, resolve
from nano_llada.data.store import Encoding, open_store
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.model.config import ModelConfig
from nano_llada.model.transformer import Transformer
from nano_llada.objectives.denoising import Denoising
from nano_llada.objectives.next_token import NextToken
from nano_llada.train.config import TrainConfig
from nano_llada.train.optim import Optimizer

SHAPES = {"30M": (512, 8, 8, 256, 8), "small": (128, 4, 4, 128, 32)}  # hidden, layers, heads, length, rows
OBJECTIVES: dict[str, Objective] = {"ar": NextToken(), "diffusion": Denoising()}


class Ours:
    """Our step, the same calls as the trainer's."""

    def __init__(self, shape: str, track: str, batches: Batches, vocab: Vocabulary, *, compiled: bool = False) -> None:
        hidden, layers, heads, length, rows = SHAPES[shape]
        self.config = ModelConfig(vocab_size=vocab.size, hidden_size=hidden, num_layers=layers, num_heads=heads)
        self.model = Transformer(self.config).initialise(torch.Generator().manual_seed(0))
        if compiled:
            self.model.compile_blocks()  # as the option `compile` of training does
        self.optimizer = Optimizer(self.model, TrainConfig())
        self.objective, self.batches, self.vocab = OBJECTIVES[track], batches, vocab
        self.length, self.rows, self.step = length, rows, 0
        self.real = self.flops = self.whole = 0.0

    def __call__(self) -> None:
        batch: TokenBatch = self.batches.batch(self.step)
        out = self.objective.loss(self.model, batch, StepContext(self.vocab, 0, self.step, 1000, self.rows))
        out.total.backward()
        grads = [p.grad for p in self.optimizer.parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(grads)) / float(out.count)
        torch._foreach_mul_(grads, min(1.0, 1.0 / (norm + 1e-6)) / float(out.count))
        self.optimizer.step(1e-4)
        self.step += 1
        self.real = float((batch.doc_ids >= 0).sum())
        self.flops = self.config.train_flops(batch.tokens.numel(), int(out.predicted), self.length)
        self.whole = self.config.train_flops(batch.tokens.numel(), batch.tokens.numel(), self.length)


class Theirs:
    """The reference's step: padded rows, full logits, plain AdamW."""

    def __init__(self, shape: str, track: str, batches: Batches, vocab: Vocabulary, width: int) -> None:
        hidden, layers, heads, length, _ = SHAPES[shape]
        self.model = reference.PlainModel(vocab.size, hidden, layers, heads, width)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4)
        self.track, self.batches, self.vocab, self.length, self.step, self.real = track, batches, vocab, length, 0, 0.0

    def __call__(self) -> None:
        batch = self.batches.batch(self.step)
        pad = self.length - batch.tokens.shape[1]
        tokens = torch.nn.functional.pad(batch.tokens, (0, pad), value=self.vocab.eos)
        real = torch.nn.functional.pad(batch.doc_ids >= 0, (0, pad))
        if self.track == "ar":
            loss = reference.ar_loss(self.model, tokens, real)
        else:
            loss = reference.diffusion_loss(self.model, tokens, real, self.vocab.mask)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.real = float(real.sum())


def make_batches(options: argparse.Namespace, tokenizer: Tokenizer, shape: str, *, packing: bool) -> Batches:
    """Rows of real text; `packing` off gives the reference's one document a row."""
    _, _, _, length, rows = SHAPES[shape]
    store = open_store(
        resolve([options.data]),
        tokenizer,
        Encoding(options.format),
        cache=Path(options.cache),
        bad_rows=BadRows("skip"),
    )
    config = DataConfig(format=options.format, sequence_length=length, packing=packing)
    return Batches(store, config, tokenizer.vocab, rows=rows, seed=0, documents=range(len(store)))


def measure(options: argparse.Namespace, shape: str, track: str) -> None:
    """One row: tokens of real text a second, ratio with spread, MFU.

    `mfu` counts the operations that are made; `mfu_usual` those of the whole model at every position, as the figures
    of other projects do, though we leave out logits and last layers where no loss is. Both refer to the matrix-product
    rate measured right before the step.
    """
    tokenizer = Tokenizer.load(Path(options.tokenizer))
    ours = Ours(
        shape, track, make_batches(options, tokenizer, shape, packing=True), tokenizer.vocab, compiled=options.compile
    )
    rows = make_batches(options, tokenizer, shape, packing=False)
    theirs = Theirs(shape, track, rows, tokenizer.vocab, ours.config.mlp_width)
    real: dict[str, list[float]] = {"ours": [], "theirs": []}
    work: dict[str, list[float]] = {"mfu": [], "mfu_usual": []}
    limits: list[float] = []

    def run_ours() -> None:
        ours()
        real["ours"].append(ours.real)
        work["mfu"].append(ours.flops)
        work["mfu_usual"].append(ours.whole)

    def run_theirs() -> None:
        theirs()
        real["theirs"].append(theirs.real)

    machine = hardware.choose_machine("cpu")
    timing = by_turns(
        run_ours, run_theirs, options.repeat, warm=2, before=lambda: limits.append(hardware.matmul_rate(machine))
    )
    rates = {
        name: sorted(t / s for t, s in zip(tokens[2:], seconds, strict=True))
        for name, tokens, seconds in (("ours", real["ours"], timing.ours), ("theirs", real["theirs"], timing.theirs))
    }
    ratios = sorted(
        (a / s) / (b / t)
        for a, s, b, t in zip(real["ours"][2:], timing.ours, real["theirs"][2:], timing.theirs, strict=True)
    )
    mfus = {
        name: sorted(f / s / limit for f, s, limit in zip(done[2:], timing.ours, limits, strict=True))
        for name, done in work.items()
    }
    middle = len(ratios) // 2
    record(
        options.out,
        {
            "benchmark": "training",
            "shape": shape,
            "track": track,
            "data": Path(options.data).name,
            "compiled": options.compile,
            "tokens_per_second": round(rates["ours"][middle]),
            "reference_tokens_per_second": round(rates["theirs"][middle]),
            "ratio": round(ratios[middle], 3),
            "ratio_low": round(ratios[0], 3),
            "ratio_high": round(ratios[-1], 3),
            **{name: round(some[middle], 3) for name, some in mfus.items()},
            **{f"{name}_low": round(some[0], 3) for name, some in mfus.items()},
            **{f"{name}_high": round(some[-1], 3) for name, some in mfus.items()},
            "matmul_gflops": round(sorted(limits)[middle] / 1e9),
            "threads": torch.get_num_threads(),
            "processor": hardware.cpu_name(),
        },
    )


def memory(options: argparse.Namespace, shape: str, track: str, who: str) -> None:
    """Peak memory of a process that does nothing but a few steps."""
    hardware.keep_freed_memory()
    tokenizer = Tokenizer.load(Path(options.tokenizer))
    batches = make_batches(options, tokenizer, shape, packing=who == "ours")
    step: Ours | Theirs
    if who == "ours":
        step = Ours(shape, track, batches, tokenizer.vocab, compiled=options.compile)
    else:
        step = Theirs(shape, track, batches, tokenizer.vocab, ModelConfig(hidden_size=SHAPES[shape][0]).mlp_width)
    for _ in range(4):
        step()
    peak = hardware.peak_memory(torch.device("cpu"))
    row = {"benchmark": "memory", "shape": shape, "track": track, "who": who, "peak_gb": round(peak / 1e9, 3)}
    record(options.out, row)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="file with real text")
    parser.add_argument("--tokenizer", required=True, help="folder with tokenizer.json")
    parser.add_argument("--format", default="text", choices=["text", "chat"])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--tracks", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="compile our model; the reference stays as it is")
    parser.add_argument("--cache", default=str(Path(tempfile.gettempdir()) / "nano-llada-benchmark"))
    parser.add_argument("--out", type=Path, default=None, help="results.jsonl to append to")
    options = parser.parse_args()
    hardware.keep_freed_memory()
    for shape in options.shapes:
        for track in options.tracks:
            measure(options, shape, track)
            for who in ("ours", "theirs") if shape == "30M" else ():
                process = multiprocessing.get_context("spawn").Process(target=memory, args=(options, shape, track, who))
                process.start()
                process.join()


if __name__ == "__main__":
    main()
