"""A real model of somebody else through everything here: import, adapters, blocks of 4, export, beside its own world.

SmolLM2-135M-Instruct is imported from its GGUF file and compared with what the transformers library makes of the same
file: logits, and answers to multiple-choice questions in lm-evaluation-harness. Then `recipes/smollm2.toml`, shortened:
what adapters learn, what they cost the AR model, and that its weights stay as they were.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.grid import Cell, Metrics, Result, markdown_table, run_grid, trained_tokens, write_page
from experiments.options_measuring import Smollm2
from nano_llada.checkpoint.checksums import file_hash
from nano_llada.checkpoint.files import (
    Checkpoint,
    load_checkpoint,
    model_weights,
    read_description,
    save_model,
    weights_file,
    write_checkpoint,
)
from nano_llada.config.decoding import Autoregressive
from nano_llada.config.run import RunConfig
from nano_llada.core.pattern import AttentionPattern
from nano_llada.core.random import derive_seed
from nano_llada.evaluation.items import read_passages
from nano_llada.evaluation.likelihood import ScoredRow, row_batches, text_likelihood
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites.choices import ChoiceQuestion, Choices, read_choices
from nano_llada.interop.adapters import without_adapter
from nano_llada.interop.export import export_gguf, export_transformers
from nano_llada.interop.gguf_files import import_gguf
from nano_llada.language_model import LanguageModel, encode_start
from nano_llada.objectives.cross_entropy import head_nll
from nano_llada.objectives.denoising import Reading, noisy_features, without_first
from nano_llada.session.recipe import read_recipe
from nano_llada.session.run import complete

NAME = "smollm2"
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "smollm2.toml"
STAGES = ("base", "ar-sft", "texts", "blocks")  # the model as it came, and the runs of the recipe
BLOCK = 4
WINDOW = 256  # tokens


def run(options: Smollm2) -> bool:
    """Run the experiment, or resume it; True when it is complete."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    if options.threads:
        torch.set_num_threads(options.threads)
    import_base(options)
    cells = [Cell("import", 0, lambda: parity(options)), Cell("choices", 0, lambda: asked_twice(options))]
    cells += [Cell(name, 0, functools.partial(trained, options, name)) for name in STAGES]
    cells += [Cell("export", 0, lambda: exported(options)), Cell("choices-after", 0, lambda: asked_after(options))]
    command = (
        f"python -m experiments {NAME} --ar-steps {options.ar_steps} --text-steps {options.text_steps} "
        f"--block-steps {options.block_steps} --prompts {options.prompts} --items {options.items} "
        f"--texts {options.texts} --samples {options.samples}"
    )
    results = run_grid(NAME, cells, options.docs / NAME, command)
    if results is None:
        return False
    write_report(results, options.docs / NAME)
    return True


def import_base(options: Smollm2) -> Path:
    """The model as a checkpoint of ours, imported unless it is there."""
    folder = options.runs / "base"
    if not folder.exists():
        found = import_gguf(options.model, stage="sft")
        weights, shape = model_weights(found.model), found.model.config
        write_checkpoint(folder, lambda hidden: save_model(hidden, weights, shape, found.tokenizer, found.card))
    return folder


def stages(options: Smollm2) -> list[RunConfig]:
    """The runs of the recipe, as long as the options say."""
    variables = {"data": options.data.as_posix(), "base": (options.runs / "base").as_posix()}
    steps = {"ar-sft": options.ar_steps, "texts": options.text_steps, "blocks": options.block_steps}
    runs = [step for step in read_recipe(RECIPE, variables, options.runs / "runs").runs if isinstance(step, RunConfig)]
    return [
        replace(one, train=replace(one.train, steps=steps[one.name], eval_rows=8, save_every=10, threads=1))
        for one in runs
    ]


def theirs(options: Smollm2) -> tuple[Any, Any]:
    """The model and the tokenizer that the transformers library makes of the file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(options.model.parent), options.model.name
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder, gguf_file=name)


@torch.no_grad()
def parity(options: Smollm2) -> Metrics:
    """Tokens and logits of real prompts, here and in the transformers library."""
    model, tokenizer = theirs(options)
    ours = load_checkpoint(options.runs / "base")
    counts, worst = dict.fromkeys(("tokens", "same_tokens", "same_argmax"), 0), 0.0
    prompts = questions(options, options.prompts)
    for prompt in prompts:
        tokens = ours.tokenizer.encode(prompt)
        counts["same_tokens"] += tokens == tokenizer(prompt).input_ids
        row = torch.tensor([tokens])
        wanted = model(row).logits[0]
        found = ours.model(row, AttentionPattern("causal"))[0, :, : wanted.shape[1]]  # the mask is ours alone
        worst = max(worst, float((found - wanted).abs().max() / wanted.abs().max()))
        counts["tokens"] += len(tokens)
        counts["same_argmax"] += int((found.argmax(-1) == wanted.argmax(-1)).sum())
    return {"prompts": len(prompts), **counts, "worst_relative_difference": worst}


def questions(options: Smollm2, count: int) -> list[str]:
    """First messages of held-out conversations."""
    lines = (options.data / "eval" / "sft_val_en.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["conversations"][0]["content"] for line in lines[:count]]


def chosen(options: Smollm2) -> dict[str, list[ChoiceQuestion]]:
    """The multiple-choice questions of each task."""
    files = options.choices or ((options.data / "eval" / "mc_en.jsonl").as_posix(),)
    read = read_choices(files)
    return {task: [one for one in read if one.task == task][: options.items] for task in options.tasks}


def scored(checkpoint: Checkpoint, asked: Sequence[ChoiceQuestion]) -> list[list[float]]:
    """log p of every choice, as the continuation of a text, by the suite `choices`."""
    as_text = replace(checkpoint, card=replace(checkpoint.card, stage="pretrain"))
    subject = Subject("model", as_text, Autoregressive(1), "default")
    return [record.detail["scores"] for record in Choices(tuple(asked), batch_size=8).run(subject)]


def picked(asked: Sequence[ChoiceQuestion], scores: Iterable[Sequence[float]], *, by_length: bool) -> list[int]:
    """The choice with the highest sum, or the highest sum per byte."""
    found = []
    for question, values in zip(asked, scores, strict=True):
        sizes = [len(choice.encode()) if by_length else 1 for choice in question.choices]
        rates = [value / size for value, size in zip(values, sizes, strict=True)]
        found.append(rates.index(max(rates)))
    return found


def accuracies(asked: Sequence[ChoiceQuestion], scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Shares of right answers, by sum and by sum per byte."""
    return {
        name: sum(one.answer == pick for one, pick in zip(asked, picked(asked, scores, by_length=norm), strict=True))
        / len(asked)
        for name, norm in (("accuracy_sum", False), ("accuracy_norm", True))
    }


def asked_twice(options: Smollm2) -> Metrics:
    """The same questions through our suite, and through lm-evaluation-harness with the transformers library."""
    base, tasks = load_checkpoint(options.runs / "base"), chosen(options)
    model, tokenizer = theirs(options)
    other = in_harness(model, tokenizer, tasks, options.runs / "tasks")
    found: dict[str, Any] = {}
    for task, asked in tasks.items():
        mine, their = scored(base, asked), [scores for scores, _ in other[task]]
        pairs = [(a, b) for some, others in zip(mine, their, strict=True) for a, b in zip(some, others, strict=True)]
        found[task] = {
            "items": len(asked),
            "largest_difference": max(abs(a - b) / abs(b) for a, b in pairs),
            "same_choice": sum(map(int.__eq__, *(picked(asked, s, by_length=False) for s in (mine, their)))),
            "same_choice_norm": sum(map(int.__eq__, *(picked(asked, s, by_length=True) for s in (mine, their)))),
            "harness_accuracy_sum": sum(right for _, right in other[task]) / len(asked),
            **accuracies(asked, mine),
        }
    return found


def asked_after(options: Smollm2) -> Metrics:
    """The questions of `asked_twice` to the model of blocks, left to right."""
    checkpoint = load_checkpoint(options.runs / "runs" / "blocks", prefer="last")
    return {task: accuracies(some, scored(checkpoint, some)) for task, some in chosen(options).items()}


def in_harness(
    model: Any, tokenizer: Any, tasks: Mapping[str, Sequence[ChoiceQuestion]], folder: Path
) -> dict[str, list[tuple[list[float], bool]]]:
    """What the harness itself finds with a model of transformers: of each item log p of the choices, and whether its
    own metric `acc` counts it as right."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder.mkdir(parents=True, exist_ok=True)
    for task, asked in tasks.items():
        # our texts begin with <|endoftext|>, and so must the harness's, to ask for the same thing
        rows = [
            {"question": f"<|endoftext|>{one.question}", "choices": list(one.choices), "answer": one.answer}
            for one in asked
        ]
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        description = {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder.resolve() / f"{task}.jsonl")}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "target_delimiter": " ",
            "metric_list": [{"metric": "acc"}],
        }
        (folder / f"{task}.yaml").write_text(json.dumps(description), encoding="utf-8")  # JSON is YAML
    results = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8),
        tasks=list(tasks),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    ordered = {task: sorted(results["samples"][task], key=lambda one: int(one["doc_id"])) for task in tasks}
    return {
        task: [([float(answer[0]) for answer in one["filtered_resps"]], one["acc"] == 1.0) for one in samples]
        for task, samples in ordered.items()
    }


def trained(options: Smollm2, name: str) -> Metrics | None:
    """What a stage of the recipe is worth; None if it was interrupted. The model as it came is measured alike."""
    if name == "base":
        checkpoint, found = load_checkpoint(options.runs / "base"), dict[str, Any]()
    else:
        runs = stages(options)
        # of an adapted checkpoint, the runs that lead to it
        ahead = {"ar-sft": ("ar-sft",), "texts": ("texts",), "blocks": ("texts", "blocks")}[name]
        if not complete([one for one in runs if one.name in ahead]):
            return None
        (mine,) = [one for one in runs if one.name == name]
        checkpoint = load_checkpoint(mine.folder, prefer="last")
        found = {"train_tokens": trained_tokens(mine.folder), **untouched(options, mine.folder)}
    texts = [one.text for one in read_passages([(options.data / "eval" / "val_en.jsonl").as_posix()], "text")]
    found["bits_per_byte"] = text_likelihood(
        checkpoint, texts[: options.texts], window=WINDOW, batch_size=4
    ).bits_per_byte
    if name != "ar-sft":
        found |= by_distance(checkpoint, texts[: options.texts])
    if name in ("base", "blocks"):
        found["samples"] = samples(options, checkpoint)
    return found


def untouched(options: Smollm2, run_folder: Path) -> dict[str, Any]:
    """Whether what a run's adapters change has the bits that it had before, in its file and below the adapters.

    `blocks` has adapters of `texts`, which has adapters of the imported model.
    """
    checkpoint = load_checkpoint(run_folder, prefer="last")
    adapter = read_description(checkpoint.folder).adapter
    assert adapter is not None
    below, mask = without_adapter(checkpoint.folder).model.state_dict(), checkpoint.tokenizer.vocab.mask
    start = load_checkpoint(checkpoint.folder / adapter.base)
    same = []
    for name, tensor in start.model.state_dict().items():
        if name in ("embed.weight", "head.weight"):  # the mask begins elsewhere in a denoiser, and is not trained
            tensor[mask] = below[name][mask]
        same.append(torch.equal(tensor, below[name]))
    files = adapter.base_hash == file_hash(weights_file(start.folder))
    base = file_hash(weights_file(options.runs / "base"))
    return {"base_bits_equal": all(same) and files and len(same) == len(below), "base_hash": base[:16]}


@torch.no_grad()
def by_distance(checkpoint: Checkpoint, texts: Sequence[str]) -> dict[str, Any]:
    """Loss in nats and share of right likeliest tokens, by distance from the known text, in blocks of 4 masks each.

    Outputs predict the next token, as those of the recipe's models do; of an AR model as well, which never saw a mask.
    """
    tokenizer, model = checkpoint.tokenizer, checkpoint.model
    reading = Reading("next", causal=True)
    nll: dict[int, list[Tensor]] = {distance: [] for distance in range(1, BLOCK + 1)}
    hits: dict[int, list[Tensor]] = {distance: [] for distance in range(1, BLOCK + 1)}
    rows = [
        ScoredRow(tokens, BLOCK, derive_seed("distance", i))
        for i, tokens in enumerate(encode_start(tokenizer, text)[:WINDOW] for text in texts)
        if len(tokens) > 2 * BLOCK
    ]
    for _, batch in row_batches(checkpoint, rows, batch_size=2):
        batch = without_first(batch)
        hidden = batch.tokens.masked_fill(batch.scored, tokenizer.vocab.mask)
        features, _ = noisy_features(model, hidden, batch, batch.scored, BLOCK, reading)
        wanted, places = batch.tokens[batch.scored], batch.positions[batch.scored] % BLOCK + 1
        likeliest = torch.cat([(some @ model.head.weight.T).argmax(-1) for some in features.split(128)])
        losses = head_nll(features, model.head.weight, wanted)
        for distance in nll:
            nll[distance].append(losses[places == distance])
            hits[distance].append((likeliest == wanted)[places == distance].float())
    return {
        "masked_loss": [float(torch.cat(nll[d]).mean()) for d in nll],
        "top_1": [float(torch.cat(hits[d]).mean()) for d in nll],
        "masked_tokens": sum(len(part) for parts in nll.values() for part in parts),
    }


def samples(options: Smollm2, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Answers to held-out questions, in every way in which the model can be decoded."""
    model, found = LanguageModel(checkpoint), []
    for prompt in [one for one in questions(options, 200) if len(one) < 100][: options.samples]:
        for way in checkpoint.card.decodes:
            wishes: dict[str, Any] = {"threshold": 0.7} if way == "block" else {}
            wishes |= {"decode": way} if len(checkpoint.card.decodes) > 1 else {}
            written = model.generate(prompt, max_new_tokens=32, **wishes)
            found.append(
                {"prompt": prompt, "way": way, "text": written.text, "tokens_per_pass": written.tokens_per_forward}
            )
    return found


@torch.no_grad()
def exported(options: Smollm2) -> Metrics:
    """The models as files of other programs: what transformers computes with the model of blocks, and loads of both."""
    from transformers import AutoModel

    blocks, folder = options.runs / "runs" / "blocks", options.runs / "exported"
    if not folder.exists():
        export_transformers(blocks, folder / "blocks")
        export_gguf(options.runs / "base", folder / "gguf", "q8_0")
    ours = load_checkpoint(blocks, prefer="last")
    other = AutoModel.from_pretrained(folder / "blocks", trust_remote_code=True).eval()
    worst, same, count = 0.0, 0, min(options.prompts, 20)
    for prompt in questions(options, count):
        tokens = torch.tensor([encode_start(ours.tokenizer, prompt)[:64]])
        wanted = ours.model(tokens, AttentionPattern("causal"))
        worst = max(worst, float((other(tokens).logits - wanted).abs().max() / wanted.abs().max()))
    writer, written = LanguageModel(ours), questions(options, 200)
    short = [prompt for prompt in written if len(prompt) < 100][: options.samples]
    for prompt in short:
        tokens = torch.tensor([writer.encode(prompt, chat=True)])
        mine = writer.generate(prompt, decode="ar", max_new_tokens=24)
        their = other.generate(tokens, decode="ar", max_new_tokens=24)[0, tokens.shape[1] :].tolist()
        same += ours.tokenizer.decode([one for one in their if one not in ours.tokenizer.vocab.ends]) == mine.text
    sizes = {path.name: path.stat().st_size for path in (folder / "gguf").glob("*.gguf")}
    return {"worst_relative_difference": worst, "same_ar_texts": same, "ar_texts": len(short), "bytes": sizes}


def write_report(results: Sequence[Result], folder: Path) -> None:
    """README.md with the tables, the samples and the plot."""
    found = {result.variant: result.metrics for result in results}
    first = found["import"]
    text = (
        f"# SmolLM2-135M-Instruct: somebody else's model\n\n`{results[0].command}`\n\n"
        "## Import\n\n"
        f"The imported model beside what the transformers library makes of the same GGUF file, on {first['prompts']} "
        f"real prompts ({first['tokens']:,} tokens): the tokens are the same for {first['same_tokens']} prompts, the "
        f"likeliest next token at {first['same_argmax']:,} of {first['tokens']:,} places; the largest difference of a "
        f"logit is {first['worst_relative_difference']:.1e} of the largest logit.\n\n"
        "## Multiple choice\n\nThe same questions through our suite `choices` and through lm-evaluation-harness with "
        "the transformers library, item by item. A choice is the continuation of the question, which begins with "
        f"`<|endoftext|>` in both.\n\n{_choices_table(found)}\n"
        "`difference` is the largest between the two log-likelihoods of any choice, relative. `after blocks` is the "
        "model at the end of the recipe, left to right.\n\n"
        f"## Blocks of {BLOCK} by adapters\n\n{_stages_table(found)}\n"
        f"Every block of {BLOCK} tokens is hidden as a whole, given the text before it; distance 1 is the token right "
        "behind the known text. `base` is the model as it came, which never saw a mask. Bits per byte are those of the "
        "same weights read left to right.\n\n![by distance](distance.png)\n\n"
        f"## Answers as they came\n\n{_samples_table(found)}\n"
        "## Export\n\n"
        f"The exported folder in transformers: largest difference of a logit "
        f"{found['export']['worst_relative_difference']:.1e} of the largest, left to right the same texts for "
        f"{found['export']['same_ar_texts']} of {found['export']['ar_texts']} prompts.\n"
    )
    write_page(folder, text)
    _plot(found, folder / "distance.png")


def _choices_table(found: Mapping[str, Metrics]) -> str:
    columns = ("task", "items", "same choice", "same, by length", "difference", "accuracy", "harness", "after blocks")
    after = found["choices-after"]
    rows = [
        [
            task,
            one["items"],
            one["same_choice"],
            one["same_choice_norm"],
            f"{one['largest_difference']:.1e}",
            one["accuracy_sum"],
            one["harness_accuracy_sum"],
            after[task]["accuracy_sum"],
        ]
        for task, one in found["choices"].items()
    ]
    return markdown_table(columns, rows)


def _stages_table(found: Mapping[str, Metrics]) -> str:
    distances = range(1, BLOCK + 1)
    columns = ["model", "tokens", "base kept", "bits per byte"]
    columns += [f"{what} {d}" for what in ("loss", "top-1") for d in distances]
    rows = []
    for name in STAGES:
        one = found[name]
        measured = [*one.get("masked_loss", ["–"] * BLOCK), *one.get("top_1", ["–"] * BLOCK)]
        kept = {True: "yes", False: "no", None: "–"}[one.get("base_bits_equal")]
        rows.append([name, one.get("train_tokens", 0), kept, one["bits_per_byte"], *measured])
    return markdown_table(columns, rows)


def _samples_table(found: Mapping[str, Metrics]) -> str:
    rows = [
        [stage, one["way"], _cell(one["prompt"]), _cell(one["text"]), one["tokens_per_pass"]]
        for stage in ("base", "blocks")
        for one in found[stage]["samples"]
    ]
    return markdown_table(("model", "decoding", "question", "answer", "tokens per pass"), rows)


def _cell(text: str) -> str:
    """Text as it stands, in a cell of a table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ⏎ ")


def _plot(found: Mapping[str, Metrics], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    distances = range(1, BLOCK + 1)
    for name in ("base", "texts", "blocks"):
        left.plot(distances, found[name]["top_1"], "o-", label=name)
        right.plot(distances, found[name]["masked_loss"], "o-", label=name)
    left.set(xlabel="distance from the known text", ylabel="top-1", ylim=(0, None), xticks=distances)
    right.set(xlabel="distance from the known text", ylabel="loss (nats)", ylim=(0, None), xticks=distances)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend()
    figure.savefig(path, dpi=110)
