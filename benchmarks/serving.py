"""A server under load, beside the same engine without one.

    python -m benchmarks.serving                 # small: minutes; correctness
    python -m benchmarks.serving --requests 5000 --concurrency 500 --timed 256 --shape 8M

The server is a process of its own (`nano-llada serve`), over random weights of each kind. One row is appended to
docs/experiments/serving/results.jsonl:

* `load`: requests of mixed kinds at a time (whole, streamed, with frames, read slowly, left in the middle, malformed,
  too large, with a wrong key); `wrong` counts answers that are not those of the offline engine, which must be 0;
* `memory`: resident MB of the server after a warm-up and at the end of the load;
* `throughput`: tokens/s of `--rows` clients of whole answers, streams, and streams with frames, beside the offline
  engine with as many rows, by the clock and by processor time of the server alone (`cpu`, which other programs and
  the clients of this benchmark disturb less); shares of the offline engine's;
* `first`: milliseconds from sending to the first event of an idle server.

Both sides of a ratio are measured by turns, on as many threads. Times by the clock mean nothing on a busy machine;
`busy` is the load average over the number of processors.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.measure import record
from benchmarks.serving_load import Question, load, questions, unanswered
from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.card import ModelCard
from nano_llada.config.model import ModelConfig
from nano_llada.data.tokenizer import BUNDLED_TOKENIZER, Tokenizer
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.types import Request, gather
from nano_llada.language_model import LanguageModel
from nano_llada.model.transformer import Transformer
from nano_llada.serve.keys import make_key

RESULTS = Path("docs/experiments/serving/results.jsonl")
SHAPES: Mapping[str, dict[str, int]] = {
    "tiny": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64},
    "2M": {"hidden_size": 128, "num_layers": 6, "num_heads": 4, "intermediate_size": 384},
    "8M": {"hidden_size": 256, "num_layers": 8, "num_heads": 8, "intermediate_size": 688},
}
CARDS = {
    "ar": ModelCard("ar", "sft"),
    "canvas": ModelCard("diffusion", "sft", answer_length=24),
    "block": ModelCard("diffusion", "sft", block_size=8),
    "editing": ModelCard("diffusion", "sft", block_size=8, edits=True),
}


def random_models(shape: str) -> dict[str, LanguageModel]:
    """One of each kind, sure of what it writes."""
    tokenizer, found = Tokenizer.load(BUNDLED_TOKENIZER), {}
    for number, (name, card) in enumerate(CARDS.items()):
        config = ModelConfig(vocab_size=tokenizer.vocab.size, max_length=256, **SHAPES[shape])
        model = Transformer(config)
        model.initialise(torch.Generator().manual_seed(number))
        with torch.no_grad():
            for part, weight in model.named_parameters():
                if weight.dim() > 1:
                    weight.mul_(16.0 if part.startswith("head") else 6.0)
        found[name] = LanguageModel(Checkpoint(model.eval(), tokenizer, card, Path(name)))
    return found


class Server:
    """`nano-llada serve` as a process, with a key."""

    def __init__(self, folder: Path, models: Mapping[str, LanguageModel], rows: int, threads: int) -> None:
        places = [folder / name for name in models]
        for place, model in zip(places, models.values(), strict=True):
            model.save(place)
        self.key, line = make_key("benchmark")
        (folder / "keys").write_text(line + "\n", encoding="utf-8")
        options = {"port": 0, "keys": folder / "keys", "max-rows": rows, "max-waiting": 4 * rows, "threads": threads}
        options |= {"max-per-key": 100000}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nano_llada", "serve", *map(str, places), *words],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        found = re.search(r"http://\S+", self.process.stdout.readline())
        if found is None:
            raise SystemExit((folder / "log").read_text(encoding="utf-8"))
        self.url = found[0]

    def megabytes(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def cpu_seconds(self) -> float:
        """Processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        """End it with SIGTERM; gives its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)


def measure_load(server: Server, asked: Sequence[Question], requests: int, concurrency: int) -> dict[str, object]:
    """Mixed requests: a fifth of them to warm up, then all; what went wrong, and how the memory grew."""
    memory = []
    for number, count in enumerate((max(requests // 5, 1), requests)):
        begun = time.perf_counter()
        outcome = asyncio.run(
            load(server.url, asked, requests=count, concurrency=concurrency, key=server.key, seed=number)
        )
        seconds = time.perf_counter() - begun
        memory.append(server.megabytes())
        if outcome.wrong:
            print("\n".join(outcome.wrong[:5]), file=sys.stderr)
    growth = memory[1] / memory[0] - 1
    return {
        "load": {"requests": requests, "concurrency": concurrency, "seconds": round(seconds, 1)},
        "kinds": dict(sorted(outcome.counts.items())),
        "wrong": len(outcome.wrong),
        "memory": {"warm": round(memory[0], 1), "end": round(memory[1], 1), "growth": round(growth, 4)},
    }


Rate = tuple[float, float]  # tokens a second, by the clock and of processor time


def offline_rate(model: LanguageModel, asked: Sequence[Question], rows: int) -> Rate:
    """Of the engine alone, with as many rows."""
    sampler = BatchSampler(model.model, model.tokenizer.vocab, model.decoding(), rows=rows)
    decodings = [model.decoding(max_new_tokens=one.options["max_tokens"]) for one in asked]
    requests = [
        Request(model.encode(one.prompt, chat=True), decoding=decoding)
        for one, decoding in zip(asked, decodings, strict=True)
    ]
    begun, used = time.perf_counter(), time.process_time()
    tokens = sum(len(done.tokens) for _, done in gather(sampler.stream(requests), sampler.ends))
    return tokens / (time.perf_counter() - begun), tokens / (time.process_time() - used)


def served_rate(server: Server, asked: Sequence[Question], rows: int, kind: str) -> Rate:
    """Of so many clients of one kind."""
    begun, used = time.perf_counter(), server.cpu_seconds()
    outcome = asyncio.run(load(server.url, asked, requests=len(asked), concurrency=rows, kinds=(kind,), key=server.key))
    return outcome.tokens / (time.perf_counter() - begun), outcome.tokens / (server.cpu_seconds() - used)


def measure_throughput(
    server: Server, models: Mapping[str, LanguageModel], asked: Sequence[Question], rows: int, repeat: int
) -> dict[str, object]:
    """For each model the rates, by turns; the medians."""
    found: dict[str, object] = {}
    for name, model in models.items():
        mine = [one for one in asked if one.model == name]
        rates: dict[str, list[Rate]] = {}
        for turn in range(repeat + 1):  # the first one warms up
            turns = {"offline": offline_rate(model, mine, rows)}
            turns |= {kind: served_rate(server, mine, rows, kind) for kind in ("whole", "stream", "frames")}
            for kind, rate in turns.items() if turn else ():
                rates.setdefault(kind, []).append(rate)
        found[name] = {clock: _shares(rates, place) for place, clock in enumerate(("clock", "cpu"))}
    return found


def _shares(rates: Mapping[str, Sequence[Rate]], place: int) -> dict[str, float]:
    """Medians of the rates, and their shares of the offline engine's."""
    middle = {kind: statistics.median(rate[place] for rate in some) for kind, some in rates.items()}
    shares = {f"{kind}_share": round(rate / middle["offline"], 3) for kind, rate in middle.items() if kind != "offline"}
    return {**{kind: round(rate, 1) for kind, rate in middle.items()}, **shares}


def measure_first(server: Server, asked: Sequence[Question]) -> dict[str, float]:
    """Milliseconds to the first event when nothing else runs."""
    outcome = asyncio.run(load(server.url, asked[:20], requests=20, concurrency=1, kinds=("stream",), key=server.key))
    times = sorted(seconds * 1000 for seconds in outcome.first_seconds)
    return {"median": round(statistics.median(times), 1), "longest": round(times[-1], 1)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="2M")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=60)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--timed", type=int, default=64, help="requests of a model whose throughput is measured")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--length", type=int, default=24, help="most tokens of an answer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = random_models(options.shape)
    asked = questions(models, 48, options.length)
    drawn_and_not = unanswered(list(models), 2 * len(models) * options.timed, options.length)
    timed = [one for one in drawn_and_not if len(one.options) == 1]
    row: dict[str, object] = {"shape": options.shape, "rows": options.rows, "threads": options.threads}
    row["busy"] = round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), models, options.rows, options.threads)
        try:
            row |= {"first": measure_first(server, asked)}
            row |= measure_load(server, asked, options.requests, options.concurrency)
            row |= {"throughput": measure_throughput(server, models, timed, options.rows, options.repeat)}
        finally:
            row["exit"] = server.stop()
    record(options.out, row)


if __name__ == "__main__":
    main()
