"""Training speed, memory and MFU: ours against the plain reference, on the same documents.

    python -m benchmarks.training --data FILE.jsonl.gz --tokenizer FOLDER --format text

Tokens that count are those of real text: a reference row is one document cut or padded to the length, ours are packed.
How full rows are is averaged over many batches: which documents the timed ones happen to hold says nothing of speed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks import reference
from benchmarks.measure import by_turns, record, spread
from nano_llada.config.data import DataConfig
from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import Denoising, NextToken
from nano_llada.config.train import TrainConfig
from nano_llada.core import device as hardware
from nano_llada.core.batch import Objective, StepContext, TokenBatch, Vocabulary
from nano_llada.data.loader import Batches
from nano_llada.data.read import BadRows, resolve
from nano_llada.data.store import Encoding, open_store
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.model.transformer import Transformer
from nano_llada.objectives import make_objective
from nano_llada.training.optim import Optimizer

SHAPES = {
    "30M": (512, 8, 8, 256, 8),
    "2M": (192, 4, 4, 256, 16),
    "small": (128, 4, 4, 128, 32),
}  # hidden, layers, heads, length, rows
WARM = 2  # unmeasured steps: the first compiles, the second still touches memory for the first time
MEMORY_STEPS = 6  # the heap grows a little with every step of another length
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
        self.objective, self.batches, self.vocab = make_objective(OBJECTIVES[track]), batches, vocab
        self.length, self.rows, self.step = length, rows, 0
        self.flops = 0.0

    def __call__(self) -> None:
        batch: TokenBatch = self.batches.batch(self.step)
        out = self.objective.loss(self.model, batch, StepContext(self.vocab, 0, self.step, 1000, self.rows))
        out.total.backward()
        grads = [p.grad for p in self.optimizer.parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(grads)) / float(out.count)
        torch._foreach_mul_(grads, min(1.0, 1.0 / (norm + 1e-6)) / float(out.count))
        self.optimizer.step(1e-4)
        self.step += 1
        self.flops = self.config.train_flops(batch.tokens.numel(), int(out.predicted), self.length)


class Theirs:
    """The reference's step: padded rows, full logits, plain AdamW."""

    def __init__(self, shape: str, track: str, batches: Batches, vocab: Vocabulary, width: int) -> None:
        hidden, layers, heads, length, _ = SHAPES[shape]
        self.model = reference.PlainModel(vocab.size, hidden, layers, heads, width)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4)
        self.track, self.batches, self.vocab, self.length, self.step = track, batches, vocab, length, 0

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


def make_batches(options: argparse.Namespace, tokenizer: Tokenizer, shape: str, *, packing: bool) -> Batches:
    """Rows of real text; `packing` off gives the reference's one document a row."""
    _, _, _, length, rows = SHAPES[shape]
    store = open_store(
        resolve(options.data),
        tokenizer,
        Encoding(options.format),
        cache=Path(options.cache),
        bad_rows=BadRows("skip"),
    )
    config = DataConfig(format=options.format, sequence_length=length, packing=packing)
    return Batches(store, config, tokenizer.vocab, rows=rows, seed=0, documents=range(len(store)))


def real_share(batches: Batches, length: int, steps: int = 200) -> float:
    """Share of positions that hold real text, over the first `steps` batches."""
    shares = [float((batches.batch(step).doc_ids >= 0).sum()) / (batches.rows * length) for step in range(steps)]
    return statistics.mean(shares)


def measure(options: argparse.Namespace, shape: str, track: str) -> None:
    """One row: tokens of real text a second, ratio with spread, MFU.

    `mfu` counts the operations that are made; `mfu_usual` those of the whole model at every position, as the figures
    of other projects do, though we leave out logits and last layers where no loss is. The reference leaves out nothing.
    All refer to the matrix-product rate measured right before the pair of steps.
    """
    tokenizer = Tokenizer.load(Path(options.tokenizer))
    packed, padded = (make_batches(options, tokenizer, shape, packing=packing) for packing in (True, False))
    ours = Ours(shape, track, packed, tokenizer.vocab, compiled=options.compile)
    theirs = Theirs(shape, track, padded, tokenizer.vocab, ours.config.mlp_width)
    machine = hardware.choose_machine("cpu")
    made: list[float] = []
    limits: list[float] = []

    def run_ours() -> None:
        ours()
        made.append(ours.flops)

    timing = by_turns(
        run_ours, theirs, options.repeat, warm=WARM, before=lambda: limits.append(hardware.matmul_rate(machine))
    )
    length, rows = ours.length, ours.rows
    positions = rows * length
    real, reference_real = real_share(packed, length) * positions, real_share(padded, length) * positions
    whole = ours.config.train_flops(positions, positions, length)
    pairs = list(zip(timing.ours, timing.theirs, limits, made[WARM:], strict=True))
    row: dict[str, object] = {
        "benchmark": "training",
        "shape": shape,
        "track": track,
        "data": " ".join(Path(file).name for file in options.data),
        "compiled": options.compile,
        "pairs": options.repeat,
        "tokens_per_second": round(real / statistics.median(timing.ours)),
        "reference_tokens_per_second": round(reference_real / statistics.median(timing.theirs)),
        "real_share": round(real / positions, 3),
        "reference_real_share": round(reference_real / positions, 3),
        **spread("ratio", [(real / a) / (reference_real / b) for a, b, _, _ in pairs]),
        **spread("mfu", [flops / a / limit for a, _, limit, flops in pairs]),
        **spread("mfu_usual", [whole / a / limit for a, _, limit, _ in pairs]),
        **spread("reference_mfu", [whole / b / limit for _, b, limit, _ in pairs]),
        "matmul_gflops": round(statistics.median(limits) / 1e9),
        "threads": torch.get_num_threads(),
        "processor": hardware.cpu_name(),
    }
    record(options.out, row)


def memory(options: argparse.Namespace, shape: str, track: str, who: str) -> None:
    """Peak memory of a process that does nothing but a few steps."""
    hardware.keep_freed_memory()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.load(Path(options.tokenizer))
    batches = make_batches(options, tokenizer, shape, packing=who == "ours")
    step: Ours | Theirs
    if who == "ours":
        step = Ours(shape, track, batches, tokenizer.vocab, compiled=options.compile)
    else:
        step = Theirs(shape, track, batches, tokenizer.vocab, ModelConfig(hidden_size=SHAPES[shape][0]).mlp_width)
    for _ in range(MEMORY_STEPS):
        step()
    peak = hardware.peak_memory(torch.device("cpu"))
    row = {"benchmark": "memory", "shape": shape, "track": track, "who": who, "threads": options.threads}
    record(options.out, {**row, "compiled": options.compile and who == "ours", "peak_gb": round(peak / 1e9, 3)})


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="files with real text")
    parser.add_argument("--tokenizer", required=True, help="folder with tokenizer.json")
    parser.add_argument("--format", default="text", choices=["text", "chat"])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--tracks", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="compile our model; the reference stays as it is")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cache", default=str(Path(tempfile.gettempdir()) / "nano-llada-benchmark"))
    parser.add_argument("--out", type=Path, default=None, help="results.jsonl to append to")
    options = parser.parse_args()
    hardware.keep_freed_memory()
    torch.set_num_threads(options.threads)
    for shape in options.shapes:
        for track in options.tracks:
            measure(options, shape, track)
            for who in ("ours", "theirs") if shape == "30M" else ():
                process = multiprocessing.get_context("spawn").Process(target=memory, args=(options, shape, track, who))
                process.start()
                process.join()


if __name__ == "__main__":
    main()
