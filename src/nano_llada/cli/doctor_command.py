"""`nano-llada doctor`: what this machine will use, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nano_llada.cli.options import parse
from nano_llada.config.checks import Threads, check_numbers


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """CPU threads; default: PyTorch's choice."""

    def __post_init__(self) -> None:
        check_numbers(self)


def main(arguments: Sequence[str]) -> int:
    """Print the report; gives the exit status."""
    options = parse(Options, arguments, command="doctor", about="What this machine will use for a run, and why.")
    import torch

    from nano_llada.core import device as hardware

    hardware.use_threads(options.threads)
    machine = hardware.choose_machine(options.device)
    rows = [(name, str(value)) for name, value in hardware.environment().items() if value is not None]
    fp32 = hardware.matmul_rate(hardware.Machine(machine.device, torch.float32, machine.name))
    bf16 = hardware.matmul_rate(hardware.Machine(machine.device, torch.bfloat16, machine.name))
    rows += [
        ("device", f"{machine.device} ({machine.name})"),
        ("fp32 matrix products", f"{fp32 / 1e9:,.0f} GFLOP/s"),
        ("bf16 matrix products", f"{bf16 / 1e9:,.0f} GFLOP/s, {bf16 / fp32:.2g} times fp32"),
        ("precision", _precision(machine, bf16 / fp32)),
        ("attention", "scaled_dot_product_attention with a dense mask where rows are packed, none where they are not"),
        ("compile", "off unless --compile: worth it for long runs on a GPU; a C++ compiler is needed on a CPU"),
        ("freed memory", "kept between steps" if hardware.keep_freed_memory() else "returned to the system"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return 0


def _precision(machine: object, ratio: float) -> str:
    from nano_llada.core.device import Machine

    assert isinstance(machine, Machine)
    if machine.autocast:
        return "bf16 matrix products, fp32 weights, softmax and losses"
    if machine.device.type == "cpu" and ratio > 1.5:
        return "fp32; this processor has bf16 units, so --precision bf16 may be quicker on large models"
    return "fp32; bf16 is slower here" if ratio < 1 else "fp32"
