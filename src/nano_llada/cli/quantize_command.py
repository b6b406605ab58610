"""`nano-llada quantize`: a checkpoint with its weights in eight bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nano_llada.cli.options import parse


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoint: Path
    """Checkpoint folder, or run folder (its best checkpoint), or the name of a bundled model."""
    out: Path
    """Folder to write; it must not exist yet."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="quantize",
        about="Store a model's matrices in eight bits, one scale per output channel. Every command reads the result.",
        leading="checkpoint",
    )
    from nano_llada.api import load
    from nano_llada.checkpoint.files import WEIGHTS

    model = load(options.checkpoint, "cpu")
    model.save(options.out, quantize="int8")
    before = sum(parameter.numel() * 4 for parameter in model.model.parameters())
    after = (options.out / WEIGHTS).stat().st_size
    print(f"{options.out}: {after / 1e6:.1f} MB, {after / before:.0%} of float32's {before / 1e6:.1f} MB")
    return 0
