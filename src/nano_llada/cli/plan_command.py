"""`nano-llada plan STAGE TRACK`: memory, speed and time of a run before it is started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nano_llada.cli.options import choose_word, take_option
from nano_llada.cli.training import ABOUT, run_config
from nano_llada.core.errors import UserError
from nano_llada.core.progress import duration

if TYPE_CHECKING:
    from nano_llada.config.model import ModelConfig
    from nano_llada.config.run import RunConfig

STAGES = ("pretrain", "sft", "dpo")
HELP = """usage: nano-llada plan STAGE TRACK [options of the run]

Memory by part, tokens a second on this machine (measured in seconds on random text) and the time of a run with these
options; with --gpus the same for that many GPUs by a formula (docs/scaling.md). No data is needed. STAGE is pretrain,
sft or dpo, TRACK ar or diffusion; `nano-llada pretrain ar --help-all` lists the options of a run.

options:
  --gpus N     Also plan for so many GPUs, by formula and not measured.
  --gpu NAME   Which GPUs: h100, h200, a100 or 4090 (default: h100).

help:
  -h, --help   Show this help.
"""


def main(arguments: Sequence[str]) -> int:
    """Print the plan; gives the exit status."""
    if not arguments or arguments[0] in ("-h", "--help", "--help-all"):
        print(HELP, end="")
        return 0 if arguments else 2
    stage, rest = choose_word(arguments, {name: f"a run of `{name}`" for name in STAGES}, "plan")
    rest, gpus = take_option(rest, "--gpus")
    rest, gpu = take_option(rest, "--gpu")
    track, words = choose_word(rest, {track: about for (of, track), about in ABOUT.items() if of == stage}, stage)
    config = run_config(stage, track, words)
    from dataclasses import replace

    from nano_llada.core import device as hardware
    from nano_llada.session.plan import GPUS, available_memory, measured_rate, memory_parts
    from nano_llada.session.run import choose_tokenizer

    size = _count(gpus)
    if (name := gpu or "h100") not in GPUS:
        raise UserError(f"--gpu {name} is not one of {', '.join(GPUS)}")
    shape = config.model
    if config.init_from is None:
        shape = replace(shape, vocab_size=choose_tokenizer(config, None).vocab.size)
    hardware.use_threads(config.train.threads)
    hardware.keep_freed_memory()
    machine = hardware.choose_machine(config.train.device, config.train.precision)
    print(f"{shape.parameters:,} parameters; {config.train.batch_size} x {config.data.sequence_length} tokens a step")
    needed = memory_parts(config, shape, gpu=machine.device.type == "cuda")
    _print_parts(f"memory on {machine.name}", needed)
    there = available_memory(machine)
    if sum(needed.values()) > there:
        print(f"warning: this does not fit: {there / 2**30:.1f} GiB are free; {ADVICE}")
    else:
        rate = measured_rate(config, shape, machine)
        print(f"\nmeasured here: {rate:,.0f} tokens/s{_time(config, rate)}")
    if size:
        _print_gpus(config, shape, name, size)
    return 0


ADVICE = "a smaller --micro-batch-size, --gradient-checkpointing, or a smaller model takes less"


def _count(given: str | None) -> int:
    try:
        size = int(given or 0)
    except ValueError:
        size = -1
    if size < 0 or size > 2**20:
        raise UserError(f"--gpus {given}: expected a whole number from 1")
    return size


def _print_parts(title: str, parts: dict[str, float]) -> None:
    print(f"\n{title}: {sum(parts.values()) / 2**30:.2f} GiB in all, by formula")
    for name, size in parts.items():
        print(f"  {name:<24} {size / 2**20:>12,.1f} MiB")


def _time(config: RunConfig, rate: float) -> str:
    if config.train.steps is None:
        return "; give --steps for the time of the run"
    tokens = config.train.steps * config.train.batch_size * config.data.sequence_length
    return f", {duration(tokens / rate)} for {config.train.steps:,} steps"


def _print_gpus(config: RunConfig, shape: ModelConfig, name: str, size: int) -> None:
    from nano_llada.session.plan import GPUS, SHARE, memory_parts, step_seconds_on

    gpu = GPUS[name]
    parts = memory_parts(config, shape, size, gpu=True)
    _print_parts(f"memory of each of {size} {name} ({config.processes.parallel})", parts)
    if sum(parts.values()) > gpu.memory:
        print(f"warning: this does not fit: a {name} has {gpu.memory / 1e9:.0f} GB; --parallel fsdp divides the model")
    computing, talking = step_seconds_on(config, shape, gpu, size)
    rate = config.train.batch_size * config.data.sequence_length / max(computing, talking)
    print(
        f"\nby formula, not measured: {computing * 1000:,.1f} ms of computing a step at {SHARE:.0%} of peak, "
        f"{talking * 1000:,.1f} ms of communication beside it; {rate:,.0f} tokens/s{_time(config, rate)}"
    )
