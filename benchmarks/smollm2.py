"""SmolLM2 here and in llama.cpp: how long a token takes with the same weights, by turns.

    python -m benchmarks.smollm2 --base runs/smollm2/base --out docs/experiments/smollm2/speed.jsonl

The imported model writes 64 tokens after a prompt of 32, greedily, on the lean forward pass in fp32 and in eight bits;
llama.cpp does the same with files that `nano-llada export --to gguf` makes of the same checkpoint, in F32 and Q8_0. All
four take their turn in each repetition; `ratio` is the median over repetitions of our time over llama.cpp's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import record
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.core import device as hardware
from nano_llada.interop.export import export_gguf
from nano_llada.interop.gguf_files import Kind
from nano_llada.model.lean import LeanModel, causal

PAIRS: dict[str, Kind] = {"fp32": "f32", "int8": "q8_0"}  # ours, llama.cpp's


@torch.inference_mode()
def write_text(model: LeanModel, prompt: Sequence[int], count: int) -> float:
    """Milliseconds for each of `count` tokens after the first, greedily."""
    store, new, start = model.new_store(1, len(prompt) + count), list(prompt), 0
    begin = 0.0
    for written in range(count):
        logits = model.forward([causal(0, start, new, [len(new) - 1])], store)
        start += len(new)
        new = logits.argmax(-1).tolist()
        if written == 0:
            begin = time.perf_counter()
    return 1e3 * (time.perf_counter() - begin) / (count - 1)


def llama_cpp(path: Path, prompt: Sequence[int], count: int, threads: int) -> Callable[[], float]:
    """A function that writes a text with llama.cpp and gives its own milliseconds for each token."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_predict = str(path), 512, count
    settings.cpuparams.n_threads, settings.verbosity = threads, -1
    server = xllamacpp.Server(settings)
    body = {"prompt": list(prompt), "n_predict": count, "max_tokens": count, "temperature": 0, "ignore_eos": True}

    def run() -> float:
        answer: Any = server.handle_completions({**body, "cache_prompt": False})
        plain = json.loads(answer) if isinstance(answer, str) else answer
        return float(plain["timings"]["predicted_per_token_ms"])

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure by turns; a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="the imported checkpoint, or another AR one")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="new tokens in a text")
    parser.add_argument("--out", type=Path, default=None, help="file of JSON lines to append to")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    hardware.keep_freed_memory()
    checkpoint = load_checkpoint(options.base)
    prompt = checkpoint.tokenizer.encode("The little town lies between a river and a long green hill. " * 8)[:32]
    with tempfile.TemporaryDirectory() as name:
        ways: dict[str, Callable[[], float]] = {}
        for ours, theirs in PAIRS.items():
            lean = LeanModel.prepare(checkpoint.model, **({"precision": "int8"} if ours == "int8" else {}))
            ways[ours] = lambda lean=lean: write_text(lean, prompt, options.tokens)  # type: ignore[misc]
            export_gguf(options.base, Path(name) / theirs, theirs)
            path = Path(name) / theirs / f"model-{theirs}.gguf"
            ways[theirs] = llama_cpp(path, prompt, options.tokens, options.threads)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(options.repeats + 1):  # the first is to warm up
            for way, run in ways.items():
                taken = run()
                if turn:
                    times[way].append(taken)
    common = {"benchmark": "smollm2", "threads": options.threads, "tokens": options.tokens}
    for ours, theirs in PAIRS.items():
        ratio = statistics.median(a / b for a, b in zip(times[ours], times[theirs], strict=True))
        for program, way in (("nano-llada", ours), ("llama.cpp", theirs)):
            row = {"program": program, "dtype": way, "ms": round(statistics.median(times[way]), 2)}
            row |= {"ms_low": round(min(times[way]), 2), "ms_high": round(max(times[way]), 2)}
            record(options.out, common | row | {"ratio": round(ratio, 3), "processor": hardware.cpu_name()})


if __name__ == "__main__":
    main()
