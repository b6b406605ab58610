"""What a run leaves behind while it trains: metrics, log, samples, checkpoints, plot; and how Ctrl-C ends it."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nano_llada.checkpoint.distributed import ShardWriter, fresh, staging
from nano_llada.checkpoint.files import read_description, save_adapter, save_model, unusable
from nano_llada.checkpoint.manager import RunCheckpoints, TrainingState
from nano_llada.checkpoint.merge import best_checkpoints, merge_checkpoints
from nano_llada.config.adapter import Adapter
from nano_llada.config.card import ModelCard
from nano_llada.config.outcome import Ending, Outcome, State
from nano_llada.config.run import RunConfig
from nano_llada.core import device as hardware
from nano_llada.core.errors import UserError
from nano_llada.core.files import reason_of
from nano_llada.data.loader import Located
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.model.transformer import Transformer
from nano_llada.session.lock import RunLock
from nano_llada.session.outcome import write_outcome
from nano_llada.session.samples import encode_sample_prompts, sample_texts
from nano_llada.training import parallel
from nano_llada.training.log import Log, QuietLog, RunLog, open_tracker, read_metrics
from nano_llada.training.plots import plot_losses
from nano_llada.training.trainer import StepReport, Trainer


def _progress(values: Mapping[str, float]) -> str:
    """What the bar says about a window of steps."""
    told = [f"loss {values['loss']:.3f}", f"{values['tokens_per_second']:,.0f} tokens/s", f"MFU {values['mfu']:.0%}"]
    if "reward" in values:
        told[0] = f"reward {values['reward']:.2f}"
    if "block_size" in values:
        told.append(f"blocks of {values['block_size']:.0f}")
    return "  ".join(told)


@dataclass(frozen=True)
class _Made:
    """What is said of a checkpoint beside its tensors."""

    step: int
    card: ModelCard
    loss: float | None  # of validation, where it was measured at this step


class RunObserver:
    """Watches the trainer on behalf of the run folder."""

    trainer: Trainer
    turns: bool = True
    infills: bool = False  # the model that the run starts from
    batches: Located = Located()  # what the run learns from

    def __init__(
        self,
        config: RunConfig,
        tokenizer: Tokenizer,
        model: Transformer,
        steps: int,
        machine: hardware.Machine,
        lock: RunLock | None = None,
    ) -> None:
        self.config, self.tokenizer, self.model, self.machine, self._lock = config, tokenizer, model, machine, lock
        encode_sample_prompts(tokenizer, config, model.config.max_length)  # refused now, not after hours
        self.checkpoints = RunCheckpoints(config.folder, config.train.keep_last, config.train.keep_best)
        self.log: Log = QuietLog(steps)
        if parallel.first():
            self.log = RunLog(config.folder, steps, open_tracker(config.train.tracker, config.folder))
        self._peak_rate = hardware.matmul_rate(machine)
        self._validation: tuple[int, float] = (-1, 0.0)
        self._window: list[StepReport] = []
        self._stop_signal: int | None = None
        self._shards = ShardWriter()
        self._unnamed: Callable[[], object] | None = None  # names the checkpoint that is being written
        self.adapter: Adapter | None = None  # what alone is trained, and saved

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While the block runs, Ctrl-C and SIGTERM end the run after the current step instead of killing it."""

        def ask(number: int, frame: object) -> None:
            if self._stop_signal is not None and parallel.size() == 1:  # asked twice: do not wait
                raise KeyboardInterrupt  # torchrun repeats what a terminal has sent to its processes already
            self._stop_signal = number

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.log.start(self.trainer.step)
            self.record("running")
            yield
        except KeyboardInterrupt:
            self._record_if_possible("interrupted")
            raise
        except Exception as error:
            self._record_if_possible("failed", str(error))
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.log.close()

    def _record_if_possible(self, state: State, reason: str | None = None) -> None:
        """`record` while another error is on its way, which it must not hide: the disk may be full, the folder gone."""
        with contextlib.suppress(UserError):
            self._check_lock()
            self.record(state, reason)

    def _check_lock(self) -> None:
        if self._lock is not None:
            self._lock.check()

    def record(self, state: State, reason: str | None = None) -> None:
        """Write outcome.json: how the run stands now. What is saved counts, not what was computed."""
        if not parallel.first():
            return
        best = self.checkpoints.best
        saved = self.checkpoints.last_step
        write_outcome(
            self.config.folder,
            Outcome(
                state,
                saved,
                self.log.total_steps,
                best_step=None if best is None else best.step,
                best_loss=None if best is None else best.loss,
                reason=reason,
            ),
        )

    def on_step(self, report: StepReport) -> None:
        """Keep the report; every `log_every` steps write the window's means.

        Raises:
            UserError: if the run folder was deleted, or cannot be written.
        """
        self._check_lock()
        self._name_if_written()
        if report.left_out:
            self._say_left_out(report)
        shares = {f"share_{name}": share for name, share in self.batches.shares(report.step - 1).items()}
        if not report.left_out:
            self._window.append(replace(report, metrics={**report.metrics, **shares}) if shares else report)
        config = self.config
        due = report.step % config.train.log_every == 0 or report.step == self.log.total_steps
        if due and self._window:
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
                "mfu": flops / seconds / self._peak_rate / parallel.size(),
                "memory_gib": hardware.peak_memory(self.machine.device) / 2**30,
            }
            named = {name for r in window for name in r.metrics}
            for name in sorted(named):
                found = [r.metrics[name] for r in window if name in r.metrics]
                values[name] = found[-1] if name == "block_size" else sum(found) / len(found)
            if self.trainer.left_out:
                values["left_out"] = self.trainer.left_out
            self.log.metrics(report.step, values)
            self.log.progress(report.step, _progress(values))
        if config.train.sample_every and report.step % config.train.sample_every == 0:
            self.write_samples(report.step)

    def _say_left_out(self, report: StepReport) -> None:
        self.log.say(
            f"step {report.step} is left out, the weights are as before: loss {report.loss:.4g}, gradient norm "
            f"{report.grad_norm:.4g} ({self.trainer.left_out} left out in all)"
        )

    def on_validation(self, step: int, metrics: Mapping[str, float], improved: bool) -> None:
        """Write a measurement down."""
        self._validation = (step, metrics["validation_loss"])
        self.log.metrics(step, metrics)
        said = f"step {step}: validation loss {metrics['validation_loss']:.4f}{' (best)' if improved else ''}"
        if "validation_ar_loss" in metrics:  # two losses at once
            said += f", next token {metrics['validation_ar_loss']:.4f}, masked {metrics['validation_mask_loss']:.4f}"
        self.log.say(said)

    def save(self, step: int) -> None:
        """A checkpoint of the trainer as it stands.

        Raises:
            UserError: if it cannot be written, or the weights are not finite; earlier checkpoints stay.
        """
        self._check_lock()
        self._complete_save()
        layout = self.trainer.layout
        with self.trainer.averaged():
            weights = layout.weights()
            tensors, plain = self.trainer.state()
            parallel.on_first(lambda: self._check_weights(step, weights))
            if (position := self.batches.position(step)) is not None:
                plain["data"] = position
            state = (tensors, {**plain, "window": [asdict(report) for report in self._window]})
            if layout.divided:
                self._start_save(step, weights, state)
            else:
                parallel.on_first(lambda: self._write(self._checkpoint(step), weights, state, None))

    def _check_weights(self, step: int, weights: Mapping[str, Tensor]) -> None:
        for problem in unusable(weights):
            raise UserError(
                f"step {step} is not saved: {problem}; start again with a lower --learning-rate, as another --name"
            )

    def _start_save(self, step: int, weights: Mapping[str, Tensor], state: TrainingState) -> None:
        """Every process begins to write its part of the training state; the checkpoint has no name until all have."""
        folder, made = staging(self.config.folder, step), self._checkpoint(step)
        parallel.on_first(lambda: fresh(folder))
        self._shards.start(folder, state[0])
        self._unnamed = lambda: self._write(made, weights, ({}, state[1]), folder)

    def _complete_save(self) -> None:
        """Wait for the checkpoint that is being written, if there is one, and give it its name."""
        if (name := self._unnamed) is not None:
            self._unnamed = None
            self._shards.wait()
            parallel.on_first(name)

    def _name_if_written(self) -> None:
        """In the first process, which alone has something left to do: the same without waiting."""
        if parallel.first() and self._unnamed is not None and self._shards.done:
            name = self._unnamed
            self._shards.wait()
            name()
            self._unnamed = lambda: None  # the others will ask

    def _checkpoint(self, step: int) -> _Made:
        """What is said of a checkpoint: as it is now, whenever it is written."""
        card = self.config.card(step, self.trainer.tokens)
        card = replace(card, turns=self.turns, infills=card.infills or self.infills)
        return _Made(step, card, self._validation[1] if self._validation[0] == step else None)

    def _write(self, made: _Made, weights: Mapping[str, Tensor], state: TrainingState, shards: Path | None) -> None:
        """Give a checkpoint its name, with everything in it."""

        def write_model(folder: Path) -> None:
            if self.adapter is None:
                save_model(folder, weights, self.model.config, self.tokenizer, made.card)
            else:
                save_adapter(folder, self.model, self.tokenizer, made.card, self.adapter)

        self.checkpoints.save(made.step, write_model, state, made.loss, shards)

    def usable_model(self) -> Transformer:
        """The model as one that can write: where several processes hold parts of it, a whole copy in each."""
        if not self.trainer.layout.divided:
            return self.model
        return self._whole(self.trainer.layout.weights(everywhere=True))

    def _whole(self, weights: Mapping[str, Tensor]) -> Transformer:
        model = Transformer(self.model.config)
        model.load_state_dict(dict(weights), strict=not self.model.config.tie_embeddings)
        return model.to(self.machine.device).eval()

    def continue_window(self, plain: Mapping[str, Any]) -> None:
        """Take over the reports that were not logged yet when a checkpoint was written."""
        self._window = [StepReport(**report) for report in plain["window"]]

    def wants_stop(self) -> bool:
        """Whether somebody asked the run to end."""
        return self._stop_signal is not None

    def write_samples(self, step: int) -> None:
        """Continue or answer the sample prompts with the model as it is."""
        if not self.config.sample_prompts or parallel.agreed(lambda: self.log.has_samples(step)):
            return
        with self.trainer.averaged():
            weights = self.trainer.layout.weights()
            parallel.on_first(lambda: self._write_samples(step, weights))

    def _write_samples(self, step: int, weights: Mapping[str, Tensor]) -> None:
        model = self._whole(weights) if self.trainer.layout.divided else self.model.eval()
        texts = sample_texts(model, self.tokenizer, self.config, self.config.card(step, self.trainer.tokens))
        self.log.samples(step, zip(self.config.sample_prompts, texts, strict=True))

    def finish(self, ending: Ending) -> None:
        """The plot, the last samples, the merged model, and how the run ended."""
        step, total = self.trainer.step, self.log.total_steps
        self._complete_save()
        parallel.on_first(self._plot)
        if ending == "interrupted":
            self.record(ending)
            self.log.say(
                f"interrupted at step {step} of {total}, saved; continue with `nano-llada resume {self.config.folder}`"
            )
            return
        self.write_samples(step)
        if self.config.train.merge_best:
            parallel.on_first(self._merge)
        self.record(ending)
        self.log.say(f"{self.config.name}: {ending} at step {step} of {total}, saved in {self.config.folder}")

    def _plot(self) -> None:
        """loss.png. It can be drawn again from metrics.jsonl, so that it fails no run."""
        path = self.config.folder / "loss.png"
        try:
            plot_losses(read_metrics(self.config.folder), path, self.config.name)
        except OSError as error:
            self.log.say(f"cannot write {path}: {reason_of(error)}; the run itself is complete without it")

    def _merge(self) -> None:
        """RUN/merged: the mean of the best checkpoints (LLaDA 2.0)."""
        best = best_checkpoints(self.config.folder, min(self.config.train.merge_best, len(self.checkpoints.losses)))
        merged = self.config.folder / "merged"
        if merged.exists() and [part.name for part in read_description(merged).card.merged_from] != [
            p.name for p in best
        ]:
            shutil.rmtree(merged)  # of before the run was extended
        if not merged.exists():
            merge_checkpoints(best, merged)
        self.log.say(f"{merged}: the mean of {', '.join(path.name for path in best)}")
