"""`nano-llada infill`: write what is missing in the middle of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nano_llada.cli.options import parse
from nano_llada.config.decoding import DecodingOptions, decoding_for
from nano_llada.core.errors import UserError


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoint: Path
    """Run folder or checkpoint folder of a diffusion model."""
    text: str
    """The text, with ___ where something is missing; any number of gaps."""
    length: tuple[int, ...] = (4,)
    """Tokens in each gap, left to right; one number for all."""
    device: str = "auto"
    """cpu, cuda, mps, or auto."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="infill",
        about="Fill ___ gaps in a text with a diffusion model.",
        leading="checkpoint",
    )
    if any(length < 1 for length in options.length):
        raise UserError(f"a gap needs at least 1 token, got {min(options.length)}")
    for name in ("max_new_tokens", "min_new_tokens"):
        if getattr(options.decoding, name) is not None:
            raise UserError(f"{name} has no effect here: --length says how long a gap is")
    from nano_llada.core.device import choose_machine
    from nano_llada.language_model import LanguageModel

    writer = LanguageModel.load(options.checkpoint, choose_machine(options.device).device)
    print(writer.fill(options.text, decoding_for(writer.checkpoint.card, options.decoding), options.length))
    return 0
