"""What a run that starts from a checkpoint takes from it, and that an option that is given is never ignored."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.model import ModelConfig, YarnScaling
from nano_llada.config.outcome import Outcome
from nano_llada.session import run as run_module
from nano_llada.session.run import execute
from tiny import Place, losses, make_place, run_cli, tiny_arguments, tiny_run

YARN = YarnScaling(factor=2.0, original_length=64)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    """An AR run whose free options are all away from their defaults; each test adds runs of its own."""
    place = make_place(tmp_path_factory.mktemp("start"))
    execute(tiny_run(place, name="ar", steps=1, dropout=0.1, max_length=1024, yarn=YARN))
    return place


def shape(place: Place, name: str) -> ModelConfig:
    return load_checkpoint(place.runs / name).model.config


def arguments(place: Place, name: str, **options) -> list[str]:
    return tiny_arguments(place, "pretrain", "diffusion", name=name, steps=1, init_from=place.runs / "ar", **options)


def test_what_is_not_given_is_the_checkpoints(place):
    assert run_cli(arguments(place, "nothing")) == 0
    assert shape(place, "nothing") == shape(place, "ar")
    assert shape(place, "ar").yarn == YARN


@pytest.mark.parametrize("options", [{"max_length": 512}, {"dropout": 0.0}, {"max_length": 2048, "dropout": 0.2}])
def test_an_option_is_taken_also_where_it_is_the_default_of_a_fresh_model(place, options):
    name = "-".join(map(str, options.values()))
    words = arguments(place, name, **options)
    assert run_cli(words) == 0
    assert vars(shape(place, name)) == vars(shape(place, "ar")) | options
    assert run_cli([*words, "--resume"]) == 0
    saved = json.loads((place.runs / name / "config.json").read_text(encoding="utf-8"))["model"]
    assert {key: saved[key] for key in options} == options
    again = ["pretrain", "diffusion", "--config", place.runs / name / "config.json", "--name", f"{name}-again"]
    assert run_cli(again) == 0
    assert shape(place, f"{name}-again") == shape(place, name)


def test_a_config_file_says_it_as_well(place, capsys):
    path = place.root / "start.json"

    def run(name: str, model: dict, *more: str) -> int:
        path.write_text(json.dumps({"init_from": str(place.runs / "ar"), "model": model}), encoding="utf-8")
        words = arguments(place, name)
        at = words.index("--init-from")
        return run_cli([*words[:at], *words[at + 2 :], "--config", path, *more])

    assert run("file", {"max_length": 512, "yarn": None}) == 0
    assert (shape(place, "file").max_length, shape(place, "file").yarn) == (512, None)
    assert shape(place, "file").dropout == 0.1
    assert run("both", {"max_length": 512}, "--max-length", "128") == 0
    assert shape(place, "both").max_length == 128
    assert run("wrong", {"hidden_size": 512}) == 2  # the default of a fresh model, but not this checkpoint's
    assert "hidden_size 512 differs from 32 of " in capsys.readouterr().err


@pytest.mark.parametrize("vocab_size", [6400, 6401])
def test_from_a_checkpoint_of_the_default_shape_too(monkeypatch, vocab_size):
    def execute(config, resume):
        seen.append(config)
        return Outcome("finished", 1, 1)

    saved, seen = ModelConfig(max_length=1024, vocab_size=vocab_size, dropout=0.1), []
    monkeypatch.setattr("nano_llada.cli.training.shape_of", lambda start: saved)
    monkeypatch.setattr("nano_llada.session.run.execute", execute)
    for more in ([], ["--max-length", "512"], ["--dropout", "0"]):
        assert run_cli(["pretrain", "ar", "--data", "x.jsonl", "--init-from", "start", *more]) == 0
    asked = [run_module._continued_shape(config, saved) for config in seen]
    assert asked == [saved, replace(saved, max_length=512), replace(saved, dropout=0.0)]


def test_a_broken_shape_is_told_in_words(place, capsys):
    folder = place.runs / "ar" / "step-000001"
    before = (folder / "model.json").read_text(encoding="utf-8")
    try:
        (folder / "model.json").write_text(before.replace('"num_heads": 4', '"num_heads": 0'), encoding="utf-8")
        assert run_cli(arguments(place, "broken")) == 2
    finally:
        (folder / "model.json").write_text(before, encoding="utf-8")
    assert "model.json: num_heads must be at least 1" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_model_learns_the_same(place):
    for name, compiled in (("plain", False), ("compiled", True)):
        execute(tiny_run(place, "pretrain", "diffusion", name=name, compile=compiled, steps=3))
    plain, compiled = (losses(place.runs / name) for name in ("plain", "compiled"))
    assert [step for step, _ in plain] == [step for step, _ in compiled]
    assert [loss for _, loss in compiled] == pytest.approx([loss for _, loss in plain], rel=1e-4)
