"""What a training step costs: AR, whole-text diffusion, and block diffusion with its options, by turns with AR.

    python -m benchmarks.block_training

Steps are the trainer's own, on made-up packed rows without padding, the same for all. Block diffusion sends the noisy
and the clean text through the model side by side, complementary pairs twice as many rows again: `positions` tells. The
ratio is that of seconds, to the AR step before each. Memory is the peak of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.measure import by_turns, record
from benchmarks.training import SHAPES as LARGE
from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import BlockSizeSchedule, Denoising, Masking, NextToken, TokenEditing
from nano_llada.config.train import TrainConfig
from nano_llada.core import device as hardware
from nano_llada.core.batch import Objective, TokenBatch, Vocabulary
from nano_llada.model.transformer import Transformer
from nano_llada.objectives import make_objective
from nano_llada.training.trainer import StepReport, Trainer

SHAPES = LARGE | {"tiny": (32, 1, 2, 96, 2)}  # hidden, layers, heads, length, rows; tiny: to see that it runs
BLOCKS = BlockSizeSchedule(32)
OBJECTIVES: dict[str, Objective] = {
    "ar": NextToken(),
    "mdlm": Denoising(),
    "bdlm-4": Denoising(blocks=BlockSizeSchedule(4)),
    "bdlm-32": Denoising(blocks=BLOCKS),
    "bdlm-32-complementary": Denoising(Masking(complementary=True), BLOCKS),
    "bdlm-32-cap": Denoising(blocks=BLOCKS, confidence_weight=0.5),
    "bdlm-32-editing": Denoising(blocks=BLOCKS, editing=TokenEditing(replace_rate=0.1, keep_weight=1.0)),
    "bdlm-32-drafts": Denoising(blocks=BLOCKS, editing=TokenEditing(replace_rate=0.1, draft_rate=0.5, keep_weight=1.0)),
}
WARM, MANY = 2, 10**6  # unmeasured steps; more steps than a run takes


class Rows:
    """A few batches of packed documents, each 8 tokens to half a row long, over and over."""

    def __init__(self, length: int, rows: int, vocab: Vocabulary) -> None:
        rng = torch.Generator().manual_seed(0)
        self.batches = [self._batch(length, rows, vocab, rng) for _ in range(4)]

    @staticmethod
    def _batch(length: int, rows: int, vocab: Vocabulary, rng: torch.Generator) -> TokenBatch:
        tokens = torch.randint(4, vocab.size, (rows, length), generator=rng)
        docs, positions = torch.zeros_like(tokens), torch.zeros_like(tokens)
        for row in range(rows):
            begin = number = 0
            while begin < length:
                end = min(length, begin + int(torch.randint(8, length // 2 + 1, (), generator=rng)))
                docs[row, begin:end], positions[row, begin:end] = number, torch.arange(end - begin)
                begin, number = end, number + 1
        return TokenBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), docs, positions, torch.arange(rows))

    def batch(self, step: int) -> TokenBatch:
        """Of a step."""
        return self.batches[step % len(self.batches)]

    def document_names(self, step: int) -> list[list[int]]:
        """None: the documents are artificial."""
        return []


class Step:
    """One step of the training loop a call: as the loop's observer it asks to stop after each."""

    def __init__(self, shape: str, name: str) -> None:
        hidden, layers, heads, length, rows = SHAPES[shape]
        config = ModelConfig(hidden_size=hidden, num_layers=layers, num_heads=heads)
        vocab = Vocabulary(config.vocab_size, mask=3, eos=0, turn_start=1, turn_end=2)
        self.reports: list[StepReport] = []
        self.trainer = Trainer(
            TrainConfig(batch_size=rows),
            Transformer(config).initialise(torch.Generator().manual_seed(0)),
            vocab,
            make_objective(OBJECTIVES[name]),
            Rows(length, rows, vocab),
            hardware.choose_machine("cpu"),
            total_steps=MANY,
            validation=[],
            observer=self,
        )

    def __call__(self) -> None:
        self.trainer.run()

    def on_step(self, report: StepReport) -> None:
        self.reports.append(report)

    def on_validation(self, step: int, metrics: Mapping[str, float], improved: bool) -> None:
        raise AssertionError("there is no validation data")

    def save(self, step: int) -> None:
        """Nothing is kept."""

    def wants_stop(self) -> bool:
        return True


def measure(options: argparse.Namespace, shape: str) -> None:
    """A row an objective, AR last, with the median of all its steps."""
    autoregressive, all_steps = Step(shape, "ar"), []
    for name in OBJECTIVES:
        if name == "ar":
            continue
        step = Step(shape, name)
        timing = by_turns(autoregressive, step, options.repeats, warm=WARM)
        all_steps += timing.ours
        ratio, low, high = timing.ratio()
        spread = {"ratio": round(ratio, 3), "ratio_low": round(low, 3), "ratio_high": round(high, 3)}
        write(options, shape, name, step, timing.theirs, spread)
    write(options, shape, "ar", autoregressive, all_steps, {})


def write(
    options: argparse.Namespace, shape: str, name: str, step: Step, times: Sequence[float], more: Mapping[str, object]
) -> None:
    """Record one objective's row."""
    report, seconds = step.reports[-1], statistics.median(times)
    row: dict[str, object] = {"benchmark": "block-training", "shape": shape, "objective": name}
    row |= {"tokens": report.tokens, "positions": report.positions, "seconds_per_step": round(seconds, 4)}
    row |= {"tokens_per_second": round(report.tokens / seconds), **more}
    record(options.out, row | {"threads": torch.get_num_threads(), "processor": hardware.cpu_name()})


def memory(out: Path | None, threads: int | None, shape: str, name: str) -> None:
    """Peak memory of a process that does nothing but a few steps, where the system tells."""
    if threads:
        torch.set_num_threads(threads)
    hardware.keep_freed_memory()
    step = Step(shape, name)
    for _ in range(4):
        step()
    peak = hardware.peak_memory(torch.device("cpu"))
    if math.isfinite(peak):
        row = {"benchmark": "block-training-memory", "shape": shape, "objective": name}
        record(out, row | {"peak_gb": round(peak / 1e9, 3)})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(LARGE), choices=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="measure memory, too")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: all")
    parser.add_argument("--out", type=Path, default=None, help="results.jsonl to append to")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    hardware.keep_freed_memory()
    for shape in options.shapes:
        measure(options, shape)
        for name in OBJECTIVES if options.memory else ():
            target = (options.out, options.threads, shape, name)
            process = multiprocessing.get_context("spawn").Process(target=memory, args=target)
            process.start()
            process.join()


if __name__ == "__main__":
    main()
