"""What a decoding pass costs, beside the limits of the machine, version 0.1.0 and llama.cpp.

    python -m benchmarks.decode --reference PATH_TO_010_SOURCES --out docs/experiments/decode/results.jsonl

One row for each shape, precision, batch and width. Mode `ar` writes 128 tokens after a prompt of 32, greedily; mode
`block` is one pass over the `width` tokens of a block in each row, all of whose logits are read. Weights are random:
speed does not depend on what is written. Everything that is compared runs by turns; `ratio_to_010` is the median over
turns of 0.1.0's time over ours. `share_of_limit` is the least possible time over the measured one: that of reading all
weights once, or of the matrix products at the measured rate, whichever is longer.

With `--clock cpu` processor time is measured instead of wall time, for machines on which other work runs; only on one
thread do the two mean the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import record
from nano_llada.config.model import ModelConfig
from nano_llada.core import device as hardware
from nano_llada.model.lean import LeanModel, causal, full
from nano_llada.model.transformer import Transformer

SHAPES: dict[str, dict[str, int]] = {
    "30M": {"vocab_size": 6401},
    "1M": {"vocab_size": 1024, "hidden_size": 128, "num_layers": 4, "num_heads": 4},
    "tiny": {"vocab_size": 160, "hidden_size": 32, "num_layers": 1, "num_heads": 2},  # to see that it runs
}
WAYS = ("fp32", "fp32-single", "int8")  # fp32-single: the fastest kernel for single rows, not the same for several
PROMPT, NEW, HELD = 32, 128, 96


@dataclass(frozen=True)
class Case:
    """One thing to time."""

    mode: str
    batch: int
    width: int

    @property
    def tokens(self) -> int:
        """In one pass."""
        return self.batch * self.width


@dataclass(frozen=True)
class Limits:
    """Of the machine, measured."""

    bandwidth: float  # bytes read per second
    products: float  # floating-point operations per second

    def seconds(self, config: ModelConfig, case: Case, weight_bytes: int) -> float:
        """Least time of a pass."""
        weights = config.num_layers * config.block_parameters + config.vocab_size * config.hidden_size
        return max(weights * weight_bytes / self.bandwidth, 2.0 * weights * case.tokens / self.products)


def measure_limits(clock: Callable[[], float], repeats: int = 5) -> Limits:
    """Read 256 MB and multiply matrices of 1024; the best of several tries."""
    large, square = torch.ones(2**26), torch.ones(1024, 1024)
    times: dict[str, list[float]] = {"read": [], "multiply": []}
    for _ in range(repeats):
        for name, run in (("read", large.sum), ("multiply", lambda: torch.mm(square, square))):
            begin = clock()
            run()
            times[name].append(clock() - begin)
    return Limits(large.numel() * 4 / min(times["read"]), 2 * 1024**3 / min(times["multiply"]))


class Reference:
    """Version 0.1.0 in a process of its own, whose module path begins with `sources`."""

    def __init__(self, sources: Path, options: argparse.Namespace) -> None:
        script = Path(__file__).with_name("decode_reference.py")
        environment = os.environ | {"PYTHONPATH": str(sources), "OMP_NUM_THREADS": str(options.threads)}
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._common = {"shape": json.dumps(SHAPES[options.shape]), "threads": options.threads, "clock": options.clock}

    def seconds(self, case: Case, passes: int) -> float:
        """Mean time of a pass, or of a text."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        plain = self._common | asdict(case) | {"passes": passes, "prompt": PROMPT, "new": NEW, "held": HELD}
        self._process.stdin.write(json.dumps(plain) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("the reference process ended: are the sources of 0.1.0 where --reference says?")
        return float(json.loads(answer)["seconds"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@torch.inference_mode()
def write_texts(model: LeanModel, batch: int) -> list[list[int]]:
    """`NEW` tokens in each row, greedily, without the special tokens: what 0.1.0's sampler does with these weights."""
    store = model.new_store(batch, PROMPT + NEW)
    new = [
        list(range(100 % model.config.vocab_size + row, 100 % model.config.vocab_size + row + PROMPT))
        for row in range(batch)
    ]
    new = [[token % model.config.vocab_size for token in row] for row in new]
    written: list[list[int]] = [[] for _ in new]
    start = 0
    while len(written[0]) < NEW:
        windows = [causal(row, start, tokens, [len(tokens) - 1]) for row, tokens in enumerate(new)]
        logits = model.forward(windows, store)
        logits[:, :4] = -torch.inf
        start += len(new[0])
        new = [[token] for token in logits.argmax(-1).tolist()]
        for row, tokens in zip(written, new, strict=True):
            row += tokens
    return written


def work(model: LeanModel, case: Case) -> Callable[[], object]:
    """What is timed."""
    if case.mode == "ar":
        return lambda: write_texts(model, case.batch)
    store = model.new_store(case.batch, HELD + case.width)
    tokens, everywhere = [5] * case.width, range(case.width)
    return lambda: model.forward([full(row, HELD, tokens, everywhere) for row in range(case.batch)], store)


def measure(
    options: argparse.Namespace,
    case: Case,
    models: dict[str, LeanModel],
    reference: Reference | None,
    limits: Limits,
    llama_cpp: dict[str, float],
) -> None:
    """Time a case in all precisions and 0.1.0 by turns; a row each."""
    passes = 1 if case.mode == "ar" else max(1, 64 // case.tokens)
    clock = clock_of(options)
    runs = {way: work(model, case) for way, model in models.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ("0.1.0", *runs)}
    for turn in range(options.repeats + 1):  # the first is to warm up
        found = {"0.1.0": reference.seconds(case, passes)} if reference else {}
        for way, run in runs.items():
            begin = clock()
            for _ in range(passes):
                run()
            found[way] = (clock() - begin) / passes
        if turn:
            for way, value in found.items():
                seconds[way].append(value)
    steps = NEW if case.mode == "ar" else 1
    config = next(iter(models.values())).config
    for way, times in seconds.items():
        if not times:
            continue
        each = statistics.median(times) / steps
        row: dict[str, object] = {"benchmark": "decode", "shape": options.shape, "threads": options.threads}
        row |= asdict(case) | {"dtype": way, "ms": round(1e3 * each, 3), "ms_low": round(1e3 * min(times) / steps, 3)}
        row |= {"tokens_per_second": round(case.tokens / each, 1)}
        row |= ratio_to(seconds["0.1.0"], times)
        if case == Case("ar", 1, 1) and way != "0.1.0" and llama_cpp:
            theirs = llama_cpp["Q8_0" if way == "int8" else "F32"]
            row["ratio_to_llama_cpp"] = round(1e3 * each / theirs, 3)
        least = limits.seconds(config, case, 1 if way == "int8" else 4)
        row |= {"share_of_limit": round(least / each, 3), "clock": options.clock}
        row |= {"bandwidth": round(limits.bandwidth / 1e9, 1), "products": round(limits.products / 1e9, 1)}
        record(options.out, row | {"processor": hardware.cpu_name()})


def clock_of(options: argparse.Namespace) -> Callable[[], float]:
    """Seconds, of the wall or of this process."""
    return time.process_time if options.clock == "cpu" else time.perf_counter


def ratio_to(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, object]:
    """Median, lowest and highest of theirs over ours, turn by turn."""
    if not theirs:
        return {}
    ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    ends = {"": statistics.median(ratios), "_low": ratios[0], "_high": ratios[-1]}
    return {f"ratio_to_010{end}": round(value, 3) for end, value in ends.items()}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="30M", choices=list(SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16], help="rows of AR decoding")
    parser.add_argument("--blocks", type=int, nargs="*", default=[8, 16, 32], help="block sizes, of one row")
    parser.add_argument("--many", type=int, default=16, help="rows of blocks of 32; 0: none")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument(
        "--reference", type=Path, default=None, help="folder that contains the package of version 0.1.0"
    )
    parser.add_argument("--llama-cpp", action="store_true", help="also time llama.cpp (needs xllamacpp and gguf)")
    parser.add_argument("--out", type=Path, default=None, help="results.jsonl to append to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case of a shape."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    hardware.keep_freed_memory()
    config = ModelConfig(**SHAPES[options.shape])
    model = Transformer(config).initialise(torch.Generator().manual_seed(0)).eval()
    kinds: dict[str, dict[str, Any]] = {
        "fp32": {},
        "fp32-single": {"batch_invariant": False},
        "int8": {"precision": "int8"},
    }
    models = {way: LeanModel.prepare(model, **kinds[way]) for way in options.ways}
    limits = measure_limits(clock_of(options))
    llama_cpp: dict[str, float] = {}
    if options.llama_cpp:
        from benchmarks import llama_cpp as other

        for kind in ("F32", "Q8_0"):
            llama_cpp[kind] = other.milliseconds_per_token(config, kind, options.threads, options.clock)
        for kind, value in llama_cpp.items():
            plain = {"benchmark": "decode", "shape": options.shape, "threads": options.threads, "mode": "ar"}
            record(options.out, plain | {"dtype": f"llama.cpp {kind}", "batch": 1, "width": 1, "ms": round(value, 3)})
    reference = Reference(options.reference, options) if options.reference else None
    cases = [Case("ar", batch, 1) for batch in options.batches] + [Case("block", 1, width) for width in options.blocks]
    cases += [Case("block", options.many, 32)] if options.many else []
    for case in cases:
        measure(options, case, models, reference, limits, llama_cpp)
    if reference:
        reference.close()


if __name__ == "__main__":
    main()
