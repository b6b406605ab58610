"""The whole pipeline on real Chinese and English text: AR, diffusion from it, and diffusion from scratch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.grid import Cell, Result, markdown_table, run_grid, trained_tokens, write_page
from experiments.options import RealData
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.data import DataConfig
from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import Denoising, NextToken
from nano_llada.config.run import RunConfig
from nano_llada.config.train import TrainConfig
from nano_llada.data.read import BadRows
from nano_llada.data.texts import read_texts
from nano_llada.evaluation.likelihood import text_likelihood
from nano_llada.session.run import complete, count_parameters
from nano_llada.training.log import read_metrics

NAME = "real-data"
PROMPTS = ("从前有一个小女孩，", "北京是", "Once upon a time there was a little", "The old man looked at")
QUESTIONS = (
    "你好，你是谁？",
    "请写三种水果。",
    "What is the capital of France?",
    "Give three tips for staying healthy.",
)


def run(options: RealData) -> bool:
    """Make or go on with the experiment; True when it is complete. Raises UserError for missing files."""
    cells = [
        Cell(variant, options.seed, lambda variant=variant: _variant(options, variant))  # type: ignore[misc]
        for variant in ("ar", "diffusion", "diffusion-scratch")
    ]
    folder = options.docs / NAME
    command = (
        f"nano-llada experiment real-data --data DATA --tokenizer TOKENIZER --steps {options.steps} --sft-steps "
        f"{options.sft_steps} --batch-size {options.batch_size} --hidden-size {options.hidden_size} "
        f"--num-layers {options.num_layers} --draws {options.draws}"
    )
    results = run_grid(NAME, cells, folder, command)
    if results is None:
        return False
    _report(options, results, folder)
    return True


def _variant(options: RealData, variant: str) -> dict[str, Any] | None:
    config = _pretraining(options, variant)
    stages = [config]
    if variant != "diffusion-scratch":
        stages.append(_sft(options, config))
    if not complete(stages):
        return None
    checkpoint = load_checkpoint(config.folder)
    metrics: dict[str, Any] = {
        "parameters": count_parameters(checkpoint.model),
        "train_tokens": trained_tokens(config.folder),  # of this pretraining alone
        "tokens_before": trained_tokens(config.init_from) if config.init_from else 0,  # of the model it started from
        "init": "ar" if variant == "diffusion" else "scratch",
    }
    for language in ("zh", "en"):
        found = text_likelihood(
            checkpoint, _texts(options.data / "eval" / f"val_{language}.jsonl"), window=256, draws=options.draws
        )
        metrics[f"bits_per_byte_{language}"] = found.bits_per_byte
        metrics[f"standard_error_{language}"] = found.standard_error
        metrics[f"nats_per_token_{language}"] = found.nats_per_token
    return metrics


def _texts(path: Path) -> list[str]:
    return list(read_texts([str(path)], "text", BadRows("stop")))


def _pretraining(options: RealData, variant: str) -> RunConfig:
    data = tuple((options.data / f"pretrain_{language}.jsonl.gz").as_posix() for language in ("zh", "en"))
    held_out = tuple((options.data / "eval" / f"val_{language}.jsonl").as_posix() for language in ("zh", "en"))
    return RunConfig(
        name=variant,
        runs=options.runs,
        init_from=options.runs / "ar" if variant == "diffusion" else None,
        tokenizer=None if variant == "diffusion" else options.tokenizer,
        sample_prompts=PROMPTS,
        objective=NextToken() if variant == "ar" else Denoising(random_length=0.01),
        model=ModelConfig(
            hidden_size=options.hidden_size, num_layers=options.num_layers, tie_embeddings=True, max_length=512
        ),
        data=DataConfig(data=data, validation=held_out),
        train=_training(options, options.steps, 3e-3),
    )


def _sft(options: RealData, start: RunConfig) -> RunConfig:
    diffusion = start.objective.track == "diffusion"
    data = tuple((options.data / f"sft_{language}.jsonl.gz").as_posix() for language in ("zh", "en"))
    held_out = tuple((options.data / "eval" / f"sft_val_{language}.jsonl").as_posix() for language in ("zh", "en"))
    shape = (
        DataConfig(data=data, validation=held_out, format="chat", turns="each", eos_fill=64)
        if diffusion
        else DataConfig(data=data, validation=held_out, format="chat")
    )
    return RunConfig(
        name=f"{start.name}-sft",
        runs=options.runs,
        init_from=start.folder,
        sample_prompts=QUESTIONS,
        objective=Denoising(normalise_by="document") if diffusion else NextToken(),
        data=shape,
        train=_training(options, options.sft_steps, 1.5e-3),
    )


def _training(options: RealData, steps: int, learning_rate: float) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch_size=options.batch_size,
        learning_rate=learning_rate,
        optimizer="muon",
        threads=options.threads,
        seed=options.seed,
        eval_every=100,
        eval_rows=64,
        save_every=100,
        keep_last=1,
        keep_best=0,
    )


def _report(options: RealData, results: Sequence[Result], folder: Path) -> None:
    """The table, the curves, and samples as they came."""
    columns = ("variant", "parameters", "tokens_before", "train_tokens", "bits_per_byte_zh", "bits_per_byte_en")
    rows = [[r.variant, *(r.metrics.get(name, "not recorded") for name in columns[1:])] for r in results]
    _plot(options, folder / "curves.png")
    text = ["# Real data: AR, diffusion from AR, diffusion from scratch\n", markdown_table(columns, rows)]
    text.append("\n![validation loss](curves.png)\n\n## Samples, greedy, as they came\n")
    for name in ("ar", "diffusion", "diffusion-scratch", "ar-sft", "diffusion-sft"):
        lines = (options.runs / name / "samples.jsonl").read_bytes().splitlines()  # a text may hold U+2028
        text.append(f"\n### {name}\n")
        for line in lines[-4:]:
            row = json.loads(line)
            text.append(f"- **{row['prompt']}** {row['text']!r}")
    write_page(folder, "\n".join(text) + "\n")


def _plot(options: RealData, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for variant in ("ar", "diffusion", "diffusion-scratch"):
        lines = [m for m in read_metrics(options.runs / variant) if "validation_loss" in m]
        tokens = options.batch_size * 256 / 1e6
        axes.plot([m["step"] * tokens for m in lines], [m["validation_loss"] for m in lines], marker="o", label=variant)
    axes.set(xlabel="training tokens (millions)", ylabel="validation loss or bound (nats per token)", title=NAME)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
