"""Real processes that are really killed, at any moment: they go on to the very weights of a run that was left alone."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from forked import Forked, needs_fork, start
from nano_llada.checkpoint import files, manager
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.cli.main import main
from tiny import Place, losses, make_place, read_lines, run_cli, tiny_arguments

pytestmark = needs_fork
STEPS, PATIENCE_SECONDS = 40, 90.0
OPTIONS = {
    "steps": STEPS,
    "batch_size": 16,
    "save_every": 4,
    "eval_every": 8,
    "keep_last": 1,
    "sample_prompts": ("Tom",),
}

MOMENTS = {  # what is called then, which argument is the path, and how the path's name begins
    "weights": (files, "save_file", 1, "model"),
    "state": (manager, "save_file", 1, "training"),
    "name": (os, "replace", 0, ".step-"),
    "best": (os, "replace", 0, ".best"),
    "prune": (shutil, "rmtree", 0, ".step-"),
}


def kill_at(moment: str, left: int) -> None:
    """Let this process kill itself at the n-th time that a checkpoint is at some moment of being written."""
    home, name, index, start = MOMENTS[moment]
    real = getattr(home, name)

    def call(*args, **kwargs):
        nonlocal left
        if not os.path.basename(args[index]).startswith(start):
            return real(*args, **kwargs)
        if name == "rmtree" and not (args[index].name.endswith(".removed") and args[index].is_dir()):
            return real(*args, **kwargs)
        left -= 1
        if left:
            return real(*args, **kwargs)
        if name == "save_file":
            real(*args, **kwargs)
            os.truncate(args[index], os.path.getsize(args[index]) // 2)
        if name == "rmtree":
            os.unlink(os.path.join(args[index], sorted(os.listdir(args[index]))[0]))
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(home, name, call)


@pytest.fixture
def place(tmp_path) -> Place:
    return make_place(tmp_path)


def step_reached(run: Path) -> int:
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    return sum('"loss"' in line and line.endswith("\n") for line in lines)


def signalled_at(words: Sequence[str], run: Path, step: int, number: int) -> tuple[int, str]:
    """Run a command, send it a signal once its metrics reach a step; gives exit status and output."""
    process, begin = start(words), time.monotonic()
    while process.poll() is None and time.monotonic() - begin < PATIENCE_SECONDS:
        if step_reached(run) >= step:
            process.send_signal(number)
            break
        time.sleep(0.002)
    done = process.finish()
    return done.returncode, (done.stdout + done.stderr).decode()


def killed_at(words: Sequence[str], moment: str, count: int) -> None:
    """Run a command that kills itself at a moment of writing a checkpoint."""

    def work() -> int:
        kill_at(moment, count)
        return main(words)

    done = Forked(work).finish()
    assert done.returncode == -signal.SIGKILL, (done.stdout + done.stderr).decode()


def same_files(left: Path, right: Path) -> bool:
    one, other = load_file(left), load_file(right)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def check_equal(killed: Path, whole: Path) -> None:
    """Weights, optimizer state, losses, and the list of files: nothing tells the two runs apart."""
    last = f"step-{STEPS:06d}"
    for name in ("model.safetensors", "training.safetensors"):
        assert same_files(killed / last / name, whole / last / name), name
    assert losses(killed) == losses(whole)
    measured = [[line.get("validation_loss") for line in read_lines(run / "metrics.jsonl")] for run in (killed, whole)]
    assert measured[0] == measured[1]
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
    assert (killed / "best.json").read_text() == (whole / "best.json").read_text()
    assert (killed / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()


def test_an_ar_run_killed_three_times_and_interrupted_once(place):
    words, run = tiny_arguments(place, "pretrain", "ar", name="killed", **OPTIONS), place.runs / "killed"
    assert run_cli(tiny_arguments(place, "pretrain", "ar", name="whole", **OPTIONS)) == 0
    status, output = signalled_at(words, run, random.Random().randint(5, 12), signal.SIGKILL)
    assert status == -signal.SIGKILL, output
    assert load_checkpoint(run, prefer="last").card.step >= 4
    killed_at([*words, "--resume"], "weights", 1)
    assert load_checkpoint(run, prefer="last").card.step >= 4
    killed_at([*words, "--resume"], "prune", 2)
    at = load_checkpoint(run, prefer="last").card.step
    status, output = signalled_at([*words, "--resume"], run, at + 2, signal.SIGINT)
    assert status == 130, output
    assert "saved; continue with `nano-llada resume" in " ".join(output.split())
    assert load_checkpoint(run, prefer="last").card.step >= at + 2
    assert run_cli([*words, "--resume"]) == 0
    check_equal(run, place.runs / "whole")


def test_a_diffusion_run_killed_four_times(place):
    options = OPTIONS | {"ema_decay": 0.9, "dropout": 0.1}
    words, run = tiny_arguments(place, "pretrain", "diffusion", name="killed", **options), place.runs / "killed"
    assert run_cli(tiny_arguments(place, "pretrain", "diffusion", name="whole", **options)) == 0
    killed_at(words, "state", 3)
    assert load_checkpoint(run, prefer="last").card.step == 8
    killed_at([*words, "--resume"], "name", 2)
    assert load_checkpoint(run, prefer="last").card.step == 12
    killed_at([*words, "--resume"], "best", 1)
    at = load_checkpoint(run, prefer="last").card.step
    assert at == 16
    status, output = signalled_at([*words, "--resume"], run, at + 3, signal.SIGKILL)
    assert status == -signal.SIGKILL, output
    assert run_cli([*words, "--resume"]) == 0
    check_equal(run, place.runs / "whole")


def test_a_run_killed_before_its_first_checkpoint_starts_over(place):
    options = OPTIONS | {"steps": 8, "save_every": 4, "eval_every": 0}
    words, run = tiny_arguments(place, "pretrain", "ar", name="killed", **options), place.runs / "killed"
    killed_at(words, "weights", 1)
    assert not list(run.glob("step-*"))
    assert run_cli([*words, "--resume"]) == 0
    assert [step for step, _ in losses(run)] == list(range(1, 9))
