"""Small runs of every stage in several processes, beside the same runs in one.

    python tests/several.py --processes 4 --steps 50 --out FILE.json

trains every kind of run in one process and in several (DDP and FSDP2, gloo), saves and resumes on other numbers of
processes, and writes by how much losses differ. `tests/test_parallel.py` does so with two processes and few steps.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from forked import Forked
from nano_llada.checkpoint import manager
from nano_llada.checkpoint.distributed import ShardWriter, fresh, read_shards
from nano_llada.config.objectives import BlockSizeSchedule, Denoising, ExactScore, Policy, Rollouts, TokenEditing
from nano_llada.config.run import RunConfig
from nano_llada.core import device
from nano_llada.diffusion.masking import MaskingProcess
from nano_llada.session.observer import RunObserver
from nano_llada.session.run import execute
from nano_llada.training import parallel
from nano_llada.training.trainer import Trainer
from tiny import Place, make_place, run_cli, texts, tiny_run, write_rows

BLOCKS = BlockSizeSchedule(block_size=8)
# name -> stage, track, options, the run it starts from
RUNS: Mapping[str, tuple[str, str, dict[str, Any], str]] = {
    "ar": ("pretrain", "ar", {"optimizer": "muon", "ema_decay": 0.9, "tie_embeddings": True, "num_kv_heads": 2}, ""),
    "full": ("pretrain", "diffusion", {"objective": Denoising(random_length=0.2)}, ""),
    "block": ("pretrain", "diffusion", {"objective": Denoising(blocks=BLOCKS), "gradient_checkpointing": True}, ""),
    "editing": (
        "pretrain",
        "diffusion",
        {"objective": Denoising(blocks=BLOCKS, editing=TokenEditing(replace_rate=0.2, draft_rate=0.3))},
        "",
    ),
    "sft": ("sft", "diffusion", {"objective": Denoising(normalise_by="document", confidence_weight=0.1)}, "full"),
    "dpo": ("dpo", "diffusion", {"eos_fill": 16}, "full"),
    "rl": ("rl", "ar", {}, "ar"),
}
HOW = ("ddp", "fsdp")
LOSSES = ("loss", "validation_loss")
FIGURES = (*LOSSES, "masked_text_loss", "reward", "reward_margin", "tokens")
# at 1e-2 what differs by rounding after a step differs by 6e-3 after 50, in one process with other micro-batches too
RATE = 1e-3
PAIRS = [{"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": f"No {i} at all."} for i in range(40)]
REWARD = "def length(question, answer, row):\n    return len(answer) / 8\n"


@dataclass(frozen=True)
class Scene:
    """Files, and how long runs are."""

    place: Place
    steps: int
    rows: int
    names: tuple[str, ...] = tuple(RUNS)
    faults: bool = True

    @classmethod
    def make(cls, root: Path, steps: int, rows: int, names: tuple[str, ...] = tuple(RUNS), **more: bool) -> Scene:
        place = make_place(root)
        write_rows(root / "pairs.jsonl", PAIRS)
        told = [row["text"] for row in texts()]
        write_rows(root / "long.jsonl", [{"text": " ".join(told[i : i + 5])} for i in range(9)])
        (root / "rewards.py").write_text(REWARD, encoding="utf-8")
        return cls(place, steps, rows, names, **more)

    def config(self, name: str, runs: str, **changes: Any) -> RunConfig:
        """A run in a folder of runs of its own, so that it has the same name however many processes train it."""
        stage, track, options, start = RUNS[name]
        root = self.place.root
        shared: dict[str, Any] = {"eval_every": 2}
        if stage == "dpo":
            shared["data"] = (root / "pairs.jsonl",)
        if stage == "rl":
            drawn = Rollouts(reward=f"{root / 'rewards.py'}:length", group_size=2, max_new_tokens=4, reuse=2)
            shared = {"data": (self.place.chat,), "objective": Policy(ExactScore(), rollouts=drawn, kl_weight=0.1)}
        begun = {"init_from": root / "one" / start} if start else {}
        whole = {"micro_batch_size": 2, "save_every": self.steps // 2, "keep_last": 100, "learning_rate": RATE}
        wanted = {**whole, "steps": self.steps, "batch_size": self.rows, "eval_rows": 7, "runs": root / runs}
        return tiny_run(self.place, stage, track, **{**wanted, **options, **shared, **begun, "name": name, **changes})

    def cut(self, name: str, runs: str, into: str) -> RunConfig:
        """A copy of a run as it was after half of its steps; gives its config."""
        old, new = self.place.root / runs / name, self.place.root / into / name
        shutil.copytree(old, new)
        for folder in new.glob("step-*"):
            if folder.name != f"step-{self.steps // 2:06d}":
                shutil.rmtree(folder)
        assert [folder.name for folder in new.glob("step-*")] == [f"step-{self.steps // 2:06d}"]  # else it starts over
        (new / "outcome.json").unlink()
        return self.config(name, into)


@contextlib.contextmanager
def watched() -> Iterator[dict[str, str]]:
    """While the block runs, a digest of every row's text and of its noise, by whether it is measured, step and row."""
    seen: dict[str, str] = {}
    loss, corrupt = Trainer._loss, MaskingProcess.corrupt

    def note(kind: str, ctx: Any, rows: Tensor, *tensors: Tensor) -> None:
        for i, row in enumerate(rows.tolist()):
            text = hashlib.sha256(b"".join(t[i].contiguous().numpy().tobytes() for t in tensors)).hexdigest()
            seen[f"{kind} {ctx.measuring} {ctx.step} {row}"] = text

    def noted_loss(self: Trainer, part: Any, ctx: Any) -> Any:
        note("text", ctx, part.rows, part.tokens, part.scored, part.doc_ids, part.positions)
        return loss(self, part, ctx)

    def noted_corrupt(self: MaskingProcess, batch: Any, ctx: Any, *size: Any) -> Any:
        found = corrupt(self, batch, ctx, *size)
        note("noise", ctx, batch.rows, found.tokens, found.weights)
        return found

    Trainer._loss, MaskingProcess.corrupt = noted_loss, noted_corrupt  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Trainer._loss, MaskingProcess.corrupt = loss, corrupt  # type: ignore[method-assign]


@contextlib.contextmanager
def unmeasured() -> Iterator[None]:
    """While the block runs, nothing is timed at the start of a run: it takes longer than these runs."""
    before = device.matmul_rate
    device.matmul_rate = lambda machine: 1e11  # type: ignore[assignment]
    try:
        yield
    finally:
        device.matmul_rate = before


def train(config: RunConfig, *, resume: bool = False) -> dict[str, str]:
    """Train, and give what every row was."""
    with watched() as seen:
        execute(config, resume=resume)
    return dict(seen)


def at_step(step: int, act: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
    """While the block runs, something happens in this process after a step of a run."""

    @contextlib.contextmanager
    def patched() -> Iterator[None]:
        before = RunObserver.on_step

        def on_step(self: RunObserver, report: Any) -> None:
            before(self, report)
            if report.step == step:
                act()

        RunObserver.on_step = on_step  # type: ignore[method-assign]
        try:
            yield
        finally:
            RunObserver.on_step = before  # type: ignore[method-assign]

    return patched()


def stopped(scene: Scene) -> None:
    """The last process is asked to end."""
    with at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM) if parallel.rank() == parallel.size() - 1 else None):
        execute(scene.config("ar", "stopped", parallel="fsdp"))


def changed_while_written(scene: Scene) -> bool:
    """Whether what is written is what the tensors held when writing began."""
    folder = scene.place.root / "written"
    parallel.on_first(lambda: fresh(folder))
    writer, tensor = ShardWriter(), torch.arange(2.0e6)
    writer.start(folder, {"x": tensor})
    tensor.zero_()
    writer.wait()
    read = torch.empty(2_000_000)
    read_shards(folder, {"x": read})
    return bool((read == torch.arange(2.0e6)).all())


def died(scene: Scene) -> None:
    """The last process dies."""
    with at_step(3, lambda: os._exit(9) if parallel.rank() == parallel.size() - 1 else None):
        execute(scene.config("full", "died", save_every=2))


def without_room(scene: Scene, how: str) -> None:
    """The disk is full when a process that writes a checkpoint comes to the second one."""
    run = contextlib.ExitStack()
    room = mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def fill() -> None:
        if how == "fsdp" and parallel.rank() == parallel.size() - 1:  # its part alone does not fit
            run.enter_context(mock.patch.object(HuggingFaceStorageWriter, "write_data", room))
        if how == "ddp":
            run.enter_context(mock.patch.object(manager, "save_file", room))

    with run, at_step(3, fill):
        execute(scene.config("ar", f"full-{how}", parallel=how))


def read_only(scene: Scene) -> None:
    """The folder of runs is on a file system that cannot be written."""
    refused = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with mock.patch.object(Path, "mkdir", mock.Mock(side_effect=refused)):
        execute(scene.config("full", "read-only"))


def flipped(scene: Scene) -> dict[str, str]:
    """The newest checkpoint has one wrong bit in the part of the second process."""
    config = scene.config("ar", "flipped-two", parallel="fsdp")

    def flip() -> None:
        shutil.copytree(scene.place.root / "fsdp" / "ar", config.folder)
        flip_bit(
            config.folder / f"step-{scene.steps:06d}" / "training" / "shard-00002-model-00001-of-00001.safetensors"
        )

    parallel.on_first(flip)
    return train(config, resume=True)


def flip_bit(path: Path) -> None:
    """Damage a file."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def evaluate(scene: Scene, out: str) -> None:
    """Every kind of suite that shares its examples."""
    root = scene.place.root
    words = ["eval", root / "one" / "ar", root / "one" / "full", "--text", root / "long.jsonl"]
    words += ["--suites", "likelihood", "calibration", "infilling", "quality", "--judge", root / "one" / "ar"]
    words += ["--out", root / out, "--batch-size", "2", "--draws", "2", "--spans", "2", "--max-new-tokens", "8"]
    words += ["--prompt-tokens", "4", "--device", "cpu"]
    assert run_cli(words) == 0


Task = Callable[[Scene], Any]


def tasks(scene: Scene) -> dict[str, Task]:
    """What a group of processes does, in this order; the last one ends one of them."""
    found: dict[str, Task] = {}
    for how in HOW:
        for name in scene.names:
            found[f"{name} {how}"] = lambda s, n=name, h=how: train(s.config(n, h, parallel=h))
    for how in HOW if "ar" in scene.names else ():
        found[f"one to {how}"] = lambda s, h=how: train(s.config("ar", f"one-{h}", parallel=h), resume=True)
    if "ar" in scene.names:
        found["fsdp to ddp"] = lambda s: train(s.config("ar", "fsdp-ddp", parallel="ddp"), resume=True)
    if not scene.faults:
        return found
    found["exists"] = lambda s: train(s.config("full", "ddp"))
    found["uneven"] = lambda s: train(s.config("full", "uneven", batch_size=parallel.size() + 1))
    found["not a number"] = lambda s: train(s.config("full", "nan", learning_rate=1e30, clip_norm=0.0))
    found["stopped"] = stopped
    found["written"] = changed_while_written
    for how in HOW:
        found[f"no room {how}"] = lambda s, h=how: without_room(s, h)
    found["read-only"] = read_only
    found["flipped"] = flipped
    found["evaluated"] = lambda s: evaluate(s, "evaluated-shared")
    found["died"] = died
    return found


def member(rank: int, size: int, port: int, scene: Scene) -> None:
    """One process of a group: does all tasks, and leaves what came of each in a file."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size))
    results = scene.place.root / "results"
    out = (results / f"out-{rank}.txt").open("w", encoding="utf-8")
    os.dup2(out.fileno(), 1)
    torch.set_num_threads(1)
    with unmeasured(), contextlib.suppress(Exception), parallel.joined("cpu"):
        for name, task in tasks(scene).items():
            if name == "fsdp to ddp":
                parallel.on_first(lambda: scene.cut("ar", "fsdp", "fsdp-ddp"))
            try:
                result: Any = {"done": task(scene)}
            except Exception as error:
                with contextlib.suppress(Exception):
                    error = _as_told(error)
                result = {"error": type(error).__name__, "text": str(error)}
            (results / f"{name}-{rank}.json").write_text(json.dumps(result), encoding="utf-8")


def _as_told(error: Exception) -> Exception:
    """What a run says of a lost process: `execute` leaves that to whoever joined the group."""
    try:
        with parallel.lost_explained():
            raise error
    except Exception as told:
        return told


def in_one(scene: Scene) -> dict[str, dict[str, str]]:
    """The same runs in this process, the checkpoints that the group resumes, and what every row was."""
    with unmeasured():
        seen = {name: train(scene.config(name, "one")) for name in scene.names}
    for how in HOW if "ar" in scene.names else ():
        scene.cut("ar", "one", f"one-{how}")
    if scene.faults:
        evaluate(scene, "evaluated-alone")
    (scene.place.root / "results").mkdir(exist_ok=True)
    return seen


def start(scene: Scene, size: int) -> None:
    """Have a group do its tasks; returns when all of its processes have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = [Forked(lambda rank=rank: member(rank, size, port, scene)) for rank in range(size)]
    for rank, process in enumerate(group):
        (scene.place.root / "results" / f"err-{rank}.txt").write_bytes(process.finish().stderr)


def together(size: int, work: Callable[[], object]) -> None:
    """A group of processes does one thing. Raises AssertionError with what they said if one of them fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def one(rank: int) -> None:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size))
        torch.set_num_threads(1)
        with unmeasured(), parallel.joined("cpu"):
            work()

    for done in [process.finish() for process in [Forked(lambda r=rank: one(r)) for rank in range(size)]]:
        assert done.returncode == 0, done.stderr


def by_others(scene: Scene, many: int, few: int) -> dict[str, float]:
    """What many processes saved is resumed by few, and the reverse: by how much figures differ from those of one."""
    found = {}
    for how in HOW:
        few_saved, by_few, by_many = f"{few}-{how}", f"{how}-{many}-to-{few}", f"{how}-{few}-to-{many}"
        together(few, lambda h=how, runs=few_saved: execute(scene.config("ar", runs, parallel=h)))
        for size, runs, into in ((few, how, by_few), (many, few_saved, by_many)):
            scene.cut("ar", runs, into)
            config = scene.config("ar", into, parallel=how)
            together(size, lambda c=config: execute(c, resume=True))
            found[f"resumed {into}"] = furthest(scene.place.root / "one" / "ar", config.folder)
    return found


def resumed_alone(scene: Scene) -> None:
    """What several processes saved, resumed in this one."""
    with unmeasured():
        for how in HOW if "ar" in scene.names else ():
            execute(scene.cut("ar", how, f"{how}-one"), resume=True)


def differences(scene: Scene, names: Sequence[str] = FIGURES) -> dict[str, float]:
    """By how much figures of several processes differ from those of one, at most, by run."""
    root, found = scene.place.root, {}
    for name in scene.names:
        for how in HOW:
            found[f"{name} {how}"] = furthest(root / "one" / name, root / how / name, names=names)
    for name in ("one-ddp", "one-fsdp", "fsdp-ddp", "ddp-one", "fsdp-one") if "ar" in scene.names else ():
        found[f"resumed {name}"] = furthest(root / "one" / "ar", root / name / "ar", names=names)
    return found


def rows_alike(scene: Scene, seen: Mapping[str, Mapping[str, str]], processes: int) -> tuple[int, int]:
    """How many rows had the text and the noise of one process, of how many."""
    alike = every = 0
    for name in scene.names:
        for how in HOW:
            parts = [scene.place.root / "results" / f"{name} {how}-{rank}.json" for rank in range(processes)]
            together: dict[str, str] = {}
            for part in parts:
                together |= json.loads(part.read_text(encoding="utf-8"))["done"]
            alike += sum(together.get(key) == text for key, text in seen[name].items())
            every += len(seen[name])
    return alike, every


def furthest(one: Path, other: Path, *more: str, names: Sequence[str] = FIGURES) -> float:
    """The largest difference between the figures of two runs' metrics. Raises AssertionError if lines are missing."""
    lines = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for run in (one, other)
    ]
    largest = 0.0
    for a, b in zip(*lines, strict=True):
        assert a.keys() == b.keys()
        largest = max([largest, *(abs(a[k] - b[k]) for k in ("step", *names, *more) if k in a)])
    return largest


def main() -> int:
    """Compare, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--runs", nargs="+", choices=tuple(RUNS), default=list(RUNS), help="with those they start from")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {
        "processes": options.processes,
        "steps": options.steps,
        "largest difference": {},
        "of losses": {},
    }
    alike = [0, 0]
    with tempfile.TemporaryDirectory() as folder:
        whole = Scene.make(Path(folder), options.steps, 2 * options.processes, tuple(options.runs), faults=False)
        for name in options.runs:  # one after the other, written after each: ending early keeps what is done
            scene = replace(whole, names=(name,))
            seen = in_one(scene)
            start(scene, options.processes)
            resumed_alone(scene)
            figures["largest difference"] |= differences(scene)
            if name == "ar" and options.processes > 2:
                figures["largest difference"] |= by_others(scene, options.processes, 2)
            figures["of losses"] |= differences(scene, LOSSES)
            alike = [a + b for a, b in zip(alike, rows_alike(scene, seen, options.processes), strict=True)]
            figures["rows of equal text and noise, of"] = alike
            if options.out:
                options.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
