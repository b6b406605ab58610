"""What caches are worth when text is written in blocks: 128 tokens after a 384-token prompt, at the 30M shape.

    python -m benchmarks.block_decoding

Block decoding with its exact cache against the same without, which must write the same tokens in as many forward
passes; the approximate prefix and dual caches of whole-text diffusion against none; and the AR decoder with its cache
beside each; at last, for each forward pass, the decoder that also edits against the one that does not. All by turns.
Weights are random: speed depends on what is written only through the number of passes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.measure import Timing, record
from nano_llada.config.decoding import Autoregressive, Block, Diffusion
from nano_llada.config.model import ModelConfig
from nano_llada.core import device as hardware
from nano_llada.core.batch import Vocabulary
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.types import Completion, Request, Sampler, collect
from nano_llada.model.transformer import Transformer


@dataclass(frozen=True)
class Shape:
    """Of the model and of what it writes."""

    hidden: int
    layers: int
    prompt: int
    new: int
    block: int


SHAPES = {"30M": Shape(512, 8, 384, 128, 32), "tiny": Shape(32, 1, 24, 8, 4)}  # tiny: to see that it runs


def make_model(shape: Shape) -> Transformer:
    """Random weights, larger than those training begins with: then places differ, and some tokens seem certain."""
    config = ModelConfig(hidden_size=shape.hidden, num_layers=shape.layers, max_length=shape.prompt + shape.new)
    model = Transformer(config).initialise(torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.mul_(16.0 if name.startswith("head") else 4.0)
    return model


def vocabulary(model: Transformer) -> Vocabulary:
    """Special tokens first, as in our tokenizers."""
    return Vocabulary(model.config.vocab_size, mask=3, eos=0, turn_start=1, turn_end=2)


def make_requests(shape: Shape, batch_size: int, vocab: Vocabulary) -> list[Request]:
    """Random prompts, one a row."""
    rng = torch.Generator().manual_seed(1)
    return [
        Request(tuple(torch.randint(4, vocab.size, (shape.prompt,), generator=rng).tolist())) for _ in range(batch_size)
    ]


def samplers(
    options: argparse.Namespace, model: Transformer, vocab: Vocabulary, shape: Shape
) -> list[tuple[dict[str, object], dict[str, Sampler]]]:
    """What is measured together: labels, and the same decoder with different caches; none comes first."""
    new, block = shape.new, shape.block
    groups: list[tuple[dict[str, object], dict[str, Sampler]]] = []
    for threshold in options.thresholds:
        by_cache: dict[str, Sampler] = {}
        for name, cached in (("none", False), ("exact", True)):
            config = Block(new, min_new_tokens=new, block_size=block, threshold=threshold, cached=cached)
            by_cache[name] = BatchSampler(model, vocab, config)
        groups.append(({"decoder": "block", "threshold": threshold}, by_cache))
    for forwards in options.forwards:
        by_cache = {}
        for cache in ("none", "prefix", "dual"):
            settings = Diffusion(new, min_new_tokens=new, steps=forwards, block_length=block, cache=cache)
            by_cache[cache] = BatchSampler(model, vocab, settings)
        groups.append(({"decoder": "diffusion", "steps": forwards}, by_cache))
    return groups


def measure(
    options: argparse.Namespace,
    requests: Sequence[Request],
    autoregressive: Sampler,
    by_cache: Mapping[str, Sampler],
    labels: Mapping[str, object],
) -> None:
    """A row a cache: tokens a second, and the ratios to no cache and to AR, median and spread over repeats."""
    ways = {"ar": autoregressive, **by_cache}
    for sampler in ways.values():
        next(iter(sampler.stream(requests)))  # one forward pass to warm up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    written: dict[str, list[Completion]] = {}
    for _ in range(options.repeats):
        for name, sampler in ways.items():
            begin = time.perf_counter()
            written[name] = collect(sampler.stream(requests), len(requests), sampler.ends)
            seconds[name].append(time.perf_counter() - begin)
        check(written, SHAPES[options.shape].new)
    tokens = len(requests) * SHAPES[options.shape].new
    rates = {name: round(tokens / statistics.median(times), 1) for name, times in seconds.items()}
    for name in by_cache:
        row: dict[str, object] = {"benchmark": "block-decoding", "shape": options.shape, **labels, "cache": name}
        row |= {"batch_size": len(requests), "forwards": max(done.forwards for done in written[name])}
        row |= {"tokens_per_second": rates[name], "ar_tokens_per_second": rates["ar"]}
        for prefix, other in (("ratio", "none"), ("ratio_ar", "ar")):
            if name != other:
                values = Timing(seconds[name], seconds[other]).ratio()
                ends = (prefix, f"{prefix}_low", f"{prefix}_high")
                row |= {end: round(value, 3) for end, value in zip(ends, values, strict=True)}
        record(options.out, row | {"threads": torch.get_num_threads(), "processor": hardware.cpu_name()})


def measure_editing(
    options: argparse.Namespace, requests: Sequence[Request], model: Transformer, threshold: float
) -> None:
    """A row: milliseconds of a forward pass of the block decoder with editing, and its ratio to one without."""
    shape = SHAPES[options.shape]
    vocab = vocabulary(model)
    requests = [Request(request.prompt[: shape.block]) for request in requests]  # a long one to read would blur it
    plain = Block(shape.new, min_new_tokens=shape.new, block_size=shape.block, threshold=threshold)
    decoders = {"plain": plain, "editing": replace(plain, edit_threshold=0.0)}
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    edits = 0
    for turn in range(options.repeats + 1):  # the first is to warm up
        for name, config in decoders.items():
            sampler = BatchSampler(model, vocab, config)
            begin = time.perf_counter()
            done = collect(sampler.stream(requests), len(requests), sampler.ends)
            # the rows of a batch go through the model together until the last one is ready
            each = (time.perf_counter() - begin) / max(completion.forwards for completion in done)
            edits = sum(completion.edits for completion in done)
            if turn:
                seconds[name].append(each)
    ratio, low, high = Timing(seconds["plain"], seconds["editing"]).ratio()
    row: dict[str, object] = {"benchmark": "block-editing", "shape": options.shape, "threshold": threshold}
    row |= {"batch_size": len(requests), "edits": edits}
    row |= {f"milliseconds_{name}": round(1e3 * statistics.median(times), 2) for name, times in seconds.items()}
    row |= {"ratio": round(ratio, 3), "ratio_low": round(low, 3), "ratio_high": round(high, 3)}
    record(options.out, row | {"threads": torch.get_num_threads(), "processor": hardware.cpu_name()})


def check(written: Mapping[str, Sequence[Completion]], new: int) -> None:
    """All wrote as much as was asked for, caches cost no passes, and the exact one changes no token."""
    for name, done in written.items():
        assert all(len(completion.tokens) == new for completion in done), f"{name} did not write {new} tokens a row"
        if name != "ar":
            passes = [[completion.forwards for completion in each] for each in (done, written["none"])]
            assert passes[0] == passes[1], f"cache {name} took other numbers of passes than none"
    if "exact" in written:
        texts = [[completion.tokens for completion in written[name]] for name in ("exact", "none")]
        assert texts[0] == texts[1], "the exact cache wrote other tokens than none"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every decoder at every batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="30M", choices=list(SHAPES))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--thresholds", type=float, nargs="*", default=[1.0, 0.5], help="of block decoding")
    parser.add_argument("--forwards", type=int, nargs="*", default=[128, 32], help="of whole-text diffusion")
    parser.add_argument("--editing", type=float, nargs="*", default=[1.0], help="thresholds of the decoder that edits")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: all")
    parser.add_argument("--out", type=Path, default=None, help="results.jsonl to append to")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    hardware.keep_freed_memory()
    shape = SHAPES[options.shape]
    model = make_model(shape)
    vocab = vocabulary(model)
    autoregressive = BatchSampler(model, vocab, Autoregressive(shape.new, min_new_tokens=shape.new))
    for batch_size in options.batch_sizes:
        requests = make_requests(shape, batch_size, vocab)
        for labels, by_cache in samplers(options, model, vocab, shape):
            measure(options, requests, autoregressive, by_cache, labels)
        for threshold in options.editing:
            measure_editing(options, requests, model, threshold)


if __name__ == "__main__":
    main()
