"""The model card that goes with an export: README.md with what a stranger must know before using the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.record import read_config
from nano_llada.core.errors import UserError
from nano_llada.core.text import escape_markdown

PAGE = "README.md"
KINDS: Mapping[str, str] = {
    "ar": "An autoregressive",
    "diffusion": "A masked diffusion",
    "both": "A tri-mode (left to right, in blocks, and left to right from drafts of its own)",
}
RECIPE = ("learning_rate", "batch_size", "steps", "epochs", "schedule", "optimizer", "weight_decay", "seed")


@dataclass(frozen=True)
class Reported:
    """A measured figure: its 95 % interval is over examples, nan where there is none."""

    what: str
    value: float
    low: float
    high: float
    items: int


def page(
    checkpoint: Checkpoint,
    usage: Sequence[str],
    figures: Sequence[Reported] = (),
    licence: str = "",
    *,
    library: str = "transformers",
) -> str:
    """The text of the model card. Everything that comes from files is escaped.

    Args:
        checkpoint: the model; what its run folder says of data and recipe is read.
        usage: lines of code that load the export, with the language of the code first.
        figures: measured figures.
        licence: of the weights, as the user states it.
        library: that loads it, by the name that hubs know it by.
    """
    run = _run(checkpoint)
    parts = [
        _front(checkpoint, licence, library),
        f"# {escape_markdown(checkpoint.card.run or checkpoint.folder.name)}",
        _summary(checkpoint),
        "\n".join([f"```{usage[0]}", *usage[1:], "```"]),
        f"## Data\n\n{_data(run)}",
        f"## Recipe\n\n{_recipe(checkpoint, run)}",
        f"## Figures\n\n{_figures(figures)}",
        f"## Licence\n\n{_licence(licence)}",
        f"## Limits\n\n{_limits(checkpoint)}",
    ]
    return "\n\n".join(parts) + "\n"


def _front(checkpoint: Checkpoint, licence: str, library: str) -> str:
    """The header that model hubs read. JSON is YAML, whatever a text contains."""
    kind = "text-generation" if checkpoint.card.autoregressive else "fill-mask"
    fields: dict[str, Any] = {"library_name": library, "pipeline_tag": kind}
    fields["tags"] = ["nano-llada", *(["diffusion"] if checkpoint.card.denoising else [])]
    if licence:
        fields["license"] = licence
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---"])


def _summary(checkpoint: Checkpoint) -> str:
    card, config, model = checkpoint.card, checkpoint.model.config, checkpoint.model
    kind = KINDS[card.track]
    blocks = f", denoising blocks of {card.block_size} tokens" if card.block_size else ""
    count = sum(parameter.numel() for parameter in model.parameters())
    answers = (
        "It answers chat messages (ChatML)." if card.answers else "It continues texts; it was not taught to answer."
    )
    return (
        f"{kind} language model{blocks}: {count:,} parameters, {config.num_layers} layers of width "
        f"{config.hidden_size}, {config.vocab_size:,} tokens, context of {config.max_length:,} tokens. {answers} "
        "Made with nano-llada."
    )


def _run(checkpoint: Checkpoint) -> Mapping[str, Any]:
    path = checkpoint.folder.parent / "config.json"
    if not path.is_file():
        return {}
    try:
        return read_config(path)
    except UserError:
        return {}  # a folder of somebody else's beside the checkpoint


def _data(run: Mapping[str, Any]) -> str:
    data: Mapping[str, Any] = run["data"] if isinstance(run.get("data"), dict) else {}
    names = data.get("data")
    if not isinstance(names, list) or not names:
        return "Not recorded with this checkpoint."
    shown = [name if str(name).startswith("hf:") else Path(str(name)).name for name in names]  # no paths of a machine
    listed = "\n".join(f"- {escape_markdown(name)}" for name in shown)
    return f"Trained last on (format {escape_markdown(data.get('format', 'text'))}):\n\n{listed}"


def _recipe(checkpoint: Checkpoint, run: Mapping[str, Any]) -> str:
    card, train = checkpoint.card, run.get("train")
    lines = [f"- last stage: {escape_markdown(card.stage)}"]
    lines += [f"- objective: {escape_markdown(card.objective)}"] if card.objective else []
    lines += [f"- optimizer steps: {card.step:,}"] if card.step else []
    lines += [f"- tokens seen in that run: {card.tokens:,}"] if card.tokens else []
    if isinstance(train, dict):
        lines += [
            f"- {escape_markdown(name)}: {escape_markdown(train[name])}"
            for name in RECIPE
            if train.get(name) is not None
        ]
    if card.merged_from:
        lines.append(f"- mean of {len(card.merged_from)} checkpoints")
    if run.get("init_from"):
        lines.append(f"- started from: {escape_markdown(Path(str(run['init_from'])).name)}")
    return "\n".join(lines)


def _figures(figures: Sequence[Reported]) -> str:
    if not figures:
        return "Not measured. `nano-llada eval` measures a model; `export --figures FOLDER` puts its figures here."
    rows = [f"| {escape_markdown(f.what)} | {f.value:.4g} | {_interval(f)} | {f.items:,} |" for f in figures]
    return "\n".join(["| figure | value | 95 % interval | examples |", "|---|---|---|---|", *rows])


def _interval(figure: Reported) -> str:
    known = figure.low == figure.low and figure.high == figure.high  # not nan
    return f"{figure.low:.4g} to {figure.high:.4g}" if known else "not known"


def _licence(licence: str) -> str:
    if licence:
        return f"{escape_markdown(licence)}. The licences of the training data apply besides."
    return "Not stated by whoever exported this model. The licences of the training data apply in any case."


def _limits(checkpoint: Checkpoint) -> str:
    card = checkpoint.card
    lines = [
        "A small model: it invents facts, and knows no more than its training texts. Do not rely on what it writes.",
        f"It has not seen texts longer than its training rows; more than {checkpoint.model.config.max_length:,} tokens "
        "cannot be read at all.",
        "No filter and no safety training.",
    ]
    if card.answer_length:
        lines.append(f"Answers were filled to {card.answer_length} tokens in training; longer ones are untried.")
    if card.edits:
        lines.append("In nano-llada it edits what it has written; the exported code only unmasks.")
    return "\n".join(f"- {line}" for line in lines)
