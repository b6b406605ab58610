"""Everything about a run that is neither the model, the data nor the objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from nano_llada.config.adapter import TARGETS, Adapter, Target
from nano_llada.config.checks import (
    BelowOne,
    Count,
    CountOrZero,
    NotNegative,
    Positive,
    Range,
    Rows,
    Seed,
    Share,
    Threads,
)
from nano_llada.config.kinds import check_values


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast and on what to train, and what to keep.

    Raises:
        ValueError: for a number outside its range, or values that contradict each other.
    """

    steps: Count | None = None
    """Optimizer steps; default: as many as `epochs` needs."""
    epochs: Annotated[float, Range(0, 1e6, above=True)] = 1.0
    """Passes over the training data; used when `steps` is not given."""
    batch_size: Rows = 32
    """Rows in one optimizer step."""
    micro_batch_size: Rows | None = None
    """Rows computed at once; gradients are summed over a step's micro-batches. Default: the whole batch."""
    learning_rate: Annotated[float, Range(0, 1e30, above=True)] = 1e-3
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`adamw`, or `muon` for the matrices of the blocks (fewer steps on small models) with AdamW for the rest."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    """Learning rate after the warm-up: `wsd` (stable, then linear decay), `cosine` or `constant`."""
    warmup_steps: CountOrZero = 50
    """Steps of linear warm-up; at most a tenth of the run."""
    decay_share: Share = 0.3
    """wsd: share of all steps in which the learning rate decays."""
    min_lr_ratio: Share = 0.05
    """Learning rate of the last step, as a share of the peak."""
    weight_decay: NotNegative = 0.05
    """Weight decay of matrices; norm gains are not decayed."""
    beta1: BelowOne = 0.9
    """AdamW: decay rate of the mean of the gradient."""
    beta2: BelowOne = 0.95
    """AdamW: decay rate of the mean of its square."""
    clip_norm: NotNegative = 1.0
    """Clip the gradient to this norm; 0: off."""
    skip_steps: CountOrZero = 0
    """Steps in a row that may be left out, weights unchanged, if the loss or the gradient is not a number; one more
    ends the run. 0: the first one ends it."""
    skip_norm: NotNegative = 0.0
    """With skip_steps: leave out steps whose gradient norm is above this, too; 0: none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of matrix products; auto: bf16 on CUDA, fp32 elsewhere."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """CPU threads; default: PyTorch's choice."""
    compile: bool = False
    """Compile the model with torch.compile: slow to start, faster in long runs."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    ema_decay: BelowOne = 0.0
    """Keep an exponential moving average of the weights with this decay, and save it for use; 0: off."""
    lora_rank: CountOrZero = 0
    """Train low-rank adapters of this rank beside frozen matrices (LoRA) instead of the weights; 0: off. Needs
    --init-from; checkpoints then hold the adapters alone."""
    lora_alpha: Positive | None = None
    """The adapters' change is multiplied by this over the rank; default: twice the rank."""
    lora_targets: tuple[Target, ...] = TARGETS
    """Which matrices of every layer get an adapter: qkv, out, gate_up, down."""
    seed: Seed = 0
    """Seed of all randomness in the run."""
    eval_every: CountOrZero = 200
    """Steps between measurements of the validation loss; 0: only at the end."""
    eval_rows: Rows = 256
    """Validation rows to use: the same rows with the same noise each time."""
    patience: CountOrZero = 0
    """Stop after this many measurements without improvement; 0: never."""
    min_delta: NotNegative = 0.0
    """Smallest decrease of the validation loss, in nats, that counts as an improvement."""
    save_every: CountOrZero = 500
    """Steps between checkpoints; 0: only at the end."""
    keep_last: Count = 2
    """Newest checkpoints to keep."""
    keep_best: CountOrZero = 1
    """Checkpoints of lowest validation loss to keep as well."""
    merge_best: CountOrZero = 0
    """At the end, average the weights of this many checkpoints of lowest validation loss into RUN/merged; 0: off."""
    log_every: Count = 10
    """Steps between lines of metrics.jsonl."""
    sample_every: CountOrZero = 0
    """Steps between samples for `sample_prompts`; 0: only at the end."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where to send metrics, in addition to metrics.jsonl."""

    def __post_init__(self) -> None:
        check_values(self)
        if self.lora_rank and self.optimizer == "muon":
            raise ValueError("muon is for whole matrices, not for the narrow ones of LoRA: leave out optimizer muon")
        if not self.lora_rank and (self.lora_alpha is not None or self.lora_targets != TARGETS):
            raise ValueError("lora_alpha and lora_targets have no effect without a lora_rank")
        if self.skip_norm and not self.skip_steps:
            raise ValueError("skip_norm has no effect without skip_steps")
        if self.merge_best > self.keep_best:
            raise ValueError(f"merge_best {self.merge_best} needs as many checkpoints kept: raise keep_best")
        if self.patience and not self.eval_every:
            raise ValueError("patience counts measurements, so it needs eval_every above 0")
        if self.lora_rank:
            self.adapter("", "")  # refuses what it cannot be

    def adapter(self, base: str, base_hash: str) -> Adapter | None:
        """The adapter that a run trains beside a base model; None without LoRA."""
        if not self.lora_rank:
            return None
        alpha = 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha
        return Adapter(self.lora_rank, alpha, self.lora_targets, base, base_hash)
