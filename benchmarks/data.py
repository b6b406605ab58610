"""What data costs: tokenising, memory by the size of a corpus, and batches beside a training step.

    python -m benchmarks.data tokenising --data FILE.jsonl --tokenizer story
    python -m benchmarks.data memory --megabytes 10 1000
    python -m benchmarks.data pipeline --data FILE.jsonl --shapes 2M 30M

`tokenising` counts the seconds that cores worked, of all threads and processes, so that a busy machine does not count.
The library alone is timed in the same run, on the same texts. `memory` writes corpora of stories, no two alike, trains
some steps on each, and gives the most memory that the process came to hold. `pipeline` takes turns with a step
on a batch that is made already.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import by_turns, record, spread
from benchmarks.training import SHAPES, Ours
from nano_llada.config.data import DataConfig
from nano_llada.core.batch import TokenBatch
from nano_llada.data.bad_rows import BadRows
from nano_llada.data.documents import Encoding
from nano_llada.data.loader import Batches
from nano_llada.data.read import resolve
from nano_llada.data.store import open_store
from nano_llada.data.texts import read_texts
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.data.workers import cores
from nano_llada.world.stories.files import documents

LIBRARY = 500_000  # bytes of text that the library alone encodes: it is slow
TRAIN = """
import sys
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from nano_llada.cli.main import main
status = main(sys.argv[1:])
print("peak", getrusage(RUSAGE_SELF).ru_maxrss, getrusage(RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def cpu() -> float:
    """Seconds that cores have worked for this process and those it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def tokenising(options: argparse.Namespace) -> None:
    """From files to a store, and encode_batch_fast of the library alone on texts of the same files."""
    for name in options.tokenizer:
        tokenizer, sources = Tokenizer.load(Path(name)), resolve(options.data)
        with tempfile.TemporaryDirectory() as folder:
            begin, worked = time.perf_counter(), cpu()
            store = open_store(sources, tokenizer, Encoding("text"), cache=Path(folder), bad_rows=BadRows("skip"))
            seconds, worked = time.perf_counter() - begin, cpu() - worked
            megabytes = int(store.text_bytes.sum()) / 1e6
        some, size = [], 0
        for text in read_texts(options.data, "text", BadRows("skip")):
            some.append(text)
            size += len(text.encode())
            if size > LIBRARY:
                break
        alone = cpu()
        tokenizer.encode_by_library(some)
        alone = cpu() - alone
        row: dict[str, object] = {"benchmark": "tokenising", "tokenizer": name, "data": Path(options.data[0]).name}
        row |= {"megabytes": round(megabytes, 1), "cores": cores(), "seconds": round(seconds, 1)}
        row |= {"mb_per_core_second": round(megabytes / worked, 2), "library_alone": round(size / 1e6 / alone, 2)}
        record(options.out, row | {"ratio": round(megabytes / worked / (size / 1e6 / alone), 2)})


def corpus(base: list[str], megabytes: float) -> Iterator[str]:
    """JSON lines of stories that are all different."""
    draw, written, number = random.Random(0), 0, 0
    while written < megabytes * 1e6:
        number += 1
        text = f"{number}. {draw.choice(base)} {draw.choice(base)}"
        line = json.dumps({"text": text}, ensure_ascii=False) + "\n"
        written += len(line.encode())
        yield line


def memory(options: argparse.Namespace) -> None:
    """A row for each size of a corpus, with the peak of the training process and of one that tokenises for it."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        base = [str(row["text"]) for row in documents("train", 600, 0)]
        for megabytes in options.megabytes:
            path = root / f"{megabytes:g}.jsonl"
            with path.open("w", encoding="utf-8") as file:
                file.writelines(corpus(base, megabytes))
            for stream in (False, True):
                row: dict[str, object] = {"benchmark": "memory", "megabytes": megabytes, "stream": stream}
                record(options.out, row | peak(path, root, options.steps, stream=stream))
            path.unlink()


def peak(data: Path, root: Path, steps: int, *, stream: bool) -> dict[str, object]:
    """The most MB that a run of a small AR model held."""
    name = f"{data.stem}-{'stream' if stream else 'store'}"
    words = ["pretrain", "ar", str(data), "--tokenizer", "story", "--hidden-size", "64", "--num-layers", "2"]
    words += ["--num-heads", "4", "--steps", str(steps), "--runs", str(root / "runs"), "--name", name]
    words += ["--cache", str(root / f"cache-{name}"), "--eval-every", "0", "--threads", "1", "--device", "cpu"]
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *words, *(["--stream"] if stream else [])], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    own, children = (int(kilobytes) / 1e3 for kilobytes in done.stdout.split("peak")[-1].split())
    return {"peak_mb": round(own), "worker_mb": round(children), "seconds": round(time.perf_counter() - begin)}


class Made:
    """A batch that is made already, for every step."""

    def __init__(self, batches: Batches) -> None:
        self._batch, self.rows = batches.batch(0), batches.rows

    def batch(self, step: int) -> TokenBatch:
        """The same."""
        return self._batch


def pipeline(options: argparse.Namespace) -> None:
    """Steps on real rows against steps on a batch that is made already, and the time of making batches by itself."""
    tokenizer = Tokenizer.load(Path(options.tokenizer[0]))
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(
            resolve(options.data), tokenizer, Encoding("text"), cache=Path(folder), bad_rows=BadRows("skip")
        )
        for shape in options.shapes:
            _, _, _, length, rows = SHAPES[shape]
            config = DataConfig(sequence_length=length)
            batches = Batches(store, config, tokenizer.vocab, rows=rows, seed=0, documents=range(len(store)))
            real = Ours(shape, "ar", batches, tokenizer.vocab)
            fixed = Ours(shape, "ar", Made(batches), tokenizer.vocab)  # type: ignore[arg-type]
            timing = by_turns(real, fixed, options.repeat)
            alone = []
            for step in range(50):
                begin = time.perf_counter()
                batches.batch(step)
                alone.append(time.perf_counter() - begin)
            takes = statistics.median(timing.theirs)
            more = [ours / theirs - 1 for ours, theirs in zip(timing.ours, timing.theirs, strict=True)]
            row: dict[str, object] = {"benchmark": "pipeline", "shape": shape, "step_ms": round(1e3 * takes, 1)}
            row |= {"batch_ms": round(1e3 * statistics.median(alone), 2)}
            row |= {"share": round(statistics.median(alone) / takes, 4), **spread("slower", more)}
            record(options.out, row)


def main(arguments: list[str] | None = None) -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tokenising", "memory", "pipeline"))
    parser.add_argument("--data", nargs="+", help="files of texts")
    parser.add_argument("--tokenizer", nargs="+", default=["story"])
    parser.add_argument("--megabytes", nargs="+", type=float, default=[10.0, 1000.0])
    parser.add_argument("--folder", type=Path, help="where memory writes its corpora; default: the system's")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=["2M", "30M"])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--out", type=Path, help="a file of rows to append to")
    options = parser.parse_args(arguments)
    {"tokenising": tokenising, "memory": memory, "pipeline": pipeline}[options.what](options)


if __name__ == "__main__":
    main()
