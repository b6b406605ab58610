"""What this machine will use for a run, and why: the lines of `nano-llada doctor`."""

from __future__ import annotations

import os

import torch

from nano_llada.core import device as hardware
from nano_llada.core.waiting import waiting


def findings(device: str, threads: int | None) -> list[tuple[str, str]]:
    """Name and value of everything worth knowing; measures matrix products for a second.

    Raises:
        UserError: if the device is not there.
    """
    hardware.use_threads(threads)
    machine = hardware.choose_machine(device)
    fp32, bf16 = (
        hardware.matmul_rate(hardware.Machine(machine.device, dtype, machine.name))
        for dtype in (torch.float32, torch.bfloat16)
    )
    return [
        *((name, str(value)) for name, value in hardware.environment().items() if value is not None),
        ("waiting threads", waiting(os.environ)),
        ("device", f"{machine.device} ({machine.name})"),
        ("fp32 matrix products", f"{fp32 / 1e9:,.0f} GFLOP/s"),
        ("bf16 matrix products", f"{bf16 / 1e9:,.0f} GFLOP/s, {bf16 / fp32:.2g} times fp32"),
        ("precision", _precision(machine, bf16 / fp32)),
        ("attention", "scaled_dot_product_attention with a dense mask where rows are packed, none where they are not"),
        ("compile", "off unless --compile: worth it for long runs on a GPU; a C++ compiler is needed on a CPU"),
        ("freed memory", "kept between steps" if hardware.keep_freed_memory() else "returned to the system"),
    ]


def _precision(machine: hardware.Machine, ratio: float) -> str:
    if machine.autocast:
        return "bf16 matrix products, fp32 weights, softmax and losses"
    if machine.device.type == "cpu" and ratio > 1.5:
        return "fp32; this processor has bf16 units, so --precision bf16 may be quicker on large models"
    return "fp32; bf16 is slower here" if ratio < 1 else "fp32"
