"""Does diffusion overtake AR when data is repeated? Both from scratch on the same small corpus, for 1 to 50 epochs."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.grid import Cell, Result, markdown_table, run_grid, trained_tokens, write_page
from experiments.options_measuring import Epochs
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.data import DataConfig
from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import Denoising, NextToken, ObjectiveConfig
from nano_llada.config.run import RunConfig
from nano_llada.config.train import TrainConfig
from nano_llada.core.errors import UserError
from nano_llada.data.read import BadRows, resolve
from nano_llada.data.texts import read_texts
from nano_llada.evaluation.likelihood import text_likelihood
from nano_llada.session.run import complete, count_parameters
from nano_llada.training.log import read_metrics

NAME = "epochs"
OBJECTIVES: dict[str, ObjectiveConfig] = {"ar": NextToken(), "diffusion": Denoising()}
LANGUAGES = ("zh", "en")


def run(options: Epochs) -> bool:
    """Make or go on with the experiment; True when it is complete.

    Each number of epochs is a grid of its own in one results file, told apart by its command.

    Raises:
        UserError: for missing files, or numbers of which nothing can be made.
    """
    if min(options.documents, options.held_out, *options.epochs) < 1:
        raise UserError("documents, held_out and every number of epochs must be at least 1")
    results: list[Result] = []
    for epochs in options.epochs:
        cells = [
            Cell(track, seed, functools.partial(_measure, options, track, epochs, seed))
            for seed in options.seeds
            for track in OBJECTIVES
        ]
        found = run_grid(NAME, cells, options.docs / NAME, command(options, epochs))
        if found is None:
            return False
        results += found
    write_report(results, options.docs / NAME)
    return True


def command(options: Epochs, epochs: int) -> str:
    """What makes the runs of one number of epochs."""
    return (
        f"nano-llada experiment {NAME} --data DATA --tokenizer TOKENIZER --epochs {epochs} --documents "
        f"{options.documents} --held-out {options.held_out} --hidden-size {options.hidden_size} --num-layers "
        f"{options.num_layers} --batch-size {options.batch_size} --learning-rate {options.learning_rate:g} "
        f"--draws {options.draws}"
    )


def write_corpus(options: Epochs) -> Path:
    """The passages that all runs are trained on, as one file."""
    sources = [str(options.data / f"pretrain_{language}.jsonl.gz") for language in LANGUAGES]
    marks = hashlib.sha256("".join(source.fingerprint() for source in resolve(sources)).encode()).hexdigest()[:8]
    path = options.runs / f"corpus-{marks}-{options.documents}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = path.with_name(f".{path.name}.writing")  # a file that is there is complete
        with hidden.open("w", encoding="utf-8") as file:
            for language in LANGUAGES:
                for text in _texts(options.data / f"pretrain_{language}.jsonl.gz", options.documents):
                    file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        hidden.replace(path)
    return path


def _texts(path: Path, count: int) -> list[str]:
    return list(itertools.islice(read_texts([str(path)], "text", BadRows("stop")), count))


def _stage(options: Epochs, track: str, epochs: int, seed: int) -> RunConfig:
    corpus = write_corpus(options)
    held_out = tuple((options.data / "eval" / f"val_{language}.jsonl").as_posix() for language in LANGUAGES)
    return RunConfig(
        name=f"{track}-{epochs}",
        runs=options.runs / f"seed-{seed}",
        tokenizer=options.tokenizer,
        objective=OBJECTIVES[track],
        model=ModelConfig(
            hidden_size=options.hidden_size, num_layers=options.num_layers, num_heads=4, tie_embeddings=True
        ),
        data=DataConfig(data=(corpus.as_posix(),), validation=held_out),
        train=TrainConfig(
            epochs=epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            optimizer="muon",
            eval_every=100,
            eval_rows=64,
            save_every=200,
            keep_last=1,
            keep_best=0,
            seed=seed,
            threads=options.threads,
        ),
    )


def _measure(options: Epochs, track: str, epochs: int, seed: int) -> Mapping[str, Any] | None:
    stage = _stage(options, track, epochs, seed)
    if not complete([stage]):
        return None
    checkpoint = load_checkpoint(stage.folder, prefer="last")
    losses = [line["loss"] for line in read_metrics(stage.folder) if "loss" in line]
    metrics: dict[str, Any] = {
        "epochs": epochs,
        "parameters": count_parameters(checkpoint.model),
        "train_tokens": trained_tokens(stage.folder),
        "train_loss": losses[-1],
    }
    for language in LANGUAGES:
        texts = _texts(options.data / "eval" / f"val_{language}.jsonl", options.held_out)
        found = text_likelihood(checkpoint, texts, window=256, draws=options.draws)
        metrics[f"bits_per_byte_{language}"] = found.bits_per_byte
        metrics[f"standard_error_{language}"] = found.standard_error
    metrics["standard_error"] = math.hypot(*(metrics[f"standard_error_{language}"] for language in LANGUAGES)) / 2
    metrics["bits_per_byte"] = sum(metrics[f"bits_per_byte_{language}"] for language in LANGUAGES) / 2
    return metrics


def means(results: Sequence[Result], name: str) -> dict[str, dict[int, float]]:
    """Of a metric over seeds: track -> epochs -> value."""
    found: dict[str, dict[int, list[float]]] = {}
    for result in results:
        found.setdefault(result.variant, {}).setdefault(result.metrics["epochs"], []).append(result.metrics[name])
    return {track: {e: sum(v) / len(v) for e, v in sorted(some.items())} for track, some in found.items()}


def verdict(results: Sequence[Result]) -> str:
    """The question answered in words; ahead is who is so by more than two standard errors of the bound."""
    curves = means(results, "bits_per_byte")
    ar, diffusion = curves["ar"], curves["diffusion"]
    best = {track: min(curve, key=curve.__getitem__) for track, curve in curves.items()}
    errors = means(results, "standard_error")["diffusion"]
    won = [epochs for epochs in ar if diffusion[epochs] + 2 * errors[epochs] < ar[epochs]]
    text = (
        f"AR is best after {best['ar']} epochs ({ar[best['ar']]:.3f} bits per byte, mean of both languages), diffusion "
        f"after {best['diffusion']} ({diffusion[best['diffusion']]:.3f}, an upper bound). "
    )
    if not won:
        return text + "**Diffusion does not overtake AR at any number of epochs tried.**"
    same = "at its best, too" if diffusion[best["diffusion"]] < ar[best["ar"]] else "but not AR stopped at its best"
    ahead, tried = (", ".join(map(str, some)) for some in (won, ar))
    return text + f"**At equal epochs diffusion is ahead at {ahead} (of {tried}), {same}.**"


def write_report(results: Sequence[Result], folder: Path) -> None:
    """README.md with the table, the verdict and the plot."""
    names = ("epochs", "train_tokens", "train_loss", "bits_per_byte_zh", "bits_per_byte_en", "bits_per_byte")
    rows = [[r.variant, r.seed, *(r.metrics[name] for name in names)] for r in results]
    commands = "\n".join(dict.fromkeys(f"    {result.command}" for result in results))
    text = (
        "# Epochs: AR and diffusion on the same data, again and again\n\n"
        f"{commands}\n\n"
        f"Both models have {results[0].metrics['parameters']:,} parameters, start from scratch, and see the same rows "
        "in the same order. Every number of epochs is a run with its own learning-rate schedule; the last weights are "
        "measured, not the best ones. Held-out bits per byte are exact for AR and an upper bound for diffusion, whose "
        f"training loss is a bound, too.\n\n{verdict(results)}\n\n"
        f"{markdown_table(('variant', 'seed', *names), rows)}\n![bits per byte against epochs](epochs.png)\n"
    )
    write_page(folder, text)
    _plot(results, folder / "epochs.png")


def _plot(results: Sequence[Result], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for colour, track in enumerate(OBJECTIVES):
        for name, style in (("bits_per_byte", "o-"), ("bits_per_byte_zh", "^:"), ("bits_per_byte_en", "v:")):
            curve = means(results, name)[track]
            label = f"{track}, {name.removeprefix('bits_per_byte_') if name != 'bits_per_byte' else 'mean'}"
            axes.plot(list(curve), list(curve.values()), style, color=f"C{colour}", label=label)
    ticks = list(means(results, "bits_per_byte")["ar"])
    axes.set(xscale="log", xlabel="epochs over the same passages", ylabel="held-out bits per byte")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
