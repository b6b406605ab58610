"""The only file that knows there is more than one process: who does what, sums over all, and where a model lies.

`torchrun` starts the processes and tells each its number in the environment. Everything here is also right in one
process, where nothing is sent: `my_rows` is all rows, `summed` gives back what it is given.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import _set_pg_timeout  # there is no other way to wait longer for messages

from nano_llada.core.batch import LossOutput, Objective, StepContext, TokenBatch
from nano_llada.core.errors import ReportedElsewhere, UserError

T = TypeVar("T")
R = TypeVar("R")
Shape = tuple[int, int]

MEETING = timedelta(minutes=5)  # for the processes to find each other; one of them may have died before it came
PATIENCE = timedelta(minutes=30)  # the first process may tokenise, or write samples, while the others wait
# what PyTorch says, somewhere in its errors, when a message finds nobody
LOST = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out", "nccl", "gloo")


# Processes


def started_as() -> int:
    """How many processes `torchrun` started."""
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if size.isdigit() and int(size) > 0 else 1


def size() -> int:
    """How many processes work together now."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this is the process that writes, shows and logs."""
    return rank() == 0


def restarted() -> bool:
    """Whether `torchrun` started this process again after one of the run had died."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def refuse_several(command: str) -> None:
    """Raises UserError under `torchrun` with more than one process, for work that cannot be divided."""
    if started_as() > 1:
        raise UserError(
            f"WORLD_SIZE is {started_as()}: this was started as {started_as()} processes, and each of them would do "
            f"the same work: {command} uses one process; start it without torchrun, or unset WORLD_SIZE"
        )


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """While the block runs, the processes that `torchrun` started work together, and only the first one prints.

    Messages between CPUs go through gloo, between GPUs through NCCL. Each process takes the GPU of its local number.

    Raises:
        UserError: if a device is named that only one process can have, there are fewer GPUs than processes, or the
            processes do not find each other, or one of them died.
    """
    if started_as() == 1 or dist.is_initialized():
        yield
        return
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {device}: each of {started_as()} processes needs its own; use auto, cuda or cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if on_gpu and local >= torch.cuda.device_count():
        raise UserError(f"{torch.cuda.device_count()} GPUs for process {local} of this machine: start fewer processes")
    if on_gpu:
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=MEETING)
        _set_pg_timeout(PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{started_as()} processes did not find each other: {_gist(error)}; use torchrun") from error
    try:
        with contextlib.ExitStack() as quiet:
            quiet.enter_context(lost_explained())
            if not first():
                quiet.enter_context(contextlib.redirect_stdout(quiet.enter_context(_nowhere())))
            yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def lost_explained() -> Iterator[None]:
    """What PyTorch raises in a message to a process that died becomes a UserError."""
    try:
        yield
    except (RuntimeError, dist.DistBackendError) as error:
        how = next((words for words in LOST if words in str(error).lower()), None)
        if how is None:
            raise
        raise UserError(
            f"process {rank()} of {size()} ended because another one did ({how}); what that one said is "
            "above or in its own log. What was saved is intact: continue with "
            "`torchrun ... -m nano_llada resume RUN`"
        ) from error


def _nowhere() -> Any:
    return open(os.devnull, "w", encoding="utf-8")


def _gist(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


# Work that is done once, or shared


def my_rows(global_rows: int) -> slice:
    """The rows of a global batch that this process computes.

    Raises:
        ValueError: if the rows are not a multiple of the processes.
    """
    if global_rows % size():
        raise ValueError(f"a batch of {global_rows} rows is not a multiple of {size()} processes")
    share = global_rows // size()
    return slice(rank() * share, (rank() + 1) * share)


def even_parts(rows: int, at_once: int) -> list[tuple[slice, bool]]:
    """This process's parts of a batch of any number of rows, and whether each counts.

    Every process gets as many parts as any other, since the passes through a divided model are made together; where
    rows are missing, a part is computed in vain. Rows 2i and 2i + 1 stay together, as pairs of answers have to.
    """
    pairs = (rows + 1) // 2
    share = 2 * -(-pairs // size()) if size() > 1 else rows
    begin, end = rank() * share, min((rank() + 1) * share, rows)
    parts = []
    for first_row in range(begin, begin + share, at_once):
        mine = slice(first_row, min(first_row + at_once, end))
        counts = mine.start < mine.stop
        parts.append((mine if counts else slice(0, min(2, rows)), counts))
    return parts


def summed(sums: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Sums and counts by name, over all processes; names that only some of them have too."""
    total: dict[str, tuple[float, float]] = {}
    for found in everyones(dict(sums)):
        for name, (top, count) in found.items():
            before = total.get(name, (0.0, 0.0))
            total[name] = (before[0] + top, before[1] + count)
    return total


def anywhere(flag: bool) -> bool:
    """Whether it is true in any process."""
    if size() == 1:
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def everyones(value: T) -> list[T]:
    """What each process gives, in the order of their numbers."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    dist.all_gather_object(found, value)
    return found


def shared_out(jobs: Iterable[T], work: Callable[[T], R]) -> Iterator[tuple[T, R]]:
    """Each job with what `work` gives for it, in their order; process r does jobs r, r + size and so on.

    What `work` gives is sent to all processes: plain values, or tensors on the CPU.

    Raises:
        ReportedElsewhere: where another process fails; that one raises what was wrong.
    """
    waiting = iter(jobs)
    while some := list(itertools.islice(waiting, size())):
        with _together():
            done = [work(job) for job in some[rank() : rank() + 1]]
        yield from zip(some, itertools.chain.from_iterable(everyones(done)), strict=True)


def in_shares(things: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """What `work` gives for some things, one for each, in their order; each process works on a stretch of them."""
    share = -(-len(things) // size())
    mine = things[rank() * share : (rank() + 1) * share]
    with _together():
        done = list(work(mine)) if mine else []
    return [one for some in everyones(done) for one in some]


def on_first(work: Callable[[], T]) -> T | None:
    """Have the first process do something while the others wait; they get None.

    Raises:
        ReportedElsewhere: in the others, if it fails in the first.
    """
    with _together():
        return work() if first() else None


def agreed(work: Callable[[], T]) -> T:
    """As `on_first`, and everybody gets what it gives, which must be a plain value."""
    found: Any = [on_first(work)]
    if size() > 1:
        dist.broadcast_object_list(found)
    value: T = found[0]
    return value


def first_before_others(work: Callable[[], T]) -> T:
    """Everybody does something, the first process before the others: what it leaves in a cache they find there."""
    found = on_first(work)
    with _together():
        return found if found is not None else work()


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """A UserError inside ends all processes: the one that met it with what was wrong, the others without a word."""
    try:
        yield
    except UserError:
        everyones(True)
        raise
    if any(everyones(False)):
        raise ReportedElsewhere("another process of this run could not go on")


# Where a model lies


class Layout:
    """A model in one process; how several hold and compute it is in the classes below."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def loss(self, objective: Objective, batch: TokenBatch, ctx: StepContext) -> LossOutput:
        """The objective's sums for rows of this process."""
        model: Any = self.model
        return objective.loss(model, batch, ctx)

    def part_of_step(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around forward and backward of one micro-batch: gradients are summed over processes at the last one only."""
        return contextlib.nullcontext()

    def anywhere(self, flag: bool) -> bool:
        """Whether a pass through the model is needed in any process that has to make it together with this one."""
        return flag

    def held(self, parameter: nn.Parameter) -> nn.Parameter:
        """The part of a parameter that this process keeps and updates, as a parameter that shares its memory."""
        return parameter

    def bring_gradient(self, parameter: nn.Parameter, held: nn.Parameter) -> None:
        """Give the held part of a parameter its part of the gradient."""

    def named(self, parameter: nn.Parameter, value: Tensor) -> Tensor:
        """A tensor that belongs to the held part of a parameter, (m, n) or (m,), or a count (), as part of a whole."""
        return value

    def load(self, targets: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
        """Copy whole saved tensors, (m, n), (m,) or (), into those that `named` gave.

        Raises:
            UserError: if one is missing.
        """
        for name, target in targets.items():
            if name not in saved:
                raise UserError(f"the training state lacks {name!r}; it cannot be resumed")
            self._take(target, saved[name])

    def _take(self, target: Tensor, saved: Tensor) -> None:
        target.copy_(saved)

    def norm(self, gradients: Sequence[Tensor]) -> float:
        """The norm of all gradients together, from the parts (m, n) or (m,) held here."""
        return float(nn.utils.get_total_norm(gradients))

    def to_owners(self, values: Sequence[Tensor], shapes: Sequence[Shape]) -> dict[int, Tensor]:
        """Whole matrices (M, n) of some shapes from the parts (m, n) held here, by number: those to work on here."""
        return dict(enumerate(values))

    def from_owners(self, whole: Mapping[int, Tensor], shapes: Sequence[Shape], like: Tensor) -> list[Tensor]:
        """The inverse: this process's part (m, n) of every matrix, on the device and in the type of `like`, (...)."""
        return [whole[i] for i in range(len(shapes))]

    def rows_held(self, parts: Sequence[int]) -> list[int]:
        """How many rows of each part of a matrix are held here, whose parts have so many rows."""
        return list(parts)

    def weights(self, *, everywhere: bool = False) -> dict[str, Tensor]:
        """All weights by name, whole, (M, n) or (M,), a shared one once; in the first process, others may get none, or
        `everywhere`.
        """
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def frozen(self, reference: nn.Module) -> nn.Module:
        """A reference model, laid out to be computed with."""
        return reference

    @property
    def divided(self) -> bool:
        """Whether no process has the whole model."""
        return False


class OneStep(nn.Module):
    """The loss as one forward pass, which is what PyTorch's wrappers hook into."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, objective: Objective, batch: TokenBatch, ctx: StepContext) -> tuple[Tensor, LossOutput]:
        """The loss by itself, (), where FSDP looks for what is differentiated, and all of the output."""
        model: Any = self.model
        out = objective.loss(model, batch, ctx)
        return out.total, out


class Replicated(Layout):
    """DDP: every process has all weights, and gradients are summed while they are computed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._step = nn.parallel.DistributedDataParallel(OneStep(model), gradient_as_bucket_view=True)
        # without it DDP gives means over processes: a loss here is a sum, divided by the global count
        self._step.register_comm_hook(None, lambda state, bucket: _sum_bucket(bucket))

    def loss(self, objective: Objective, batch: TokenBatch, ctx: StepContext) -> LossOutput:
        if not torch.is_grad_enabled():
            return super().loss(objective, batch, ctx)
        out: LossOutput = self._step(objective, batch, ctx)[1]
        return out

    def part_of_step(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if last else self._step.no_sync()

    def to_owners(self, values: Sequence[Tensor], shapes: Sequence[Shape]) -> dict[int, Tensor]:
        """Gradients are whole, (M, n), already: those of the matrices that this process works on."""
        return {i: values[i] for i in owned(shapes)[rank()]}

    def from_owners(self, whole: Mapping[int, Tensor], shapes: Sequence[Shape], like: Tensor) -> list[Tensor]:
        """Each owner sends its matrices (M, n) to all."""
        found = [whole[i].contiguous() if i in whole else like.new_empty(shape) for i, shape in enumerate(shapes)]
        sent = [dist.broadcast(found[i], owner, async_op=True) for owner, own in enumerate(owned(shapes)) for i in own]
        for one in sent:
            one.wait()
        return found


def _sum_bucket(bucket: Any) -> torch.futures.Future[Tensor]:
    work: Any = dist.all_reduce(bucket.buffer(), async_op=True)
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return future


def owned(shapes: Sequence[Shape]) -> list[list[int]]:
    """Which matrices each process works on: the largest first, each given to whoever has least."""
    found: list[list[int]] = [[] for _ in range(size())]
    load = [0] * size()
    for i in sorted(range(len(shapes)), key=lambda i: (-shapes[i][0] * shapes[i][1], i)):
        least = load.index(min(load))
        found[least].append(i)
        load[least] += shapes[i][0] * shapes[i][1]
    return [sorted(numbers) for numbers in found]
