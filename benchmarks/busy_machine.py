"""Training speed by the way threads wait for each other, on a quiet machine and beside other processes.

    python -m benchmarks.busy_machine --others 0 1

Each measurement is a process of its own, since OpenMP reads its settings once: `OMP_WAIT_POLICY` is ACTIVE (waiting
threads spin), PASSIVE (they sleep), or not set (OpenMP's default); or they spin so many times before they sleep
(GOMP_SPINCOUNT, of libgomp). They take turns, so that whatever else the machine
does hits all of them. The other processes do nothing but arithmetic, one thread each. Random tokens: speed does not
depend on what is learnt.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.measure import record, spread
from nano_llada.config.model import ModelConfig
from nano_llada.core import device as hardware
from nano_llada.core.pattern import AttentionPattern
from nano_llada.core.waiting import CHOICE, SETTINGS
from nano_llada.model.transformer import Transformer

POLICIES: dict[str, dict[str, str]] = {
    "default": {},
    "active": {"OMP_WAIT_POLICY": "ACTIVE"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "ours": CHOICE,
    **{f"spin {count}": {"GOMP_SPINCOUNT": str(count)} for count in (1_000, 10_000, 50_000)},
}
BUSY = "while True: sum(i * i for i in range(1000))"
VOCABULARY, ROWS, LENGTH = 1761, 8, 128


def measure(seconds: float, size: int, layers: int) -> dict[str, float]:
    """Tokens trained on per second of time and per second of this process's CPU time, with the threads it has."""
    hardware.keep_freed_memory()
    config = ModelConfig(vocab_size=VOCABULARY, hidden_size=size, num_layers=layers, num_heads=4, max_length=LENGTH)
    model = Transformer(config).initialise(torch.Generator().manual_seed(0)).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    pattern = AttentionPattern("causal")

    def step() -> None:
        logits = model(tokens[:, :-1], pattern)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    begin, cpu, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < seconds:
        step()
        steps += 1
    done = steps * ROWS * LENGTH
    return {"rate": done / (time.perf_counter() - begin), "per_cpu_second": done / (time.process_time() - cpu)}


def in_process(policy: dict[str, str], options: argparse.Namespace) -> dict[str, float]:
    """`measure` in a process that waits as told."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment |= policy
    environment["OMP_NUM_THREADS"] = str(options.threads)
    words = ["--once", "--seconds", str(options.seconds), "--size", str(options.size), "--layers", str(options.layers)]
    command = [sys.executable, "-m", "benchmarks.busy_machine", *words]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def by_turns(others: int, options: argparse.Namespace) -> None:
    """All policies, repeated, beside so many other processes."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(others)]
    try:
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in options.policies}
        for _ in range(options.repeat):
            for name in options.policies:
                rows[name].append(in_process(POLICIES[name], options))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    usual = [row["rate"] for row in rows[options.policies[0]]]
    for name, found in rows.items():
        rates = [row["rate"] for row in found]
        row: dict[str, object] = {"benchmark": "busy_machine", "others": others, "waiting": name}
        row |= spread("tokens_per_second", rates)
        row |= spread(f"of_{options.policies[0]}", [rate / other for rate, other in zip(rates, usual, strict=True)])
        row["tokens_per_cpu_second"] = round(statistics.median(row["per_cpu_second"] for row in found), 1)
        row |= {"threads": options.threads, "size": options.size, "layers": options.layers}
        record(options.out, row | {"processor": hardware.cpu_name(), "cores": os.cpu_count()})


def main() -> None:
    """Measure each number of other processes in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", type=int, nargs="+", default=[0, 1], help="other busy processes")
    parser.add_argument(
        "--policies", nargs="+", choices=POLICIES, default=list(POLICIES), help="the first: compared with"
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--out", type=Path, default=None, help="results.jsonl to append to")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(measure(options.seconds, options.size, options.layers)))
        return
    for others in options.others:
        by_turns(others, options)


if __name__ == "__main__":
    main()
