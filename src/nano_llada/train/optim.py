"""AdamW over named parameters, with a state that can be written without pickle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nano_llada.core.errors import UserError
from nano_llada.train.config import TrainConfig


class AdamW:
    """`torch.optim.AdamW`, fused where the device has it; matrices decay, gains do not."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = [p for p in self._named.values() if p.dim() > 1]
        gains = [p for p in self._named.values() if p.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": gains, "weight_decay": 0.0},
        ]
        device = next(iter(self._named.values())).device
        self._optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            fused=device.type in ("cpu", "cuda"),
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained."""
        return list(self._named.values())

    def step(self, learning_rate: float) -> None:
        """One update from the gradients as they stand; they are then dropped."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts by parameter name."""
        out: dict[str, Tensor] = {}
        for name, parameter in self._named.items():
            for key, value in self._optimizer.state[parameter].items():
                out[f"adamw.{key}.{name}"] = value
        return out

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`. Raises UserError if a parameter's moments are missing."""
        for name, parameter in self._named.items():
            try:
                self._optimizer.state[parameter] = {
                    key: state[f"adamw.{key}.{name}"].to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")
                }
            except KeyError as error:
                raise UserError(f"the training state lacks {error}; it cannot be resumed") from error
