"""`nano-llada pretrain ar|diffusion|tri`."""

from __future__ import annotations

from collections.abc import Sequence

from nano_llada.cli.training import train


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    return train("pretrain", arguments)
