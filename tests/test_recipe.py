"""Recipes: a pipeline in one file, which one command makes, and goes on with where it stopped."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from nano_llada.config.run import RunConfig
from nano_llada.core.errors import UserError
from nano_llada.evaluation.record import read_records
from nano_llada.session.observer import RunObserver
from nano_llada.session.outcome import read_outcome
from nano_llada.session.recipe import read_recipe
from nano_llada.session.run import complete, execute
from tiny import Place, make_place, run_cli, tiny_run, write_rows

RECIPES = Path(__file__).parents[1] / "recipes"
SHIPPED = sorted(path for path in RECIPES.glob("*.toml") if path.stem != "smollm2")  # which starts from an import
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
def recipe(tmp_path) -> Path:
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


STEPS = """
runs = "{root}/runs"
[common.model]
hidden_size = 32
num_layers = 1
num_heads = 2
max_length = 64
[common.data]
sequence_length = 64
validation_share = 0.2
cache = "{root}/cache"
[common.train]
steps = 2
batch_size = 4
save_every = 1
eval_every = 1
keep_best = 2
device = "cpu"
threads = 1
[[run]]
kind = "tokenizer characters"
name = "letters"
data = ["{root}/text.jsonl"]
[[run]]
kind = "pretrain ar"
name = "ar"
tokenizer = "{{runs}}/letters"
data.data = ["{root}/text.jsonl"]
[[run]]
kind = "merge"
name = "mean"
start = "ar"
top_k = 2
[[run]]
kind = "pretrain diffusion"
name = "diffusion"
start = "mean"
data.data = ["{root}/text.jsonl"]
[[run]]
kind = "eval"
name = "measured"
start = ["mean", "diffusion"]
text = ["{root}/text.jsonl"]
suites = ["likelihood"]
limit = 4
window = 32
device = "cpu"
[[run]]
kind = "export"
name = "exported"
start = "mean"
"""


@pytest.fixture
def steps(tmp_path) -> Path:
    make_place(tmp_path)
    path = tmp_path / "steps.toml"
    path.write_text(STEPS.format(root=tmp_path.as_posix()), encoding="utf-8")
    return path


def test_a_recipe_trains_a_tokenizer_merges_measures_and_exports(steps, capsys):
    assert run_cli(["recipe", steps, "--check"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == f"letters: tokenizer characters, in {steps.parent / 'runs' / 'letters'}"
    assert [line.split(":")[0] for line in listed] == ["letters", "ar", "mean", "diffusion", "measured", "exported"]
    assert not (steps.parent / "runs").exists()
    assert run_cli(["recipe", steps]) == 0
    runs = steps.parent / "runs"
    card = json.loads((runs / "mean" / "model.json").read_text())["card"]
    assert {part["run"] for part in card["merged_from"]} == {"ar"}
    assert json.loads((runs / "diffusion" / "config.json").read_text())["init_from"] == (runs / "mean").as_posix()
    records = list(read_records(runs / "measured"))
    assert {record.model for record in records} == {"mean", "diffusion"}
    assert len(records) == 8
    assert (runs / "exported" / "config.json").is_file()
    capsys.readouterr()
    assert run_cli(["recipe", steps]) == 0
    told = capsys.readouterr().out
    assert [f"{name}: already complete" in told for name in ("letters", "ar", "mean", "exported")] == [True] * 4
    assert len(list(read_records(runs / "measured"))) == 8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "merge"', 'kind = "marge"', "run 3: kind 'marge' is not one of "),
        ("top_k = 2", "top_q = 2", "run mean: unknown option --top-q; did you mean --top-k?"),
        ("top_k = 2", "", "run mean: "),
        ("top_k = 2", "top_k = 0", "run mean: top_k must be at least 1, got 0"),
        ('start = ["mean", "diffusion"]', 'start = ["mean", "letters"]', "run 5: start 'letters' is of the kind "),
        ('start = ["mean", "diffusion"]', "", "run measured: "),
        ('start = "mean"\ndata', 'start = "maen"\ndata', "run 4: start 'maen' is not an earlier run; there are "),
        ("limit = 4", "limits = 4", "run measured: unknown option --limits"),
        ("limit = 4", "limit = { a = 1 }", "run 5.limit: expected a value or a list of values"),
        ('/text.jsonl"]\nsuites', '/gone.jsonl"]\nsuites', "run measured: "),
        ('name = "exported"', 'name = "a/b"', "run 6: name: expected the name of a folder, got 'a/b'"),
        ('name = "exported"', 'name = ".."', "run 6: name: expected the name of a folder, got '..'"),
        ('name = "exported"', 'name = "exported"\nout = 3', "run 6.out: expected the name of a folder, got 3"),
        ('name = "exported"', 'name = "exported"\nhelp = true', "run 6.help: not an option that a recipe can give"),
        ('name = "exported"', 'name = "exported"\ncheckpoint = 3', "run 6.checkpoint: expected a value"),
        ("limit = 4", "limit = 0", "run measured: limit must be at least 1, got 0"),
        ("limit = 4", 'decoders = ["x=1"]', "run measured: decoder 'x=1'"),
        ("[common.model]", '[variables]\na = "{b}"\nb = "{a}"\n[common.model]', "depends on itself, by way of "),
        ('name = "exported"', 'name = "ar"', "run 6: the name 'ar' is taken by an earlier run"),
        ("{runs}/letters", "{runs}/latters", "run ar: no tokenizer.json in "),
    ],
)
def test_slips_in_steps_are_named_by_check(steps, capsys, old, new, message):
    text = steps.read_text()
    assert old in text
    steps.write_text(text.replace(old, new))
    assert run_cli(["recipe", steps, "--check"]) == 2
    assert message in capsys.readouterr().err


def test_check_lists_the_runs_and_makes_nothing(recipe, capsys):
    words = ["recipe", recipe, "--check", "--runs", recipe.parent / "other"]
    assert run_cli(words) == 2  # the recipe's own variable names a folder that does not exist
    assert "run ar: nowhere/text.jsonl: no data found" in capsys.readouterr().err
    assert run_cli([*words, "--set", f"where={recipe.parent.as_posix()}"]) == 0
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


def test_a_default_may_name_another_variable(recipe):
    text = recipe.read_text()
    recipe.write_text(text.replace('where = "nowhere"', 'where = "{base}/in"\nbase = "there"'))
    assert read_recipe(recipe, {}).runs[0].data.data == ("there/in/text.jsonl",)
    assert read_recipe(recipe, {"base": "a{b}"}).runs[0].data.data == ("a{b}/in/text.jsonl",)
    recipe.write_text(text.replace('where = "nowhere"', 'where = "{base}"'))
    with pytest.raises(UserError, match=r"\{base\} in '\{base\}' is not a variable of the recipe"):
        read_recipe(recipe, {})
    recipe.write_text(text.replace('where = "nowhere"', 'where = "."\nruns = "x"'))
    with pytest.raises(UserError, match=r"\{runs\} is always the folder of the runs"):
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


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_pass_their_check_and_two_steps_of_every_run(path, tmp_path, capsys):
    data = data_for_recipes(tmp_path / "data")
    words = ["recipe", path, "--set", f"data={data}", f"tokenizer={data / 'tokenizer'}", "--runs", tmp_path / "runs"]
    assert run_cli([*words, "--check"]) == 0
    listed = capsys.readouterr().out
    variables = {"data": str(data), "tokenizer": str(data / "tokenizer")}
    runs = read_recipe(path, variables, tmp_path / "runs").runs
    assert [line.split(":")[0] for line in listed.splitlines()] == [run.name for run in runs]
    assert complete([shortened(run, tmp_path / "cache") for run in runs])
    assert [read_outcome(run.folder).step for run in runs] == [2] * len(runs)


def test_the_recipe_that_starts_from_an_imported_model(tmp_path, capsys):
    data = data_for_recipes(tmp_path / "data")
    base = tiny_run(Place(data), name="base", runs=tmp_path, data=(data / "text.jsonl",))
    assert execute(base).state == "finished"
    variables, path = {"data": str(data), "base": str(tmp_path / "base")}, RECIPES / "smollm2.toml"
    words = ["recipe", path, "--set", f"data={data}", f"base={tmp_path / 'base'}", "--runs", tmp_path / "runs"]
    assert run_cli([*words, "--check"]) == 0
    runs = read_recipe(path, variables, tmp_path / "runs").runs
    assert all(run.train.lora_rank for run in runs)
    assert complete([replace(shortened(run, tmp_path / "cache"), model=run.model) for run in runs])
    assert [read_outcome(run.folder).step for run in runs] == [2] * len(runs)
    assert not list((tmp_path / "runs").rglob("model.safetensors"))  # adapters alone


def shortened(run: RunConfig, cache: Path) -> RunConfig:
    """The run with two steps and a small model; everything else is the recipe's own."""
    model = replace(run.model, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=None)
    train = replace(
        run.train,
        steps=2,
        batch_size=4,
        eval_every=1,
        eval_rows=4,
        keep_best=min(run.train.keep_best, 2),
        merge_best=min(run.train.merge_best, 2),
        threads=1,
        device="cpu",
        warmup_steps=1,
    )
    return replace(run, model=model, train=train, data=replace(run.data, cache=cache))


def data_for_recipes(folder: Path) -> Path:
    """Files of the names that recipes read, with a few rows each, and a tokenizer."""
    place = make_place(folder)
    text, chat = (path.read_text(encoding="utf-8") for path in (place.text, place.chat))
    pairs = "".join(
        json.dumps({"prompt": f"{i}加1?", "chosen": str(i + 1), "rejected": "A ball."}, ensure_ascii=False) + "\n"
        for i in range(30)
    )
    (folder / "eval").mkdir()
    for language in ("zh", "en"):
        for name, rows in (("pretrain", text), ("sft", chat)):
            with gzip.open(folder / f"{name}_{language}.jsonl.gz", "wt", encoding="utf-8") as file:
                file.write(rows)
        (folder / "eval" / f"val_{language}.jsonl").write_text(text, encoding="utf-8")
        (folder / "eval" / f"sft_val_{language}.jsonl").write_text(chat, encoding="utf-8")
    (folder / "skills").mkdir()
    for name, rows in (
        ("mixed-train", text),
        ("mixed-validation", text),
        ("chat-train", chat),
        ("chat-validation", chat),
    ):
        (folder / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    (folder / "skills" / "chat-train.jsonl").write_text(chat, encoding="utf-8")
    with gzip.open(folder / "preference.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(pairs)
    (folder / "eval" / "preference_val.jsonl").write_text(pairs, encoding="utf-8")
    return folder
