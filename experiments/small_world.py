"""Every skill of the small world: AR, and diffusion models of equal size that start from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.grid import Cell, Result, markdown_table, run_grid, trained_tokens, write_page
from experiments.options import SmallWorld
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.decoding import Autoregressive, Block, Decoding, Diffusion
from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import BlockSizeSchedule, Denoising
from nano_llada.config.run import RunConfig
from nano_llada.core.errors import UserError
from nano_llada.demo.options import DemoConfig
from nano_llada.demo.run import held_out_questions, stages
from nano_llada.evaluation.answers import answer_examples, exact_match
from nano_llada.language_model import make_sampler
from nano_llada.session.run import complete, count_parameters
from nano_llada.world import SKILLS
from nano_llada.world.files import write_lookups, write_tellings, write_world

NAME = "small-world"
# `blocks` writes one small block after the other (LLaDA 2.0), `diffusion` sees the whole text (LLaDA 1.0), and so does
# `grown`, which begins as `blocks` where `diffusion` begins as `ar`
VARIANTS = ("ar", "blocks", "grown", "diffusion")
BLOCK = 4
HEAD = 32
TELLING = 10  # conversations that ask, for each that tells of families and for each text to look things up in
# Seven skills are learnt more slowly than the other ten: two shares each of what is taught.
TAUGHT = (
    *SKILLS,
    *("recall", "counting", "addition", "subtraction", "infill", "direction", "backward_relation"),
)


def run(options: SmallWorld) -> bool:
    """Make or go on with the experiment; True when it is complete."""
    cells = [
        Cell(variant, seed, lambda variant=variant, seed=seed: _variant(options, variant, seed))  # type: ignore[misc]
        for seed in options.seeds
        for variant in VARIANTS
    ]
    command = (
        f"nano-llada experiment small-world --lookup-steps {options.lookup_steps} "
        f"--pretrain-steps {options.pretrain_steps} --diffusion-steps {options.diffusion_steps} "
        f"--sft-steps {options.sft_steps} --whole-steps {options.whole_steps} --hidden-size {options.hidden_size} "
        f"--num-layers {options.num_layers} --items {options.items}{' --compile' if options.compile else ''}"
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
        skills=TAUGHT,
        documents=160_000,
        chats=160_000,
        ar_steps=options.pretrain_steps,
        ar_sft_steps=options.sft_steps,
        diffusion_steps=options.diffusion_steps,
        diffusion_sft_steps=options.whole_steps,
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
    _write_world(config)
    runs = [replace(run, train=replace(run.train, compile=options.compile)) for run in _runs(options, config, variant)]
    if not complete(runs):
        return None
    tokens = sum(trained_tokens(run.folder) for run in runs)
    measured = measure(runs[-1].folder, variant, options.items, config.answer_length)
    return {"train_tokens_all_stages": tokens} | measured


def _write_world(config: DemoConfig) -> None:
    world = config.folder / "world"
    if not (world / "told-test.jsonl").is_file():
        write_world(
            world,
            documents_count=config.documents,
            chats_count=config.chats,
            skills=config.skills,
            seed=config.seed,
            mirrored=True,
        )
        count = config.chats // TELLING
        write_lookups(world, count=count, seed=config.seed)
        write_tellings(world, count=count, seed=config.seed)


def _runs(options: SmallWorld, config: DemoConfig, variant: str) -> list[RunConfig]:
    """What a variant is trained in, in order; the AR model is the beginning of all of them.

    It begins with texts to look things up in, and nothing else: among others they are too few for it to learn that.
    """
    ar, ar_sft, diffusion, diffusion_sft = (_telling(run) for run in stages(config))
    texts = [(config.folder / "world" / f"lookup-{split}.jsonl").as_posix() for split in ("train", "validation")]
    lookup = replace(
        _for_steps(ar, options.lookup_steps),
        name="lookup",
        sample_prompts=(),
        data=replace(ar.data, data=(texts[0],), validation=(texts[1],)),
    )
    started = [lookup, replace(ar, init_from=lookup.folder, model=ModelConfig()), ar_sft]
    if variant == "ar":
        return started
    if variant == "diffusion":
        return [*started, diffusion, diffusion_sft]
    blocks, blocks_sft = (_in_blocks(run) for run in (diffusion, diffusion_sft))
    answers = replace(blocks_sft.data, eos_fill=0, fill_multiple=BLOCK)  # an answer ends with its last block
    blocks_sft = replace(_for_steps(blocks_sft, options.sft_steps), init_from=blocks.folder, data=answers)
    if variant == "blocks":
        return [*started, blocks, blocks_sft]
    grown = replace(_for_steps(diffusion_sft, options.sft_steps), name="grown-sft", init_from=blocks_sft.folder)
    return [*started, blocks, blocks_sft, grown]


def _for_steps(run: RunConfig, steps: int) -> RunConfig:
    return replace(run, train=replace(run.train, steps=steps))


def _telling(run: RunConfig) -> RunConfig:
    """The same run; if it learns answers, it is told of families between them."""
    if run.data.format == "text":
        return run
    told = run.runs / "world" / "told-train.jsonl"
    return replace(run, data=replace(run.data, data=(*run.data.data, told.as_posix())))


def _in_blocks(run: RunConfig) -> RunConfig:
    """The same run of diffusion in blocks."""
    assert isinstance(run.objective, Denoising)
    objective = replace(run.objective, blocks=BlockSizeSchedule(BLOCK))
    return replace(run, name=run.name.replace("diffusion", "blocks"), objective=objective)


def measure(folder: Path, variant: str, items: int, answer_length: int) -> dict[str, Any]:
    """Exact match over all test questions, by language and by skill, greedy."""
    checkpoint = load_checkpoint(folder)
    decodings: dict[str, Decoding] = {
        "ar": Autoregressive(max_new_tokens=2 * answer_length),
        "blocks": Block(max_new_tokens=answer_length, block_size=BLOCK, threshold=1.0),
        "grown": Diffusion(max_new_tokens=answer_length),
        "diffusion": Diffusion(max_new_tokens=answer_length),
    }
    decoding = decodings[variant]
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
    columns = [f"{variant} {language}" for variant in VARIANTS for language in ("zh", "en")]
    rows = []
    for name in names:
        cells = [_mean(results, variant, f"{name}_{language}") for variant in VARIANTS for language in ("zh", "en")]
        rows.append([name, *cells])
    shape: Mapping[str, Any] = results[0].metrics
    trained = {variant: _mean(results, variant, "train_tokens_all_stages") / 1e6 for variant in VARIANTS}
    text = (
        f"# Every skill of the small world\n\n{shape['parameters']:,} parameters, greedy decoding, "
        f"{len({r.seed for r in results})} seed(s); held-out combinations (families that are asked about are told both "
        "ways, every other time with the words of the statement from its end, and told again between the answers of "
        "fine-tuning). All begin with texts to look things up in. AR has been trained on "
        f"{trained['ar']:.1f}M tokens, which count for all. `blocks` begins as that AR model, in blocks of {BLOCK} "
        f"(LLaDA 2.0), {trained['blocks']:.1f}M in all; `diffusion` begins as it too, on whole texts (LLaDA 1.0), "
        f"{trained['diffusion']:.1f}M; `grown` begins as `blocks`, on whole texts, {trained['grown']:.1f}M.\n\n"
        f"{markdown_table(['skill', *columns], rows)}\n![exact match](skills.png)\n"
    )
    write_page(folder, text)
    _plot(columns, rows, folder / "skills.png")


def _plot(columns: Sequence[str], rows: Sequence[Sequence[Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 11), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(columns)
    for i, label in enumerate(columns):
        axes.barh([j + i * height for j in range(len(rows))], [row[i + 1] for row in rows], height=height, label=label)
    axes.set_yticks([j + 0.4 for j in range(len(rows))], [str(row[0]) for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="exact match on held-out combinations")
    axes.legend()
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
