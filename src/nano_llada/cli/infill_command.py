"""`nano-llada infill`: fill gaps in a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nano_llada.cli.default_model import DEFAULT, one_text
from nano_llada.cli.options import WRITING, parse
from nano_llada.config.checks import Threads, Tokens, check_numbers
from nano_llada.config.decoding import DecodingOptions, decoding_for
from nano_llada.core.errors import UserError


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoint: Path = DEFAULT
    """Run folder or checkpoint folder of a diffusion model (one with blocks must be pretrained with suffix_share);
    default: the model that comes with the package."""
    text: str = ""
    """The text, with ___ at each gap; any number of gaps."""
    length: tuple[Tokens, ...] = (4,)
    """Tokens in each gap, left to right; one number applies to all gaps."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """CPU threads; default: PyTorch's choice."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    """How to write."""

    def __post_init__(self) -> None:
        check_numbers(self)


SHOWN = {
    "options": "length device threads",
    **{heading: names.replace("max_new_tokens ", "") for heading, names in WRITING.items()},
}


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="infill",
        about="Fill ___ gaps in a text with a diffusion model.",
        leading=("checkpoint", "text"),
        shown=SHOWN,
        hidden=("max_new_tokens", "min_new_tokens"),
    )
    missing = 'no text: give one with ___ at each gap, such as "Tom ___ a cat."'
    model, text = one_text(options.checkpoint, options.text, missing)
    for name in ("max_new_tokens", "min_new_tokens"):
        if getattr(options.decoding, name) is not None:
            raise UserError(f"{name} has no effect here: --length is the length of a gap")
    from nano_llada.core.device import choose_machine, use_threads
    from nano_llada.language_model import LanguageModel

    use_threads(options.threads)
    writer = LanguageModel.load(model, choose_machine(options.device).device)
    print(writer.fill(text, decoding_for(writer.checkpoint.card, options.decoding), options.length))
    return 0
