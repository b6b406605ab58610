"""What a run takes, before it is started: the memory formula beside measured memory, and what `plan` says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import BlockSizeSchedule, Denoising
from nano_llada.config.processes import Processes
from nano_llada.config.run import RunConfig, default_run
from nano_llada.session.plan import GPUS, memory_parts, step_seconds_on
from tiny import run_cli

# trains a few steps in a process of its own and prints the memory that it came to need beyond PyTorch imported
MEASURE = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from nano_llada.config.record import from_plain
from nano_llada.config.run import RunConfig
from nano_llada.core.device import choose_machine, keep_freed_memory
import json
keep_freed_memory()
before = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
from nano_llada.session.plan import measured_rate  # with what training alone imports
config = from_plain(RunConfig, json.loads(sys.argv[1]))
assert measured_rate(config, config.model, choose_machine("cpu")) > 0
print(float(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 - before)
"""
SHAPE = ModelConfig(vocab_size=2048, hidden_size=256, num_layers=4, num_heads=8, max_length=256)


def config(objective: object = None, *, rows: int = 8, shape: ModelConfig = SHAPE, **changes: object) -> RunConfig:
    base = default_run("pretrain", "ar" if objective is None else "diffusion")
    train = replace(base.train, batch_size=rows, steps=100, device="cpu")
    made = replace(base, model=shape, data=replace(base.data, sequence_length=256), train=train, **changes)
    return made if objective is None else replace(made, objective=objective)


def measured(run: RunConfig) -> float:
    import json

    from nano_llada.config.record import to_plain

    words = [sys.executable, "-c", MEASURE, json.dumps(to_plain(run))]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("objective", [None, Denoising(blocks=BlockSizeSchedule(block_size=32))])
def test_the_memory_formula_is_within_15_percent_of_what_is_measured(objective):
    run = config(objective, rows=8 if objective is None else 4)  # of two streams
    expected, found = sum(memory_parts(run, SHAPE).values()), measured(run)
    assert 0.85 < expected / found < 1.15, (expected / 2**20, found / 2**20)


def test_fsdp_divides_what_ddp_repeats():
    ddp, fsdp = config(rows=64), config(rows=64, processes=Processes("fsdp"))
    one = memory_parts(ddp, SHAPE)
    repeated, divided = memory_parts(ddp, SHAPE, 8), memory_parts(fsdp, SHAPE, 8)
    for name in ("weights", "gradients", "optimizer state"):
        assert repeated[name] == one[name] == 8 * divided[name]
    assert repeated["activations"] == divided["activations"] == one["activations"] / 8
    assert one["weights"] == 4 * SHAPE.parameters
    assert "gathered weights" in divided
    assert "gathered weights" not in repeated


def test_more_gpus_compute_faster_and_talk_more():
    times = [step_seconds_on(config(rows=64), SHAPE, GPUS["h100"], n) for n in (1, 2, 8)]
    computing, talking = zip(*times, strict=True)
    assert computing[0] == pytest.approx(8 * computing[2])
    assert talking[0] == 0 < talking[1] < talking[2]


def test_the_command_measures_and_extrapolates(capsys):
    words = ["plan", "pretrain", "ar", "--hidden-size", "32", "--num-layers", "2", "--num-heads", "4", "--steps", "100"]
    words += ["--sequence-length", "64", "--device", "cpu", "--threads", "1"]
    assert run_cli([*words, "--gpus", "8", "--parallel", "fsdp"]) == 0
    said = capsys.readouterr().out
    for part in ("parameters; 32 x 64 tokens a step", "optimizer state", "measured here: ", "for 100 steps"):
        assert part in said
    assert "memory of each of 8 h100 (fsdp)" in said
    assert "by formula, not measured" in said


def test_a_model_that_will_not_fit_is_warned_of(capsys):
    words = ["plan", "pretrain", "ar", "--hidden-size", "16384", "--num-layers", "40", "--num-heads", "128"]
    assert run_cli([*words, "--gpus", "2", "--gpu", "4090", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "warning: this does not fit: " in said
    assert "a 4090 has 24 GB; --parallel fsdp divides the model" in said
    assert "measured here" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrain", "ar", "--gpu", "tpu"], "--gpu tpu is not one of h100, h200, a100, 4090"),
        (["pretrain", "ar", "--gpus", "many"], "--gpus many: expected a whole number from 1"),
        (["pretrain", "ar", "--hiden-size", "3"], "hiden-size"),
    ],
)
def test_wrong_words_are_refused(capsys, words, said):
    assert run_cli(["plan", *words]) == 2
    assert said in capsys.readouterr().err
