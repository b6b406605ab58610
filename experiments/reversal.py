"""The reversal curse: told "A is B's mother", who knows B's mother? AR and masked diffusion, both from nothing."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from experiments.grid import Cell, Result, markdown_table, run_grid, trained_tokens, write_page
from experiments.options_measuring import Reversal
from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.config.data import DataConfig
from nano_llada.config.decoding import Autoregressive, Decoding, Diffusion
from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import Denoising, NextToken, ObjectiveConfig
from nano_llada.config.run import RunConfig
from nano_llada.config.train import TrainConfig
from nano_llada.decode.types import Request
from nano_llada.evaluation.answers import complete as answered
from nano_llada.language_model import encode_start, make_sampler
from nano_llada.session.run import complete, count_parameters
from nano_llada.world import LANGUAGES, Language, split_of
from nano_llada.world.files import write_world
from nano_llada.world.skills_family import Family, families, relation_question

NAME = "reversal"
OBJECTIVES: dict[str, ObjectiveConfig] = {"ar": NextToken(), "diffusion": Denoising()}
WAYS = ("backward", "forward", "stated")
GROUPS = {"held_out": ("validation", "test"), "asked": ("train",)}
NAME_AND_END = {"zh": 4, "en": 3}  # tokens of a name and the end of its line
STATEMENT = 8  # tokens, of which the first are the child's name


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
    """One run of plain text: statements, parent first, and for some families questions with answers, a line each.

    A seventh of it are other kinds of text that every small world has.
    """
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
    """Exact match of every family in each way and language, by whether training asked about it."""
    return {
        f"{way}_{group}_{language}": _asked(checkpoint, splits, language, way)
        for way in WAYS
        for group, splits in GROUPS.items()
        for language in LANGUAGES
    }


def _asked(checkpoint: Checkpoint, splits: Sequence[str], language: Language, way: str) -> float:
    rng, tokenizer = Random(0), checkpoint.tokenizer
    turns = [_turn(family, language, way, rng) for family in families() if split_of(family.key) in splits]
    length = STATEMENT if way == "stated" else NAME_AND_END[language]
    decoding: Decoding = Autoregressive(length) if checkpoint.card.autoregressive else Diffusion(length)
    sampler = make_sampler(checkpoint.model, tokenizer.vocab, decoding)
    requests = [Request(tuple(encode_start(tokenizer, begin))) for begin, _ in turns]
    right = 0
    for i, completion in answered(sampler, requests, len(requests)):
        written, name = tokenizer.decode(completion.tokens, specials=False).strip(" "), turns[i][1]
        right += written.startswith(name) if way == "stated" else written.partition("\n")[0] == name
    return right / len(turns)


def _turn(family: Family, language: Language, way: str, rng: Random) -> tuple[str, str]:
    """What stands there, and the name that goes on; `stated` is the statement itself, up to the child's name."""
    if way != "stated":
        turn = relation_question(family, language, backwards=way == "backward", rng=rng)
        return f"{turn.prompt}\n", turn.answer
    child = family.child.text(language)
    begin, _, _ = family.statement()[LANGUAGES.index(language)].partition(child)
    return begin.rstrip(" "), child


def write_report(results: Sequence[Result], folder: Path) -> None:
    """README.md with the table and the bars: means over seeds, and each seed's."""
    rows = [(way, group, language) for way in WAYS for group in GROUPS for language in LANGUAGES]
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
        f"directions, so that the form of questions is known; about the other {held} (the validation and the test "
        "split) none. A seventh of the text is about other things. *Backward* asks for the parent, *forward* for the "
        "child; *stated* gives a statement up to the child's name, to see whether it is known at all. Both models are "
        f"trained from nothing on the same rows in the same order ({first['train_tokens']:,} tokens, "
        f"{first['parameters']:,} parameters, Muon, one learning rate for both, {seeds} seed(s) of initialisation and "
        f"order). Answers are greedy; exact match, the mean and each seed's. A cell has {held} or "
        f"{len(families()) - held} questions: one half of {held} is known to 15 points.\n\n"
        "In English a name begins with another token behind a space than at the beginning of a line, where statements "
        "put parents and answers stand: only backward are both names the tokens of the statement. Chinese has no such "
        f"difference, so it is the one to look at.\n\n{table}\n![exact match](exact_match.png)\n"
    )
    write_page(folder, text)
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
