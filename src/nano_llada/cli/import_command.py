"""`nano-llada import`: a transformers folder becomes a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nano_llada.cli.options import parse
from nano_llada.config.card import ModelCard
from nano_llada.core.errors import UserError


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    source: Path
    """Local transformers folder of a Llama or Qwen3 model."""
    out: Path
    """Checkpoint folder to write; both AR and diffusion runs can start from it with --init-from."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="import",
        about="Turn a local transformers folder into a checkpoint.",
        leading="source",
    )
    from nano_llada.checkpoint.files import model_weights, save_model, write_checkpoint
    from nano_llada.interop.transformers import import_model

    if options.out.exists():
        raise UserError(f"{options.out} exists already; give the name of a new folder")
    model, tokenizer = import_model(options.source)
    card = ModelCard("ar", run=options.source.name, step=0)
    write_checkpoint(
        options.out, lambda folder: save_model(folder, model_weights(model), model.config, tokenizer, card)
    )
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.vocab.size} tokens, in {options.out}")
    return 0
