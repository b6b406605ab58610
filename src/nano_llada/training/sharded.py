"""A model divided over processes, by FSDP2; and the choice among the ways in which a model can lie.

Apart from `parallel`, which evaluation imports too: FSDP takes half a second to import, nearly all of which the first
step of an optimizer takes in any case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from nano_llada.config.processes import Processes
from nano_llada.core.batch import LossOutput, Objective, StepContext, TokenBatch
from nano_llada.core.device import Machine
from nano_llada.core.errors import UserError
from nano_llada.training.parallel import Layout, OneStep, Replicated, Shape, anywhere, first, owned, rank, size


class Sharded(Layout):
    """FSDP2: weights, gradients and optimizer state are divided along their first dimension, block by block."""

    def __init__(self, model: nn.Module, how: Processes, machine: Machine) -> None:
        if how.offload and machine.device.type != "cuda":
            raise UserError("offload keeps weights in CPU memory for a GPU: there is none here, leave it out")
        super().__init__(model)
        self._mesh = init_device_mesh(machine.device.type, (size(),))
        # gathered in the precision of the products, summed and kept in float32
        precision = MixedPrecisionPolicy(machine.dtype if machine.autocast else None, torch.float32)
        self._options: dict[str, Any] = {"mesh": self._mesh, "mp_policy": precision}
        if how.offload:
            self._options["offload_policy"] = CPUOffloadPolicy()
        for block in _blocks(model):
            fully_shard(block, reshard_after_forward=not how.keep_gathered, **self._options)
        self._step: Any = fully_shard(OneStep(model), **self._options)
        self._parts: list[Any] = [self._step, *_blocks(model)]
        for part in self._parts:
            part.set_gradient_divide_factor(1.0)  # a loss is a sum, divided by the global count
            part.set_force_sum_reduction_for_comms(True)

    def loss(self, objective: Objective, batch: TokenBatch, ctx: StepContext) -> LossOutput:
        out: LossOutput = self._step(objective, batch, ctx)[1]
        if not torch.is_grad_enabled():
            for part in self._parts:
                part.reshard()  # or what was gathered would still be used after the weights have changed
        return out

    def part_of_step(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        self._step.set_requires_gradient_sync(last)
        return contextlib.nullcontext()

    def anywhere(self, flag: bool) -> bool:
        return anywhere(flag)

    def held(self, parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(_local(parameter), requires_grad=True)

    def bring_gradient(self, parameter: nn.Parameter, held: nn.Parameter) -> None:
        held.grad = None if parameter.grad is None else _local(parameter.grad)
        parameter.grad = None

    def named(self, parameter: nn.Parameter, value: Tensor) -> Tensor:
        """Rows (m, n) or (m,) of a tensor divided along its first dimension; a count () is in every process."""
        if value.dim() == 0:
            return value
        found: Tensor = DTensor.from_local(
            value, self._mesh, [Shard(0)], run_check=False, shape=parameter.shape, stride=parameter.stride()
        )
        return found

    def _take(self, target: Tensor, saved: Tensor) -> None:
        if target.dim() == 0:
            target.copy_(saved)
        else:
            _local(target).copy_(saved[_rows_of(target.shape[0], rank(), size())])

    def norm(self, gradients: Sequence[Tensor]) -> float:
        """From squares summed over the parts (m, n) or (m,) of all processes."""
        square = nn.utils.get_total_norm(gradients).double().square()
        dist.all_reduce(square)
        return float(square.sqrt())

    def to_owners(self, values: Sequence[Tensor], shapes: Sequence[Shape]) -> dict[int, Tensor]:
        """Each owner gets the rows (m, n) of its matrices in one message from every process."""
        own = owned(shapes)
        send = [[values[i] for i in numbers] for numbers in own]
        receive = [[_part(shapes[i], other) for i in own[rank()]] for other in range(size())]
        pieces = _exchange(send, receive, values[0])
        return {i: torch.cat([message[k] for message in pieces]) for k, i in enumerate(own[rank()])}

    def from_owners(self, whole: Mapping[int, Tensor], shapes: Sequence[Shape], like: Tensor) -> list[Tensor]:
        """Each owner sends the rows (m, n) of its matrices in one message to every process."""
        own = owned(shapes)
        send = [[whole[i][_rows_of(shapes[i][0], other, size())] for i in own[rank()]] for other in range(size())]
        receive = [[_part(shapes[i], rank()) for i in numbers] for numbers in own]
        pieces = _exchange(send, receive, like)
        found = {
            i: piece
            for numbers, message in zip(own, pieces, strict=True)
            for i, piece in zip(numbers, message, strict=True)
        }
        return [found[i] for i in range(len(shapes))]

    def rows_held(self, parts: Sequence[int]) -> list[int]:
        held, begin, found = _rows_of(sum(parts), rank(), size()), 0, []
        for rows in parts:
            found.append(max(0, min(begin + rows, held.stop) - max(begin, held.start)))
            begin += rows
        return found

    def weights(self, *, everywhere: bool = False) -> dict[str, Tensor]:
        """Gathered one at a time, (M, n) or (M,), onto the CPU."""
        found = {}
        for name, p in self.model.named_parameters():
            weight: Any = p.detach()
            whole = weight.full_tensor()
            if first() or everywhere:  # one weight at a time: the others never hold more than one
                found[name] = whole.cpu()
        return found

    def frozen(self, reference: nn.Module) -> nn.Module:
        for block in _blocks(reference):  # its other weights stay whole
            fully_shard(block, **self._options)
        return reference

    @property
    def divided(self) -> bool:
        return True


def _local(tensor: Tensor) -> Tensor:
    """The part of a divided tensor that is in this process, sharing its memory."""
    divided: Any = tensor.detach()
    found: Tensor = divided.to_local()
    return found


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    return model.get_submodule("blocks").children()


def _rows_of(rows: int, process: int, processes: int) -> slice:
    """Which rows of a tensor FSDP2 gives to a process: as torch.chunk divides them."""
    share = -(-rows // processes)
    return slice(min(process * share, rows), min((process + 1) * share, rows))


def _part(shape: Shape, process: int) -> Shape:
    rows = _rows_of(shape[0], process, size())
    return rows.stop - rows.start, shape[1]


def _exchange(send: Sequence[Sequence[Tensor]], receive: Sequence[Sequence[Shape]], like: Tensor) -> list[list[Tensor]]:
    """Tensors for every process, and from every process tensors of known shapes, in one message each."""
    outgoing = torch.cat([torch.cat([like.new_empty(0), *(t.reshape(-1) for t in some)]) for some in send])
    sent = [sum(t.numel() for t in some) for some in send]
    expected = [sum(rows * columns for rows, columns in some) for some in receive]
    incoming = like.new_empty(sum(expected))
    dist.all_to_all_single(incoming, outgoing, expected, sent)
    found = []
    for message, shapes in zip(incoming.split(expected), receive, strict=True):
        pieces = message.split([rows * columns for rows, columns in shapes])
        found.append([piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)])
    return found


def shard(model: nn.Module, how: Processes, machine: Machine) -> Layout:
    """Lay a model out over the processes that work together; in one process it stays as it is.

    Its parameters are to be read after this: FSDP replaces them.
    """
    if size() == 1:
        return Layout(model)
    return Sharded(model, how, machine) if how.parallel == "fsdp" else Replicated(model)
