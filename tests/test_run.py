"""Whole runs, all four kinds: what they leave behind, what they refuse, and that every option does what it says."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.record import from_plain
from nano_llada.config.run import RunConfig, default_run
from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import train_characters
from nano_llada.session import run as run_module
from nano_llada.session.data import load_data
from nano_llada.session.observer import RunObserver
from nano_llada.session.outcome import read_outcome
from nano_llada.session.run import build_model, choose_tokenizer, count_parameters, execute
from tiny import Place, chats, family, losses, make_place, read_lines, texts, tiny_run, write_rows

KINDS = {"ar": ("pretrain", "ar"), "diffusion": ("pretrain", "diffusion")}
KINDS |= {"ar-sft": ("sft", "ar"), "diffusion-sft": ("sft", "diffusion")}
FIELDS = {"step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "mfu", "memory_gib"}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Place:
    """All four kinds, trained; to be read only."""
    return family(tmp_path_factory.getbasetemp())


@pytest.fixture
def place(tmp_path) -> Place:
    return make_place(tmp_path)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"step-{step:06d}" / "model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


@pytest.mark.parametrize("name", KINDS)
def test_a_run_leaves_everything_that_is_needed_behind(done, name):
    folder, (stage, track) = done.runs / name, KINDS[name]
    expected = {"config.json", "environment.json", "metrics.jsonl", "log.txt", "loss.png", "samples.jsonl", "best.json"}
    assert expected <= {path.name for path in folder.iterdir()}
    config = from_plain(RunConfig, json.loads((folder / "config.json").read_text(encoding="utf-8")))
    assert (config.stage, config.track, config.folder) == (stage, track, folder)
    step = folder / "step-000003"
    files = {"model.safetensors", "model.json", "tokenizer.json", "training.safetensors", "training.json"}
    assert files <= {path.name for path in step.iterdir()}
    assert json.loads((folder / "best.json").read_text())["checkpoint"] == "step-000003"
    checkpoint = load_checkpoint(folder)
    assert (checkpoint.card.track, checkpoint.card.stage, checkpoint.card.run) == (track, stage, name)
    assert (checkpoint.card.step, checkpoint.model.config.hidden_size) == (3, 32)
    environment = json.loads((folder / "environment.json").read_text())
    assert {"python", "torch", "processor", "cores", "threads"} <= environment.keys()


@pytest.mark.usefixtures("drawn", "measured")
def test_the_curve_of_a_run_is_drawn_and_its_speed_compared_with_the_machines(place):
    config = tiny_run(place, "pretrain", "diffusion", name="x", steps=4, eval_every=2)
    assert execute(config).state == "finished"
    picture = (config.folder / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    assert all(0 < line["mfu"] < 10 for line in read_lines(config.folder / "metrics.jsonl") if "mfu" in line)


@pytest.mark.parametrize("name", KINDS)
def test_metrics_have_their_fields(done, name):
    lines = read_lines(done.runs / name / "metrics.jsonl")
    train, valid = [x for x in lines if "loss" in x], [x for x in lines if "validation_loss" in x]
    assert [line["step"] for line in train] == [1, 2, 3]
    assert all(line.keys() >= FIELDS for line in train)
    assert all(0 < line["loss"] < 20 and line["grad_norm"] > 0 and line["mfu"] >= 0 for line in train)
    assert [line["step"] for line in valid] == [3]
    assert all(right["tokens"] > left["tokens"] for left, right in pairwise(train))
    assert train[-1]["learning_rate"] < train[0]["learning_rate"]
    if name.startswith("diffusion"):
        assert all({"masked_text_loss", "masked_eos_loss"} <= line.keys() for line in train)


@pytest.mark.parametrize("name", KINDS)
def test_samples_and_log_tell_how_it_went(done, name):
    samples = read_lines(done.runs / name / "samples.jsonl")
    assert [(row["step"], row["prompt"]) for row in samples] == [(3, "Tom has"), (3, "汤姆有")]
    log = (done.runs / name / "log.txt").read_text(encoding="utf-8")
    assert f"{name}: finished at step 3 of 3" in log
    assert re.search(r"step 3: validation loss \d+\.\d{4} \(best\)", log)
    parameters = count_parameters(load_checkpoint(done.runs / name).model)
    assert f"{parameters:,} parameters, 3 steps of 4 x 64 tokens on " in log


def test_diffusion_from_an_ar_model_starts_with_its_weights_and_the_mean_as_the_mask(done):
    start = load_checkpoint(done.runs / "ar")
    config = tiny_run(done, "pretrain", "diffusion", name="x", init_from=done.runs / "ar")
    tokenizer = choose_tokenizer(config, start)
    model, vocab = build_model(config, tokenizer, start), tokenizer.vocab
    ordinary = [i for i in range(vocab.size) if i != vocab.mask and i not in vocab.reserved]
    untouched = load_checkpoint(done.runs / "ar").model  # a run takes over the weights that it starts from
    before, after = untouched.embed.weight, model.embed.weight
    assert model.embed.weight.data_ptr() == start.model.embed.weight.data_ptr()
    torch.testing.assert_close(after[vocab.mask], before[ordinary].mean(0))
    others = [i for i in range(vocab.size) if i != vocab.mask]
    assert torch.equal(after[others], before[others])
    left, right = untouched.state_dict(), model.state_dict()
    assert all(torch.equal(right[name], left[name]) for name in left if name != "embed.weight")
    assert tokenizer.hash == start.tokenizer.hash


def test_the_mask_of_a_diffusion_model_is_not_reset(done):
    start = load_checkpoint(done.runs / "diffusion")
    config = tiny_run(done, "sft", "diffusion", name="x", init_from=done.runs / "diffusion")
    model = build_model(config, start.tokenizer, start)
    assert same(dict(model.state_dict()), dict(load_checkpoint(done.runs / "diffusion").model.state_dict()))


def test_an_existing_run_is_not_overwritten(done):
    with pytest.raises(UserError, match=r"runs/ar exists; continue it with `nano-llada resume .*ar`"):
        execute(tiny_run(done, name="ar"))


def test_a_resumed_run_names_what_differs(place):
    config = tiny_run(place, name="x")
    execute(config)
    changed = replace(config, train=replace(config.train, learning_rate=0.5, seed=4), sample_prompts=("a",))
    with pytest.raises(UserError) as caught:
        execute(changed, resume=True)
    for part in ("runs/x", "learning_rate was 0.001, is 0.5", "train.seed was 0, is 4"):
        assert part in str(caught.value)
    assert "weight_decay" not in str(caught.value)
    assert "sample_prompts" not in str(caught.value)  # that may change


def test_nothing_to_resume_is_said(place):
    with pytest.raises(UserError, match=r"nothing to resume: .*no config"):
        execute(tiny_run(place, name="new"), resume=True)


def test_a_run_killed_before_its_first_checkpoint_can_be_resumed(place):
    config = tiny_run(place, name="x")
    run_module.prepare_folder(config, resume=False)
    (config.folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"st')
    assert execute(config, resume=True).state == "finished"
    assert [step for step, _ in losses(config.folder)] == [1, 2, 3]


def test_resuming_a_finished_run_changes_nothing(place):
    config = tiny_run(place, name="x", sample_prompts=("Tom",))
    execute(config)
    before = {name: (config.folder / name).read_text() for name in ("metrics.jsonl", "samples.jsonl", "best.json")}
    assert execute(config, resume=True).state == "finished"
    assert {name: (config.folder / name).read_text() for name in before} == before


OPTIONS = [
    ("ar", {"ema_decay": 0.5}),
    ("diffusion", {"ema_decay": 0.9, "tie_embeddings": True, "save_every": 2}),
    ("ar", {"dropout": 0.2}),
    ("diffusion", {"dropout": 0.2, "micro_batch_size": 3, "gradient_checkpointing": True}),
    ("ar", {"optimizer": "muon", "tie_embeddings": True}),
    ("ar", {"num_kv_heads": 2, "qk_norm": False, "schedule": "cosine", "clip_norm": 0.0}),
    ("diffusion", {"objective": {"type": "Denoising", "loss_weight": "uniform"}, "packing": False}),
    ("diffusion", {"objective": {"type": "Denoising", "corruption": {"mask_count": "bernoulli", "noise": "cosine"}}}),
    ("ar", {"precision": "bf16", "schedule": "constant"}),
]


@pytest.mark.parametrize(("track", "options"), OPTIONS, ids=lambda value: str(value)[:60])
def test_interrupted_by_a_signal_it_saves_and_then_ends_with_the_same_weights_bit_for_bit(
    place, monkeypatch, track, options
):
    options = {"steps": 5, "eval_every": 2} | options
    whole, halved = (tiny_run(place, "pretrain", track, name=name, **options) for name in ("whole", "halved"))
    assert execute(whole).state == "finished"
    watch = RunObserver.on_step

    def interrupt(observer, report):
        watch(observer, report)
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "on_step", interrupt)
        assert execute(halved).state == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is before
    assert (halved.folder / "step-000003").is_dir()
    assert (
        "interrupted at step 3 of 5, saved; continue with `nano-llada resume" in (halved.folder / "log.txt").read_text()
    )
    assert execute(halved, resume=True).state == "finished"
    assert same(weights(halved.folder, 5), weights(whole.folder, 5))
    assert losses(halved.folder) == losses(whole.folder)
    state = [load_file(run.folder / "step-000005" / "training.safetensors") for run in (halved, whole)]
    assert same(*state)
    plain = [json.loads((run.folder / "step-000005" / "training.json").read_text()) for run in (halved, whole)]
    assert all(plain[0][name] == plain[1][name] for name in ("step", "tokens", "best_loss", "without_improvement"))


def test_a_window_of_the_log_that_was_interrupted_is_logged_whole(place, monkeypatch):
    whole, halved = (tiny_run(place, name=name, steps=4, log_every=2) for name in ("whole", "halved"))
    execute(whole)
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.trainer.step == 3)
        assert execute(halved).state == "interrupted"
    execute(halved, resume=True)
    assert losses(halved.folder) == losses(whole.folder)


def test_a_second_signal_does_not_wait(place, monkeypatch):
    monkeypatch.setattr(RunObserver, "on_step", lambda *_: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt):
        execute(tiny_run(place, name="x"))


def test_the_average_is_what_is_saved_for_use(place):
    plain, averaged = (tiny_run(place, name=f"ema-{decay}", ema_decay=decay) for decay in (0.0, 0.99))
    for run in (plain, averaged):
        execute(run)
    assert losses(plain.folder) == losses(averaged.folder)
    raw = {
        name.removeprefix("raw."): value
        for name, value in load_file(averaged.folder / "step-000003" / "training.safetensors").items()
        if name.startswith("raw.")
    }
    assert same(raw, weights(plain.folder, 3))
    assert not same(weights(averaged.folder, 3), raw)


def test_micro_batches_and_gradient_checkpointing_change_no_loss(place):
    runs = [
        tiny_run(place, "pretrain", "diffusion", name=f"run-{i}", **options)
        for i, options in enumerate([{}, {"micro_batch_size": 1}, {"gradient_checkpointing": True}])
    ]
    for run in runs:
        execute(run)
    first, *others = (torch.tensor(losses(run.folder)) for run in runs)
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-5, atol=1e-5)


def test_in_bf16_the_backward_pass_is_outside_autocast(place, monkeypatch):
    seen = []
    backward = torch.Tensor.backward
    monkeypatch.setattr(
        torch.Tensor, "backward", lambda loss: (seen.append(torch.is_autocast_enabled("cpu")), backward(loss))
    )
    execute(tiny_run(place, "pretrain", "diffusion", name="x", precision="bf16", micro_batch_size=2))
    assert seen == [False] * 6


def test_the_same_seed_gives_the_same_run_and_another_seed_another(place):
    runs = [tiny_run(place, name=f"run-{i}", seed=seed) for i, seed in enumerate((1, 1, 2))]
    for run in runs:
        execute(run)
    one, again, other = (weights(run.folder, 3) for run in runs)
    assert same(one, again)
    assert not same(one, other)


def test_tensorboard_gets_what_metrics_get(place):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tiny_run(place, name="x", tracker="tensorboard")
    execute(config)
    events = event_accumulator.EventAccumulator(str(config.folder / "tensorboard"))
    events.Reload()
    seen = [(event.step, pytest.approx(event.value)) for event in events.Scalars("loss")]
    assert losses(config.folder) == seen
    assert len(events.Scalars("validation_loss")) == 1


def test_a_tracker_that_is_not_installed_is_named(place, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    with pytest.raises(UserError, match="tracker 'trackio' is not installed: pip install trackio"):
        execute(tiny_run(place, name="x", tracker="trackio"))


def test_it_stops_early_when_nothing_improves(place):
    config = tiny_run(place, name="x", steps=20, eval_every=1, patience=2, min_delta=100.0, keep_last=1)
    assert execute(config).state == "stopped early"
    assert losses(config.folder)[-1][0] == 3  # the first measurement is the best, two do not improve on it
    assert {path.name for path in config.folder.glob("step-*")} == {"step-000003"}  # the lowest loss and the newest
    assert "stopped early at step 3 of 20" in (config.folder / "log.txt").read_text()


def held_out(place: Place, **options):
    config = tiny_run(place, **options)
    batches, validation = load_data(config, choose_tokenizer(config, None))
    return batches._documents.tolist(), None if validation is None else validation._documents.tolist()


def test_a_share_is_held_out(place):
    train, validation = held_out(place, validation_share=0.25)
    assert len(validation) == 15
    assert sorted(train + validation) == list(range(60))
    assert min(validation) < 30 <= max(validation)
    train, validation = held_out(place, validation_share=0.0)
    assert (train, validation) == (list(range(60)), None)
    train, validation = held_out(place, validation=(write_rows(place.root / "v.jsonl", texts(9)),))
    assert (train, sorted(validation)) == (list(range(60)), list(range(9)))


def test_epochs_become_steps(place):
    config = tiny_run(place, name="x", steps=None, epochs=0.5)
    batches, _ = load_data(config, choose_tokenizer(config, None))
    execute(config)
    assert losses(config.folder)[-1][0] == -(-batches.rows_per_epoch * 0.5 // 4)


def test_samples_are_written_during_training_too(place):
    for every, steps in ((1, [1, 2, 3]), (2, [2, 3])):
        config = tiny_run(place, name=f"run-{every}", sample_prompts=("Tom",), sample_every=every)
        execute(config)
        assert [row["step"] for row in read_lines(config.folder / "samples.jsonl")] == steps


def test_a_loss_that_is_no_number_leaves_the_last_checkpoint_alone(place, monkeypatch):
    config = tiny_run(place, name="x", steps=4, save_every=2)
    step = RunObserver.on_step

    def poison(observer, report):
        step(observer, report)
        if report.step == 3:
            with torch.no_grad():
                observer.model.norm.weight.fill_(float("nan"))

    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "on_step", poison)
        with pytest.raises(UserError, match=r"not a number at step 4 ") as caught:
            execute(config)
    broken = load_data(config, choose_tokenizer(config, None))[0].document_names(3)[0]
    named = ", ".join(f"{place.text}:{number + 1}" for number in broken)
    assert f"documents of that batch: row 0: {named}; row 1: " in str(caught.value)
    again = f"start again with --init-from {config.folder / 'step-000002'} and a lower --learning-rate"
    assert again in str(caught.value)
    assert [path.name for path in config.folder.glob("step-*")] == ["step-000002"]
    assert execute(config, resume=True).state == "finished"
    assert torch.isfinite(weights(config.folder, 4)["norm.weight"]).all()


def test_a_clock_that_is_set_back_changes_nothing_that_is_learnt(place, monkeypatch):
    whole = tiny_run(place, name="whole", steps=6, save_every=2, eval_every=2, log_every=1)
    execute(whole)
    hours = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(hours)))
    config = tiny_run(
        place, name="back", steps=6, save_every=2, eval_every=2, log_every=1, cache=place.root / "cache of another time"
    )
    execute(config)
    assert (
        time.time() > time.time()
    )  # nobody but this test may have asked: rates and times left have clocks of their own
    assert losses(config.folder) == losses(whole.folder)
    assert same(weights(config.folder, 6), weights(whole.folder, 6))
    assert read_outcome(config.folder).state == "finished"
    folders = [sorted(path.name for path in run.folder.iterdir()) for run in (whole, config)]
    assert folders[0] == folders[1]


def test_a_step_that_is_left_out_is_said_and_counted(place, monkeypatch):
    step, kept = RunObserver.on_step, []

    def poison(observer, report):
        step(observer, report)
        with torch.no_grad():
            if report.step == 2:
                kept.append(observer.model.norm.weight.clone())
                observer.model.norm.weight.fill_(float("nan"))
            elif report.step == 3:
                observer.model.norm.weight.copy_(kept[0])

    monkeypatch.setattr(RunObserver, "on_step", poison)
    config = tiny_run(place, name="x", steps=5, save_every=5, log_every=1, skip_steps=1)
    assert execute(config).state == "finished"
    log = (config.folder / "log.txt").read_text(encoding="utf-8")
    assert "step 3 is left out, the weights are as before: loss nan, gradient norm nan (1 left out in all)" in log
    rows = [row for row in read_lines(config.folder / "metrics.jsonl") if "loss" in row]
    assert [(row["step"], row.get("left_out")) for row in rows] == [(1, None), (2, None), (4, 1), (5, 1)]
    assert all(math.isfinite(row["loss"]) for row in rows)


def test_another_tokenizer_than_the_start_checkpoints_is_refused(done, tmp_path):
    train_characters(["other"]).save(tmp_path)
    config = tiny_run(done, "pretrain", "diffusion", name="x", init_from=done.runs / "ar", tokenizer=tmp_path)
    with pytest.raises(UserError, match="leave --tokenizer out to use the checkpoint's"):
        execute(config)
    assert not config.folder.exists()


def test_a_shape_that_is_not_the_start_checkpoints_is_refused_and_dropout_taken(done):
    start = load_checkpoint(done.runs / "ar")
    for options, message in (
        ({"hidden_size": 64}, "hidden_size 64 differs from 32"),
        ({"num_heads": 2}, "num_heads 2 differs from 4, .*runs/ar; with --init-from the shape comes from"),
    ):
        with pytest.raises(UserError, match=message):
            build_model(tiny_run(done, init_from=done.runs / "ar", **options), start.tokenizer, start)
    config = tiny_run(done, init_from=done.runs / "ar", dropout=0.3, max_length=128)
    assert build_model(config, start.tokenizer, start).config == replace(
        start.model.config, dropout=0.3, max_length=128
    )


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
@pytest.mark.parametrize("track", ["ar", "diffusion"])
def test_defaults_say_what_they_are(stage, track):
    config = default_run(stage, track)
    assert (config.stage, config.track, config.name) == (stage, track, f"{stage}-{track}")


def test_conversations_without_an_answer_in_a_row_are_left_out_and_counted(place, capsys):
    rows = [chats()[0]["messages"], [{"role": "user", "content": "T" * 100}, {"role": "assistant", "content": "x"}]]
    data = (str(write_rows(place.root / "long.jsonl", [{"messages": messages} for messages in rows])),)
    config = tiny_run(place, "sft", "ar", data=data, validation_share=0.0)
    batches, _ = load_data(config, choose_tokenizer(config, None))
    assert batches._documents.tolist() == [0]
    assert "1 of 2 documents have nothing to learn before sequence_length 64" in capsys.readouterr().out
    data = (str(write_rows(place.root / "longer.jsonl", [{"messages": rows[1]}])),)
    with pytest.raises(UserError, match=r"^no answer begins before sequence_length 64; raise it"):
        load_data(replace(config, data=replace(config.data, data=data)), choose_tokenizer(config, None))
