"""Scenes for the tests of DPO and reinforcement learning: models to start from, files to learn from, commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny import Place, chats, family, run_cli, tiny_arguments, write_rows

REWARDS = """
def told(question, answer, row):
    return sum(answer.encode()) % 7 / 7


def letters(question, answer, row):
    return sum(character.isascii() and character.isalpha() for character in answer) / 8
"""
RL = {"group_size": 4, "max_new_tokens": 8, "batch_size": 8}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "rl-ar": ("rl", "ar", {}),
    "rl-diffusion": ("rl", "diffusion", {"threshold": 0.001}),
    "rl-blocks": ("rl", "diffusion", {"block_size": 8, "threshold": 0.001}),
    "dpo-ar": ("dpo", "ar", {}),
    "dpo-diffusion": ("dpo", "diffusion", {"eos_fill": 16}),
    "dpo-blocks": ("dpo", "diffusion", {"eos_fill": 16, "fill_multiple": 8, "block_size": 8}),
}


def sums(count: int) -> list[dict[str, Any]]:
    """Questions, each with its verifier."""
    right = [str(i + 1) for i in range(count)]
    verifiers = [{"kind": "exact", "expected": [text], "count": 0} for text in right]
    return [{"prompt": f"{i}加1?", "response": right[i], "verifier": verifiers[i]} for i in range(count)]


@dataclass(frozen=True)
class Scene:
    """Fine-tuned models to start from, files to learn from, and a folder of its own for each test."""

    done: Place
    here: Path

    @property
    def runs(self) -> Path:
        return self.here / "runs"

    def options(self, kind: str, **changes: Any) -> tuple[str, str, dict[str, Any]]:
        stage, track, options = KINDS[kind]
        mine = {"runs": self.runs, "cache": self.here / "cache", "init_from": self.done.runs / f"{track}-sft"}
        if stage == "rl":
            reward = {"reward": f"{self.here / 'rewards.py'}:told"}
            return stage, track, mine | RL | reward | {"data": (self.here / "asked.jsonl",)} | options | changes
        return stage, track, mine | {"data": (self.here / "pairs.jsonl",)} | options | changes

    def words(self, kind: str, **changes: Any) -> list[str]:
        """A training command."""
        stage, track, options = self.options(kind, **changes)
        options = {name: value for name, value in options.items() if value is not None}
        return tiny_arguments(self.done, stage, track, **({"name": "x"} | options))

    def train(self, kind: str, name: str = "x", **changes: Any) -> Path:
        """Run it; gives its folder."""
        assert run_cli(self.words(kind, name=name, **changes)) == 0
        return self.runs / name

    def code(self, name: str, code: str) -> Path:
        path = self.here / name
        path.write_text(code, encoding="utf-8")
        return path

    def file(self, name: str, rows: list[dict[str, Any]]) -> Path:
        return write_rows(self.here / name, rows)


def make_scene(base: Path, here: Path) -> Scene:
    """Models below `base`, which are made once, and files in `here`."""
    scene = Scene(family(base), here)
    scene.code("rewards.py", REWARDS)
    scene.file("asked.jsonl", sums(12))
    asked = [row["messages"][0]["content"] for row in chats(24)]
    scene.file("pairs.jsonl", [{"prompt": text, "chosen": "A ball.", "rejected": "number 17"} for text in asked])
    return scene
