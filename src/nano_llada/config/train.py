"""Everything about a run that is neither the model, the data nor the objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nano_llada.config.checks import at_least, below_one, positive, share


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast, on what, and what is kept.

    Raises:
        ValueError: for values that contradict each other.
    """

    steps: int | None = None
    """Optimizer steps; default: as many as `epochs` need."""
    epochs: float = 1.0
    """Passes over the training data, when `steps` is not given."""
    batch_size: int = 32
    """Rows in the global batch of one optimizer step."""
    micro_batch_size: int | None = None
    """Rows computed at once; the gradients of a step add up over micro-batches. Default: the whole batch."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` orthogonalises the updates of the blocks' matrices: fewer steps on small models; AdamW does the rest."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    """Warm-up, stable, decay; or cosine; or constant after warm-up."""
    warmup_steps: int = 50
    """Steps of linear warm-up; at most a tenth of a shorter run."""
    decay_share: float = 0.3
    """wsd: share of all steps in which the learning rate falls."""
    min_lr_ratio: float = 0.05
    """The last step's learning rate as a share of the peak."""
    weight_decay: float = 0.05
    """AdamW's decay of matrices; gains are not decayed."""
    beta1: float = 0.9
    """AdamW's memory of the gradient."""
    beta2: float = 0.95
    """AdamW's memory of its square."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; 0: off."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products; auto: bf16 on CUDA, fp32 elsewhere."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    threads: int | None = None
    """CPU threads; default: PyTorch's choice."""
    compile: bool = False
    """Compile the model with torch.compile (slow to start; pays on long runs)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    ema_decay: float = 0.0
    """Keep an exponential moving average of the weights and save that for use; 0: off."""
    seed: int = 0
    """Everything random in a run follows from it."""
    eval_every: int = 200
    """Steps between measurements on the validation data; 0: only at the end."""
    eval_rows: int = 256
    """Validation rows used, the same ones with the same noise each time."""
    patience: int = 0
    """Stop after this many measurements without improvement; 0: never."""
    min_delta: float = 0.0
    """What counts as an improvement of the validation loss."""
    save_every: int = 500
    """Steps between checkpoints; 0: only at the end."""
    keep_last: int = 2
    """Newest checkpoints that are kept."""
    keep_best: int = 1
    """Checkpoints of lowest validation loss that are kept besides."""
    merge_best: int = 0
    """At the end, average the weights of this many checkpoints of lowest validation loss into RUN/merged; 0: off."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    sample_every: int = 0
    """Steps between samples written during training; 0: only at the end."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where metrics go besides metrics.jsonl."""

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size", "micro_batch_size", "steps", "threads", "eval_rows", "log_every")
        at_least(self, 0, "eval_every", "save_every", "sample_every")
        at_least(
            self, 0, "clip_norm", "warmup_steps", "weight_decay", "patience", "min_delta", "keep_best", "merge_best"
        )
        positive(self, "learning_rate", "epochs")
        below_one(self, "ema_decay", "beta1", "beta2")
        share(self, "decay_share", "min_lr_ratio")
        if self.keep_last < 1:
            raise ValueError("keep_last must be at least 1, or a run could not be resumed")
        if self.merge_best > self.keep_best:
            raise ValueError(f"merge_best {self.merge_best} needs as many checkpoints kept: raise keep_best")
        if self.patience and not self.eval_every:
            raise ValueError("patience counts measurements, so it needs eval_every above 0")
