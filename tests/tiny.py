"""Tiny files, tokenizers and runs for the tests that train: few weights, few steps, a folder of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_llada.cli.main import main
from nano_llada.config.record import from_plain, to_plain
from nano_llada.config.run import RunConfig, default_run
from nano_llada.data.tokenizer import train_characters
from nano_llada.session.run import execute

NAMES, COLOURS, THINGS = ("Tom", "Amy", "Bob", "Eve"), ("red", "blue", "green"), ("ball", "cat", "hat", "kite")
TOLD = ("汤姆有一个红色的球。", "艾米有一只蓝色的猫。", "鲍勃有一顶绿色的帽子。")
SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_length": 256}
PARTS = ("objective", "model", "data", "train", "processes")
OPTIONS: dict[str, Any] = {
    "sequence_length": 64,
    "validation_share": 0.1,
    "steps": 3,
    "batch_size": 4,
    "warmup_steps": 1,
    "eval_rows": 4,
    "log_every": 1,
    "threads": 1,
    "device": "cpu",
}


def texts(count: int = 60) -> list[dict[str, Any]]:
    """Short documents, Chinese and English in turn."""
    rows = []
    for i in range(count):
        english = f"{NAMES[i % 4]} has a {COLOURS[i % 3]} {THINGS[i // 3 % 4]}, number {i}."
        rows.append({"text": english if i % 2 else f"{TOLD[i % 3]}第{i}句。"})
    return rows


def chats(count: int = 60) -> list[dict[str, Any]]:
    """Conversations of two turns each."""
    rows = []
    for i in range(count):
        name, thing = NAMES[i % 4], THINGS[i // 4 % 4]
        said = [f"What has {name}?", f"A {thing}.", f"{i}加1?", str(i + 1)]
        roles = ("user", "assistant", "user", "assistant")
        rows.append({"messages": [{"role": r, "content": c} for r, c in zip(roles, said, strict=True)]})
    return rows


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A JSON-lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(lines, encoding="utf-8")
    return path


@dataclass(frozen=True)
class Place:
    """A folder with the files that a tiny run needs."""

    root: Path

    @property
    def text(self) -> Path:
        return self.root / "text.jsonl"

    @property
    def chat(self) -> Path:
        return self.root / "chat.jsonl"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def cache(self) -> Path:
        return self.root / "cache"


def make_place(root: Path) -> Place:
    """Write the files."""
    place = Place(root)
    write_rows(place.text, texts())
    write_rows(place.chat, chats())
    said = [message["content"] for row in chats() for message in row["messages"]]
    told = [row["text"] for row in texts()]
    train_characters([*told, *said, "system user assistant\n___"]).save(place.tokenizer)
    return place


def tiny_options(place: Place, stage: str = "pretrain", track: str = "ar", **changes: Any) -> dict[str, Any]:
    """The options of a tiny run, as one flat table: names are those of the command line with underscores."""
    options = OPTIONS | {"runs": place.runs, "cache": place.cache, "data": (place.text,)}
    if "init_from" not in changes:
        options |= SHAPE | {"tokenizer": place.tokenizer}
    if stage == "sft":
        options |= {"data": (place.chat,)} | ({"eos_fill": 16} if track == "diffusion" else {})
    return options | changes


def tiny_run(place: Place, stage: str = "pretrain", track: str = "ar", **changes: Any) -> RunConfig:
    """The same as the value that `execute` takes."""
    base = default_run(stage, track)
    plain: dict[str, Any] = {}
    for name, value in to_plain(tiny_options(place, stage, track, **changes)).items():
        home = next((part for part in PARTS if hasattr(getattr(base, part), name)), None)
        (plain.setdefault(home, {}) if home else plain)[name] = value
    return from_plain(RunConfig, plain, base=base)


def tiny_arguments(place: Place, stage: str = "pretrain", track: str = "ar", **changes: Any) -> list[str]:
    """The same as a command line; True and False become a flag and its `--no-`."""
    words = [stage, track]
    for name, value in tiny_options(place, stage, track, **changes).items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [option, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def run_cli(arguments: Sequence[Any]) -> int:
    """The exit status of `nano-llada ARGUMENTS`, run in this process."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as error:
        return int(error.code or 0)


def family(base: Path) -> Place:
    """All four kinds of run, finished, under `base`; made when first asked for, then only looked at."""
    place = Place(base / "tiny-family")
    if place.root.exists():
        return place
    make_place(place.root)
    ar, diffusion = place.runs / "ar", place.runs / "diffusion"
    prompts = {"sample_prompts": ("Tom has", "汤姆有")}
    runs = [
        tiny_run(place, "pretrain", "ar", name="ar", save_every=2, **prompts),
        tiny_run(place, "pretrain", "diffusion", name="diffusion", init_from=ar, **prompts),
        tiny_run(place, "sft", "ar", name="ar-sft", init_from=ar, **prompts),
        tiny_run(place, "sft", "diffusion", name="diffusion-sft", init_from=diffusion, **prompts),
    ]
    for run in runs:
        assert execute(run).state == "finished"
    return place


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def losses(run: Path) -> list[tuple[int, float]]:
    """(step, loss) of every training line of a run's metrics."""
    return [(line["step"], line["loss"]) for line in read_lines(run / "metrics.jsonl") if "loss" in line]
