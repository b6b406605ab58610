"""`nano-llada resume RUN`: continue an interrupted run, or train a finished one for more steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from nano_llada.cli.options import parse
from nano_llada.config.checks import Count, CountOrZero, Positive, Rows, Threads, check_numbers
from nano_llada.config.data import DataConfig
from nano_llada.config.processes import Processes
from nano_llada.config.record import read_record
from nano_llada.config.run import RunConfig
from nano_llada.config.train import TrainConfig
from nano_llada.core.errors import UserError


@dataclass(frozen=True)
class Options:
    """Options of the command: those that do not change what a step learns. What is not given stays as it was."""

    run: Path
    """Run folder, RUNS/NAME."""
    steps: Count | None = None
    """Train up to this many steps in total; more than before, also for a finished run."""
    epochs: Positive | None = None
    """Train up to this many passes over the data in total; more than before."""
    micro_batch_size: Rows | None = None
    """Rows computed at once."""
    device: str | None = None
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """Number of CPU threads."""
    compile: bool | None = None
    """Compile the model with torch.compile."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass, to save memory."""
    save_every: CountOrZero | None = None
    """Steps between checkpoints; 0: only at the end."""
    keep_last: Count | None = None
    """Newest checkpoints to keep."""
    keep_best: CountOrZero | None = None
    """Checkpoints of lowest validation loss to keep as well."""
    log_every: Count | None = None
    """Steps between lines of metrics.jsonl."""
    sample_every: CountOrZero | None = None
    """Steps between samples; 0: only at the end."""
    sample_prompts: tuple[str, ...] | None = None
    """Prompts to continue (chat: answer) during training and at its end."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] | None = None
    """Where to send metrics, in addition to metrics.jsonl."""
    cache: Path | None = None
    """Folder for tokenised data."""
    parallel: Literal["ddp", "fsdp"] | None = None
    """How several processes divide the work; their number may have changed, too."""

    def __post_init__(self) -> None:
        check_numbers(self)


ABOUT = (
    "Continue an interrupted run from its last checkpoint, with the options in its config.json. With more --steps or "
    "--epochs a finished run goes further; the learning-rate schedule then spans the new length, so the rate may rise "
    "again."
)


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status: 130 if the run was interrupted again."""
    options = parse(Options, arguments, command="resume", about=ABOUT, leading="run")
    config = resumed(options)
    from nano_llada.session.outcome import read_outcome
    from nano_llada.session.run import execute  # imports torch: not for --help

    outcome, longer = read_outcome(config.folder), options.steps is not None or options.epochs is not None
    if outcome is not None and outcome.complete and not longer:
        print(f"{config.name}: already complete, in {config.folder}; train it further with --steps or --epochs")
        return 0
    return 130 if execute(config, resume=True).state == "interrupted" else 0


def resumed(options: Options) -> RunConfig:
    """The saved options of a run with the given ones in them.

    Raises:
        UserError: if the folder is not that of a run, or the options contradict each other.
    """
    folder = options.run.resolve()
    if not (folder / "config.json").is_file():
        above = (
            f"; did you mean the run folder {options.run.parent}?" if (folder.parent / "config.json").is_file() else ""
        )
        raise UserError(f"nothing to resume: {options.run} has no config.json{above}")
    saved = read_record(RunConfig, folder / "config.json")
    if saved.name != folder.name:
        raise UserError(
            f"{options.run} contains the run {saved.name!r}: a run folder that was moved keeps its name; rename it to "
            f"{folder.with_name(saved.name)}"
        )
    given = {field.name: getattr(options, field.name) for field in fields(options) if field.name != "run"}
    given = {name: value for name, value in given.items() if value is not None}
    if saved.train.steps is not None and "epochs" in given:
        raise UserError(f"the length of this run was given by --steps {saved.train.steps}: raise --steps, not --epochs")
    try:
        config = replace(
            saved,
            train=replace(saved.train, **_of(TrainConfig, given)),
            data=replace(saved.data, **_of(DataConfig, given)),
            processes=Processes(given["parallel"]) if "parallel" in given else saved.processes,
        )
        runs = options.run.parent if options.run.name == saved.name else folder.parent
        return replace(config, runs=runs, **_of(RunConfig, given))
    except ValueError as error:
        raise UserError(str(error)) from error


def _of(cls: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in cls.__dataclass_fields__}
