"""`nano-llada export`: an AR checkpoint becomes a transformers folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nano_llada.cli.options import parse


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoint: Path
    """Run folder or checkpoint folder of an AR model."""
    out: Path
    """Folder to write; it must not exist yet."""


def read(arguments: Sequence[str]) -> Options:
    """The options of a command line."""
    about = "Turn an AR checkpoint into a transformers folder."
    return parse(Options, arguments, command="export", about=about, leading="checkpoint")


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = read(arguments)
    from nano_llada.interop.transformers import export_model

    export_model(options.checkpoint, options.out)
    print(f"written to {options.out}: transformers.AutoModelForCausalLM.from_pretrained loads it")
    return 0
