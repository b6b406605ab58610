"""AdamW, and Muon for the matrices inside blocks; their state is written by parameter name, without pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nano_llada.config.train import TrainConfig
from nano_llada.core.errors import UserError

# Newton-Schulz polynomial of Muon (Jordan et al., 2024): five rounds bring all singular values near 1
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is replaced by the nearest semi-orthogonal matrix, in float32.

    Learning a matrix's every direction at the same pace takes about half the steps of AdamW on small models. Matrices
    that are several stacked on top of each other (queries, keys and values; gate and up) are treated each for itself,
    as `parts` says: parameter -> rows of each part.
    """

    def __init__(
        self, params: Sequence[nn.Parameter], parts: Mapping[Tensor, Sequence[int]], lr: float, momentum: float
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self._parts = dict(parts)
        for parameter in params:
            self.state[parameter] = {"momentum": torch.zeros_like(parameter)}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter]["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(momentum, group["momentum"])  # Nesterov
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                rows = list(self._parts.get(parameter, (parameter.shape[0],)))
                for weight, update in zip(parameter.split(rows), ahead.split(rows), strict=True):
                    shape = (min(weight.shape), max(weight.shape))
                    wide = weight.shape[0] <= weight.shape[1]
                    by_shape.setdefault(shape, []).append((weight if wide else weight.T, update if wide else update.T))
            for (_, longest), pairs in by_shape.items():
                # scaled so that an update has the size of an AdamW one (Moonlight, arXiv:2502.16982)
                step_size = 0.2 * group["lr"] * longest**0.5
                updates = orthogonalise(torch.stack([update for _, update in pairs]))
                torch._foreach_add_([weight for weight, _ in pairs], list(updates.unbind(0)), alpha=-step_size)


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """(k, m, n) with m <= n: matrices with the same singular vectors, and singular values near 1."""
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Optimizer:
    """The optimizers of a run, as one. Matrices decay, gains do not."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        inner = [p for name, p in self._named.items() if p.dim() > 1 and name.startswith("blocks.")]
        muon = inner if config.optimizer == "muon" else []
        chosen = {id(p) for p in muon}
        rest = [p for p in self._named.values() if id(p) not in chosen]
        groups = [
            {"params": [p for p in rest if p.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
        ]
        device = next(iter(self._named.values())).device
        adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            fused=device.type in ("cpu", "cuda"),
        )
        self._optimizers: list[torch.optim.Optimizer] = [adamw]
        if muon:
            parts = {p: rows for module in model.modules() for p, rows in getattr(module, "stacked", dict)().items()}
            self._optimizers.append(Muon(muon, parts, config.learning_rate, momentum=0.95))
            self._optimizers[-1].param_groups[0]["weight_decay"] = config.weight_decay
        # at once: made between the activations of the first step they would tear the heap, 70 MB of 1.5 GB at 30M
        for p in rest:
            step = torch.zeros((), dtype=torch.float32, device=p.device)
            adamw.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained."""
        return list(self._named.values())

    def step(self, learning_rate: float) -> None:
        """One update from the gradients as they stand; they are then dropped."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, as `optimizer.KEY.PARAMETER`."""
        out: dict[str, Tensor] = {}
        for name, parameter in self._named.items():
            for optimizer in self._optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    out[f"optimizer.{key}.{name}"] = value
        return out

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`. Raises UserError if a parameter's moments are missing."""
        for name, parameter in self._named.items():
            for optimizer in self._optimizers:
                for key, moment in optimizer.state.get(parameter, {}).items():
                    try:
                        moment.copy_(state[f"optimizer.{key}.{name}"])
                    except KeyError as error:
                        raise UserError(f"the training state lacks {error}; it cannot be resumed") from error
