"""What a run takes before it is started: memory by a formula, speed measured in seconds, and more GPUs by a formula."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nano_llada.config.model import ModelConfig
from nano_llada.config.run import RunConfig
from nano_llada.core.batch import TokenBatch, Vocabulary
from nano_llada.core.device import Machine
from nano_llada.core.errors import UserError
from nano_llada.core.random import generator
from nano_llada.model.transformer import Transformer
from nano_llada.objectives import make_objective
from nano_llada.training.trainer import StepReport, Trainer

SHARE = 0.4  # of its peak rate that a GPU is taken to reach: an assumption, not measured
# Fitted to measurements on a CPU (tests/test_plan.py): what PyTorch's parts for training take, and how much more
# memory the heap holds than is in use at once, because what is freed lies between what is not
RUNTIME, FRAGMENTS = 80e6, 0.45
GPU_FRAGMENTS = 0.1  # PyTorch's own allocator on GPUs; an assumption, not measured
MEASURED_STEPS, MEASURED_TOKENS = 4, 4096


@dataclass(frozen=True)
class Gpu:
    """What a maker states: memory in bytes, bf16 operations a second, bytes a second to a neighbour one way."""

    memory: float
    flops: float
    link: float


GPUS = {
    "h100": Gpu(80e9, 989e12, 450e9),
    "h200": Gpu(141e9, 989e12, 450e9),
    "a100": Gpu(80e9, 312e12, 300e9),
    "4090": Gpu(24e9, 165e12, 25e9),
}


def streams(config: RunConfig) -> int:
    """How often a row goes through the model side by side: a block-diffusion row as noisy and as clean text."""
    return 2 if config.objective.block_size else 1


def memory_parts(config: RunConfig, model: ModelConfig, processes: int = 1, *, gpu: bool = False) -> dict[str, float]:
    """Bytes that a training step needs in each of `processes`, by part, at most.

    DDP keeps weights, gradients and moments whole in each process. FSDP divides them, and gathers two blocks and the
    embeddings at a time. Kept for the backward pass are, of each position and layer, 2 H + 3 A + 3 K + 2 F numbers (H
    hidden, A all query heads, K all key heads, F the SwiGLU's width), or H with gradient checkpointing.
    """
    train, several = config.train, processes > 1
    divided = processes if several and config.processes.parallel == "fsdp" else 1
    count, low = float(model.parameters), 2 if gpu and train.precision != "fp32" else 4
    muon = model.num_layers * model.block_parameters if train.optimizer == "muon" else 0
    rows = min(train.micro_batch_size or train.batch_size, -(-train.batch_size // processes))
    positions = rows * config.data.sequence_length * streams(config)
    queries, keys = model.num_heads * model.head_width, model.kv_heads * model.head_width
    kept = 2 * model.hidden_size + 3 * queries + 3 * keys + 2 * model.mlp_width
    block = 4 * model.mlp_width + 4 * model.hidden_size  # of the layer whose backward pass runs
    layers = kept * model.num_layers
    if train.gradient_checkpointing:
        layers = model.hidden_size * model.num_layers + kept
    parts = {
        "weights": 4 * count / divided,
        "gradients": 4 * count / divided,
        "optimizer state": (8 * count - 4 * muon) / divided,
        "average of the weights": 4 * count / divided if train.ema_decay else 0.0,
        "reference model": 4 * count / divided if config.objective.needs_reference else 0.0,
        "gathered weights": 0.0,
        "activations": positions * layers * low,
        "work space": positions * block * low,
        "head": model.vocab_size * model.hidden_size * 4.0 + 2 * positions * model.hidden_size * low,
    }
    lively = parts["activations"] + parts["work space"] + parts["head"]
    parts["fragments"] = lively * (GPU_FRAGMENTS if gpu else FRAGMENTS)
    parts["PyTorch"] = 0.0 if gpu else RUNTIME
    if divided > 1:
        ends = model.vocab_size * model.hidden_size * (1 if model.tie_embeddings else 2)
        parts["gathered weights"] = low * (2.0 * model.block_parameters + ends)
    return {name: size for name, size in parts.items() if size}


def step_seconds_on(config: RunConfig, model: ModelConfig, gpu: Gpu, processes: int) -> tuple[float, float]:
    """Seconds of computing and of talking in a step on several GPUs; the first hides most of the second.

    Computing: the operations of a step over `SHARE` of the GPUs' peak. Talking: a ring passes (n - 1) / n of the
    gradients twice (DDP), or of the weights twice and of the gradients once (FSDP).
    """
    positions = config.train.batch_size * config.data.sequence_length
    flops = model.train_flops(positions * streams(config), positions, config.data.sequence_length * streams(config))
    ring = (processes - 1) / processes
    count = model.parameters
    sent = ring * count * ((2 * 2 + 4) if config.processes.parallel == "fsdp" else 2 * 4)
    return flops / (processes * gpu.flops * SHARE), sent / gpu.link


def available_memory(machine: Machine) -> float:
    """Bytes that are free on a device, or to a process on this machine; infinite where the system does not say."""
    if machine.device.type == "cuda":
        return float(torch.cuda.mem_get_info(machine.device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8")
        return float(lines.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return math.inf


def warning(config: RunConfig, shape: ModelConfig, machine: Machine, processes: int) -> list[str]:
    """A sentence if a run will hardly fit into memory. On CPUs all processes are taken to share one machine."""
    gpu = machine.device.type == "cuda"
    needed = sum(memory_parts(config, shape, processes, gpu=gpu).values()) * (1 if gpu else processes)
    there = available_memory(machine)
    if needed <= there:
        return []
    return [
        f"a step is expected to need {needed / 2**30:.1f} GiB and {there / 2**30:.1f} GiB are free: if it fails, try a "
        "smaller --micro-batch-size or --gradient-checkpointing (`nano-llada plan` lists the parts)"
    ]


class _Synthetic:
    """Rows of random tokens, one document each: the speed of a step does not depend on what they say."""

    def __init__(self, vocab: Vocabulary, rows: int, length: int, pairs: bool) -> None:
        rng = generator(0, "plan")
        tokens = torch.randint(6, max(7, vocab.size), (rows, length), generator=rng)
        scored = torch.ones_like(tokens, dtype=torch.bool)
        if pairs:
            scored[:, : length // 2] = False
        places = torch.arange(length).expand(rows, -1).contiguous()
        self._batch = TokenBatch(tokens, scored, torch.zeros_like(tokens), places, torch.arange(rows))

    def batch(self, step: int) -> TokenBatch:
        return self._batch

    def document_names(self, step: int) -> list[list[int]]:
        return [[] for _ in self._batch.tokens]


class _Watch:
    """Keeps the reports of steps."""

    def __init__(self) -> None:
        self.reports: list[StepReport] = []

    def on_step(self, report: StepReport) -> None:
        self.reports.append(report)

    def on_validation(self, step: int, metrics: object, improved: bool) -> None:
        """Nothing is measured."""

    def save(self, step: int) -> None:
        """Nothing is saved."""

    def wants_stop(self) -> bool:
        return False


def measured_rate(config: RunConfig, shape: ModelConfig, machine: Machine) -> float:
    """`training_rate` by a few steps of few rows, so that it takes seconds.

    Raises:
        UserError: for reinforcement learning, whose time goes into answers that no plan knows.
    """
    if config.objective.draws_answers:
        raise UserError("the time of rl depends on the answers that it draws: plan covers pretrain, sft and dpo")
    unit = 2 if config.data.format == "preference" else 1
    rows = max(unit, min(config.train.batch_size, MEASURED_TOKENS // config.data.sequence_length) // unit * unit)
    return training_rate(config, shape, machine, rows=rows, steps=MEASURED_STEPS)


def training_rate(config: RunConfig, shape: ModelConfig, machine: Machine, *, rows: int, steps: int) -> float:
    """Tokens a second of training on random rows of the config's length; the first of at least two steps is left out,
    and with `compile` the first three."""
    length, pairs = config.data.sequence_length, config.data.format == "preference"
    vocab = Vocabulary(shape.vocab_size, 0, 1, 2, 3)
    model = Transformer(shape).initialise(generator(0, "plan")).to(machine.device)
    reference = model if config.objective.needs_reference else None
    watch = _Watch()
    few = replace(
        config.train, batch_size=rows, micro_batch_size=None, eval_every=0, save_every=0, patience=0, merge_best=0
    )
    trainer = Trainer(
        few,
        model,
        vocab,
        make_objective(config.objective),
        _Synthetic(vocab, rows, length, pairs),
        machine,
        total_steps=steps,
        validation=[],
        observer=watch,
        reference=reference,
    )
    if config.train.compile:
        model.compile_blocks()
    model.gradient_checkpointing = config.train.gradient_checkpointing
    trainer.run()
    warm = watch.reports[3 if config.train.compile and steps > 3 else 1 :]
    return sum(report.tokens for report in warm) / sum(report.seconds for report in warm)
