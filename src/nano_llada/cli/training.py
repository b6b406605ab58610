"""What `pretrain`, `sft`, `dpo` and `rl` share, which is everything but their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nano_llada.cli.options import choose_word, parse, take_flag
from nano_llada.config.model import FREE_FIELDS, ModelConfig
from nano_llada.config.run import RunConfig, default_run
from nano_llada.core.errors import UserError

ABOUT = {
    ("pretrain", "ar"): "Pretrain an autoregressive model on text.",
    ("pretrain", "diffusion"): "Pretrain a masked-diffusion model on text, best from an AR model with --init-from.",
    ("sft", "ar"): "Fine-tune an autoregressive model on conversations.",
    ("sft", "diffusion"): "Fine-tune a masked-diffusion model on conversations.",
    ("dpo", "ar"): "Align an autoregressive model with preferences: pairs of a better and a worse answer.",
    ("dpo", "diffusion"): "Align a masked-diffusion model with preferences, scoring answers by their likelihood bound.",
    ("rl", "ar"): "Reinforce an autoregressive model's own answers by verifiable rewards (GRPO).",
    ("rl", "diffusion"): "Reinforce a masked-diffusion model's own answers by verifiable rewards (EBPO).",
}


def refuse_shape_options(arguments: Sequence[str]) -> None:
    """No option is accepted and ignored: a shape that a checkpoint or tokenizer decides cannot be given besides.

    Raises:
        UserError: naming the option.
    """
    given = {argument.split("=")[0].replace("_", "-") for argument in arguments}
    fixed = {f"--{name.replace('_', '-')}" for name in vars(ModelConfig())}
    fixed -= {f"--{name.replace('_', '-')}" for name in FREE_FIELDS}
    if "--vocab-size" in given:
        raise UserError("--vocab-size: the vocabulary's size comes from the tokenizer")
    if "--init-from" in given and (both := sorted(given & fixed)):
        raise UserError(f"{', '.join(both)}: with --init-from the shape comes from the checkpoint; leave it out")


def shape_of(start: Path) -> ModelConfig:
    """The shape of the model in a checkpoint or run. Raises UserError if there is none, or it is broken."""
    from nano_llada.checkpoint.files import find_checkpoint, read_description

    return read_description(find_checkpoint(start)).config


def train(stage: str, arguments: Sequence[str]) -> int:
    """Parse, train, and give the exit status: 130 if the run was interrupted (it is saved)."""
    words = {track: about for (of, track), about in ABOUT.items() if of == stage}
    track, rest = choose_word(arguments, words, stage)
    rest, resume = take_flag(rest, "--resume")
    about = ABOUT[stage, track] + " --resume goes on with a run that was interrupted."
    about += " With --init-from the model's options not given are the checkpoint's."
    refuse_shape_options(rest)
    command, default = f"{stage} {track}", default_run(stage, track)
    config = parse(RunConfig, rest, command=command, about=about, default=default)
    if config.init_from is not None:  # read again on top of the checkpoint's shape, so that a default given is given
        default = replace(default, model=shape_of(config.init_from))
        config = parse(RunConfig, rest, command=command, about=about, default=default)
    if config.stage != stage or config.track != track:
        raise UserError(f"these options describe a run of `{config.stage} {config.track}`, not `{stage} {track}`")
    if stage != "pretrain" and config.init_from is None:
        kind = "pretrained" if stage == "sft" else "fine-tuned"
        raise UserError(f"{stage} starts from a {kind} model: give it with --init-from")
    from nano_llada.session.run import execute

    return 130 if execute(config, resume=resume).state == "interrupted" else 0
