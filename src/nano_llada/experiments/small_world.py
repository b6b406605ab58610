"""Every skill of the small world, AR, and diffusion that starts from it, of equal size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.core.errors import UserError
from nano_llada.data.world import SKILLS
from nano_llada.data.world.files import write_world
from nano_llada.decode.config import Autoregressive, Decoding, Diffusion
from nano_llada.demo import held_out_questions, stages
from nano_llada.demo_config import DemoConfig
from nano_llada.evaluate.answers import answer_examples, exact_match
from nano_llada.experiments.grid import Cell, Result, markdown_table, run_grid, trained_tokens
from nano_llada.experiments.options import SmallWorld
from nano_llada.model.config import ModelConfig
from nano_llada.run import complete, count_parameters
from nano_llada.sampling import make_sampler

NAME = "small-world"
VARIANTS = ("ar", "diffusion")
HEAD = 32


def run(options: SmallWorld) -> bool:
    """Make or go on with the experiment; True when it is complete."""
    cells = [
        Cell(variant, seed, lambda variant=variant, seed=seed: _variant(options, variant, seed))  # type: ignore[misc]
        for seed in options.seeds
        for variant in VARIANTS
    ]
    command = (
        f"nano-llada experiment small-world --pretrain-steps {options.pretrain_steps} "
        f"--diffusion-steps {options.diffusion_steps} --sft-steps {options.sft_steps} "
        f"--hidden-size {options.hidden_size} --num-layers {options.num_layers} --items {options.items}"
    )
    folder = options.docs / NAME
    results = run_grid(NAME, cells, folder, command)
    if results is None:
        return False
    _report(results, folder)
    return True


def _config(options: SmallWorld, seed: int) -> DemoConfig:
    if options.hidden_size < HEAD or options.hidden_size % HEAD:
        raise UserError(f"hidden_size {options.hidden_size}: use a multiple of {HEAD}, the size of a head")
    return DemoConfig(
        folder=options.runs / f"seed-{seed}",
        skills=SKILLS,
        documents=160_000,
        chats=160_000,
        ar_steps=options.pretrain_steps,
        ar_sft_steps=options.sft_steps,
        diffusion_steps=options.diffusion_steps,
        diffusion_sft_steps=options.sft_steps,
        answer_length=24,
        seed=seed,
        threads=options.threads,
        model=ModelConfig(
            hidden_size=options.hidden_size,
            num_layers=options.num_layers,
            num_heads=options.hidden_size // HEAD,
            tie_embeddings=True,
            max_length=256,
        ),
    )


def _variant(options: SmallWorld, variant: str, seed: int) -> dict[str, Any] | None:
    config = _config(options, seed)
    world = config.folder / "world"
    if not (world / "words.txt").is_file():
        write_world(
            world, documents_count=config.documents, chats_count=config.chats, skills=config.skills, seed=config.seed
        )
    by_name = {stage.name: stage for stage in stages(config)}
    names = ["ar", "ar-sft"] if variant == "ar" else ["ar", "ar-sft", "diffusion", "diffusion-sft"]
    if not complete([by_name[name] for name in names]):
        return None
    tokens = sum(trained_tokens(by_name[name].folder) for name in names)
    measured = measure(by_name[names[-1]].folder, variant, options.items, config.answer_length)
    return {"train_tokens_all_stages": tokens} | measured


def measure(folder: Path, variant: str, items: int, answer_length: int) -> dict[str, Any]:
    """Exact match over all test questions, by language and by skill, greedy."""
    checkpoint = load_checkpoint(folder)
    decoding: Decoding
    if variant == "ar":
        decoding = Autoregressive(max_new_tokens=2 * answer_length)
    else:
        decoding = Diffusion(max_new_tokens=answer_length)
    sampler = make_sampler(checkpoint.model, checkpoint.tokenizer.vocab, decoding)
    answers = answer_examples(sampler, checkpoint.tokenizer, held_out_questions(SKILLS, items))
    metrics: dict[str, Any] = {
        "parameters": count_parameters(checkpoint.model),
        "exact_match_zh": exact_match(answers, language="zh"),
        "exact_match_en": exact_match(answers, language="en"),
    }
    for skill in SKILLS:
        for language in ("zh", "en"):
            metrics[f"{skill}_{language}"] = exact_match(answers, skill=skill, language=language)
    return metrics


def _mean(results: Sequence[Result], variant: str, name: str) -> float:
    values = [float(result.metrics[name]) for result in results if result.variant == variant]
    if not values:
        raise UserError(f"no results of variant {variant}")
    return sum(values) / len(values)


def _report(results: Sequence[Result], folder: Path) -> None:
    """The table and the bars, means over seeds."""
    names = ["exact_match", *SKILLS]
    rows = []
    for name in names:
        cells = [_mean(results, variant, f"{name}_{language}") for variant in VARIANTS for language in ("zh", "en")]
        rows.append([name, *cells])
    table = markdown_table(["skill", "AR zh", "AR en", "diffusion zh", "diffusion en"], rows)
    shape: Mapping[str, Any] = results[0].metrics
    trained = {variant: _mean(results, variant, "train_tokens_all_stages") / 1e6 for variant in VARIANTS}
    text = (
        f"# Every skill of the small world\n\n{shape['parameters']:,} parameters, greedy decoding, "
        f"{len({r.seed for r in results})} seed(s); held-out combinations. AR has been trained on {trained['ar']:.1f}M "
        f"tokens, diffusion, which begins as that AR model, on {trained['diffusion']:.1f}M in all.\n\n"
        f"{table}\n![exact match](skills.png)\n"
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    _plot(rows, folder / "skills.png")


def _plot(rows: Sequence[Sequence[Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    for i, label in enumerate(("AR zh", "AR en", "diffusion zh", "diffusion en")):
        axes.barh([j + i * 0.2 for j in range(len(rows))], [row[i + 1] for row in rows], height=0.2, label=label)
    axes.set_yticks([j + 0.3 for j in range(len(rows))], [str(row[0]) for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="exact match on held-out combinations")
    axes.legend()
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
