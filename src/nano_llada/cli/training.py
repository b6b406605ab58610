"""What `pretrain`, `sft`, `dpo` and `rl` share: everything but their defaults and what their help shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path

from nano_llada.cli.fields import flatten
from nano_llada.cli.options import choose_word, parse, take_flag, take_option
from nano_llada.config.model import FREE_FIELDS, ModelConfig
from nano_llada.config.objectives import ObjectiveConfig
from nano_llada.config.record import read_record
from nano_llada.config.run import RunConfig, default_run
from nano_llada.core.errors import UserError
from nano_llada.core.own import load_own

ABOUT = {
    ("pretrain", "ar"): "Pretrain an autoregressive model on text.",
    ("pretrain", "diffusion"): "Pretrain a masked diffusion model on text, best from the AR model of --init-from.",
    ("pretrain", "tri"): "Train one model for AR decoding, block diffusion and lossless self-speculation; it is "
    "best begun with an AR model (--init-from).",
    ("sft", "ar"): "Fine-tune an autoregressive model on conversations.",
    ("sft", "diffusion"): "Fine-tune a masked diffusion model on conversations.",
    ("sft", "tri"): "Fine-tune a tri-mode model (AR, block diffusion, self-speculation) on conversations.",
    ("dpo", "ar"): "Align an autoregressive model with preferences: pairs of a better and a worse answer (DPO).",
    ("dpo", "diffusion"): "Align a masked diffusion model with preferences; answers are scored by a likelihood bound.",
    ("rl", "ar"): "Train an autoregressive model on its own answers with verifiable rewards (GRPO).",
    ("rl", "diffusion"): "Train a masked diffusion model on its own answers with verifiable rewards (EBPO).",
}

_SHAPE = tuple(name for name in ModelConfig.__dataclass_fields__ if name not in FREE_FIELDS)

# the options that --help shows; at most 25 with --resume and the help's own
_RUN = "name runs init_from tokenizer"
_TRAIN = "steps epochs batch_size learning_rate optimizer seed save_every device threads"
SHOWN: Mapping[str, Mapping[str, str]] = {
    "pretrain": {
        "run": _RUN,
        "data": "validation sequence_length",
        "model": "hidden_size num_layers num_heads max_length",
        "training": _TRAIN,
        "objective": "block_size",
    },
    "sft": {
        "run": _RUN.replace(" tokenizer", ""),
        "data": "validation sequence_length turns eos_fill",
        "training": f"{_TRAIN} sample_prompts",
        "objective": "block_size confidence_weight",
    },
    "dpo": {
        "run": _RUN.replace("tokenizer", "reference"),
        "data": "validation sequence_length eos_fill",
        "training": _TRAIN,
        "objective": "beta draws block_size length_normalised",
    },
    "rl": {
        "run": _RUN.replace("tokenizer", "reference"),
        "data": "sequence_length",
        "training": _TRAIN.replace(" save_every", ""),
        "objective": "reward group_size max_new_tokens temperature threshold kl_weight block_size",
    },
}

# options that have no effect in a stage or a track: they are read, so that an error can say so, but not shown
_VALIDATION = "validation validation_share eval_every eval_rows patience min_delta keep_best merge_best"
_HIDDEN = {
    "pretrain": "reference turns eos_fill eos_after fill_multiple",
    "sft": f"reference text_field tokenizer {' '.join(_SHAPE)}",
    "dpo": f"text_field packing document_mask turns tokenizer {' '.join(_SHAPE)}",
    "rl": "text_field packing document_mask turns tokenizer eos_fill eos_after fill_multiple "
    f"{_VALIDATION} {' '.join(_SHAPE)}",
    "ar": "eos_fill eos_after fill_multiple shared_noise threshold edit_threshold",
    "diffusion": "",
    "tri": "loss_weight",
}

EXTRA = {
    "run": [
        ("--resume", "Continue an interrupted run with the same options (see also `nano-llada resume RUN`)."),
        ("--objective FILE.py:NAME", "Minimise an objective of your own; its fields become options."),
    ]
}


def refuse_shape_options(arguments: Sequence[str]) -> None:
    """Refuse options that would be ignored, because a checkpoint or the tokenizer decides their value.

    Raises:
        UserError: naming the option.
    """
    given = {argument.split("=")[0].replace("_", "-") for argument in arguments}
    fixed = {f"--{name.replace('_', '-')}" for name in _SHAPE}
    if "--vocab-size" in given:
        raise UserError("--vocab-size: the vocabulary's size comes from the tokenizer")
    if "--init-from" in given and (both := sorted(given & fixed)):
        raise UserError(f"{', '.join(both)}: with --init-from the shape comes from the checkpoint; leave it out")


def shape_of(start: Path) -> ModelConfig:
    """The shape of the model in a checkpoint or run. Raises UserError if there is none, or it is broken."""
    from nano_llada.checkpoint.files import find_checkpoint, read_description  # imports torch: not for --help

    return read_description(find_checkpoint(start)).config


def own_objective(name: str) -> ObjectiveConfig:
    """An objective of the user's own with the defaults of its fields, from FILE.py:NAME.

    Raises:
        UserError: if there is no such class, or a field has no default.
    """
    cls = load_own(name, ObjectiveConfig, what="--objective")
    if not is_dataclass(cls):
        raise UserError(f"--objective {name}: the class must be decorated with @dataclass(frozen=True)")
    try:
        return cls()
    except (TypeError, ValueError) as error:
        raise UserError(f"--objective {name}: {error}; every field of an objective needs a default") from error


def train(stage: str, arguments: Sequence[str]) -> int:
    """Parse, train, and give the exit status: 130 if the run was interrupted (it is saved)."""
    track, rest = choose_word(arguments, {track: about for (of, track), about in ABOUT.items() if of == stage}, stage)
    rest, resume = take_flag(rest, "--resume")
    config = run_config(stage, track, rest)
    if stage != "pretrain" and config.init_from is None:
        kind = "pretrained" if stage == "sft" else "fine-tuned"
        raise UserError(f"{stage} starts from a {kind} model: give it with --init-from")
    from nano_llada.session.run import execute  # imports torch: not for --help

    return 130 if execute(config, resume=resume).state == "interrupted" else 0


def run_config(stage: str, track: str, rest: Sequence[str]) -> RunConfig:
    """The run that options describe.

    Raises:
        UserError: for options that do not exist, contradict each other, or describe another kind of run.
    """
    rest, own = take_option(rest, "--objective")
    refuse_shape_options(rest)
    words, file = take_option(rest, "--config")
    start = default_run(stage, track)
    config = _config(stage, track, words, start, file, own)
    if config.init_from is not None:  # read again on top of the checkpoint's shape: a given default counts as given
        start = replace(start, model=shape_of(config.init_from))
        config = _config(stage, track, words, start, file, own)
    if config.kind != f"{stage} {track}":
        raise UserError(f"these options describe a run of `{config.kind}`, not `{stage} {track}`")
    return config


def _config(
    stage: str, track: str, words: Sequence[str], start: RunConfig, file: str | None, own: str | None
) -> RunConfig:
    try:
        below = _below(start, file, own)
    except UserError:
        if file is None or own is not None:
            raise
        return _parsed(stage, track, [*words, "--config", file], start)  # the file may need what the words say
    return _parsed(stage, track, words, below)


def _below(start: RunConfig, file: str | None, own: str | None) -> RunConfig:
    """The values that command-line options override: the config file's, on top of `start`'s."""
    try:
        if own is not None:
            start = replace(start, objective=own_objective(own))
        if file is not None:
            found = read_record(RunConfig, Path(file), base=start)
            start = (
                found
                if own is None or type(found.objective) is type(start.objective)
                else replace(found, objective=start.objective)
            )
    except ValueError as error:
        raise UserError(str(error)) from error
    return start


def _parsed(stage: str, track: str, words: Sequence[str], start: RunConfig) -> RunConfig:
    shown = dict(SHOWN[stage])
    if track == "tri":
        shown |= {"objective": "block_size predicts ar_weight", "data": shown["data"].replace("eos_fill", "eos_after")}
        shown |= {"model": "hidden_size num_layers"} if stage == "pretrain" else {}
    hidden = {"format", "vocab_size", *_HIDDEN[stage].split(), *_HIDDEN[track].split()}
    if ":" in start.objective.saved_name():  # of the user's own: all of its options are of interest
        names = [option.name for option in flatten(type(start.objective), start.objective)]
        shown["objective"], hidden = " ".join(names), hidden - set(names)
    return parse(
        RunConfig,
        words,
        command=f"{stage} {track}",
        about=ABOUT[stage, track],
        default=start,
        leading="data",
        shown=shown,
        hidden=hidden,
        extra=EXTRA,
        elsewhere=_elsewhere,
    )


def _elsewhere(name: str) -> str | None:
    """The command that has an option of this name, for one that was given to another."""
    for stage, track in ABOUT:
        if any(option.name == name for option in flatten(RunConfig, default_run(stage, track))):
            return f"{stage} {track}"
    return None
