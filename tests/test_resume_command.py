"""`nano-llada resume RUN`: an interrupted run from its folder alone, and a finished one for more steps."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from nano_llada.checkpoint.files import find_checkpoint
from nano_llada.config.run import RunConfig
from nano_llada.core.errors import UserError
from nano_llada.session.observer import RunObserver
from nano_llada.session.run import execute, finished
from nano_llada.training.schedule import learning_rate_scale
from tiny import Place, losses, make_place, read_lines, run_cli, tiny_run


@pytest.fixture
def place(tmp_path) -> Place:
    return make_place(tmp_path)


def outcome(config: RunConfig) -> dict:
    return json.loads((config.folder / "outcome.json").read_text(encoding="utf-8"))


def learning_rates(config: RunConfig) -> list[float]:
    return [line["learning_rate"] for line in read_lines(config.folder / "metrics.jsonl") if "loss" in line]


def test_an_interrupted_run_is_continued_from_its_folder_alone(place, monkeypatch, capsys):
    whole, halved = (
        tiny_run(place, name=name, steps=5, eval_every=2, learning_rate=3e-3) for name in ("whole", "halved")
    )
    execute(whole)
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.trainer.step == 3)
        assert run_cli(["resume", "nowhere"]) == 2
        assert execute(halved).state == "interrupted"
    monkeypatch.chdir(place.root)
    assert run_cli(["resume", "runs/halved", "--log-every", "1", "--keep-last", "5"]) == 0
    assert losses(halved.folder) == losses(whole.folder)
    assert outcome(halved)["state"] == "finished"
    saved = json.loads((halved.folder / "config.json").read_text(encoding="utf-8"))
    assert (saved["train"]["keep_last"], saved["train"]["learning_rate"]) == (5, 3e-3)
    capsys.readouterr()
    assert run_cli(["resume", halved.folder]) == 0
    assert "already complete" in capsys.readouterr().out


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "constant"])
def test_a_finished_run_goes_further(place, schedule):
    config = tiny_run(place, name="x", steps=4, schedule=schedule, eval_every=2, keep_best=1, save_every=2)
    execute(config)
    before = losses(config.folder)
    assert run_cli(["resume", config.folder, "--steps", "10"]) == 0
    assert losses(config.folder)[:4] == before
    assert [step for step, _ in losses(config.folder)] == list(range(1, 11))
    ended = outcome(config)
    assert (ended["state"], ended["step"], ended["total_steps"]) == ("finished", 10, 10)
    measured = {
        r["step"]: r["validation_loss"] for r in read_lines(config.folder / "metrics.jsonl") if "validation_loss" in r
    }
    assert ended["best_step"] == min(measured, key=measured.__getitem__)
    assert find_checkpoint(config.folder).name == f"step-{ended['best_step']:06d}"
    scale = [  # steps already made keep their rate; the others follow the schedule of the new length
        learning_rate_scale(schedule, step, total=total, warmup=1, decay_share=0.3, floor=0.05)
        for step, total in [(step, 4) for step in range(4)] + [(step, 10) for step in range(4, 10)]
    ]
    assert learning_rates(config) == pytest.approx([1e-3 * factor for factor in scale])
    said = (config.folder / "log.txt").read_text(encoding="utf-8")
    assert "resumed with other settings: train.steps was 4, is 10" in said
    assert ("the learning rate" in said) == (schedule != "constant")


def test_with_a_constant_rate_going_further_is_the_longer_run(place):
    short = tiny_run(place, name="short", steps=3, schedule="constant", warmup_steps=0)
    long = replace(short, name="long", train=replace(short.train, steps=6))
    execute(short)
    execute(long)
    assert run_cli(["resume", short.folder, "--steps", "6"]) == 0
    assert losses(short.folder) == losses(long.folder)


def test_epochs_may_be_raised_and_merged_weights_are_made_anew(place):
    config = tiny_run(
        place,
        name="x",
        steps=None,
        epochs=0.5,
        batch_size=2,
        eval_every=1,
        keep_best=3,
        merge_best=2,
        learning_rate=1e-2,
    )
    execute(config)
    first = outcome(config)["total_steps"]
    merged = (config.folder / "merged" / "model.safetensors").read_bytes()
    assert run_cli(["resume", config.folder, "--epochs", "1.5"]) == 0
    assert outcome(config)["total_steps"] in range(math.ceil(2.5 * first), 3 * first + 2)
    assert (config.folder / "merged" / "model.safetensors").read_bytes() != merged
    assert run_cli(["resume", config.folder, "--steps", str(outcome(config)["total_steps"] + 1)]) == 0


def test_resume_takes_more_steps_as_an_option_of_training_too(place):
    config = tiny_run(place, name="x", steps=2)
    execute(config)
    longer = replace(config, train=replace(config.train, steps=3))
    assert finished(config)
    with pytest.raises(UserError, match="train it further with `nano-llada resume"):  # not by a recipe that changed
        finished(longer)
    assert execute(longer, resume=True).step == 3


def test_what_cannot_be_resumed_is_named(place, capsys):
    config = tiny_run(place, name="x", steps=3, eval_every=1, save_every=1)
    execute(config)
    moved = config.folder.with_name("y")

    def complaint(*words: object) -> str:
        capsys.readouterr()
        assert run_cli(["resume", *words]) == 2
        return capsys.readouterr().err

    assert "train.steps was 3, is 2" in complaint(config.folder, "--steps", 2)
    assert "raise --steps, not --epochs" in complaint(config.folder, "--epochs", 9)
    assert f"did you mean the run folder {config.folder}?" in complaint(config.folder / "step-000003")
    assert "has no config.json" in complaint(place.root)
    assert "unknown option --stepz; did you mean --steps?" in complaint(config.folder, "--stepz", 4)
    assert "merge_best" not in complaint(config.folder, "--keep-best", "-1")
    config.folder.rename(moved)
    assert f"rename it to {config.folder}" in complaint(moved)


def test_more_steps_do_not_restart_a_run_that_stopped_early(place, capsys):
    config = tiny_run(place, name="x", steps=9, eval_every=1, patience=1, min_delta=5.0)
    assert execute(config).state == "stopped early"
    assert run_cli(["resume", config.folder, "--steps", "20"]) == 2
    assert "stopped early at step" in capsys.readouterr().err
