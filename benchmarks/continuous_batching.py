"""Continuous batching: requests that arrive at random, against batches that are full from the first pass to the last.

    python -m benchmarks.continuous_batching

Both write the same requests with as many rows. The static batches start together and every text has the same length, so
all rows are used in every pass; there is nothing faster for this number of rows. The others arrive at random over a
share (`--within`) of the passes that the static batches need: the engine starts empty, and ends with rows that finish
one by one. Processor time is compared, since other programs take turns with this one; texts are compared, too.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measure import record
from nano_llada.config.decoding import Autoregressive, Block, Decoding, EngineOptions
from nano_llada.config.model import ModelConfig
from nano_llada.core import device as hardware
from nano_llada.core.batch import Vocabulary
from nano_llada.decode.engine import BatchSampler, Engine
from nano_llada.decode.forward import BackendOf, rectangles
from nano_llada.decode.lean import lean_passes
from nano_llada.decode.types import Event, Request, gather
from nano_llada.model.transformer import Transformer


def static(
    model: Transformer,
    vocab: Vocabulary,
    decoding: Decoding,
    requests: Sequence[Request],
    rows: int,
    backend: BackendOf,
) -> Run:
    """One full batch after the other."""
    run, sampler = Run(vocab), BatchSampler(model, vocab, decoding, backend=backend)
    for first in range(0, len(requests), rows):
        run.add(list(sampler.stream(requests[first : first + rows])))
    return run


def arriving(
    model: Transformer,
    vocab: Vocabulary,
    decoding: Decoding,
    requests: Sequence[Request],
    rows: int,
    passes: int,
    backend: BackendOf,
) -> Run:
    """One engine; requests come in order, at random within the first `passes`. Nothing is reused between them."""
    run, rng = Run(vocab), random.Random(0)
    engine = Engine(model, vocab, decoding, EngineOptions(rows, keep_prefixes=False), backend)
    times = sorted(rng.uniform(0, passes) for _ in requests)
    events: list[list[Event]] = []
    left = list(requests)
    while left or engine.busy:
        while left and times[len(requests) - len(left)] <= len(events):
            engine.add(left.pop(0))
        events.append(engine.step())
    run.add(events)
    return run


class Run:
    """What was written, in which processor time and how many passes."""

    def __init__(self, vocab: Vocabulary) -> None:
        self.vocab, self.begin = vocab, time.process_time()
        self.texts: list[list[int]] = []
        self.passes = 0
        self.seconds = 0.0

    def add(self, events: list[list[Event]]) -> None:
        """Passes that are over."""
        self.seconds = time.process_time() - self.begin
        self.passes += len(events)
        done = dict(gather(events, self.vocab.ends))
        self.texts += [done[i].tokens for i in sorted(done)]

    @property
    def rate(self) -> float:
        """Tokens per second of processor time."""
        return sum(map(len, self.texts)) / self.seconds


def main() -> None:
    """Measure AR and block decoding by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--within", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument("--kinds", nargs="+", default=["ar", "block"], choices=["ar", "block"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--reference", action="store_true", help="the slow reference, not the lean forward pass")
    parser.add_argument("--out", type=Path, default=None, help="results.jsonl to append to")
    options = parser.parse_args()
    hardware.keep_freed_memory()
    config = ModelConfig(hidden_size=options.hidden_size, num_layers=options.layers)
    vocab = Vocabulary(config.vocab_size, mask=3, eos=0, turn_start=1, turn_end=2)
    model = Transformer(config).initialise(torch.Generator().manual_seed(0)).eval()
    backend = rectangles if options.reference else lean_passes
    rng = random.Random(1)
    requests = [
        Request(tuple(rng.randrange(4, config.vocab_size) for _ in range(rng.randint(8, 40))), seed=i)
        for i in range(options.requests)
    ]
    new = {"max_new_tokens": options.new, "min_new_tokens": options.new}
    kinds: dict[str, Decoding] = {"ar": Autoregressive(**new), "block": Block(**new, block_size=32, threshold=1.0)}
    static(model, vocab, kinds[options.kinds[0]], requests[: options.rows], options.rows, backend)  # warm
    for kind, within in itertools.product(options.kinds, options.within):
        decoding, pairs = kinds[kind], []
        for _ in range(options.repeat):
            full = static(model, vocab, decoding, requests, options.rows, backend)
            passes = int(full.passes * within)
            pairs.append((full, arriving(model, vocab, decoding, requests, options.rows, passes, backend)))
        ratios = sorted(ours.rate / full.rate for full, ours in pairs)
        full, ours = pairs[0]
        row = {
            "benchmark": "continuous_batching",
            "kind": kind,
            "lean": not options.reference,
            "within": within,
            "rows": options.rows,
        }
        row |= {"requests": len(requests), "hidden_size": options.hidden_size, "layers": options.layers}
        row |= {"ratio": round(statistics.median(ratios), 3), "ratio_low": round(ratios[0], 3)}
        row |= {"ratio_high": round(ratios[-1], 3), "passes": ours.passes, "passes_static": full.passes}
        row |= {"tokens_per_cpu_second": round(ours.rate, 1), "same_texts": full.texts == ours.texts}
        record(options.out, row | {"processor": hardware.cpu_name(), "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
