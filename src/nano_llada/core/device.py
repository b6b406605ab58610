"""What this machine has, and what a run will use of it."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from nano_llada.core.errors import UserError, text_of

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Machine:
    """The choice made for a run."""

    device: torch.device
    dtype: torch.dtype  # of matrix products; weights are always float32
    name: str

    @property
    def autocast(self) -> bool:
        """Whether matrix products run in another precision than the weights."""
        return self.dtype != torch.float32


def use_threads(count: int | None) -> None:
    """Compute on this many CPU threads; None: PyTorch's choice."""
    if count is not None:
        torch.set_num_threads(count)


def choose_machine(device: str = "auto", precision: Precision = "auto") -> Machine:
    """The device and precision of a run.

    `auto` takes CUDA, else the CPU: Apple's MPS lacks the float64 that noise and likelihoods are computed in. bfloat16
    on CUDA only, since processors without bfloat16 units multiply it 50 to 100 times slower than float32.

    Raises:
        UserError: if the device is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(text_of(device, "device"))
        torch.zeros(1, device=chosen).tolist()  # `meta` holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    bf16 = precision == "bf16" or (precision == "auto" and chosen.type == "cuda")
    return Machine(chosen, torch.bfloat16 if bf16 else torch.float32, _device_name(chosen))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next step rather than return it to the system and fault it in again.

    Measured on two cores: 18 % off a training step of a 2.5M-parameter model. True if it could be done.
    """
    if platform.system() != "Linux":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX: no allocation is mapped by itself
        return bool(libc.mallopt(trim_threshold, 2**31 - 1)) and bool(libc.mallopt(mmap_max, 0))
    except OSError:
        return False


def matmul_rate(machine: Machine, seconds: float = 0.3) -> float:
    """Measured floating-point operations per second of a large matrix product: the limit that MFU refers to."""
    size = 8192 if machine.device.type == "cuda" else 1024
    left = torch.ones(size, size, device=machine.device, dtype=machine.dtype)
    best, spent = 0.0, 0.0
    torch.mm(left, left)
    while spent < seconds:
        synchronize(machine.device)
        begin = time.perf_counter()
        torch.mm(left, left)
        synchronize(machine.device)
        took = time.perf_counter() - begin
        best, spent = max(best, 2 * size**3 / took), spent + took
    return best


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> float:
    """Most memory used so far, in bytes: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    if platform.system() == "Windows":
        return float("nan")
    try:
        # unlike ru_maxrss this starts anew in a new program, however large the one was that started it
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return float(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        pass
    import resource

    scale = 1 if platform.system() == "Darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale)


def environment() -> dict[str, object]:
    """What someone would need to know to repeat a run."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "system": f"{platform.system()} {platform.machine()}",
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
