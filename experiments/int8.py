"""What weights in eight bits cost in quality: bits per byte and exact match beside float32."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.grid import Cell, Result, markdown_table, run_grid, write_page
from experiments.options_measuring import Int8
from nano_llada.checkpoint.files import WEIGHTS, Checkpoint, load_checkpoint
from nano_llada.config.decoding import default_decoding
from nano_llada.core.errors import UserError
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.lean import LeanPasses
from nano_llada.demo.run import held_out_questions
from nano_llada.evaluation.answers import Answer, answer_examples, exact_match
from nano_llada.evaluation.likelihood import text_likelihood
from nano_llada.language_model import LanguageModel
from nano_llada.model.lean import Precision
from nano_llada.world import DEMO_SKILLS, Example

NAME = "int8"


def run(options: Int8) -> bool:
    """Run the experiment, or resume it; True when it is complete.

    Raises:
        UserError: without models, or without texts.
    """
    texts = held_out_texts(options.texts, options.documents)
    questions = held_out_questions(DEMO_SKILLS, options.items) if options.items else []
    names = " ".join(path.name for path in options.models)
    command = f"python -m experiments {NAME} --models {names} --texts TEXTS --documents {options.documents} "
    command += f"--items {options.items} --draws {options.draws}"
    cells = [
        Cell(path.name, 0, functools.partial(_measure, options, path, texts, questions)) for path in options.models
    ]
    results = run_grid(NAME, cells, options.docs / NAME, command)
    if results is None:
        return False
    write_page(options.docs / NAME, page(results))
    return True


def held_out_texts(path: Path, count: int) -> list[str]:
    """The first texts of a JSONL file."""
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    texts = [json.loads(line)["text"] for line in lines if line]
    if not texts:
        raise UserError(f"{path} has no texts")
    return texts


def _measure(options: Int8, path: Path, texts: Sequence[str], questions: Sequence[Example]) -> Mapping[str, Any]:
    """Of one model in both precisions."""
    plain = load_checkpoint(path)
    found: dict[str, Any] = {}
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    with tempfile.TemporaryDirectory() as folder:
        LanguageModel(plain).save(Path(folder) / "int8", quantize="int8")
        eight = load_checkpoint(Path(folder) / "int8")
        LanguageModel(plain).save(Path(folder) / "fp32")
        sizes = [(Path(folder) / name / WEIGHTS).stat().st_size for name in ("int8", "fp32")]
        found["size"] = sizes[0] / sizes[1]
    window = min(256, plain.model.config.max_length)
    for name, model in (("fp32", plain), ("int8", eight)):
        likelihood = text_likelihood(model, texts, window=window, draws=options.draws)
        found[f"bits_per_byte_{name}"] = likelihood.bits_per_byte
    found["bits_per_byte_change"] = found["bits_per_byte_int8"] / found["bits_per_byte_fp32"] - 1
    if questions:
        both = [
            _answers(model, precision, questions) for model, precision in zip((plain, eight), precisions, strict=True)
        ]
        found |= {"exact_match_fp32": exact_match(both[0]), "exact_match_int8": exact_match(both[1])}
        found["same_texts"] = sum(a.text == b.text for a, b in zip(*both, strict=True)) / len(questions)
        found["questions"] = len(questions)
    return found


def _answers(model: Checkpoint, precision: Precision, questions: Sequence[Example]) -> list[Answer]:
    decoding = default_decoding(model.card, model.card.answer_length or 32)
    sampler = BatchSampler(model.model, model.tokenizer.vocab, decoding, backend=LeanPasses(precision))
    return answer_examples(sampler, model.tokenizer, questions)


def page(results: Sequence[Result]) -> str:
    """The table."""
    names = ["size", *(f"bits_per_byte_{what}" for what in ("fp32", "int8", "change"))]
    names += ["exact_match_fp32", "exact_match_int8", "same_texts", "questions"]
    rows = []
    for one in results:
        rows.append([one.variant, *(f"{one.metrics[name]:.4g}" if name in one.metrics else "" for name in names)])
    first = results[0]
    return (
        "# Weights in eight bits: quality beside float32\n\n"
        f"`{first.command}`, commit {first.commit}, {first.hardware}. Files of both precisions are written, loaded and "
        "measured: bits per byte of held-out texts (of a diffusion model the bound, the same draws in both), and "
        "greedy exact match on held-out questions of the small world, the int8 model on integer products. `size`: the "
        "int8 file over the float32 file; `same_texts`: share of answers that are equal.\n\n"
        + markdown_table(["model", *(name.replace("_", " ") for name in names)], rows)
    )
