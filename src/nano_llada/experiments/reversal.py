"""The reversal curse: told "A is B's mother", who knows B's mother? AR and masked diffusion, both from nothing."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.config import Objective, RunConfig
from nano_llada.data.config import DataConfig
from nano_llada.data.world import LANGUAGES, Language, split_of, verify
from nano_llada.data.world.files import write_world
from nano_llada.data.world.skills_family import families, relation_question
from nano_llada.decode.config import Autoregressive, Decoding, Diffusion
from nano_llada.decode.types import Request
from nano_llada.evaluate.answers import complete as answered
from nano_llada.experiments.grid import Cell, Result, markdown_table, run_grid, trained_tokens
from nano_llada.experiments.options_measuring import Reversal
from nano_llada.model.config import ModelConfig
from nano_llada.objectives.denoising import Denoising
from nano_llada.objectives.next_token import NextToken
from nano_llada.run import complete, count_parameters
from nano_llada.sampling import make_sampler
from nano_llada.train.config import TrainConfig

NAME = "reversal"
OBJECTIVES: dict[str, Objective] = {"ar": NextToken(), "diffusion": Denoising()}
ANSWER = 4  # tokens: a name in Chinese is three, in English two, and the end of the line
ASKED = {"backward": True, "forward": False}
GROUPS = {"held_out": ("validation", "test"), "asked": ("train",)}


def run(options: Reversal) -> bool:
    """Make or go on with the experiment; True when it is complete."""
    cells = [
        Cell(track, seed, functools.partial(_variant, options, track, seed))
        for seed in options.seeds
        for track in OBJECTIVES
    ]
    command = (
        f"nano-llada experiment {NAME} --steps {options.steps} --documents {options.documents} "
        f"--hidden-size {options.hidden_size} --num-layers {options.num_layers}"
    )
    results = run_grid(NAME, cells, options.docs / NAME, command)
    if results is None:
        return False
    write_report(results, options.docs / NAME)
    return True


def _variant(options: Reversal, track: str, seed: int) -> Mapping[str, Any] | None:
    stage = _stage(options, track, seed)
    if not complete([stage]):
        return None
    checkpoint = load_checkpoint(stage.folder, prefer="last")
    metrics: dict[str, Any] = {
        "parameters": count_parameters(checkpoint.model),
        "train_tokens": trained_tokens(stage.folder),
    }
    return metrics | ask_all(checkpoint)


def _stage(options: Reversal, track: str, seed: int) -> RunConfig:
    """One run of plain text: statements, parent first, and for some families questions with answers, a line each."""
    world = options.runs / f"world-{options.documents}"
    if not (world / "words.txt").is_file():
        write_world(world, documents_count=options.documents, chats_count=0, skills=("backward_relation",), seed=0)
    return RunConfig(
        name=track,
        runs=options.runs / f"seed-{seed}",
        objective=OBJECTIVES[track],
        model=ModelConfig(
            hidden_size=options.hidden_size, num_layers=options.num_layers, num_heads=4, tie_embeddings=True
        ),
        data=DataConfig(
            data=((world / "pretrain-train.jsonl").as_posix(),),
            validation=((world / "pretrain-validation.jsonl").as_posix(),),
            sequence_length=128,
        ),
        train=TrainConfig(
            steps=options.steps,
            batch_size=16,
            learning_rate=4e-3,
            optimizer="muon",
            eval_every=max(1, options.steps // 10),
            eval_rows=32,
            save_every=500,
            keep_last=1,
            keep_best=0,
            seed=seed,
            threads=options.threads,
        ),
    )


def ask_all(checkpoint: Checkpoint) -> dict[str, float]:
    """Exact match of every family asked for in both directions and languages, by whether training asked about it."""
    return {
        f"{direction}_{group}_{language}": _asked(checkpoint, splits, language, backwards)
        for direction, backwards in ASKED.items()
        for group, splits in GROUPS.items()
        for language in LANGUAGES
    }


def _asked(checkpoint: Checkpoint, splits: Sequence[str], language: Language, backwards: bool) -> float:
    rng, tokenizer = Random(0), checkpoint.tokenizer
    chosen = [family for family in families() if split_of(family.key) in splits]
    turns = [relation_question(family, language, backwards=backwards, rng=rng) for family in chosen]
    decoding: Decoding = Autoregressive(ANSWER) if checkpoint.track == "ar" else Diffusion(ANSWER)
    sampler = make_sampler(checkpoint.model, tokenizer.vocab, decoding)
    requests = [Request(tuple(tokenizer.encode(f"{turn.prompt}\n"))) for turn in turns]
    right = 0
    for i, completion in answered(sampler, requests, len(requests)):
        line = tokenizer.decode(completion.tokens, specials=False).partition("\n")[0]
        right += verify(turns[i].verifier, line)
    return right / len(turns)


def write_report(results: Sequence[Result], folder: Path) -> None:
    """README.md with the table and the bars: means over seeds, and each seed's."""
    rows = [(direction, group, language) for direction in ASKED for group in GROUPS for language in LANGUAGES]
    told = {"held_out": "only stated", "asked": "asked in training, too"}
    table = markdown_table(
        ("asked", "families", "language", *OBJECTIVES),
        [
            (d, told[g], lang, *(_told(results, track, f"{d}_{g}_{lang}") for track in OBJECTIVES))
            for d, g, lang in rows
        ],
    )
    held = sum(split_of(family.key) != "train" for family in families())
    seeds = len({result.seed for result in results})
    first = results[0].metrics
    text = (
        f"# The reversal curse\n\n`{results[0].command}`\n\n"
        f'{len(families())} families are stated in plain text, always the parent first ("A is B\'s mother."), all '
        f"equally often. About {len(families()) - held} of them the text also holds questions with answers, in both "
        f"directions, so that the form of questions is known; about the other {held} none. *Backward* asks for the "
        "parent, *forward* for the child. Both models are trained from nothing on the same rows in the same order "
        f"({first['train_tokens']:,} tokens, {first['parameters']:,} parameters, {seeds} seed(s)); answers are greedy, "
        f"exact match, the mean and each seed's.\n\n{table}\n![exact match](exact_match.png)\n"
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    _plot(results, rows, folder / "exact_match.png")


def _values(results: Sequence[Result], track: str, name: str) -> list[float]:
    return [float(result.metrics[name]) for result in results if result.variant == track]


def _told(results: Sequence[Result], track: str, name: str) -> str:
    values = _values(results, track, name)
    mean = f"{sum(values) / len(values):.1%}"
    return mean if len(values) == 1 else f"{mean} ({', '.join(f'{value:.1%}' for value in values)})"


def _plot(results: Sequence[Result], rows: Sequence[tuple[str, str, str]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for place, track in enumerate(OBJECTIVES):
        for number, row in enumerate(rows):
            values = _values(results, track, "_".join(row))
            label = track if number == 0 else None
            axes.barh(number + 0.4 * place, sum(values) / len(values), height=0.4, color=f"C{place}", label=label)
            axes.plot(values, [number + 0.4 * place] * len(values), "k.", markersize=3)
    axes.set_yticks([number + 0.2 for number in range(len(rows))], [", ".join(row).replace("_", " ") for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.02), xlabel="exact match")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
