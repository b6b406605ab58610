"""Resuming with another config: what nothing learnt depends on may change and is written down, the rest may not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from nano_llada.config.record import to_plain
from nano_llada.core.errors import UserError
from nano_llada.session.observer import RunObserver
from nano_llada.session.run import MAY_CHANGE, check_same_config, execute
from tiny import Place, losses, make_place, read_lines, tiny_run

HARMLESS = {
    "threads": 2,
    "device": "auto",
    "compile": True,
    "gradient_checkpointing": True,
    "micro_batch_size": 1,
    "log_every": 2,
    "sample_every": 2,
    "tracker": "tensorboard",
    "save_every": 3,
    "keep_last": 4,
    "keep_best": 3,
}


@pytest.fixture
def place(tmp_path) -> Place:
    return make_place(tmp_path)


def interrupted(config, monkeypatch, step: int) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.trainer.step == step)
        assert execute(config).state == "interrupted"


def saved_config(config) -> dict:
    return json.loads((config.folder / "config.json").read_text(encoding="utf-8"))


def test_what_changes_nothing_learnt_may_change_and_is_written_down(place, monkeypatch):
    whole, halved = (tiny_run(place, name=name, steps=5, eval_every=2) for name in ("whole", "halved"))
    execute(whole)
    interrupted(halved, monkeypatch, 3)
    train = replace(halved.train, log_every=5, keep_last=3, save_every=4, sample_every=1, gradient_checkpointing=True)
    data = replace(halved.data, cache=place.root / "elsewhere")
    moved = replace(halved, runs=place.root / "moved", data=data, train=train, sample_prompts=("Tom",))
    halved.runs.rename(moved.runs)
    assert execute(moved, resume=True).state == "finished"
    assert saved_config(moved) == to_plain(moved)
    log = (moved.folder / "log.txt").read_text(encoding="utf-8")
    said = next(line for line in log.splitlines() if "resumed with other settings: " in line)
    cache = f"data.cache was {place.cache.as_posix()}, is {place.root.as_posix()}/elsewhere"
    for part in (
        cache,
        "sample_prompts was [], is ['Tom']",
        "train.log_every was 1, is 5",
        "train.keep_last was 2, is 3",
    ):
        assert part in said
    assert "learning_rate" not in said
    left, right = (
        load_file(folder / "step-000005" / "model.safetensors") for folder in (moved.folder, moved.runs / "whole")
    )
    assert all(torch.allclose(value, right[name], rtol=1e-5, atol=1e-6) for name, value in left.items())
    assert {path.name for path in moved.folder.glob("step-*")} == {"step-000003", "step-000004", "step-000005"}
    assert [row["step"] for row in read_lines(moved.folder / "samples.jsonl")] == [4, 5]


@pytest.mark.parametrize("name", HARMLESS)
def test_each_option_that_may_change(place, name):
    config = tiny_run(place, name="x")
    saved = place.root / "config.json"
    saved.write_text(json.dumps(to_plain(config)), encoding="utf-8")
    changed = replace(config, train=replace(config.train, **{name: HARMLESS[name]}))
    before = getattr(config.train, name)
    assert check_same_config(saved, to_plain(changed)) == [f"train.{name} was {before}, is {HARMLESS[name]}"]
    assert f"train.{name}" in MAY_CHANGE


@pytest.mark.parametrize(
    ("part", "options"),
    [
        ("train", {"eval_every": 1}),
        ("train", {"patience": 3}),
        ("train", {"precision": "bf16"}),
        ("train", {"batch_size": 8}),
        ("train", {"steps": 2}),
        ("data", {"sequence_length": 32}),
        ("data", {"data": ("other.jsonl",)}),
        ("model", {"dropout": 0.5}),
    ],
)
def test_what_decides_what_is_learnt_may_not_change(place, part, options):
    config = tiny_run(place, name="x")
    config.folder.mkdir(parents=True)
    saved = config.folder / "config.json"
    saved.write_text(json.dumps(to_plain(config)), encoding="utf-8")
    before = saved.read_text(encoding="utf-8")
    changed = replace(config, **{part: replace(getattr(config, part), **options)})
    changed = replace(changed, train=replace(changed.train, threads=2))  # that alone would do
    name = next(iter(options))
    with pytest.raises(
        UserError, match=rf"^cannot resume .*started with: {part}\.{name} was [^;]*; (use another|the length)"
    ):
        execute(changed, resume=True)
    assert saved.read_text(encoding="utf-8") == before


def test_a_resumed_run_that_changes_nothing_says_nothing(place, monkeypatch):
    config = tiny_run(place, name="x", steps=4)
    interrupted(config, monkeypatch, 2)
    before = saved_config(config)
    execute(config, resume=True)
    assert saved_config(config) == before
    assert "resumed with" not in (config.folder / "log.txt").read_text(encoding="utf-8")


def test_samples_of_steps_that_are_taken_again_are_forgotten(place, monkeypatch):
    options = {"steps": 5, "save_every": 2, "sample_every": 1, "sample_prompts": ("Tom", "汤姆")}
    whole, killed = (tiny_run(place, name=name, **options) for name in ("whole", "killed"))
    execute(whole)
    write = RunObserver.write_samples

    def die(observer, step):
        write(observer, step)
        if step == 3:
            raise KeyboardInterrupt  # after the samples of step 3, before the next checkpoint

    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "write_samples", die)
        with pytest.raises(KeyboardInterrupt):
            execute(killed)
    assert [row["step"] for row in read_lines(killed.folder / "samples.jsonl")] == [1, 1, 2, 2, 3, 3]
    assert execute(killed, resume=True).state == "finished"
    assert read_lines(killed.folder / "samples.jsonl") == read_lines(whole.folder / "samples.jsonl")
    assert losses(killed.folder) == losses(whole.folder)


def test_a_run_from_before_an_option_existed_goes_on(tmp_path):
    config = tiny_run(make_place(tmp_path), "pretrain", "diffusion", name="old")
    plain, saved = to_plain(config), tmp_path / "config.json"
    before = json.loads(json.dumps(plain))
    del before["objective"]["editing"], before["train"]["merge_best"], before["reference"]
    saved.write_text(json.dumps(before), encoding="utf-8")
    assert check_same_config(saved, plain) == []
    newer = json.loads(json.dumps(plain))
    newer["objective"]["editing"]["replace_rate"] = 0.1
    with pytest.raises(UserError, match=r"objective\.editing\.replace_rate was 0\.0, is 0\.1"):
        check_same_config(saved, newer)
