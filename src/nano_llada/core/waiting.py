"""How threads wait for each other: chosen before torch is loaded, since OpenMP reads its settings only once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping

# OpenMP's own name for it, which libgomp (PyTorch's wheels for Linux), libiomp and libomp all read, then theirs
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def let_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Have threads that wait sleep instead of spin, unless the user has chosen or torch is loaded already.

    A spinning thread keeps its core from everybody else. On two cores and beside one other process, training ran at a
    third of the speed that it has with sleeping threads.
    """
    if "torch" not in sys.modules and not any(name in environment for name in SETTINGS):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"


def waiting(environment: Mapping[str, str]) -> str:
    """What the settings say, for a person."""
    chosen = {name: environment[name] for name in SETTINGS if name in environment}
    if not chosen:
        return "OpenMP's default, usually spin and then sleep (OMP_WAIT_POLICY=PASSIVE: sleep at once)"
    named = ", ".join(f"{name}={value}" for name, value in chosen.items())
    sleeps = chosen.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" or "0" in chosen.values()
    return f"{'sleep' if sleeps else 'as set'} ({named})"
