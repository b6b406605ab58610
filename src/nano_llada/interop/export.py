"""Exports: a checkpoint becomes a new folder for another program, complete or not at all, with a model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nano_llada.checkpoint.files import Checkpoint, load_checkpoint, write_checkpoint
from nano_llada.core.errors import UserError
from nano_llada.core.files import write_text
from nano_llada.interop.adapters import fill_adapter, without_adapter
from nano_llada.interop.gguf_files import Kind, architecture, fill_gguf
from nano_llada.interop.page import PAGE, Reported, page
from nano_llada.interop.transformers import check_exportable, fill_folder


@dataclass(frozen=True)
class Exported:
    """What was written, in words."""

    loaded_by: str
    remarks: tuple[str, ...] = ()


def export_transformers(
    checkpoint: Path,
    out: Path,
    figures: Sequence[Reported] = (),
    licence: str = "",
    *,
    adapters: bool = True,
    causal: bool = False,
) -> Exported:
    """Write a checkpoint (or a run's best) as a new folder for `transformers`; see `transformers.fill_folder`.

    Adapters are merged; with `adapters=False` they are left out, which is the model that `export_adapter`'s belong to.
    With `causal=True` a tri-mode model is written as the AR model that it also is, without code of its own.

    Raises:
        UserError: for a shape that `transformers` refuses, or a folder that is there already.
    """
    found = _load(checkpoint, out) if adapters else without_adapter(_free(checkpoint, out))
    found = left_to_right(found) if causal else found
    check_exportable(found)
    diffusion = found.card.denoising
    loader = "AutoModel" if diffusion else "AutoModelForCausalLM"
    trusted = ", trust_remote_code=True" if diffusion else ""
    usage = [
        "python",
        f"from transformers import AutoTokenizer, {loader}",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trusted})',  # it looks at the model's config, too
        f'model = {loader}.from_pretrained("FOLDER"{trusted})',
        *_question(found),
    ]

    def fill(hidden: Path) -> None:
        fill_folder(found, hidden)
        write_text(hidden / PAGE, page(found, usage, figures, licence))

    write_checkpoint(out, fill)
    return Exported(f"transformers.{loader}.from_pretrained({str(out)!r}{trusted}) loads it")


def _question(checkpoint: Checkpoint) -> list[str]:
    if not checkpoint.card.answers:
        return [
            'prompt = tokenizer("<|endoftext|>Once upon a time", return_tensors="pt").input_ids',
            "print(tokenizer.decode(model.generate(prompt, max_new_tokens=64)[0]))",
        ]
    return [
        'chat = [{"role": "user", "content": "Hello"}]',
        "prompt = tokenizer.apply_chat_template(",
        '    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        'print(tokenizer.decode(model.generate(prompt["input_ids"], max_new_tokens=64)[0]))',
    ]


def export_gguf(
    checkpoint: Path, out: Path, kind: Kind = "f16", figures: Sequence[Reported] = (), licence: str = ""
) -> Exported:
    """Write a checkpoint (or a run's best) as a new folder with a GGUF file; see `gguf_files.fill_gguf`.

    Raises:
        UserError: for a model or a tokenizer that llama.cpp does not have, or a folder that is there already.
    """
    found, name, remarks = _load(checkpoint, out), f"model-{kind}.gguf", list[str]()
    if found.card.track == "both":  # llama.cpp has no such model, but its causal part is an AR model
        found = left_to_right(found)
        remarks.append("llama.cpp reads this tri-mode model left to right; it does not use what its masks predict")
    architecture(found)
    if found.card.autoregressive:
        usage = ["sh", f"llama-cli -m {name} --temp 0"]
    else:
        usage = [
            "sh",
            "# the canvas is -ub tokens long, the prompt included; --top-k 1 writes the likeliest tokens",
            f'llama-diffusion-cli -m {name} -p "Hello" -ub 128 --top-k 1 \\',
            "    --diffusion-steps 64 --diffusion-block-length 128",
        ]

    def fill(hidden: Path) -> None:
        remarks.extend(fill_gguf(found, hidden / name, kind))
        write_text(hidden / PAGE, page(found, usage, figures, licence))

    write_checkpoint(out, fill)
    program = "llama.cpp" if found.card.autoregressive else "llama.cpp's llama-diffusion-cli"
    return Exported(f"{program} loads {out / name}", tuple(remarks))


def export_adapter(
    checkpoint: Path, out: Path, base: str, figures: Sequence[Reported] = (), licence: str = ""
) -> Exported:
    """Write the adapters of a checkpoint (or a run's best) as a new folder for `peft`; see `adapters.fill_adapter`.

    Raises:
        UserError: for a checkpoint without adapters, or a folder that is there already.
    """
    _free(checkpoint, out)
    found = load_checkpoint(checkpoint)
    check_exportable(found)

    def fill(hidden: Path) -> None:
        fill_adapter(checkpoint, hidden, base)
        loader = "AutoModel" if found.card.denoising else "AutoModelForCausalLM"
        trusted = ", trust_remote_code=True" if found.card.denoising else ""
        usage = [
            "python",
            "from peft import PeftModel",
            f"from transformers import {loader}",
            "",
            f'base = {loader}.from_pretrained("BASE"{trusted})',
            'model = PeftModel.from_pretrained(base, "FOLDER")',
        ]
        write_text(hidden / PAGE, page(found, usage, figures, licence, library="peft"))

    write_checkpoint(out, fill)
    return Exported(
        f"peft.PeftModel.from_pretrained(base, {str(out)!r}) loads it; the base is what "
        f"`nano-llada export {checkpoint} --out BASE --no-adapters` writes"
    )


def left_to_right(checkpoint: Checkpoint) -> Checkpoint:
    """A tri-mode model as the AR model that it also is. Raises UserError for one that does not read left to right."""
    if not checkpoint.card.autoregressive:
        raise UserError(
            f"{checkpoint.folder} is a model of track {checkpoint.card.track}: it does not read left to right"
        )
    card = replace(checkpoint.card, track="ar", block_size=None, predicts="self", decode=None, drafts=None)
    return replace(checkpoint, card=card)


def _free(checkpoint: Path, out: Path) -> Path:
    if out.exists():
        raise UserError(f"{out} exists already; give the name of a new folder")
    return checkpoint


def _load(checkpoint: Path, out: Path) -> Checkpoint:
    return load_checkpoint(_free(checkpoint, out))
