"""Tokenising speed: one call for each document, beside the tokenizer's batch call, which uses all cores.

    python -m benchmarks.tokenizing --out docs/experiments/speed/results.jsonl

Both give the same ids, which is checked, and take turns. The text is that of the small world, Chinese and English.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measure import record, spread
from nano_llada.core.device import cpu_name
from nano_llada.data.tokenizer import NAMED, Tokenizer
from nano_llada.world.documents import documents

Encode = Callable[[Sequence[str]], list[list[int]]]


def speed(encode: Encode, texts: Sequence[str]) -> tuple[float, float, list[list[int]]]:
    """Megabytes of text a second of time and a second of processor time, and the ids."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    begin, cpu = time.perf_counter(), time.process_time()
    ids = encode(texts)
    return size / (time.perf_counter() - begin), size / (time.process_time() - cpu), ids


def main() -> None:
    """Measure each tokenizer of the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="results.jsonl to append to")
    options = parser.parse_args()
    texts = [row["text"] for row in documents("train", options.documents, seed=0)]
    for name, folder in NAMED.items():
        tokenizer = Tokenizer.load(folder)
        ways: dict[str, Encode] = {
            "one by one": lambda some, tokenizer=tokenizer: [tokenizer.encode(text) for text in some],
            "batch": tokenizer.encode_many,
        }
        rates: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(options.repeat):
            found = {}
            for way, encode in ways.items():
                rate, per_cpu, found[way] = speed(encode, texts)
                rates[way].append((rate, per_cpu))
            assert found["one by one"] == found["batch"]
        for way, measured in rates.items():
            row: dict[str, object] = {"benchmark": "tokenizing", "tokenizer": name, "calls": way}
            row |= spread("megabytes_per_second", [rate for rate, _ in measured])
            row |= spread(
                "of_one_by_one", [a / b for (a, _), (b, _) in zip(measured, rates["one by one"], strict=True)]
            )
            row["megabytes_per_cpu_second"] = round(statistics.median(per_cpu for _, per_cpu in measured), 2)
            record(options.out, row | {"documents": len(texts), "processor": cpu_name(), "cores": os.cpu_count()})


if __name__ == "__main__":
    main()
