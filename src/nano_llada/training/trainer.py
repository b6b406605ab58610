"""The training loop. Objective-agnostic."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nano_llada.config.outcome import Ending
from nano_llada.config.processes import Processes
from nano_llada.config.train import TrainConfig
from nano_llada.core.batch import LossOutput, Objective, StepContext, TokenBatch, Vocabulary
from nano_llada.core.device import Machine
from nano_llada.core.random import derive_seed
from nano_llada.training import parallel
from nano_llada.training.optim import Optimizer
from nano_llada.training.schedule import learning_rate_scale
from nano_llada.training.sharded import shard

VALIDATION_SEED = derive_seed("validation")  # the same noise at every measurement of every run


class StepBatches(Protocol):
    """Training data as a function of the step, so that resuming needs no stored position."""

    def batch(self, step: int) -> TokenBatch: ...
    def document_names(self, step: int) -> list[list[int]]: ...


class Observer(Protocol):
    """Receives the events of a run: it writes the log, shows progress, saves, and may ask the run to stop."""

    def on_step(self, report: StepReport) -> None: ...
    def on_validation(self, step: int, metrics: Mapping[str, float], improved: bool) -> None: ...
    def save(self, step: int) -> None: ...
    def wants_stop(self) -> bool: ...


@dataclass(frozen=True)
class StepReport:
    """One optimizer step."""

    step: int  # steps done, this one included
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int  # positions that are not padding
    positions: int  # positions computed, padding included
    predicted: int  # positions whose logits were computed
    seconds: float
    metrics: Mapping[str, float]
    left_out: bool = False  # whether the weights stayed as they were (see TrainConfig.skip_steps)


class BrokenLoss(Exception):
    """The loss or the gradient norm is not a number, or the norm too large. Trainer and checkpoints are as before the
    failed step."""

    def __init__(self, step: int, loss: float, norm: float, documents: Sequence[Sequence[int]]) -> None:
        wrong = "the gradient is too long" if math.isfinite(loss + norm) else "the loss is not a number"
        super().__init__(f"{wrong} at step {step} (loss {loss}, gradient norm {norm})")
        self.step = step  # counts from 1, as in the log
        self.documents = documents  # the numbers of the documents in each row of its batch


class Trainer:
    """Gradient steps until the end, a lack of improvement, or an interruption."""

    def __init__(  # noqa: PLR0913 - what a run is made of; each part has one user
        self,
        config: TrainConfig,
        model: nn.Module,
        vocab: Vocabulary,
        objective: Objective,
        batches: StepBatches,
        machine: Machine,
        *,
        total_steps: int,
        validation: Sequence[TokenBatch],
        observer: Observer,
        reference: nn.Module | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.config, self.model, self.vocab, self.objective = config, model, vocab, objective
        self.batches, self.machine, self.observer = batches, machine, observer
        self.total_steps, self.validation = total_steps, validation
        self.layout = shard(model, processes or Processes(), machine)
        self.reference = None if reference is None else self.layout.frozen(reference)
        self.optimizer = Optimizer(model, config, self.layout)
        self.ema = self._copies() if config.ema_decay else {}
        self._raw: dict[str, Tensor] = {}  # the trained weights, while the model holds the averaged ones
        self.has_dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
        self.step = 0
        self.tokens = 0
        self.best_loss = math.inf
        self.without_improvement = 0
        self.left_out = 0  # steps in all, and in a row up to now
        self.left_out_in_a_row = 0

    def run(self) -> Ending:
        """Train from the current state to the end.

        Raises:
            BrokenLoss: when the loss is not a number, and `skip_steps` do not allow to leave the step out; what was
                saved before stays as it is.
        """
        config = self.config
        while self.step < self.total_steps:
            if self._out_of_patience():  # also of a run that is resumed after it stopped
                return "stopped early"
            self.observer.on_step(self._train_step())
            last = self.step == self.total_steps
            evaluated = bool(config.eval_every) and self.step % config.eval_every == 0
            improved = self._validate() if (evaluated or last) and self.validation else False
            interrupted = parallel.anywhere(self.observer.wants_stop())
            due = bool(config.save_every) and self.step % config.save_every == 0
            if due or last or improved or self._out_of_patience() or interrupted:
                self.observer.save(self.step)
            if interrupted and not last and not self._out_of_patience():
                return "interrupted"
        return "finished"

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.without_improvement

    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        config = self.config
        return config.learning_rate * learning_rate_scale(
            config.schedule,
            self.step,
            total=self.total_steps,
            warmup=min(config.warmup_steps, max(1, self.total_steps // 10)),
            decay_share=config.decay_share,
            floor=config.min_lr_ratio,
        )

    def _train_step(self) -> StepReport:
        begin, config = time.perf_counter(), self.config
        batch = self.batches.batch(self.step)
        if self.has_dropout:
            alone = () if parallel.first() else (parallel.rank(),)
            torch.manual_seed(derive_seed(config.seed, "dropout", self.step, *alone))
        self.model.train()
        loss, count, work, metrics = self._accumulate(batch)
        norm = self._clip(count)
        learning_rate, broken = self.learning_rate(), self._is_broken(loss, norm)
        if broken:
            self._leave_out(loss, norm)
        else:
            self.left_out_in_a_row = 0
            self.optimizer.step(learning_rate)
            self._update_ema()
        tokens = int((batch.doc_ids >= 0).sum())
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        seconds = time.perf_counter() - begin
        return StepReport(self.step, loss, learning_rate, norm, tokens, *work, seconds, metrics, broken)

    def _is_broken(self, loss: float, norm: float) -> bool:
        """Whether no step can be made; the same in all processes, which know the loss and the norm of all."""
        too_long = 0 < self.config.skip_norm < norm
        return too_long or not math.isfinite(loss) or not math.isfinite(norm)

    def _leave_out(self, loss: float, norm: float) -> None:
        """Weights and moments stay as they are; the next step takes the next batch."""
        if self.left_out_in_a_row >= self.config.skip_steps:
            raise BrokenLoss(self.step + 1, loss, norm, self.batches.document_names(self.step))
        self.left_out, self.left_out_in_a_row = self.left_out + 1, self.left_out_in_a_row + 1
        self.optimizer.drop_gradients()

    def _accumulate(self, batch: TokenBatch) -> tuple[float, float, tuple[int, int], dict[str, float]]:
        """Gradients of the batch's summed loss; its mean, the global count, the work done, and metrics."""
        ctx = self._context(self.config.seed, self.step, len(batch.tokens), measuring=False)
        mine, sums = batch.select(parallel.my_rows(len(batch.tokens))), _Sums()
        at_once = self.config.micro_batch_size or len(mine.tokens)
        for first in range(0, len(mine.tokens), at_once):
            with self.layout.part_of_step(last=first + at_once >= len(mine.tokens)):
                out = self._loss(mine.select(slice(first, first + at_once)), ctx)
                out.total.backward()  # not under autocast
            sums.add(out)
        loss, count, metrics = sums.means()
        return loss, count, sums.work(), metrics

    def _context(self, seed: int, step: int, rows: int, *, measuring: bool) -> StepContext:
        reference: Any = self.reference
        return StepContext(
            self.vocab, seed, step, self.total_steps, rows, measuring, reference, anywhere=self.layout.anywhere
        )

    def _loss(self, part: TokenBatch, ctx: StepContext) -> LossOutput:
        """The objective's output for a micro-batch."""
        with self._autocast():
            return self.layout.loss(self.objective, part.to(self.machine.device), ctx)

    def _clip(self, count: float) -> float:
        """Turn the summed gradients into the mean's, clipped; gives the norm before clipping."""
        grads = self.optimizer.gradients()
        norm = self.layout.norm(grads) / max(count, 1.0)
        limit = self.config.clip_norm
        scale = min(1.0, limit / (norm + 1e-6)) if limit and math.isfinite(norm) else 1.0
        torch._foreach_mul_(grads, scale / max(count, 1.0))
        return norm

    def _update_ema(self) -> None:
        if self.ema:
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            current = [p.detach() for p in self._held().values()]
            torch._foreach_lerp_(list(self.ema.values()), current, 1 - decay)

    def _held(self) -> dict[str, nn.Parameter]:
        """This process's part of every parameter that is not frozen."""
        return {name: self.layout.held(p) for name, p in self.model.named_parameters() if p.requires_grad}

    def _copies(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self._held().items()}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """While the block runs, the model holds the weights for use: the moving average, if there is one."""
        if not self.ema:
            yield
            return
        raw = self._raw = self._copies()
        self._assign(self.ema)
        try:
            yield
        finally:
            self._assign(raw)
            self._raw = {}

    @torch.no_grad()
    def _assign(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self._held().items():
            parameter.copy_(weights[name])

    @torch.no_grad()
    def _validate(self) -> bool:
        self.model.eval()
        sums = _Sums()
        with self.averaged():
            for index, batch in enumerate(self.validation):
                rows = len(batch.tokens)
                ctx = self._context(VALIDATION_SEED, index, rows, measuring=True)
                for part, counts in parallel.even_parts(rows, self.config.micro_batch_size or rows):
                    out = self._loss(batch.select(part), ctx)
                    if counts:
                        sums.add(out)
        loss, _, means = sums.means()
        improved = loss < self.best_loss - self.config.min_delta
        self.best_loss = min(self.best_loss, loss) if improved else self.best_loss
        self.without_improvement = 0 if improved else self.without_improvement + 1
        metrics = {"validation_loss": loss} | {f"validation_{name}": mean for name, mean in means.items()}
        self.observer.on_validation(self.step, metrics, improved)
        return improved

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self.machine.autocast:
            return contextlib.nullcontext()
        return torch.autocast(self.machine.device.type, self.machine.dtype)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that a resumed run needs in addition to the weights: tensors in the shapes of their parameters or
        (), by name, and plain values."""
        tensors = self.optimizer.state()
        if self.ema:  # the model file then holds the average, so the raw weights are saved here
            raw = self._raw or {name: p.detach() for name, p in self._held().items()}
            whole = dict(self.model.named_parameters())
            tensors |= {f"raw.{name}": self.layout.named(whole[name], p) for name, p in raw.items()}
        best = None if math.isinf(self.best_loss) else self.best_loss
        return tensors, {
            "step": self.step,
            "tokens": self.tokens,
            "best_loss": best,
            "without_improvement": self.without_improvement,
            "total_steps": self.total_steps,
            "left_out": self.left_out,
            "left_out_in_a_row": self.left_out_in_a_row,
        }

    def load(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """The inverse of `state` (shapes as there, or ()); the model already holds the saved weights.

        Raises:
            UserError: if a tensor is missing.
        """
        self.restore(lambda targets: self.layout.load(targets, tensors), plain)

    @torch.no_grad()
    def restore(self, fill: Callable[[Mapping[str, Tensor]], None], plain: Mapping[str, Any]) -> None:
        """`load` by a function that fills the tensors of `state`, (m, n), (m,) or (), with what was saved by name."""
        if self.ema:
            self.ema = self._copies()
        fill(self.state()[0])
        self.step, self.tokens = int(plain["step"]), int(plain["tokens"])
        self.best_loss = math.inf if plain["best_loss"] is None else float(plain["best_loss"])
        self.without_improvement = int(plain["without_improvement"])
        self.left_out = int(plain.get("left_out", 0))  # runs of earlier versions left none out
        self.left_out_in_a_row = int(plain.get("left_out_in_a_row", 0))


class _Sums:
    """Sums and counts of several micro-batches; nothing is averaged before everything is in."""

    def __init__(self) -> None:
        self._pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._predicted: list[Tensor] = []
        self._positions = 0

    def add(self, out: LossOutput) -> None:
        """Take in one output; tensors stay on their device until `means`."""
        self._pairs.setdefault("", []).append((out.total.detach(), out.count))
        self._predicted.append(out.predicted)
        self._positions += out.positions
        for name, pair in out.metrics.items():
            self._pairs.setdefault(name, []).append(pair)

    def work(self) -> tuple[int, int]:
        """Positions that went through the model, and those whose logits were computed, in all processes."""
        mine = (self._positions, int(torch.stack(self._predicted).sum()))
        positions, predicted = parallel.summed({"work": mine})["work"]
        return int(positions), int(predicted)

    def means(self) -> tuple[float, float, dict[str, float]]:
        """The mean loss, its count, and the mean of each metric, over all processes."""
        mine = {}
        for name, pairs in self._pairs.items():
            total, count = (float(torch.stack(side).sum()) for side in zip(*pairs, strict=True))
            mine[name] = (total, count)
        sums = parallel.summed(mine)
        means = {name: total / max(count, 1.0) for name, (total, count) in sums.items()}
        return means.pop(""), sums[""][1], means
