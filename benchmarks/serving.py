"""A server under load, beside the same engine without one.

    python -m benchmarks.serving                 # small: minutes; correctness
    python -m benchmarks.serving --full          # the figures that are aimed at: a quiet machine, under eight minutes

The server is a process of its own (`nano-llada serve`), over random weights. One row is appended to
docs/experiments/serving/results.jsonl:

* `load`: requests of mixed kinds at a time (whole, streamed, with frames, read slowly, left in the middle, malformed,
  too large, with a wrong key); `wrong` counts answers that are not those of the offline engine, which must be 0;
  `queue`: the most requests that waited at a time for one of the models, and the server's limit;
* `memory`: resident MB of the server after a warm-up of a fifth as many requests, and after each fifth of the load;
* `end`: what became of streams and whole answers that were running when SIGTERM came, and of what came after it;
* `throughput`: tokens/s of `--rows` clients of whole answers, streams, and streams with frames, beside the offline
  engine with as many rows, by the clock and by processor time of the server alone (`cpu`, which other programs and
  the clients of this benchmark disturb less); shares of the offline engine's;
* `first`: milliseconds from sending to the first event of an idle server;
* `aims`: each figure beside what is aimed at.

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
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import record
from benchmarks.serving_load import Outcome, Question, load, most_waiting, questions, unanswered, until_the_end
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
    "tri": ModelCard("both", "sft", block_size=8),
}
FULL = {"shape": "8M", "requests": 5000, "concurrency": 500, "length": 16, "timed": 64, "timed_length": 48}
FULL |= {"timed_models": ["ar", "block"]}


def random_models(shape: str, names: Sequence[str] = tuple(CARDS)) -> dict[str, LanguageModel]:
    """One of each kind, sure of what it writes."""
    tokenizer, found = Tokenizer.load(BUNDLED_TOKENIZER), {}
    for number, (name, card) in enumerate(CARDS.items()):
        if name not in names:
            continue
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
        self.rows = rows
        self.key, line = make_key("benchmark")
        (folder / "keys").write_text(line + "\n", encoding="utf-8")
        options = {"port": 0, "keys": folder / "keys", "max-rows": rows, "max-waiting": rows, "threads": threads}
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

    def terminate(self) -> None:
        """Ask it to end."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """End it with SIGTERM, if it still runs; gives its exit status."""
        if self.process.poll() is None:
            self.terminate()
        return self.process.wait(timeout=120)


async def _watched_load(server: Server, asked: Sequence[Question], **how: int) -> tuple[Outcome, int]:
    """What became of mixed requests, and the most that waited."""
    watch = asyncio.create_task(most_waiting(server.url, server.key))
    outcome = await load(server.url, asked, key=server.key, **how)
    watch.cancel()
    return outcome, await watch


def measure_load(server: Server, asked: Sequence[Question], requests: int, concurrency: int) -> dict[str, object]:
    """Mixed requests: a fifth of them to warm up, then all in fifths; what went wrong, and how the memory grew."""
    memory, part, counts, wrong, waiting = [], max(requests // 5, 1), Counter[str](), list[str](), 0
    for number in range(6):
        if number == 1:
            begun = time.perf_counter()
        how = {"requests": part, "concurrency": concurrency, "seed": number}
        outcome, most = asyncio.run(_watched_load(server, asked, **how))
        memory.append(round(server.megabytes(), 1))
        counts, wrong, waiting = counts + outcome.counts, wrong + outcome.wrong, max(most, waiting)
    print("\n".join(wrong[:5]), end="\n" * bool(wrong), file=sys.stderr)
    return {
        "load": {
            "requests": 5 * part,
            "concurrency": concurrency,
            "seconds": round(time.perf_counter() - begun, 1),
            "queue": {"most": waiting, "limit": server.rows},
        },
        "kinds": dict(sorted(counts.items())),
        "wrong": len(wrong),
        "memory": {"parts": memory, "growth": round(memory[-1] / memory[0] - 1, 4)},
    }


def measure_end(server: Server, asked: Sequence[Question], requests: int) -> dict[str, object]:
    """SIGTERM while texts are written: those that had begun are finished, and right; new ones are refused."""
    begun = time.perf_counter()
    outcome = asyncio.run(until_the_end(server.url, asked, requests, server.terminate, server.key))
    print("\n".join(outcome.wrong[:5]), end="\n" * bool(outcome.wrong), file=sys.stderr)
    found = {"kinds": dict(sorted(outcome.counts.items())), "wrong": len(outcome.wrong), "exit": server.stop()}
    return found | {"seconds": round(time.perf_counter() - begun, 1)}


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


def aims(row: Mapping[str, Any]) -> dict[str, dict[str, object]]:
    """Each figure beside what is aimed at."""
    found: dict[str, dict[str, object]] = {}

    def compare(name: str, value: float, aim: str, met: bool) -> None:
        found[name] = {"value": value, "aim": aim, "met": met}

    queue, memory, end = row["load"]["queue"], row["memory"], row["end"]
    compare("wrong answers", row["wrong"] + end["wrong"], "0", row["wrong"] + end["wrong"] == 0)
    compare("queue", queue["most"], f"at most {queue['limit']}", queue["most"] <= queue["limit"])
    compare("memory growth", memory["growth"], "below 0.02", memory["growth"] < 0.02)
    compare("exit status after SIGTERM", end["exit"], "0", end["exit"] == 0)
    compare("first event, ms", row["first"]["median"], "below 150", row["first"]["median"] < 150)
    for name, rates in row["throughput"].items():
        shares = rates["clock"]
        compare(f"{name}: whole answers over offline", shares["whole_share"], "0.9", shares["whole_share"] >= 0.9)
        cost = round(1 - shares["stream"] / shares["whole"], 3)
        compare(f"{name}: cost of streaming", cost, "below 0.05", cost < 0.05)
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the sizes of the figures that are aimed at")
    parser.add_argument("--shape", choices=SHAPES, default="2M")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=60)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--timed", type=int, default=64, help="requests of a model whose throughput is measured")
    parser.add_argument("--timed-length", type=int, default=24, help="most tokens of their answers")
    parser.add_argument("--timed-models", nargs="+", choices=CARDS, default=["ar", "block", "tri"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--length", type=int, default=24, help="most tokens of an answer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.full:
        vars(options).update(FULL)
    torch.set_num_threads(options.threads)
    models = random_models(options.shape)
    asked = questions(models, 48, options.length)
    drawn_and_not = unanswered(
        options.timed_models, 2 * len(options.timed_models) * options.timed, options.timed_length
    )
    timed = [one for one in drawn_and_not if len(one.options) == 1]
    row: dict[str, object] = {"shape": options.shape, "rows": options.rows, "threads": options.threads}
    row["busy"] = round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), models, options.rows, options.threads)
        try:
            row |= {"first": measure_first(server, asked)}
            timed_models = {name: models[name] for name in options.timed_models}
            row |= {"throughput": measure_throughput(server, timed_models, timed, options.rows, options.repeat)}
            row |= measure_load(server, asked, options.requests, options.concurrency)
            row["end"] = measure_end(server, asked, 2 * options.rows)
        finally:
            server.stop()
    row["aims"] = aims(row)
    record(options.out, row)


if __name__ == "__main__":
    main()
