"""`nano-llada import`: a model of another program becomes a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nano_llada.cli.options import parse
from nano_llada.config.card import Track
from nano_llada.core.errors import UserError

if TYPE_CHECKING:
    from nano_llada.interop.imported import ImportedModel

FOR_PT = ("track", "num_heads", "max_length", "rope_theta", "norm_eps", "rope_scaling")


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    source: Path
    """Transformers folder of a Llama, Mistral, Qwen2, Qwen3, LLaDA (dense) or SDAR model, or its name on a hub, such as
    HuggingFaceTB/SmolLM2-135M; a .gguf file; a folder with adapters (LoRA) of the peft library, which are merged; or a
    .pt file of the original Nano-LLaDA or of minimind, of which only tensors are read: nothing in it is run."""
    out: Path
    """Checkpoint folder to write; AR and diffusion runs can start from it with --init-from."""
    tokenizer: Path | None = None
    """.pt and .gguf: folder with the tokenizer.json that the model was trained with; default: the .pt file's folder,
    the tokenizer in the .gguf file."""
    stage: Literal["pretrain", "sft", "dpo", "rl"] | None = None
    """The last stage of its training, where the file does not say; after sft, dpo and rl a model answers."""
    base: Path | None = None
    """peft: the model that the adapters change, a transformers folder, a .gguf file, a run or a checkpoint; default:
    the folder that they name."""
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """Where a name is looked up."""
    track: Track | None = None
    """.pt: ar or diffusion, where the file does not say."""
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
        about="Turn a model of another program into a checkpoint.",
        leading="source",
    )
    from nano_llada.checkpoint.files import model_weights, save_model, write_checkpoint

    if options.out.exists():
        raise UserError(f"{options.out} exists already; give the name of a new folder")
    imported = _import(options)
    for remark in imported.remarks:
        print(remark)
    model, tokenizer = imported.model, imported.tokenizer
    write_checkpoint(
        options.out, lambda folder: save_model(folder, model_weights(model), model.config, tokenizer, imported.card)
    )
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.vocab.size} tokens, in {options.out}")
    return 0


def _import(options: Options) -> ImportedModel:
    from nano_llada.interop.adapters import base_of, is_adapter, merge_adapter

    if is_adapter(options.source):
        _refuse([name for name in (*FOR_PT, "tokenizer") if getattr(options, name) is not None], "folder of adapters")
        base = options.base or base_of(options.source)
        return merge_adapter(options.source, _base(replace(options, source=base, base=None)), options.stage)
    if options.base is not None:
        raise UserError(f"--base is for folders with adapters of peft; {options.source} holds no adapter_config.json")
    return _import_model(options)


def _base(options: Options) -> ImportedModel:
    """A model that adapters change: one of ours, or of another program."""
    from nano_llada.checkpoint.files import load_checkpoint, step_folders
    from nano_llada.interop.imported import ImportedModel

    folder = options.source
    if (folder / "model.json").is_file() or step_folders(folder):
        found = load_checkpoint(folder)
        return ImportedModel(found.model, found.tokenizer, found.card, ())
    return _import_model(replace(options, stage=None))


def _import_model(options: Options) -> ImportedModel:
    if options.source.is_file() and options.source.suffix != ".gguf":
        return _from_torch(options)
    given = [name for name in FOR_PT if getattr(options, name) is not None]
    if options.source.is_file():
        from nano_llada.interop.gguf_files import import_gguf

        _refuse(given, ".gguf file")
        return import_gguf(options.source, options.tokenizer, options.stage)
    from nano_llada.interop.hub import fetch, is_name
    from nano_llada.interop.transformers import import_model

    _refuse([*given, *(["tokenizer"] if options.tokenizer is not None else [])], "transformers folder")
    if options.source.exists() or not is_name(str(options.source)):
        return import_model(options.source, options.stage)
    try:
        folder = fetch(str(options.source), options.hub)
    except UserError as error:
        raise UserError(f"there is no file or folder {options.source} here, and no such model: {error}") from error
    return import_model(folder, options.stage)


def _refuse(given: Sequence[str], what: str) -> None:
    if given:
        raise UserError(f"--{given[0].replace('_', '-')} is for .pt files; a {what} says it itself")


def _from_torch(options: Options) -> ImportedModel:
    from nano_llada.data.tokenizer import Tokenizer
    from nano_llada.interop.torch_models import Hints, import_torch_model

    place = options.source.parent if options.tokenizer is None else options.tokenizer
    if place.is_dir() and not (place / "tokenizer.json").is_file():
        raise UserError(
            f"{options.source} holds no tokenizer, and there is no tokenizer.json in {place}: give the folder of the "
            "one that the model was trained with as --tokenizer"
        )
    if options.stage == "rl":
        raise UserError("--stage rl: neither the original nor minimind's files are of this stage here; use sft")
    hints = Hints(**{name: getattr(options, name) for name in Hints.__dataclass_fields__})
    return import_torch_model(options.source, Tokenizer.load(place), hints)
