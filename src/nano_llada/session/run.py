"""From a RunConfig to a trained model: the one place where rooms are put together for training."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nano_llada.checkpoint.checksums import file_hash, read_json
from nano_llada.checkpoint.distributed import read_shards
from nano_llada.checkpoint.files import PROGRESS, Checkpoint, load_checkpoint, step_folders, weights_file
from nano_llada.checkpoint.manager import SavedTraining, read_saved
from nano_llada.config.adapter import Adapter
from nano_llada.config.model import FREE_FIELDS, ModelConfig
from nano_llada.config.outcome import Outcome
from nano_llada.config.processes import Processes
from nano_llada.config.record import read_record, to_plain
from nano_llada.config.run import RunConfig
from nano_llada.core import device as hardware
from nano_llada.core.errors import UserError
from nano_llada.core.files import reason_of, sweep, write_json
from nano_llada.core.random import generator
from nano_llada.data.tokenizer import BUNDLED_TOKENIZER, Tokenizer
from nano_llada.model.lora import add_adapters, frozen_weights
from nano_llada.model.transformer import Transformer
from nano_llada.objectives import make_objective
from nano_llada.session.data import as_it_began, load_batches, with_first_rules
from nano_llada.session.failure import explained
from nano_llada.session.inputs import check_inputs
from nano_llada.session.lock import RunLock
from nano_llada.session.observer import RunObserver
from nano_llada.session.outcome import read_outcome
from nano_llada.session.plan import warning
from nano_llada.training import parallel
from nano_llada.training.trainer import StepBatches, Trainer

# options that a resumed run may change: they change what a step learns by no more than rounding and dropout's noise
_FREE = (
    "threads device compile gradient_checkpointing micro_batch_size "
    "log_every sample_every tracker save_every keep_last keep_best"
)
LENGTH = ("train.steps", "train.epochs")  # may be raised
MAY_CHANGE = frozenset(
    (
        "runs",
        "sample_prompts",
        "data.cache",
        *(f"processes.{name}" for name in Processes.__dataclass_fields__),
        *(f"train.{name}" for name in _FREE.split()),
    )
)


def execute(config: RunConfig, *, resume: bool = False) -> Outcome:
    """Train as the config says, into its run folder; gives how the run ended.

    Raises:
        UserError: for anything a user can correct: data, folders, shapes, a run that exists already or is being
            trained by another process, a full disk. What was saved before stays as it is.
    """
    with parallel.joined(config.train.device):
        # a process that torchrun starts again after another one died continues the run
        resume = resume or (parallel.restarted() and (config.folder / "config.json").is_file())
        return _execute(config, resume=resume)


def _execute(config: RunConfig, *, resume: bool) -> Outcome:
    started = time.monotonic()
    _check_division(config)
    config = as_it_began(config) if resume else config
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    hardware.keep_freed_memory()
    machine = hardware.choose_machine(config.train.device, config.train.precision)
    start = load_checkpoint(config.init_from) if config.init_from else None
    tokenizer = choose_tokenizer(config, start)
    new = parallel.on_first(lambda: make_folder(config, resume=resume))
    with locked(config.folder) as lock, explained_writing(config):
        with removed_if_it_fails(config.folder, bool(new)):
            notes = parallel.on_first(lambda: _prepare(config, tokenizer, start, resume=resume)) or []
            trainer, observer = assemble(config, machine, tokenizer, start, resume=resume, lock=lock)
            notes += warning(config, observer.model.config, machine, parallel.size())
        with contextlib.closing(observer.batches):
            _train(config, trainer, observer, tokenizer, [*notes, *observer.checkpoints.notes], started)
    outcome = parallel.agreed(lambda: read_outcome(config.folder))
    assert outcome is not None  # the observer wrote it
    return outcome


def _check_division(config: RunConfig) -> None:
    """Raises UserError for a batch that the processes cannot share evenly, and for adapters of a divided model."""
    if parallel.size() > 1 and config.train.lora_rank and config.processes.parallel == "fsdp":
        raise UserError("adapters are small and are not divided: train --lora-rank with --parallel ddp")
    unit = 2 if config.data.format == "preference" else 1
    rows, several = config.train.batch_size, parallel.size()
    if rows % (several * unit):
        what = "pairs of answers" if unit == 2 else "rows"
        raise UserError(
            f"a batch_size of {rows} gives {several} processes no equal number of {what}: make it a multiple of "
            f"{several * unit}, for instance {-(-rows // (several * unit)) * several * unit}"
        )


def _prepare(config: RunConfig, tokenizer: Tokenizer, start: Checkpoint | None, *, resume: bool) -> list[str]:
    notes = prepare_folder(config, resume=resume)
    return notes + check_inputs(config, tokenizer, start, resume=resume)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[RunLock | None]:
    """No other run trains into the folder while the block runs; the first of several processes holds the lock.

    Raises:
        UserError: if another run does.
    """
    lock = parallel.on_first(lambda: RunLock.acquire(folder))
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()


@contextlib.contextmanager
def explained_writing(config: RunConfig) -> Iterator[None]:
    """Whatever file the system refuses inside: a UserError with its name, and what the run can be resumed from."""
    try:
        yield
    except BrokenPipeError:  # of the terminal's pipe, not of a file
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        saved: list[Path] = []
        with contextlib.suppress(UserError):
            saved = step_folders(config.folder)
        after = (
            f"{saved[-1].name} is saved: continue with `nano-llada resume {config.folder}`"
            if saved
            else "nothing was saved yet"
        )
        raise UserError(f"{config.name} stopped: {where}{reason_of(error)}; {after}") from error


def _train(
    config: RunConfig,
    trainer: Trainer,
    observer: RunObserver,
    tokenizer: Tokenizer,
    notes: Sequence[str],
    started: float,
) -> None:
    machine = observer.machine
    with observer.watching():
        observer.log.say(
            f"{config.name}: {config.kind}, {count_parameters(trainer.model):,} parameters"
            f"{_trained_share(trainer.model)}, "
            f"{trainer.total_steps} steps of {config.train.batch_size} x {config.data.sequence_length} tokens on "
            f"{machine.name} ({str(machine.dtype).removeprefix('torch.')}), ready after "
            f"{time.monotonic() - started:.1f} s"
        )
        for note in notes:
            observer.log.say(note)
        with explained(config, trainer, tokenizer):
            ending = trainer.run()
        observer.finish(ending)


def finished(config: RunConfig) -> bool:
    """Whether a run is complete: finished or stopped early, not only interrupted.

    Raises:
        UserError: if the folder holds a run with another config, or one whose checkpoints were deleted.
    """
    outcome = read_outcome(config.folder) or outcome_of_0_1(config)
    if outcome is None or not outcome.complete:
        return False
    changes = check_same_config(
        config.folder / "config.json", to_plain(as_it_began(config))
    )  # never another run's results
    if longer := [change for change in changes if change.startswith(LENGTH)]:
        raise UserError(
            f"{config.folder} is complete, and the same run must learn the same: {'; '.join(longer)}; train it "
            f"further with `nano-llada resume {config.folder}`"
        )
    saved = [int(folder.name.removeprefix("step-")) for folder in step_folders(config.folder)]
    if not saved and not (config.folder / "merged").is_dir():
        raise UserError(
            f"{config.folder} says it is {outcome.state} at step {outcome.step}, but its checkpoints are gone; "
            "delete the folder to train it again"
        )
    return not saved or saved[-1] >= outcome.step  # else the last one was deleted: resuming makes it again


def outcome_of_0_1(config: RunConfig) -> Outcome | None:
    """How a run of version 0.1.0, which wrote no outcome.json, stands, by its newest checkpoint; None without one."""
    folders = step_folders(config.folder)
    if not folders or not (folders[-1] / PROGRESS).is_file():
        return None
    place = folders[-1] / PROGRESS
    plain = read_json(place, "step", "total_steps", "without_improvement")
    try:
        step, total, waited = (int(plain[name]) for name in ("step", "total_steps", "without_improvement"))
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{place} is broken: {error}") from error
    if 0 < config.train.patience <= waited and step < total:
        return Outcome("stopped early", step, total)
    return Outcome("finished" if step >= total else "interrupted", step, total)


def complete(configs: Sequence[RunConfig]) -> bool:
    """Make the runs that are not complete, in order, and resume one that was interrupted; False if interrupted.

    Raises:
        UserError: as `execute` does, or for a complete run of another config.
    """
    with parallel.joined(configs[0].train.device if configs else "auto"):
        return all(_complete(config, f"run {i} of {len(configs)}: ") for i, config in enumerate(configs, 1))


def _complete(config: RunConfig, counted: str) -> bool:
    if not counted.endswith("of 1: "):
        print(f"{counted}{config.name}", flush=True)
    if parallel.agreed(lambda: finished(config)):
        parallel.on_first(lambda: RunLock.clear(config.folder))
        print(f"{config.name}: already complete, in {config.folder}")
        return True
    resume = parallel.agreed(lambda: (config.folder / "config.json").is_file())
    return execute(config, resume=resume).state != "interrupted"


def assemble(
    config: RunConfig,
    machine: hardware.Machine,
    tokenizer: Tokenizer,
    start: Checkpoint | None,
    *,
    resume: bool,
    lock: RunLock | None = None,
) -> tuple[Trainer, RunObserver]:
    """Model, data, objective and trainer put together, and, of a resumed run, set to where it stopped."""
    model = build_model(config, tokenizer, start)
    adapter = adapter_of(config, start)
    if adapter is not None:
        add_adapters(model, adapter, generator(config.train.seed, "adapters"))
    model.to(machine.device)
    objective = make_objective(config.objective)
    # the first process tokenises, the others find it done
    batches, validation = parallel.first_before_others(
        lambda: load_batches(config, objective, model, tokenizer, lambda: observer.usable_model())
    )
    if config.train.merge_best and validation is None:
        raise UserError("merge_best goes by the validation loss, and there is no validation data: give --validation")
    steps = config.train.steps or math.ceil(config.train.epochs * batches.rows_per_epoch / config.train.batch_size)
    observer = RunObserver(config, tokenizer, model, steps, machine, lock)
    observer.batches = batches
    observer.turns = _learns_turns(config, batches, tokenizer, start)
    observer.infills = start is not None and start.card.infills and start.card.track == config.track
    saved = _resumed(config, observer, model) if resume else None
    trainer = observer.trainer = Trainer(
        config.train,
        model,
        tokenizer.vocab,
        objective,
        batches,
        machine,
        total_steps=steps,
        validation=[] if validation is None else list(validation.once(config.train.eval_rows)),
        observer=observer,
        reference=load_reference(config, machine, model if adapter is not None else None),
        processes=config.processes,
    )
    observer.adapter = adapter
    if saved is not None:
        try:
            observer.continue_window(saved.plain)
            trainer.restore(_filler(saved, trainer), saved.plain)
            if (position := saved.plain.get("data")) is not None:
                batches.continue_from(position)
        except (LookupError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise UserError(f"{config.folder}: the training state cannot be used: {error}") from error
    if config.train.compile:
        model.compile_blocks()
    model.gradient_checkpointing = config.train.gradient_checkpointing
    return trainer, observer


def _resumed(config: RunConfig, observer: RunObserver, model: Transformer) -> SavedTraining | None:
    """The weights of the newest checkpoint into the model; None for a run killed before its first, which starts over.

    The first process chooses, and puts damaged ones aside.
    """
    if not parallel.agreed(lambda: bool(step_folders(config.folder))):
        return None
    saved = parallel.on_first(lambda: observer.checkpoints.resume(model))
    name = parallel.agreed(lambda: "" if saved is None else saved.folder.name)
    return saved or read_saved(config.folder / name, model)[0]


def _filler(saved: SavedTraining, trainer: Trainer) -> Callable[[Mapping[str, torch.Tensor]], None]:
    """Fills the tensors of a trainer's state with saved ones, however many processes saved them."""
    if (shards := saved.shards) is not None:
        return lambda targets: read_shards(shards, targets)
    return lambda targets: trainer.layout.load(targets, saved.tensors)


def _learns_turns(config: RunConfig, batches: StepBatches, tokenizer: Tokenizer, start: Checkpoint | None) -> bool:
    """Whether the conversations of a run have several turns, by those of its first steps; after SFT as before."""
    if config.stage != "sft" or config.objective.draws_answers:
        return start is None or start.card.turns
    for batch in map(batches.batch, range(4)):
        mark = (batch.tokens == tokenizer.vocab.turn_start) & (batch.doc_ids >= 0)
        documents = (batch.doc_ids + batch.rows[:, None] * batch.doc_ids.shape[1])[mark]
        # with a system message one question and its answer make three turns
        if documents.numel() and int(documents.unique(return_counts=True)[1].max()) >= 4:
            return True
    return False


def load_reference(
    config: RunConfig, machine: hardware.Machine, adapted: Transformer | None = None
) -> Transformer | None:
    """The frozen model that DPO, or RL that stays near it, compares with: the one it starts from, or another.

    Where adapters are trained, the one it starts from is what is below them, and takes no memory.

    Raises:
        UserError: if there is none, or it reads other tokens.
    """
    source = config.reference or config.init_from
    if not config.objective.needs_reference:
        if config.reference is not None:
            raise UserError("a reference model is for dpo, and for rl with a kl_weight; leave --reference out")
        return None
    if source is None or config.init_from is None:
        raise UserError(f"{config.stage} starts from a fine-tuned model: give it with --init-from")
    if adapted is not None and source == config.init_from:
        below = Transformer(adapted.config)
        take_weights(below, frozen_weights(adapted))
        return below.to(machine.device).eval().requires_grad_(False)
    found = load_checkpoint(source)
    if found.tokenizer.hash != load_checkpoint(config.init_from).tokenizer.hash:
        raise UserError(f"the reference {source} has another tokenizer than {config.init_from}")
    return found.model.to(machine.device).eval().requires_grad_(False)


def count_parameters(model: torch.nn.Module) -> int:
    """Numbers of a model; tied ones count once."""
    return sum(p.numel() for p in model.parameters())


def _trained_share(model: torch.nn.Module) -> str:
    """How many numbers are trained, where some are frozen."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return "" if trained == count_parameters(model) else f", of which {trained:,} are trained"


def choose_tokenizer(config: RunConfig, start: Checkpoint | None) -> Tokenizer:
    """The start checkpoint's, the config's, or the bundled one. Raises UserError if two of them differ."""
    given = Tokenizer.load(config.tokenizer) if config.tokenizer else None
    if start is None:
        return given or Tokenizer.load(BUNDLED_TOKENIZER)
    if given is not None and given.hash != start.tokenizer.hash:
        raise UserError(
            f"the tokenizer in {config.tokenizer} (hash {given.hash}) is not the one {config.init_from} was trained "
            f"with ({start.tokenizer.hash}); leave --tokenizer out to use the checkpoint's"
        )
    return start.tokenizer


@contextlib.contextmanager
def removed_if_it_fails(folder: Path, new: bool) -> Iterator[None]:
    """A run folder that was made for this start is removed again where the start fails before any training."""
    try:
        yield
    except UserError:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def make_folder(config: RunConfig, *, resume: bool) -> bool:
    """Make the run folder, before it is locked; gives whether it is new.

    Raises:
        UserError: if it cannot be made, or there is nothing to resume.
    """
    saved, new = config.folder / "config.json", not config.folder.exists()
    try:
        if resume and not saved.is_file():
            raise UserError(f"nothing to resume: {saved.parent} has no config.json")
        config.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the run folder {config.folder}: {reason_of(error)}") from error
    return new


def prepare_folder(config: RunConfig, *, resume: bool) -> list[str]:
    """Write the config, and delete what a killed process left; of a resumed run give what changed in the config."""
    make_folder(config, resume=resume)
    folder, plain, notes = config.folder, to_plain(config), []
    saved = folder / "config.json"
    try:
        if resume:
            if changes := check_same_config(saved, plain):
                notes = [f"resumed with other settings: {'; '.join(changes)}"]
        elif step_folders(folder):
            raise UserError(
                f"the run {folder} exists; continue it with `nano-llada resume {folder}`, or choose another --name"
            )
        else:
            write_json(folder / "environment.json", hardware.environment())
        write_json(saved, plain)
        sweep(folder)
    except OSError as error:
        raise UserError(f"cannot write the run folder {folder}: {reason_of(error)}") from error
    return notes


def check_same_config(saved: Path, plain: Mapping[str, Any]) -> list[str]:
    """What differs from a saved config, in words.

    Options in `MAY_CHANGE` may differ, and the length of the run may grow: the learning-rate schedule and the schedule
    of block sizes then span the new length.

    Raises:
        UserError: for a difference that changes what is learnt, or a shorter run.
    """
    if not saved.is_file():
        raise UserError(f"nothing to resume: {saved.parent} has no config.json")
    # read and written again, so that an option which is newer than the run has its default
    before = to_plain(read_record(RunConfig, saved, change=with_first_rules))
    changed = dict(_differences(before, plain))
    outcome = read_outcome(saved.parent)
    may_change = MAY_CHANGE | (set(LENGTH) if _grows(before["train"], plain["train"], outcome) else set())
    if refused := [text for where, text in changed.items() if where not in may_change]:
        hint = ""
        if changed.keys() & set(LENGTH) - may_change:
            hint = "; the length of a run can only be raised: to stop now, use its newest checkpoint as it is"
        raise UserError(
            f"cannot resume {saved.parent} with other settings than those it was started with: {'; '.join(refused)}"
            f"{hint or '; use another --name to start a new run'}"
        )
    if changed.keys() & set(LENGTH) and outcome is not None and outcome.state == "stopped early":
        raise UserError(
            f"{saved.parent} stopped early at step {outcome.step}, since its validation loss no longer improved: more "
            "steps would not continue it; start a new run from it with --init-from"
        )
    return [*changed.values(), *(_rescheduled(plain["train"]) if changed.keys() & set(LENGTH) else ())]


def _rescheduled(train: Mapping[str, Any]) -> Iterator[str]:
    """What a longer run means for its learning rate."""
    if train["schedule"] == "wsd":
        yield f"the learning rate stays at its peak until the last {train['decay_share']:.0%} of the new length"
    elif train["schedule"] == "cosine":
        yield "the learning rate follows the cosine of the new length"


def _grows(before: Mapping[str, Any], now: Mapping[str, Any], outcome: Outcome | None) -> bool:
    """Whether the options of a run's length ask for more of it: more steps, or more epochs where they count."""
    if now["steps"] is None:
        return before["steps"] is None and bool(now["epochs"] > before["epochs"])
    if before["steps"] is None:
        return outcome is not None and bool(now["steps"] > outcome.total_steps)  # that many the epochs were
    return bool(now["steps"] > before["steps"])


def _differences(before: Any, now: Any, where: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(set(before) | set(now)):
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif before != now:
        yield where, f"{where} was {before}, is {now}"


def adapter_of(config: RunConfig, start: Checkpoint | None) -> Adapter | None:
    """The low-rank adapter that a run trains, with where its base is; None where it trains all weights.

    Raises:
        UserError: if there is no model to adapt.
    """
    if not config.train.lora_rank:
        return None
    if start is None:
        raise UserError("LoRA adapts a model that exists: give it with --init-from, or leave --lora-rank out")
    inside = config.folder / "step"  # where checkpoints are
    return config.train.adapter(os.path.relpath(start.folder, inside), file_hash(weights_file(start.folder)))


def build_model(config: RunConfig, tokenizer: Tokenizer, start: Checkpoint | None) -> Transformer:
    """Fresh weights from the seed, or the start checkpoint's, which are taken over: it has no others afterwards."""
    if start is None:
        shape = replace(config.model, vocab_size=tokenizer.vocab.size)
        model = Transformer(shape).initialise(generator(config.train.seed, "weights"))
    else:
        model = Transformer(_continued_shape(config, start.model.config))
        take_weights(model, start.model.state_dict())
        if config.card(0, 0).denoising and not start.card.denoising:
            start_mask_embedding(model, tokenizer)
        _check_reading(config, start)
    if config.data.sequence_length > model.config.max_length:
        raise UserError(
            f"sequence_length {config.data.sequence_length} is longer than the model's max_length "
            f"{model.config.max_length}"
        )
    return model


def take_weights(model: Transformer, weights: Mapping[str, Tensor]) -> None:
    """Give a model these tensors, (F, K) and (D,), themselves, not copies: a second set of weights is not needed."""
    model.load_state_dict(weights, assign=True)
    if model.config.tie_embeddings:
        model.head.weight = model.embed.weight


def _continued_shape(config: RunConfig, saved: ModelConfig) -> ModelConfig:
    """The checkpoint's shape and the config's free fields; if the config's shape is all default, those it changed."""
    asked, default = vars(config.model), vars(ModelConfig())
    free = {name: asked[name] for name in FREE_FIELDS}
    fixed = {name: value for name, value in vars(saved).items() if name not in FREE_FIELDS}
    wrong = [name for name, value in fixed.items() if asked[name] != value]
    if wrong and all(asked[name] == default[name] for name in fixed):  # another shape, but nobody asked for it
        free = {name: value for name, value in free.items() if value != default[name]}
    elif differ := [f"{name} {asked[name]} differs from {fixed[name]}" for name in wrong if name != "vocab_size"]:
        where = f"of {config.init_from}; with --init-from the shape comes from the checkpoint"
        raise UserError(f"{', '.join(differ)} {where}")
    return replace(saved, **free)


def _check_reading(config: RunConfig, start: Checkpoint) -> None:
    """Raises UserError if a denoiser would be read in another way than it was trained."""
    learnt, asked = start.card.predicts, config.objective.predicts
    if config.card(0, 0).denoising and start.card.denoising and learnt != asked:
        raise UserError(
            f"{config.init_from} was trained with predicts {learnt}, this run has predicts {asked}, which reads its "
            f"outputs one place off: give --predicts {learnt}"
        )


@torch.no_grad()
def start_mask_embedding(model: Transformer, tokenizer: Tokenizer) -> None:
    """No text holds the mask: its row is noise, or, tied to the head, pushed down by the softmax; take the mean."""
    vocab = tokenizer.vocab
    ordinary = torch.ones(vocab.size, dtype=torch.bool)
    ordinary[[vocab.mask, *vocab.reserved]] = False
    model.embed.weight[vocab.mask] = model.embed.weight[ordinary].mean(0)
