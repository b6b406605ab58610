"""Recipes: a pipeline in one file, which one command makes, and goes on with where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nano_llada.core.errors import UserError
from nano_llada.session.observer import RunObserver
from nano_llada.session.recipe import read_recipe
from nano_llada.session.run import complete
from tiny import make_place, run_cli, write_rows

SHIPPED = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
RECIPE = """
runs = "{root}/runs"
[variables]
where = "nowhere"
[common]
tokenizer = "{root}/tokenizer"
[common.model]
hidden_size = 32
num_layers = 2
num_heads = 2
max_length = 64
[common.data]
sequence_length = 64
validation_share = 0.2
cache = "{root}/cache"
[common.train]
steps = 3
batch_size = 4
save_every = 1
device = "cpu"
threads = 1
[[run]]
kind = "pretrain ar"
name = "ar"
data.data = ["{{where}}/text.jsonl"]
[[run]]
kind = "pretrain diffusion"
name = "blocks"
start = "ar"
data.data = ["{{where}}/text.jsonl"]
objective.blocks = {{ block_size = 8, block_warmup = [1, 4], block_decay = [16, 8] }}
train = {{ keep_best = 2, merge_best = 2, eval_every = 1 }}
[[run]]
kind = "sft diffusion"
name = "sft"
start = "blocks"
data = {{ data = ["{{where}}/chat.jsonl"], eos_fill = 8, fill_multiple = 8 }}
objective.blocks = {{ block_size = 8 }}
[[run]]
kind = "dpo diffusion"
name = "dpo"
start = "sft"
data = {{ data = ["{{where}}/preference.jsonl"], eos_fill = 8 }}
objective.score = {{ block_size = 8, draws = 2 }}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("nano_llada.core.device.matmul_rate", lambda machine: 1e11)
    make_place(tmp_path)
    rows = [{"prompt": f"{i}?", "chosen": f"yes {i}", "rejected": f"no {i + 1}"} for i in range(40)]
    write_rows(tmp_path / "preference.jsonl", rows)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(root=tmp_path.as_posix()), encoding="utf-8")
    return path


def test_a_pipeline_with_one_command_that_goes_on_where_it_was_stopped(recipe, monkeypatch, capsys):
    words = ["recipe", recipe, "--set", f"where={recipe.parent.as_posix()}"]
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda o: o.config.name == "sft" and o.trainer.step == 2)
        assert run_cli(words) == 130
    runs = recipe.parent / "runs"
    assert {path.name for path in runs.iterdir()} == {"ar", "blocks", "sft"}
    before = (runs / "ar" / "log.txt").read_bytes()
    assert run_cli(words) == 0
    assert {path.name for path in runs.iterdir()} == {"ar", "blocks", "sft", "dpo"}
    assert (runs / "ar" / "log.txt").read_bytes() == before
    assert "ar: already complete" in capsys.readouterr().out
    configs = {name: json.loads((runs / name / "config.json").read_text()) for name in ("blocks", "sft", "dpo")}
    assert [Path(c["init_from"]).relative_to(runs).as_posix() for c in configs.values()] == [
        "ar",
        "blocks/merged",
        "sft",
    ]
    assert configs["dpo"]["objective"]["score"]["draws"] == 2
    assert configs["blocks"]["train"]["steps"] == 3  # from `common`, below the run's own options
    assert json.loads((runs / "sft" / "step-000003" / "model.json").read_text())["card"]["block_size"] == 8
    recipe.write_text(recipe.read_text().replace("steps = 3", "steps = 4"))
    longer = read_recipe(recipe, {"where": recipe.parent.as_posix()})
    with pytest.raises(UserError, match="must learn the same"):  # a finished run of another config is not taken
        complete(longer.runs)


def test_check_lists_the_runs_and_makes_nothing(recipe, capsys):
    assert run_cli(["recipe", recipe, "--check", "--runs", recipe.parent / "other"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"blocks: pretrain diffusion, in {(recipe.parent / 'other' / 'blocks')}"
    assert len(lines) == 4
    assert not (recipe.parent / "other").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "pretrain ar"', 'kind = "train ar"', r"run 1: kind 'train ar' is not one of pretrain ar, "),
        ('name = "blocks"', 'name = "ar"', r"run 2: the name 'ar' is taken by an earlier run"),
        ('start = "blocks"', 'start = "dpo"', r"run 3: start 'dpo' is not an earlier run; there are ar, blocks"),
        ('name = "dpo"', "", r"run 4: it has no name"),
        ("hidden_size", "hiden_size", r"run 1.model.hiden_size: unknown option; did you mean 'hidden_size'\?"),
        ("block_size = 8, draws = 2", "block_size = 0", r"run 4: block_size must be at least 1, got 0"),
        (
            "block_decay = [16, 8]",
            "block_decay = [24, 8]",
            r"run 2: block sizes \[24\] do not divide sequence_length 64",
        ),
        ("{where}/text", "{there}/text", r"\{there\} in '\{there\}/text.jsonl' is not a variable of the recipe"),
        ("[common]", "[comon]", r"unknown entries: comon"),
    ],
)
def test_slips_are_named_with_their_run(recipe, old, new, message):
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_recipe(recipe, {})


def test_bad_variables_and_files(recipe, tmp_path, capsys):
    assert run_cli(["recipe", recipe, "--set", "what"]) == 2
    assert "--set what: expected NAME=VALUE" in capsys.readouterr().err
    assert run_cli(["recipe", recipe, "--set", "what=1"]) == 2
    assert "no variable what; it has where" in capsys.readouterr().err
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(UserError, match=r"no runs: add \[\[run\]\] tables"):
        read_recipe(tmp_path / "empty.toml", {})


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_can_be_read(path):
    recipe = read_recipe(path, {})
    assert len(recipe.runs) > 2
    assert all(run.init_from is not None for run in recipe.runs[1:])
