"""Times nano-llada 0.1.0's decoding on request, in a process of its own: the other side of `benchmarks.decode`.

Run by `benchmarks.decode`, with 0.1.0 on the module path. Reads one JSON case a line and answers {"seconds": S}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from nano_llada.core.types import Vocabulary
from nano_llada.decode.autoregressive import AutoregressiveSampler
from nano_llada.decode.config import Autoregressive
from nano_llada.model.config import ModelConfig

from nano_llada.core import hardware
from nano_llada.core.pattern import AttentionPattern
from nano_llada.decode.types import Request, collect
from nano_llada.model.transformer import Transformer


@cache
def make_model(shape: str) -> Transformer:
    """Random weights in a shape given as JSON."""
    return Transformer(ModelConfig(**json.loads(shape))).initialise(torch.Generator().manual_seed(0)).eval()


def text(model: Transformer, case: dict[str, Any]) -> Callable[[], object]:
    """Write `new` tokens after `prompt` tokens in each of `batch` rows."""
    vocab = Vocabulary(model.config.vocab_size, mask=3, eos=0, turn_start=1, turn_end=2)
    sampler = AutoregressiveSampler(model, vocab, Autoregressive(case["new"], min_new_tokens=case["new"]))
    requests = [Request(tuple(range(100 + row, 100 + row + case["prompt"]))) for row in range(case["batch"])]
    return lambda: collect(sampler.stream(requests), len(requests), sampler.ends)


def windows(model: Transformer, case: dict[str, Any]) -> Callable[[], object]:
    """One pass over `width` new tokens in each of `batch` rows that hold `held`."""
    batch, width, held = case["batch"], case["width"], case["held"]
    cache_ = model.new_cache(batch, held + width)
    tokens, everywhere = torch.full((batch, width), 5), torch.ones(batch, width, dtype=torch.bool)

    @torch.inference_mode()
    def run() -> object:
        cache_.place([held] * batch, [width] * batch)
        return model(tokens, AttentionPattern("full"), select=everywhere, cache=cache_)

    return run


def main() -> None:
    """Answer until the input ends."""
    hardware.keep_freed_memory()
    made: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        case = json.loads(line)
        torch.set_num_threads(case["threads"])
        if line not in made:
            made = {line: (text if case["mode"] == "ar" else windows)(make_model(case["shape"]), case)}
            made[line]()
        clock = time.process_time if case["clock"] == "cpu" else time.perf_counter
        begin = clock()
        for _ in range(case["passes"]):
            made[line]()
        print(json.dumps({"seconds": (clock() - begin) / case["passes"]}), flush=True)


if __name__ == "__main__":
    main()
