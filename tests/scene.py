"""What a mistake is made in: trained models to be read, a folder to spoil things in, and ways of spoiling them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from nano_llada.data.tokenizer import train_characters
from tiny import Place, tiny_arguments


@dataclass(frozen=True)
class Scene:
    """Trained models to be read, and a folder of its own for each case."""

    done: Place
    here: Path

    @property
    def place(self) -> Place:
        return Place(self.here)

    def run(self, track: str = "ar", stage: str = "pretrain", **changes: Any) -> list[str]:
        """A training command on the shared tiny files that writes here."""
        mine = {"runs": self.here / "runs", "cache": self.here / "cache", "name": "x"}
        return tiny_arguments(self.done, stage, track, **(mine | changes))

    def file(self, name: str, data: bytes | str) -> Path:
        path = self.here / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def rows(self, line: str | bytes, stage: str = "pretrain") -> list[str]:
        """A training command whose data has a bad third line."""
        good = b'{"text": "Tom"}\n' if stage == "pretrain" else b'{"prompt": "Tom", "response": "Amy"}\n'
        path = self.file("bad.jsonl", good * 2 + (line if isinstance(line, bytes) else line.encode()) + b"\n" + good)
        start = {"init_from": self.done.runs / "ar"} if stage == "sft" else {}
        return self.run(stage=stage, data=(path,), **start)

    def model(self, name: str = "ar", spoil: Callable[[Path], Any] = lambda folder: None) -> Path:
        """A copy of a trained checkpoint, spoilt."""
        folder = self.here / "model"
        shutil.copytree(self.done.runs / name / "step-000003", folder)
        spoil(folder)
        return folder

    def generate(self, model: Path | str, *words: object) -> list[str]:
        path = self.done.runs / model if isinstance(model, str) else model
        prompt = () if "--prompt" in words else ("--prompt", "Tom")
        return [str(word) for word in ("generate", "--checkpoint", path, *prompt, *words)]

    def config(self, text: str, name: str = "run.json") -> list[str]:
        return [*self.run(), "--config", str(self.file(name, text))]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def drop(path: Path, name: str) -> None:
    save_file({key: value for key, value in load_file(path).items() if key != name}, path)


def other_tokenizer(folder: Path) -> Path:
    train_characters(["quite other characters"]).save(folder)
    return folder
