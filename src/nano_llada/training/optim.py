"""AdamW, and Muon for the matrices inside blocks; their state is written by parameter name, without pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nano_llada.config.train import TrainConfig
from nano_llada.training.parallel import Layout, Shape

# Newton-Schulz polynomial of Muon (Jordan et al., 2024): five rounds bring all singular values near 1
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is replaced by the nearest semi-orthogonal matrix, in float32.

    All directions of a matrix are learnt at the same rate, which needs about half the steps of AdamW on small models.
    A parameter that stacks several matrices (queries, keys and values; gate and up) is orthogonalised part by part:
    `parts` maps it to the rows of each.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        parts: Sequence[Sequence[int]],
        shapes: Sequence[Shape],
        layout: Layout,
        *,
        lr: float,
        momentum: float,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self._parts, self._shapes, self._layout = parts, shapes, layout
        for parameter in params:
            self.state[parameter] = {"momentum": torch.zeros_like(parameter)}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            numbers = [i for i, parameter in enumerate(group["params"]) if parameter.grad is not None]
            if not numbers:
                continue
            params, ahead = [group["params"][i] for i in numbers], []
            for parameter in params:
                momentum = self.state[parameter]["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead.append(parameter.grad.lerp(momentum, group["momentum"]))  # Nesterov
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            shapes = [self._shapes[i] for i in numbers]
            whole = self._layout.to_owners(ahead, shapes)
            made = self._orthogonal(whole, [self._parts[i] for i in numbers])
            updates = self._layout.from_owners(made, shapes, ahead[0])
            by_size: dict[int, list[tuple[Tensor, Tensor]]] = {}
            for i, parameter, update in zip(numbers, params, updates, strict=True):
                rows = self._layout.rows_held(self._parts[i])
                for part, weight, some in zip(self._parts[i], parameter.split(rows), update.split(rows), strict=True):
                    by_size.setdefault(max(part, parameter.shape[1]), []).append((weight, some))
            for longest, pairs in by_size.items():
                # scaled so that an update has the size of an AdamW one (Moonlight, arXiv:2502.16982)
                step_size = 0.2 * group["lr"] * longest**0.5
                torch._foreach_add_([weight for weight, _ in pairs], [some for _, some in pairs], alpha=-step_size)

    def _orthogonal(self, whole: Mapping[int, Tensor], parts: Sequence[Sequence[int]]) -> dict[int, Tensor]:
        """`orthogonalise` for whole matrices by number, each part of one for itself; those of one shape together."""
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        made = {number: torch.empty_like(matrix) for number, matrix in whole.items()}
        for number, matrix in whole.items():
            rows = list(parts[number])
            for into, update in zip(made[number].split(rows), matrix.split(rows), strict=True):
                shape = (min(update.shape), max(update.shape))
                wide = update.shape[0] <= update.shape[1]
                by_shape.setdefault(shape, []).append((into if wide else into.T, update if wide else update.T))
        for pairs in by_shape.values():
            updates = orthogonalise(torch.stack([update for _, update in pairs]))
            torch._foreach_copy_([into for into, _ in pairs], list(updates.unbind(0)))
        return made


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

    def __init__(self, model: nn.Module, config: TrainConfig, layout: Layout | None = None) -> None:
        self._layout = layout = layout or Layout(model)
        self._whole = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._named = {name: layout.held(p) for name, p in self._whole.items()}
        inner = [name for name, p in self._named.items() if p.dim() > 1 and name.startswith("blocks.")]
        muon = inner if config.optimizer == "muon" else []
        rest = [p for name, p in self._named.items() if name not in muon]
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
            stacked = {p: rows for module in model.modules() for p, rows in getattr(module, "stacked", dict)().items()}
            whole = [self._whole[name] for name in muon]
            parts = [stacked.get(p, (p.shape[0],)) for p in whole]
            shapes = [(p.shape[0], p.shape[1]) for p in whole]
            held = [self._named[name] for name in muon]
            self._optimizers.append(Muon(held, parts, shapes, layout, lr=config.learning_rate, momentum=0.95))
            self._optimizers[-1].param_groups[0]["weight_decay"] = config.weight_decay
        # now: allocated between the activations of the first step they would fragment the heap, 70 MB of 1.5 GB at 30M
        for p in rest:
            step = torch.zeros((), dtype=torch.float32, device=p.device)
            adamw.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What this process trains: everything, or its part of everything."""
        return list(self._named.values())

    def gradients(self) -> list[Tensor]:
        """The gradients of `parameters`, in their shapes (m, n) or (m,), after a backward pass."""
        for name, whole in self._whole.items():
            self._layout.bring_gradient(whole, self._named[name])
        return [p.grad for p in self._named.values() if p.grad is not None]

    def step(self, learning_rate: float) -> None:
        """One update from the current gradients, which are then dropped."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget the current gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Moments in the shapes of their parameters and step counts (), as `optimizer.KEY.PARAMETER`."""
        out: dict[str, Tensor] = {}
        for name, parameter in self._named.items():
            for optimizer in self._optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    out[f"optimizer.{key}.{name}"] = self._layout.named(self._whole[name], value)
        return out

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`: moments in the shapes of their parameters, step counts ().

        Raises:
            UserError: if a parameter's moments are missing.
        """
        self._layout.load(self.state(), state)
