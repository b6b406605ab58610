"""Every command and every Python block of the README and the documentation runs as printed, on tiny data."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nano_llada.cli.main import COMMANDS
from nano_llada.core.own import load_own
from nano_llada.diffusion.noise import Noise
from tiny import chats, run_cli, texts, write_rows

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/quick_start.md", "docs/training.md", "docs/decoding.md", "docs/python_api.md")
TRANSLATED = {
    "README.md": "README_cn.md",
    "docs/quick_start.md": "docs/quick_start_cn.md",
    "docs/decoding.md": "docs/decoding_cn.md",
    "docs/serving.md": "docs/serving_cn.md",
}

# Beginnings of commands that no test runs, and why
NOT_RUN = {
    "make demo": "takes minutes; tests/test_cli.py runs `nano-llada demo` with few steps",
    ". .venv/bin/activate": "is for the reader's shell",
    "python3 -m venv .venv": "builds an environment; scripts/try_wheel.sh does, in CI",
    "pip install": "downloads packages",
    "nano-llada serve": "runs until it is stopped; see tests/test_serve_load.py",
    "curl": "asks a server; see tests/test_serve_load.py",
    "modelscope download": "downloads gigabytes",
    "hf download": "downloads gigabytes",
    "nano-llada recipe recipes/llada2.toml --set data=FOLDER --check": "needs data; see tests/test_recipe.py",
    "nano-llada recipe recipes/llada2.toml --set data=FOLDER": "needs data; see tests/test_recipe.py",
}

SHAPE = {"hidden-size": "32", "num-layers": "1", "num-heads": "2", "max-length": "256"}
TRAINING = {
    "steps": "2",
    "batch-size": "2",
    "sequence-length": "64",
    "eval-rows": "2",
    "warmup-steps": "1",
    "threads": "1",
    "device": "cpu",
}
# What is put in the place of a command's own values, or added, so that it takes moments
SMALL: Mapping[str, Mapping[str, str]] = {
    "pretrain": TRAINING,
    "sft": TRAINING,
    "resume": {"threads": "1"},
    "tokenizer train": {"vocab-size": "400"},
    "data world": {"documents": "200", "chats": "200"},
    "generate": {"max-new-tokens": "8"},
    "chat": {"max-new-tokens": "8"},
    "infill": {},
    "drafts": {"max-new-tokens": "8"},
    "bench decode": {"max-new-tokens": "4", "seconds": "0", "precisions": "fp32"},
    "compare": {"items": "1", "timed": "1", "max-new-tokens": "4"},
    "eval": {"limit": "2", "draws": "2", "batch-sizes": "1", "max-new-tokens": "4", "window": "64"},
}


def blocks(page: str, language: str) -> list[str]:
    """The fenced code blocks of a language, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """The commands of a page's bash blocks, without comments."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [shlex.join(line) for line in words if line]


def reason_not_to_run(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)


def name_of(words: Sequence[str]) -> str:
    """`tokenizer train` of `nano-llada tokenizer train FILE`: the part of the command line that names the command."""
    pair = " ".join(words[1:3])
    return pair if pair in SMALL else words[1]


def smaller(words: Sequence[str]) -> list[str]:
    """The arguments of a command, with small values of the options that decide how long it takes."""
    values = dict(SMALL.get(name_of(words), {}))
    if words[1] == "pretrain" and not {"--init-from", "--config"} & set(words):
        values |= SHAPE
    if words[1:3] == ["sft", "diffusion"]:
        values |= {"eos-fill": "16"}
    if words[2:3] == ["tri"]:
        values |= {"block-size": "4"}
    if words[1] == "resume" and "--steps" in words:
        values |= {"steps": "4"}
    return [*without(words[1:], values), *(word for name, value in values.items() for word in (f"--{name}", value))]


def without(words: Sequence[str], names: Mapping[str, str]) -> Iterator[str]:
    """The words, but for these options and their values."""
    dropped = False
    for word in words:
        if word.startswith("--"):
            dropped = word.removeprefix("--") in names
        if not dropped:
            yield word


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with the files that the pages take for granted: data, a demo model, examples."""
    root = tmp_path_factory.mktemp("pages")
    write_rows(root / "pretrain.jsonl", texts())
    write_rows(root / "val.jsonl", [{"text": row["text"] * 8} for row in texts(4)])
    write_rows(root / "chats.jsonl", chats())
    write_rows(root / "exam.jsonl", [{"prompt": "1+1?", "answer": "2", "language": "en"}])
    shutil.copytree(ROOT / "examples", root / "examples")
    for command in (
        "nano-llada pretrain ar --data pretrain.jsonl --name ar",
        "nano-llada sft diffusion --data chats.jsonl --init-from runs/demo/ar --name diffusion-sft",
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            assert run_cli([*smaller(shlex.split(command)), "--runs", "runs/demo", "--cache", "cache"]) == 0
    return root


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch) -> Path:
    """A copy of it, as the working folder."""
    place = tmp_path / "work"
    shutil.copytree(prepared, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("NANO_LLADA_CACHE", str(place / "cache"))
    return place


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page, folder, monkeypatch, capsys):
    for text in blocks(page, "toml"):
        (folder / "small.toml").write_text(text, encoding="utf-8")
    for command in commands(page):
        if reason_not_to_run(command) is not None:
            continue
        words = shlex.split(command)
        assert words[0] == "nano-llada", f"{page}: nothing runs {command!r}, and NOT_RUN gives no reason"
        monkeypatch.setattr("sys.stdin", io.StringIO("Who are you?\n/exit\n"))
        status = run_cli(smaller(words))
        assert status == 0, f"{page}: {command}\n{capsys.readouterr().err}"


def test_every_command_that_is_not_run_is_on_a_page():
    printed = [command for page in PAGES for command in commands(page)]
    assert {start for start in NOT_RUN if not any(command.startswith(start) for command in printed)} == set()


@pytest.mark.parametrize(("page", "translation"), TRANSLATED.items())
def test_both_languages_have_the_same_commands(page, translation):
    assert commands(page)
    assert commands(translation) == commands(page)
    assert blocks(translation, "python") == blocks(page, "python")
    assert blocks(translation, "toml") == blocks(page, "toml")


@pytest.mark.parametrize(("page", "translation"), TRANSLATED.items())
def test_both_languages_have_the_same_sections_tables_and_options(page, translation):
    english, chinese = ((ROOT / path).read_text(encoding="utf-8") for path in (page, translation))
    for pattern in (r"^#+ ", r"^\|", r"--[a-z][a-z-]+"):
        assert len(re.findall(pattern, chinese, re.MULTILINE)) == len(re.findall(pattern, english, re.MULTILINE))


SHORTER = {
    "steps=1000": "steps=2, batch_size=2, threads=1",
    'name="base",\n': 'name="base",\n    model=replace(config.model, hidden_size=32, num_layers=1, num_heads=2),\n',
}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_of_a_page_runs(page, folder, capsys):
    own = load_own("examples/own_noise.py:Quadratic", Noise, what="noise")
    names: dict[str, Any] = {"MySchedule": own}  # a class of the reader's
    for number, block in enumerate(blocks(page, "python")):
        for printed, shorter in SHORTER.items():
            block = block.replace(printed, shorter)
        exec(compile(block, f"{page}, Python block {number + 1}", "exec"), names)
    assert capsys.readouterr().out


@cache
def options_of(command: str) -> frozenset[str]:
    """Every option that `nano-llada COMMAND --help-all` lists."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", io.StringIO())
        assert run_cli([*command.split(), "--help-all"]) == 0
        return frozenset(re.findall(r"--[a-z][a-z-]+", sys.stdout.getvalue()))


def mentioned() -> list[tuple[str, list[str]]]:
    """(page, words) of every command in backticks or in an indented block, on any page."""
    found = []
    for path in [*ROOT.glob("README*.md"), ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for command in re.findall(r"`(nano-llada [^`]+)`", text) + re.findall(
            r"^ {4}(nano-llada .+)$", text, re.MULTILINE
        ):
            found.append((path.name, command.split("#")[0].split()))
    return found


@pytest.mark.parametrize(
    ("page", "words"), mentioned(), ids=lambda value: " ".join(value)[:70] if isinstance(value, list) else value
)
def test_a_command_that_is_mentioned_exists_with_its_options(page, words):
    if words[1].isupper() or words[1].startswith("-"):  # `nano-llada COMMAND --help`, `nano-llada --version`
        return
    assert words[1] in COMMANDS
    given = {word for word in words if word.startswith("--")} - {"--help", "--help-all", "--config"}
    if not given or any(".py:" in word for word in words):  # parts of one's own bring options of their own
        return
    pair = words[1] in ("pretrain", "sft", "dpo", "rl", "data", "tokenizer")
    assert given <= options_of(" ".join(words[1:3] if pair else words[1:2]))
