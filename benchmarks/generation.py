"""Generation speed at the 30M shape: 128 tokens after a 32-token prompt, at equal forward passes.

    python -m benchmarks.generation

The reference computes a fixed canvas of 512 and logits everywhere; ours the canvas that is needed, and logits where a
token is still to be written. Random weights: speed does not depend on what is written, and end tokens are forbidden.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks import reference
from benchmarks.measure import by_turns, record
from nano_llada.config.decoding import Autoregressive, Diffusion
from nano_llada.config.model import ModelConfig
from nano_llada.core import device as hardware
from nano_llada.core.batch import Vocabulary
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.types import Request, collect
from nano_llada.model.transformer import Transformer

NEW, PROMPT = 128, tuple(range(100, 132))


def main() -> None:
    """Measure at 32, 64 and 128 forward passes, and the AR model beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--forwards", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--out", type=Path, default=None, help="results.jsonl to append to")
    options = parser.parse_args()
    hardware.keep_freed_memory()
    config = ModelConfig()
    vocab = Vocabulary(config.vocab_size, mask=3, eos=0, turn_start=1, turn_end=2)
    model = Transformer(config).initialise(torch.Generator().manual_seed(0)).eval()
    plain = reference.PlainModel(config.vocab_size, 512, 8, 8, config.mlp_width).eval()
    autoregressive = BatchSampler(model, vocab, Autoregressive(NEW, min_new_tokens=NEW))
    for forwards in options.forwards:
        sampler = BatchSampler(model, vocab, Diffusion(NEW, steps=forwards, min_new_tokens=NEW))
        done = collect(sampler.stream([Request(PROMPT)]), 1, sampler.ends)[0]
        assert (done.forwards, len(done.tokens)) == (forwards, NEW)

        def ours(sampler: BatchSampler = sampler) -> object:
            return collect(sampler.stream([Request(PROMPT)]), 1, sampler.ends)

        def theirs(forwards: int = forwards) -> object:
            return reference.generate(plain, torch.tensor(PROMPT), NEW, forwards, vocab.mask)

        timing = by_turns(ours, theirs, options.repeat)
        ratio, low, high = timing.ratio()
        seconds = sorted(timing.ours)[len(timing.ours) // 2]
        row = {"benchmark": "generation", "forwards": forwards, "tokens_per_second": round(NEW / seconds, 1)}
        row |= {"ratio": round(ratio, 2), "ratio_low": round(low, 2), "ratio_high": round(high, 2)}
        record(options.out, row | {"processor": hardware.cpu_name(), "threads": torch.get_num_threads()})

    def left_to_right() -> object:
        return collect(autoregressive.stream([Request(PROMPT)]), 1, autoregressive.ends)

    timing = by_turns(left_to_right, left_to_right, options.repeat)
    rate = NEW / sorted(timing.ours)[len(timing.ours) // 2]
    record(options.out, {"benchmark": "generation", "track": "ar", "tokens_per_second": round(rate, 1)})


if __name__ == "__main__":
    main()
