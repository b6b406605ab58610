"""What `pretrain` and `sft` share, which is everything but their defaults."""

from __future__ import annotations

from collections.abc import Sequence

from nano_llada.cli.options import choose_word, parse, take_flag
from nano_llada.config import RunConfig, default_run
from nano_llada.core.errors import UserError
from nano_llada.model.config import FREE_FIELDS, ModelConfig

ABOUT = {
    ("pretrain", "ar"): "Pretrain an autoregressive model on text.",
    ("pretrain", "diffusion"): "Pretrain a masked-diffusion model on text, best from an AR model with --init-from.",
    ("sft", "ar"): "Fine-tune an autoregressive model on conversations.",
    ("sft", "diffusion"): "Fine-tune a masked-diffusion model on conversations.",
}


def refuse_shape_options(arguments: Sequence[str]) -> None:
    """No option is accepted and ignored: a shape that a checkpoint or tokenizer decides cannot be given besides.

    Raises:
        UserError: naming the option.
    """
    given = {argument.split("=")[0] for argument in arguments}
    fixed = {f"--{name.replace('_', '-')}" for name in vars(ModelConfig())}
    fixed -= {f"--{name.replace('_', '-')}" for name in FREE_FIELDS}
    if "--vocab-size" in given:
        raise UserError("--vocab-size: the vocabulary's size comes from the tokenizer")
    if "--init-from" in given and (both := sorted(given & fixed)):
        raise UserError(f"{', '.join(both)}: with --init-from the shape comes from the checkpoint; leave it out")


def train(stage: str, arguments: Sequence[str]) -> int:
    """Parse, train, and give the exit status: 130 if the run was interrupted (it is saved)."""
    words = {track: about for (of, track), about in ABOUT.items() if of == stage}
    track, rest = choose_word(arguments, words, stage)
    rest, resume = take_flag(rest, "--resume")
    about = ABOUT[stage, track] + " --resume goes on with a run that was interrupted."
    refuse_shape_options(rest)
    config = parse(RunConfig, rest, command=f"{stage} {track}", about=about, default=default_run(stage, track))
    if config.stage != stage or config.track != track:
        raise UserError(f"the config file describes a run of `{config.stage} {config.track}`, not `{stage} {track}`")
    if stage == "sft" and config.init_from is None:
        raise UserError("sft starts from a pretrained model: give it with --init-from")
    from nano_llada.run import execute

    return 130 if execute(config, resume=resume) == "interrupted" else 0
