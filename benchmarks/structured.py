"""Texts under random constraints: how many are valid, and what the constraint costs.

    python -m benchmarks.structured validity [--schemas 1000] [--regexes 300] [--out docs/experiments/structured]
    python -m benchmarks.structured speed [--out docs/experiments/structured]
    python -m benchmarks.structured exact RUN ... [--items 100] [--out docs/experiments/structured]

`validity` writes a text for every random schema and pattern with a random model, which prefers nothing that is valid,
left to right, with self-speculation (whose greedy texts must equal those without), in blocks, in blocks with editing,
and on a canvas; `json`, `jsonschema` and `re` judge them. The room is the shortest valid length and up to 60 tokens
more.
`speed` compares tokens a second in blocks of 8 with and without a constraint, by turns: once with a constraint that
accepts everything, and once with JSON of a schema, whose texts end earlier, so that batches are less full. `exact` asks
trained models held-out questions of the small world with and without a constraint: one of the answers to `--items`
questions of the same skill and language, among them a right one.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import torch

from benchmarks.measure import by_turns, record
from nano_llada.config.decoding import Autoregressive, Block, Constraint, Decoding, Diffusion, Speculative
from nano_llada.config.model import ModelConfig
from nano_llada.data.tokenizer import BUNDLED_TOKENIZER, Tokenizer
from nano_llada.decode.constraint.automaton import ByteAutomaton
from nano_llada.decode.constraint.compile import Compiler
from nano_llada.decode.constraint.tokens import TokenAutomaton, token_automaton
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.types import Request, gather
from nano_llada.language_model import LanguageModel
from nano_llada.model.transformer import Transformer
from nano_llada.world.generate import examples
from nano_llada.world.skills import DEMO_SKILLS
from nano_llada.world.verifier import verify

WORDS = ("name", "age", "城市", "颜色", "ok", "a b", 'say "hi"', "tags", "温度", "x")
VALUES = ("red", "蓝", "", 'a"b', "line\nbreak", 7, -3, 2.5, True, None)
PATTERNS = ("^[a-z]{2,5}$", "^(foo|汤姆)+$", "[0-9]{2}", "^[^a-z]{1,4}$", "^.{0,3}$")
KINDS: dict[str, Decoding] = {
    "ar": Autoregressive(),
    "ar-drawn": Autoregressive(temperature=1.0, top_k=20),
    "speculative": Speculative(drafts=2),
    "speculative-drawn": Speculative(drafts=2, temperature=1.0, top_k=20),
    "block-8": Block(block_size=8, threshold=0.4),
    "block-8-edit": Block(block_size=8, threshold=0.4, edit_threshold=0.2, edit_blocks=1),
    "canvas": Diffusion(threshold=0.4),
    "canvas-drawn": Diffusion(block_length=16, threshold=0.3, temperature=1.0),
}


def random_schema(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    """A schema of the supported keywords whose texts are not longer than a few dozen characters."""
    makers: list[Callable[[], dict[str, Any]]] = [
        lambda: {"type": "string"} | _bounds(rng, "minLength", "maxLength", 6),
        lambda: {"type": "string", "pattern": rng.choice(PATTERNS)},
        lambda: {"type": "string", "format": rng.choice(("date", "time"))},
        lambda: {"type": "integer"} | _bounds(rng, "minimum", "maximum", 400, -200),
        lambda: {"type": "number"} | _bounds(rng, "minimum", "maximum", 30, -20),
        lambda: {"type": rng.choice(("boolean", "null"))},
        lambda: {"enum": rng.sample(VALUES, rng.randint(1, 4))},
        lambda: {"const": rng.choice(VALUES)},
        lambda: {"type": ["integer", "null", "string"], "maxLength": 3},
    ]
    if depth:
        makers += [lambda: _random_array(rng, depth), lambda: {"anyOf": [random_schema(rng, depth - 1) for _ in "ab"]}]
        makers += [lambda: _random_object(rng, depth)] * 4
    return rng.choice(makers)()


def _random_array(rng: random.Random, depth: int) -> dict[str, Any]:
    if rng.random() < 0.2:
        return {
            "type": "array",
            "prefixItems": [random_schema(rng, depth - 1) for _ in "ab"],
            "items": False,
            "minItems": 2,
        }
    return {"type": "array", "items": random_schema(rng, depth - 1)} | _bounds(rng, "minItems", "maxItems", 2)


def _random_object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randint(1, 3))
    inner = {name: random_schema(rng, depth - 1) for name in names}
    needed = [name for name in names if rng.random() < 0.6]
    if rng.random() < 0.2:
        inner[names[0]] = {"$ref": "#/$defs/shared"}
    return {"type": "object", "properties": inner, "required": needed, "additionalProperties": False}


def _bounds(rng: random.Random, low: str, high: str, top: int, bottom: int = 0) -> dict[str, int]:
    ends = sorted(rng.randint(bottom, top) for _ in range(2))
    return {name: end for name, end in zip((low, high), ends, strict=True) if rng.random() < 0.7}


def schema_case(rng: random.Random) -> dict[str, Any]:
    """A whole schema, with what its parts may refer to."""
    root = rng.choice((_random_object, _random_object, _random_object, _random_array))(rng, 2)
    return (root if rng.random() < 0.9 else random_schema(rng)) | {"$defs": {"shared": random_schema(rng, 0)}}


def random_regex(rng: random.Random, depth: int = 3) -> str:
    """A pattern that Python's `re` understands as well, with bounded and unbounded repetitions."""
    atoms = (
        "a",
        "b",
        "汤",
        "姆",
        "x1",
        r"\d",
        r"\w",
        "[a-f]",
        "[^a-z\n]",
        ".",
        r"\.",
        "[一-龥]",
        "😀",
        r"\s",
        r"[\d,-]",
    )
    if not depth:
        return rng.choice(atoms)
    kind = rng.random()
    if kind < 0.45:
        return "".join(random_regex(rng, depth - 1) for _ in range(rng.randint(1, 3)))
    if kind < 0.65:
        return f"({random_regex(rng, depth - 1)}|{random_regex(rng, depth - 1)})"
    return f"({random_regex(rng, depth - 1)}){rng.choice(('*', '+', '?', '{2}', '{1,3}', '{,2}', '{2,}'))}"


def constraint_of(kind: str, rng: random.Random) -> tuple[Constraint, Callable[[str], None]]:
    """A random constraint, and what judges its texts, independent of ours; it raises where a text is not valid."""
    if kind == "schema":
        schema = schema_case(rng)
        judge = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker(("date",)))
        return Constraint(json_schema=schema), lambda text: judge.validate(json.loads(text))
    pattern = random_regex(rng)

    def match(text: str) -> None:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"{pattern!r} does not match {text!r}")

    return Constraint(regex=pattern), match


def random_model(size: int, seed: int, width: int = 32, layers: int = 2) -> Transformer:
    """A model that is sure of some tokens, for no reason."""
    heads = max(width // 64, 2)
    shape = ModelConfig(vocab_size=size, hidden_size=width, num_layers=layers, num_heads=heads, max_length=512)
    model = Transformer(shape)
    model.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.mul_(16.0 if name.startswith("head") else 10.0)
    return model.eval()


def write(
    model: Transformer, tokenizer: Tokenizer, decoding: Decoding, requests: Sequence[Request], rows: int = 16
) -> Iterator[tuple[int, str, int]]:
    """The number and the text of each request, and its forward passes."""
    sampler = BatchSampler(model, tokenizer.vocab, decoding, rows)
    for number, done in gather(sampler.stream(requests), sampler.ends):
        yield number, tokenizer.decode(done.tokens), done.forwards


def validity(kind: str, count: int, seed: int, decodings: dict[str, Decoding]) -> Iterator[dict[str, object]]:
    """For each kind of decoding: how many texts of random constraints are valid."""
    tokenizer = Tokenizer.load(BUNDLED_TOKENIZER)
    compiler = Compiler(tokenizer.bytes_of_tokens(), tokenizer.vocab.ends)
    rng, begin = random.Random(seed), time.process_time()
    cases = [constraint_of(kind, rng) for _ in range(count)]
    automata = [compiler.compile(constraint) for constraint, _ in cases]
    seconds = time.process_time() - begin
    rooms = [
        max(automaton.shortest, 1) + rng.choice((0, rng.randint(1, 8), rng.randint(8, 60))) for automaton in automata
    ]
    model = random_model(tokenizer.vocab.size, seed)
    plain: dict[int, str] = {}
    for name, decoding in decodings.items():
        requests = [
            Request((20 + i % 200, 30), seed=i, max_new_tokens=room, automaton=automaton)
            for i, (room, automaton) in enumerate(zip(rooms, automata, strict=True))
        ]
        wrong, texts, passes = [], dict[int, str](), 0
        for number, text, forwards in write(model, tokenizer, replace(decoding, max_new_tokens=512), requests):
            texts[number] = text
            passes += forwards
            try:
                cases[number][1](text)
            except (ValueError, jsonschema.ValidationError) as error:
                wrong.append(f"{text!r}: {str(error)[:200]}")
        for line in wrong[:5]:
            print("invalid:", line)
        plain = texts if name == "ar" else plain
        row: dict[str, object] = {
            "benchmark": "structured",
            "measure": "validity",
            "constraint": kind,
            "decoding": name,
        }
        yield row | {
            "seed": seed,
            "texts": count,
            "valid": count - len(wrong),
            "different_texts": len(set(texts.values())),
            "passes": passes,
            "equal_to_ar": sum(texts[number] == text for number, text in plain.items()),
            "shortest_exactly": sum(room == max(a.shortest, 1) for room, a in zip(rooms, automata, strict=True)),
            "largest_states": max(len(automaton.accepting) for automaton in automata),
            "compile_seconds_each": round(seconds / count, 4),
        }


def speed(repeat: int, width: int, layers: int, rows: int) -> Iterator[dict[str, object]]:
    """Seconds per token in blocks of 8 without a constraint, over those with one."""
    tokenizer = Tokenizer.load(BUNDLED_TOKENIZER.with_name("tokenizer-story"))
    compiler = Compiler(tokenizer.bytes_of_tokens(), tokenizer.vocab.ends)
    model = random_model(tokenizer.vocab.size, 0, width, layers)
    with torch.no_grad():  # texts that end at different times leave a batch half empty, whatever a constraint costs
        model.head.weight[list(tokenizer.vocab.ends)] = 0.0
    decoding = Block(block_size=8, threshold=0.9, max_new_tokens=64)
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    schema["required"] = ["name", "age"]
    anything = ByteAutomaton(np.zeros((1, 256), dtype=np.int32), np.array([True]))
    kinds = {
        "everything": token_automaton(anything, tokenizer.bytes_of_tokens(), tokenizer.vocab.ends),
        "schema": compiler.compile(Constraint(json_schema=schema)),
    }
    for name, automaton in kinds.items():
        rates: dict[str, list[float]] = {"free": [], "constrained": []}
        passes: dict[str, float] = {}

        def run(kind: str, automaton: TokenAutomaton | None, rates: Any = rates, passes: Any = passes) -> None:
            requests = [Request((20 + i, 30), automaton=automaton) for i in range(rows)]
            sampler, begin = BatchSampler(model, tokenizer.vocab, decoding), time.process_time()
            done = [one for _, one in gather(sampler.stream(requests), sampler.ends)]
            written = sum(one.reached for one in done)
            rates[kind].append((time.process_time() - begin) / written)
            passes[kind] = sum(one.forwards for one in done) / written

        by_turns(functools.partial(run, "constrained", automaton), functools.partial(run, "free", None), repeat)
        ratios = sorted(a / b for a, b in zip(rates["constrained"][1:], rates["free"][1:], strict=True))
        row: dict[str, object] = {"benchmark": "structured", "measure": "seconds_per_token", "constraint": name}
        yield row | {
            "decoding": "block-8",
            "rows": rows,
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "free_ms": round(1e3 * sorted(rates["free"][1:])[repeat // 2], 3),
            "constrained_ms": round(1e3 * sorted(rates["constrained"][1:])[repeat // 2], 3),
            "free_passes": round(passes["free"], 3),  # for each token
            "constrained_passes": round(passes["constrained"], 3),
            "ratio": round(ratios[len(ratios) // 2], 3),
            "ratio_low": round(ratios[0], 3),
            "ratio_high": round(ratios[-1], 3),
            "clock": "processor",
        }


def exact(run: Path, items: int) -> Iterator[dict[str, object]]:
    """Exact match with and without a constraint, and how many valid answers a constraint changed."""
    model = LanguageModel.load(run)
    ways = {"": {}} if model.card.autoregressive else {"": {}, "threshold-0.9": {"threshold": 0.9}}
    if model.card.denoising:
        ways["block-8"] = {"block_size": 8, "threshold": 0.9}
    for way, options in ways.items():
        counts = dict.fromkeys(("questions", "right", "right_constrained", "valid", "valid_changed"), 0)
        for skill, language in itertools.product(DEMO_SKILLS, ("zh", "en")):
            asked = [one for one in examples(skill, "test", items, 0) if one.language == language]
            answers = sorted({one.answer for one in asked})
            constraint = Constraint(regex="|".join(map(re.escape, answers)))
            prompts = [one.prompt for one in asked]
            free = [str(text) for text in model.generate(prompts, max_new_tokens=24, **options)]
            bound = [str(text) for text in model.generate(prompts, max_new_tokens=24, constraint=constraint, **options)]
            for one, before, after in zip(asked, free, bound, strict=True):
                counts["questions"] += 1
                counts["right"] += verify(one.verifier, before)
                counts["right_constrained"] += verify(one.verifier, after)
                counts["valid"] += before in answers
                counts["valid_changed"] += before in answers and after != before
        row: dict[str, object] = {"benchmark": "structured", "measure": "exact", "constraint": "known answers"}
        kind = (
            "ar" if model.card.autoregressive else "-".join(filter(None, ("canvas" if way != "block-8" else "", way)))
        )
        yield row | {"decoding": kind, "run": run.name} | counts


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=("validity", "speed", "exact"))
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--schemas", type=int, default=1000)
    parser.add_argument("--regexes", type=int, default=300)
    parser.add_argument("--decodings", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.out / "results.jsonl" if options.out else None
    chosen = {name: KINDS[name] for name in options.decodings}
    if options.measure == "validity":
        for kind, count in (("schema", options.schemas), ("regex", options.regexes)):
            for row in validity(kind, count, options.seed, chosen) if count else ():
                record(path, row)
    elif options.measure == "exact":
        for run in options.runs:
            for row in exact(run, options.items):
                record(path, row)
    else:
        for rows in options.rows:
            for row in speed(options.repeat, options.width, options.layers, rows):
                record(path, row)


if __name__ == "__main__":
    main()
