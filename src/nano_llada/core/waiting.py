"""How threads wait for each other: chosen before torch is loaded, since OpenMP reads its settings only once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping

# OpenMP's own name for it, which libgomp (PyTorch's wheels for Linux), libiomp and libomp all read, then theirs
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


# of libgomp: about a thousand turns of a loop, then sleep. The first alone would sleep at once.
CHOICE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def let_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Have threads that wait sleep after a moment, not spin on, unless the user has chosen or torch is loaded already.

    A spinning thread keeps its core from everybody else: on two cores and beside one other process, training ran at
    two thirds of the speed that it has like this. Sleeping at once costs a quarter of the speed of a small model on a
    quiet machine, the moment a seventh (docs/experiments/speed).
    """
    if "torch" not in sys.modules and not any(name in environment for name in SETTINGS):
        environment.update(CHOICE)


def waiting(environment: Mapping[str, str]) -> str:
    """What the settings say, for a person."""
    chosen = {name: environment[name] for name in SETTINGS if name in environment}
    if not chosen:
        return "OpenMP's default, usually spin for long and then sleep"
    named = ", ".join(f"{name}={value}" for name, value in chosen.items())
    if chosen == CHOICE:
        return f"spin for a moment, then sleep ({named})"
    sleeps = chosen.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" or "0" in chosen.values()
    return f"{'sleep' if sleeps and len(chosen) == 1 else 'as set'} ({named})"
