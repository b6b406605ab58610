"""`nano-llada import`: a transformers folder, or a .pt file of the original or of minimind, becomes a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nano_llada.cli.options import parse
from nano_llada.config.card import ModelCard, Track
from nano_llada.core.errors import UserError

if TYPE_CHECKING:
    from nano_llada.data.tokenizer import Tokenizer
    from nano_llada.model.transformer import Transformer


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    source: Path
    """Local transformers folder of a Llama or Qwen3 model; or a .pt file of the original Nano-LLaDA or of
    minimind, of which only tensors are read: nothing in it is run."""
    out: Path
    """Checkpoint folder to write; AR and diffusion runs can start from it with --init-from."""
    tokenizer: Path | None = None
    """.pt: folder with the tokenizer.json that the model was trained with; default: the file's folder."""
    track: Track | None = None
    """.pt: ar or diffusion, where the file does not say."""
    stage: Literal["pretrain", "sft", "dpo"] | None = None
    """.pt: the last stage of its training, where the file does not say; after sft and dpo a model answers."""
    num_heads: int | None = None
    """.pt: attention heads, where the file does not say."""
    max_length: int | None = None
    """.pt: longest context; default: that of its training, at least 512."""
    rope_theta: float | None = None
    """.pt: base of the rotary embeddings, where the file does not say; default 1000000."""
    norm_eps: float | None = None
    """.pt: epsilon of the norms, where the file does not say; default 1e-5 (minimind 3: 1e-6)."""
    rope_scaling: bool | None = None
    """.pt of the original: trained with --inference-rope-scaling, where the file does not say."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="import",
        about="Turn a transformers folder, or a .pt file of the original or of minimind, into a checkpoint.",
        leading="source",
    )
    from nano_llada.checkpoint.files import model_weights, save_model, write_checkpoint

    if options.out.exists():
        raise UserError(f"{options.out} exists already; give the name of a new folder")
    model, tokenizer, card = _from_torch(options) if options.source.is_file() else _from_transformers(options)
    write_checkpoint(
        options.out, lambda folder: save_model(folder, model_weights(model), model.config, tokenizer, card)
    )
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.vocab.size} tokens, in {options.out}")
    return 0


def _from_transformers(options: Options) -> tuple[Transformer, Tokenizer, ModelCard]:
    from nano_llada.interop.transformers import import_model

    given = [name for name, value in vars(options).items() if value is not None and name not in ("source", "out")]
    if given:
        raise UserError(f"--{given[0].replace('_', '-')} is for .pt files; a transformers folder says it itself")
    return *import_model(options.source), ModelCard("ar", run=options.source.name, step=0)


def _from_torch(options: Options) -> tuple[Transformer, Tokenizer, ModelCard]:
    from nano_llada.data.tokenizer import Tokenizer
    from nano_llada.interop.torch_models import Hints, import_torch_model

    place = options.source.parent if options.tokenizer is None else options.tokenizer
    if place.is_dir() and not (place / "tokenizer.json").is_file():
        raise UserError(
            f"{options.source} holds no tokenizer, and there is no tokenizer.json in {place}: give the folder of the "
            "one that the model was trained with as --tokenizer"
        )
    hints = Hints(**{name: getattr(options, name) for name in Hints.__dataclass_fields__})
    imported = import_torch_model(options.source, Tokenizer.load(place), hints)
    for remark in imported.remarks:
        print(remark)
    return imported.model, imported.tokenizer, imported.card
