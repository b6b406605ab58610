"""From a RunConfig to a trained model: the one place where rooms are put together for training."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from nano_llada.checkpoint.files import Checkpoint, Track, load_checkpoint, model_weights, save_model
from nano_llada.checkpoint.manager import RunCheckpoints
from nano_llada.config import RunConfig
from nano_llada.core import hardware
from nano_llada.core.errors import UserError
from nano_llada.core.random import generator
from nano_llada.core.record import read_config, to_plain
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.model.config import FREE_FIELDS, ModelConfig
from nano_llada.model.transformer import Transformer
from nano_llada.run_data import load_data
from nano_llada.sampling import sample_texts
from nano_llada.train.log import RunLog, open_tracker, read_metrics
from nano_llada.train.plots import plot_losses
from nano_llada.train.trainer import Outcome, StepReport, Trainer

BUNDLED_TOKENIZER = Path(__file__).parent / "assets" / "tokenizer"


def execute(config: RunConfig, *, resume: bool = False) -> Outcome:
    """Train as the config says, into its run folder.

    Raises:
        UserError: for anything a user can mend: data, folders, shapes, a run that is there already.
    """
    started = time.monotonic()
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    hardware.keep_freed_memory()
    machine = hardware.choose_machine(config.train.device, config.train.precision)
    start = load_checkpoint(config.init_from) if config.init_from else None
    tokenizer = choose_tokenizer(config, start)
    prepare_folder(config, resume=resume)
    batches, validation = load_data(config, tokenizer)
    model = build_model(config, tokenizer, start).to(machine.device)
    steps = config.train.steps or math.ceil(config.train.epochs * batches.rows_per_epoch / config.train.batch_size)
    observer = RunObserver(config, tokenizer, model, steps, machine)
    trainer = Trainer(
        config.train,
        model,
        tokenizer.vocab,
        config.objective,
        batches,
        machine,
        total_steps=steps,
        validation=[] if validation is None else list(validation.once(config.train.eval_rows)),
        observer=observer,
    )
    observer.trainer = trainer
    if resume and any(config.folder.glob("step-*")):  # a run killed before its first checkpoint starts over
        tensors, plain = observer.checkpoints.resume(model)
        observer.continue_window(plain)
        trainer.load(tensors, plain)
    if config.train.compile:
        for block in model.blocks:
            block.compile()
    model.gradient_checkpointing = config.train.gradient_checkpointing
    with observer.watching():
        observer.log.say(
            f"{config.name}: {config.stage} {config.track}, {count_parameters(model):,} parameters, {steps} steps of "
            f"{config.train.batch_size} x {config.data.sequence_length} tokens on {machine.name} "
            f"({str(machine.dtype).removeprefix('torch.')}), ready after {time.monotonic() - started:.1f} s"
        )
        outcome = trainer.run()
        observer.finish(outcome)
    return outcome


def count_parameters(model: torch.nn.Module) -> int:
    """Trained numbers; tied ones count once."""
    return sum(p.numel() for p in model.parameters())


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


def prepare_folder(config: RunConfig, *, resume: bool) -> None:
    """Make the run folder and write the config, or check that a resumed run is the same run."""
    folder, plain = config.folder, to_plain(config)
    saved = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if resume:
            check_same_config(saved, plain)
            return
        if any(folder.glob("step-*")):
            raise UserError(f"the run {folder} exists; continue it with --resume, or give another --name")
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        saved.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
        text = json.dumps(hardware.environment(), indent=2)
        (folder / "environment.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the run folder {folder}: {error.strerror}") from error


def check_same_config(saved: Path, plain: Mapping[str, Any]) -> None:
    if not saved.is_file():
        raise UserError(f"nothing to resume: {saved.parent} has no config.json")
    before = read_config(saved)
    changed = sorted(_differences(before, plain))
    if changed:
        raise UserError(f"a resumed run must keep its config; these differ from {saved}: {'; '.join(changed)}")


def _differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(set(before) | set(now)):
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif before != now:
        yield f"{where} was {before}, is {now}"


def build_model(config: RunConfig, tokenizer: Tokenizer, start: Checkpoint | None) -> Transformer:
    """Fresh weights from the seed, or the start checkpoint's."""
    if start is None:
        shape = replace(config.model, vocab_size=tokenizer.vocab.size)
        model = Transformer(shape).initialise(generator(config.train.seed, "weights"))
    else:
        model = Transformer(_continued_shape(config, start.model.config))
        model.load_state_dict(start.model.state_dict())
        if start.track == "ar" and config.track == "diffusion":
            start_mask_embedding(model, tokenizer)
    if config.data.sequence_length > model.config.max_length:
        raise UserError(
            f"sequence_length {config.data.sequence_length} is longer than the model's max_length "
            f"{model.config.max_length}"
        )
    return model


def _continued_shape(config: RunConfig, saved: ModelConfig) -> ModelConfig:
    asked, default = config.model, ModelConfig()
    for name in vars(default):
        value = getattr(asked, name)
        if name not in (*FREE_FIELDS, "vocab_size") and value not in (getattr(default, name), getattr(saved, name)):
            raise UserError(
                f"{name} {value} differs from {getattr(saved, name)} of {config.init_from}; "
                "with --init-from the shape comes from the checkpoint"
            )
    changed = {name: getattr(asked, name) for name in FREE_FIELDS if getattr(asked, name) != getattr(default, name)}
    return replace(saved, **changed)


@torch.no_grad()
def start_mask_embedding(model: Transformer, tokenizer: Tokenizer) -> None:
    """An AR model never saw the mask: its embedding starts at the mean of the others, not at noise."""
    vocab = tokenizer.vocab
    ordinary = torch.ones(vocab.size, dtype=torch.bool)
    ordinary[[vocab.mask, *vocab.reserved]] = False
    model.embed.weight[vocab.mask] = model.embed.weight[ordinary].mean(0)


class RunObserver:
    """Watches the trainer on behalf of the run folder."""

    trainer: Trainer

    def __init__(
        self, config: RunConfig, tokenizer: Tokenizer, model: Transformer, steps: int, machine: hardware.Machine
    ) -> None:
        self.config, self.tokenizer, self.model, self.machine = config, tokenizer, model, machine
        self.checkpoints = RunCheckpoints(config.folder, config.train.keep_last, config.train.keep_best)
        self.log = RunLog(config.folder, steps, open_tracker(config.train.tracker, config.folder))
        self._peak_rate = hardware.matmul_rate(machine)
        self._validation: tuple[int, float] = (-1, 0.0)
        self._window: list[StepReport] = []
        self._stop_signal: int | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While the block runs, Ctrl-C and SIGTERM end the run after the current step instead of killing it."""

        def ask(number: int, frame: object) -> None:
            if self._stop_signal is not None:  # asked twice: do not wait
                raise KeyboardInterrupt
            self._stop_signal = number

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        self.log.start(self.trainer.step)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.log.close()

    def on_step(self, report: StepReport) -> None:
        """Keep the report; every `log_every` steps write the window's means."""
        self._window.append(report)
        config = self.config
        if report.step % config.train.log_every == 0 or report.step == self.log.total_steps:
            window, self._window = self._window, []
            seconds = sum(r.seconds for r in window)
            length = config.data.sequence_length
            flops = sum(self.model.config.train_flops(r.positions, r.predicted, length) for r in window)
            values: dict[str, float] = {
                "loss": sum(r.loss for r in window) / len(window),
                "learning_rate": report.learning_rate,
                "grad_norm": report.grad_norm,
                "tokens": self.trainer.tokens,
                "tokens_per_second": sum(r.tokens for r in window) / seconds,
                "mfu": flops / seconds / self._peak_rate,
                "memory_gib": hardware.peak_memory(self.machine.device) / 2**30,
            }
            self.log.metrics(report.step, values | dict(report.metrics))
            self.log.progress(
                report.step,
                f"loss {values['loss']:.3f}  {values['tokens_per_second']:,.0f} tokens/s  MFU {values['mfu']:.0%}",
            )
        if config.train.sample_every and report.step % config.train.sample_every == 0:
            self.write_samples(report.step)

    def on_validation(self, step: int, metrics: Mapping[str, float], improved: bool) -> None:
        """Write a measurement down."""
        self._validation = (step, metrics["validation_loss"])
        self.log.metrics(step, metrics)
        self.log.say(f"step {step}: validation loss {metrics['validation_loss']:.4f}{' (best)' if improved else ''}")

    def save(self, step: int) -> None:
        """A checkpoint of the trainer as it stands."""
        loss = self._validation[1] if self._validation[0] == step else None
        info = {"stage": self.config.stage, "step": step, "tokens": self.trainer.tokens, "run": self.config.name}
        track: Track = "ar" if self.config.track == "ar" else "diffusion"

        def write_model(folder: Path) -> None:
            weights = model_weights(self.model)
            save_model(folder, weights, self.model.config, self.tokenizer, track, info)

        with self.trainer.averaged():
            tensors, plain = self.trainer.state()
            window = [asdict(report) for report in self._window]
            self.checkpoints.save(step, write_model, (tensors, plain | {"window": window}), loss)

    def continue_window(self, plain: Mapping[str, Any]) -> None:
        """Take over the reports that were not logged yet when a checkpoint was written."""
        self._window = [StepReport(**report) for report in plain["window"]]

    def wants_stop(self) -> bool:
        """Whether somebody asked the run to end."""
        return self._stop_signal is not None

    def write_samples(self, step: int) -> None:
        """Continue or answer the sample prompts with the model as it is."""
        path = self.config.folder / "samples.jsonl"
        written = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if not self.config.sample_prompts or (written and json.loads(written[-1])["step"] == step):
            return
        with self.trainer.averaged():
            self.model.eval()
            texts = sample_texts(self.model, self.tokenizer, self.config)
        with path.open("a", encoding="utf-8") as file:
            for prompt, text in zip(self.config.sample_prompts, texts, strict=True):
                file.write(json.dumps({"step": step, "prompt": prompt, "text": text}, ensure_ascii=False) + "\n")
                self.log.say(f"sample: {prompt} -> {text}")

    def finish(self, outcome: Outcome) -> None:
        """The plot, the last samples, and a word on how it ended."""
        step, total = self.trainer.step, self.log.total_steps
        plot_losses(read_metrics(self.config.folder), self.config.folder / "loss.png", self.config.name)
        if outcome == "interrupted":
            self.log.say(f"stopped at step {step} of {total}, saved; continue with --resume")
            return
        self.write_samples(step)
        self.log.say(f"{self.config.name}: {outcome} at step {step} of {total}, saved in {self.config.folder}")
