"""`nano-llada experiment NAME`: forwards to `python -m experiments NAME` of the repository."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from nano_llada.core.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Run the experiment; gives its exit status.

    Raises:
        UserError: outside the repository, which alone contains the experiments.
    """
    if str(Path.cwd()) not in sys.path:  # as `python -m` does
        sys.path.append(str(Path.cwd()))
    package = importlib.util.find_spec("experiments")
    if package is None or importlib.util.find_spec("experiments.__main__") is None:
        raise UserError(
            "the recorded experiments are not part of the installed package: in the root of the repository run "
            "`python -m experiments NAME`"
        )
    print("note: nano-llada experiment is the old form of `python -m experiments`", file=sys.stderr)
    status: int = importlib.import_module("experiments.__main__").main(arguments)
    return status
