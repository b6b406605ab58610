"""`nano-llada export`: a checkpoint becomes a folder for transformers or llama.cpp, with a model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nano_llada.cli.options import parse
from nano_llada.core.errors import UserError

if TYPE_CHECKING:
    from nano_llada.interop.page import Reported


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoint: Path
    """Run folder or checkpoint folder."""
    out: Path
    """Folder to write; it must not exist yet."""
    to: Literal["transformers", "gguf", "peft"] = "transformers"
    """transformers: AR models as Llama, Qwen2 or Qwen3, diffusion and tri-mode models with their own code, for which
    from_pretrained needs trust_remote_code=True. gguf: for llama.cpp; not for models that were trained in blocks alone.
    peft: the adapters alone, of a run with --lora-rank; everywhere else they are merged."""
    type: Literal["f32", "f16", "q8_0"] = "f16"
    """How gguf stores matrices."""
    adapters: bool = True
    """transformers: merge the adapters; off: leave them out, which gives the base of what --to peft writes."""
    causal: bool = False
    """transformers: write a tri-mode model as the AR model that it also is, which needs no code of its own. gguf
    always does."""
    base: str = ""
    """peft: name or folder of the exported base, written into adapter_config.json."""
    figures: Path | None = None
    """Folder of an evaluation (nano-llada eval --out) whose figures the model card shows."""
    licence: str = ""
    """Licence of the weights, for the model card; e.g. apache-2.0."""


def read(arguments: Sequence[str]) -> Options:
    """The options of a command line."""
    about = "Turn a checkpoint into a folder for transformers or llama.cpp."
    return parse(Options, arguments, command="export", about=about, leading="checkpoint")


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = read(arguments)
    from nano_llada.interop.export import export_adapter, export_gguf, export_transformers

    figures = [] if options.figures is None else _figures(options.figures)
    if options.to == "gguf":
        exported = export_gguf(options.checkpoint, options.out, options.type, figures, options.licence)
    elif options.to == "peft":
        exported = export_adapter(options.checkpoint, options.out, options.base, figures, options.licence)
    else:
        exported = export_transformers(
            options.checkpoint,
            options.out,
            figures,
            options.licence,
            adapters=options.adapters,
            causal=options.causal,
        )
    for remark in exported.remarks:
        print(remark)
    print(f"written to {options.out}: {exported.loaded_by}")
    return 0


def _figures(folder: Path) -> list[Reported]:
    """The figures of an evaluation: all tasks of a suite together where they can be pooled, else each of them."""
    from nano_llada.evaluation.figures import ALL, figures
    from nano_llada.evaluation.record import read_records
    from nano_llada.evaluation.suites import metrics_of
    from nano_llada.interop.page import Reported

    found = figures(read_records(folder), metrics_of)
    pooled = {(figure.model, figure.decoder, figure.suite, figure.metric) for figure in found if figure.task == ALL}
    chosen = []
    for figure in found:
        if figure.task != ALL and (figure.model, figure.decoder, figure.suite, figure.metric) in pooled:
            continue
        what = f"{figure.suite}, {figure.task}, {figure.metric}, {figure.language} ({figure.model} {figure.decoder})"
        chosen.append(Reported(what, figure.value, figure.low, figure.high, figure.items))
    if not chosen:
        raise UserError(f"{folder} holds no figures: give the folder of `nano-llada eval --out FOLDER`")
    return chosen
