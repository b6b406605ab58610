"""One set of weights for AR, blocks and self-speculation: what does it cost each of them, and how fast does it write?

Four variants begin as one AR model and are trained for equally many steps on the same rows: `ar` continues as it is,
`block` learns block diffusion, `tri-next` and `tri-self` both at once, with outputs that predict the next or their own
token. On the small world, greedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.grid import Cell, Metrics, Result, markdown_table, run_grid, write_page
from experiments.options import TriMode as Options
from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.config.decoding import Autoregressive, Block, Decoding, Speculative
from nano_llada.config.objectives import BlockSizeSchedule, Denoising, NextToken, ObjectiveConfig, TriMode
from nano_llada.config.run import RunConfig
from nano_llada.core import device as hardware
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.types import Request
from nano_llada.demo.options import DemoConfig
from nano_llada.demo.run import held_out_questions, stages
from nano_llada.evaluation.answers import Answer, answer_examples, exact_match
from nano_llada.evaluation.drafting import best_drafts, draft_costs
from nano_llada.evaluation.likelihood import text_likelihood
from nano_llada.session.run import complete
from nano_llada.world import DEMO_SKILLS, Example, documents
from nano_llada.world.files import write_world

NAME = "tri-mode"
VARIANTS = ("ar", "block", "tri-next", "tri-self")
LANGUAGES = ("zh", "en")
METRICS = (
    *(f"{name}_{language}" for name in ("exact_match", "block_exact_match", "bits_per_byte") for language in LANGUAGES),
    *("identical", "tokens_per_pass", "tokens_per_pass_right", "time_ratio", "k", "block_tokens_per_pass"),
)
ANSWER = 24  # tokens, at most


def run(options: Options) -> bool:
    """Run the experiment, or resume it; True when it is complete."""
    if options.smoke:
        options = smoke(options)
    hardware.keep_freed_memory()
    cells = [
        Cell(variant, seed, lambda variant=variant, seed=seed: _variant(options, variant, seed))  # type: ignore[misc]
        for seed in options.seeds
        for variant in VARIANTS
    ]
    command = (
        f"python -m experiments {NAME} --ar-steps {options.ar_steps} --steps {options.steps} "
        f"--sft-steps {options.sft_steps} --hidden-size {options.hidden_size} --num-layers {options.num_layers} "
        f"--block-size {options.block_size} --items {options.items} --timed {options.timed}"
    )
    results = run_grid(NAME, cells, options.docs / NAME, command)
    if results is None:
        return False
    write_page(options.docs / NAME, page(results, options))
    return True


def smoke(options: Options) -> Options:
    """The same in seconds, with tiny models that learn nothing; results beside its runs."""
    small: dict[str, Any] = {
        "ar_steps": 2,
        "steps": 2,
        "sft_steps": 2,
        "hidden_size": 32,
        "num_layers": 1,
        "documents": 200,
    }
    small |= {"chats": 200, "items": 1, "timed": 2, "block_size": 4, "batch_size": 4, "texts": 8, "most": 2}
    return replace(options, **small, seeds=options.seeds[:1], docs=options.runs / "smoke")


def demo(options: Options, seed: int) -> DemoConfig:
    """The small world and the shape of the models, as the demo has them."""
    shape = DemoConfig().model
    heads = max(1, options.hidden_size // 32)
    return DemoConfig(
        folder=options.runs / f"seed-{seed}",
        documents=options.documents,
        chats=options.chats,
        ar_steps=options.ar_steps,
        ar_sft_steps=options.sft_steps,
        seed=seed,
        threads=options.threads,
        model=replace(shape, hidden_size=options.hidden_size, num_layers=options.num_layers, num_heads=heads),
    )


def runs_of(options: Options, variant: str, seed: int) -> list[RunConfig]:
    """What a variant is trained in: the AR model of all, texts, and answers."""
    ar, ar_sft, *_ = stages(demo(options, seed))
    ar = replace(ar, name="start", sample_prompts=(), train=replace(ar.train, batch_size=options.batch_size))
    train = replace(ar.train, steps=options.steps, learning_rate=options.learning_rate)
    objective = _objective(options, variant)
    texts = replace(ar, name=variant, init_from=ar.folder, model=type(ar.model)(), objective=objective, train=train)
    data = replace(ar_sft.data, turns="each", **_ends(options, variant))
    answers = replace(
        ar_sft,
        name=f"{variant}-sft",
        init_from=texts.folder,
        sample_prompts=(),
        objective=objective,
        data=data,
        train=replace(ar_sft.train, batch_size=options.batch_size),
    )
    return [ar, texts, answers]


def _objective(options: Options, variant: str) -> ObjectiveConfig:
    blocks = BlockSizeSchedule(options.block_size)
    objectives: Mapping[str, ObjectiveConfig] = {
        "ar": NextToken(),
        "block": Denoising(blocks=blocks),
        "tri-next": TriMode(blocks=blocks, predicts="next"),
        "tri-self": TriMode(blocks=blocks, predicts="self"),
    }
    return objectives[variant]


def _ends(options: Options, variant: str) -> dict[str, Any]:
    """How a model learns what follows an end: AR models never see it."""
    if variant == "block":
        return {"fill_multiple": options.block_size}
    return {} if variant == "ar" else {"eos_after": options.block_size}


def _variant(options: Options, variant: str, seed: int) -> Metrics | None:
    config = demo(options, seed)
    world = config.folder / "world"
    if not (world / "words.txt").is_file():
        write_world(world, documents_count=config.documents, chats_count=config.chats, skills=DEMO_SKILLS, seed=seed)
    runs = runs_of(options, variant, seed)
    if not complete(runs):
        return None
    texts, answers = (load_checkpoint(run.folder, prefer="last") for run in runs[1:])
    return measure(options, variant, texts, answers)


def measure(options: Options, variant: str, texts: Checkpoint, answers: Checkpoint) -> Metrics:
    """Every metric of a variant; None where it has no meaning for it."""
    found: dict[str, Any] = dict.fromkeys(METRICS)
    questions = held_out_questions(DEMO_SKILLS, options.items)
    for language in LANGUAGES:
        held_out = [
            row["text"] for row in documents("test", options.texts, 0, DEMO_SKILLS) if row["language"] == language
        ]
        found[f"bits_per_byte_{language}"] = text_likelihood(texts, held_out, window=128).bits_per_byte
    if variant != "ar":
        in_blocks = Block(ANSWER, block_size=options.block_size, threshold=options.threshold)
        in_blocks = replace(in_blocks, predicts=answers.card.predicts, causal=answers.card.autoregressive)
        written = asked(answers, in_blocks, questions)
        found |= by_language("block_exact_match", written)
        found["block_tokens_per_pass"] = tokens_per_pass(written)
    if variant == "block":
        found |= {f"exact_match_{language}": found[f"block_exact_match_{language}"] for language in LANGUAGES}
        return found
    plain = asked(answers, Autoregressive(ANSWER), questions)
    found |= by_language("exact_match", plain)
    if variant == "ar":
        return found | {"tokens_per_pass": tokens_per_pass(plain), "k": 0}
    return found | speculation(options, answers, questions, plain)


def speculation(
    options: Options, answers: Checkpoint, questions: Sequence[Example], plain: Sequence[Answer]
) -> dict[str, Any]:
    """Self-speculation with the best number of drafts, beside AR decoding of the same questions, `plain`."""
    decoding = Speculative(ANSWER, predicts=answers.card.predicts)
    tokenizer = answers.tokenizer
    spread = questions[:: max(1, len(questions) // options.timed)][: options.timed]
    requests = [Request(tuple(encode_prompt(tokenizer, [Message("user", one.prompt)]))) for one in spread]
    costs = draft_costs(answers.model, tokenizer.vocab, requests, decoding, range(options.most + 1))
    best = best_drafts(costs[1:])
    quick = asked(answers, replace(decoding, drafts=best), questions)
    same = [one.completion.tokens == other.completion.tokens for one, other in zip(quick, plain, strict=True)]
    right = [one for one in quick if one.right]
    # the curve: what each number of drafts writes on right answers, on every fourth question
    some = [
        [one for one in asked(answers, replace(decoding, drafts=count), questions[::4]) if one.right]
        for count in range(options.most + 1)
    ]
    return {
        "identical": sum(same) / len(same),
        "tokens_per_pass": tokens_per_pass(quick),
        "tokens_per_pass_right": tokens_per_pass(right) if right else None,
        "time_ratio": costs[0].rate / costs[best].rate,  # of the time a token takes, AR being 1
        "k": best,
        "tokens_per_pass_by_k": [one.tokens_per_pass for one in costs],
        "tokens_per_pass_right_by_k": [tokens_per_pass(ones) if ones else None for ones in some],
        "time_ratio_by_k": [costs[0].rate / one.rate for one in costs],
        "pass_cost_by_k": [one.pass_milliseconds / costs[0].pass_milliseconds for one in costs],
        "questions": len(questions),
    }


def asked(checkpoint: Checkpoint, decoding: Decoding, questions: Sequence[Example]) -> list[Answer]:
    """Answers on the lean forward pass, where no text depends on how wide a pass is."""
    sampler = BatchSampler(checkpoint.model, checkpoint.tokenizer.vocab, decoding)
    return answer_examples(sampler, checkpoint.tokenizer, questions)


def by_language(name: str, answers: Sequence[Answer]) -> dict[str, float]:
    """Exact match in each language."""
    return {f"{name}_{language}": exact_match(answers, language=language) for language in LANGUAGES}


def tokens_per_pass(answers: Sequence[Answer]) -> float:
    """New tokens, those that end answers too, over forward passes."""
    done = [one.completion for one in answers]
    return sum(len(one.tokens) + (one.end is not None) for one in done) / sum(one.forwards for one in done)


def page(results: Sequence[Result], options: Options) -> str:
    """The table: means over seeds."""
    rows = []
    for variant in VARIANTS:
        mine = [result.metrics for result in results if result.variant == variant]
        values = [[float(one[name]) for one in mine if one.get(name) is not None] for name in METRICS]
        rows.append([variant, *(sum(some) / len(some) if some else "–" for some in values)])
    curves = [row for variant in VARIANTS for row in curve_by_drafts(variant, results)]
    names = ["variant", "drafts", "tokens per pass", "on right answers", "cost of a pass", "time of a token"]
    return (
        f"# One model for AR, blocks and self-speculation\n\n{options.num_layers} layers of width "
        f"{options.hidden_size}, blocks of {options.block_size}; each variant is trained for {options.steps} steps on "
        f"texts, from one AR model, and {options.sft_steps} on answers; seeds {', '.join(map(str, options.seeds))}. "
        "Greedy decoding. `identical` is the share of answers of self-speculation that equal AR's token for token, "
        "`time_ratio` the time a token takes with the best number of drafts `k`, AR being 1. The bits per byte of "
        f"`block` are a bound.\n\n{markdown_table(['variant', *METRICS], rows)}"
        "\n## By number of drafts\n\nMeans over seeds. The cost of a pass and the time of a token are relative to one "
        "token a pass; on right answers: every fourth question that is answered right with as many drafts. A pass over "
        "k drafts computes (k + 1)^2 places, so its cost grows faster than what it writes.\n\n"
        f"{markdown_table(names, curves)}"
    )


def curve_by_drafts(variant: str, results: Sequence[Result]) -> list[list[object]]:
    """A row for each number of drafts, means over seeds; none for a variant that does not draft."""
    found = [result.metrics for result in results if result.variant == variant and "time_ratio_by_k" in result.metrics]
    columns = ("tokens_per_pass_by_k", "tokens_per_pass_right_by_k", "pass_cost_by_k", "time_ratio_by_k")
    rows: list[list[object]] = []
    for k in range(len(found[0]["time_ratio_by_k"]) if found else 0):
        values = [[one[name][k] for one in found if one[name][k] is not None] for name in columns]
        rows.append([variant, k, *(sum(some) / len(some) if some else "–" for some in values)])
    return rows
