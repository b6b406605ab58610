"""What a run keeps on the disk: what it has read, that it runs, how it ended; damaged, foreign and absurd files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nano_llada
from kills import in_child
from nano_llada.checkpoint.checksums import write_checksums
from nano_llada.checkpoint.files import find_checkpoint, load_checkpoint
from nano_llada.checkpoint.manager import RunCheckpoints
from nano_llada.config.run import RunConfig
from nano_llada.core.errors import UserError
from nano_llada.model.transformer import Transformer
from nano_llada.session.lock import RunLock
from nano_llada.session.observer import RunObserver
from nano_llada.session.outcome import read_outcome
from nano_llada.session.run import complete, execute, finished
from tiny import Place, family, losses, make_place, read_lines, run_cli, texts, tiny_arguments, tiny_run, write_rows

POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def place(tmp_path) -> Place:
    return make_place(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Place:
    """All four kinds of run, finished; only looked at, or copied."""
    return family(tmp_path_factory.getbasetemp())


def half(config: RunConfig, monkeypatch, step: int = 2) -> None:
    """Train a run and interrupt it after a step."""
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.trainer.step == step)
        assert execute(config).state == "interrupted"


def complaint(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What a run reads


def grow(path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "One more row."}) + "\n")


@pytest.mark.parametrize("change", ["a row more", "replaced", "validation"])
def test_a_run_is_not_resumed_on_other_data(place, monkeypatch, change):
    extra = {}
    if change == "validation":
        extra = {"validation": (str(write_rows(place.root / "held-out.jsonl", texts(9))),)}
    config = tiny_run(place, name="x", **extra)
    half(config, monkeypatch)
    kept = (config.folder / "metrics.jsonl").read_bytes()
    path = place.root / "held-out.jsonl" if extra else place.text
    before = path.read_bytes()
    if change == "replaced":
        write_rows(path, texts(61))
    else:
        grow(path)
    said = complaint(execute, config, resume=True)
    kind = "validation data" if extra else "data"
    assert f"a resumed run must read what it has read so far; since {config.folder} was begun: {kind}: {path}" in said
    assert "has changed" in said
    assert (config.folder / "metrics.jsonl").read_bytes() == kept
    path.write_bytes(before)
    assert execute(config, resume=True).state == "finished"


def test_a_new_file_in_a_folder_of_data_is_noticed(place, monkeypatch):
    (place.root / "texts").mkdir()
    shutil.copy(place.text, place.root / "texts" / "a.jsonl")
    config = tiny_run(place, name="x", data=(str(place.root / "texts"),))
    half(config, monkeypatch)
    write_rows(place.root / "texts" / "b.jsonl", texts(3))
    assert f"data: {place.root / 'texts' / 'b.jsonl'} is new" in complaint(execute, config, resume=True)


def test_start_and_reference_weights_are_part_of_what_a_run_reads(place, trained, monkeypatch):
    pairs = [{"prompt": f"What has Tom? {i}", "chosen": "A ball.", "rejected": f"A cat {i}."} for i in range(20)]
    data = write_rows(place.root / "pairs.jsonl", pairs)
    start, reference = (shutil.copytree(trained.runs / "ar-sft", place.root / name) for name in ("start", "reference"))
    more = {"init_from": start, "reference": reference, "data": (data,)}
    config = tiny_run(place, "dpo", "ar", name="x", **more)
    half(config, monkeypatch)
    for kind, folder in (("start weights", start), ("reference weights", reference)):
        path = find_checkpoint(folder) / "model.safetensors"
        before, some = path.read_bytes(), load_file(path)
        save_file({name: tensor + 0.25 for name, tensor in some.items()}, path)
        write_checksums(path.parent)  # a whole checkpoint, but another one
        assert f"{kind}: {path} has changed" in complaint(execute, config, resume=True)
        path.write_bytes(before)
        write_checksums(path.parent)
    assert execute(config, resume=True).state == "finished"


def test_reward_functions_are_part_of_what_a_run_reads(place, trained, monkeypatch):
    monkeypatch.chdir(place.root)
    reward = place.root / "reward.py"
    reward.write_text("def length(question, answer, row):\n    return len(answer)\n", encoding="utf-8")
    options = {"init_from": trained.runs / "ar-sft", "data": (place.chat,), "validation_share": 0.0}
    objective = {"rollouts": {"reward": "reward.py:length", "group_size": 2, "max_new_tokens": 4}}
    config = tiny_run(place, "rl", "ar", name="x", objective=objective, **options)
    half(config, monkeypatch)
    reward.write_text("def length(question, answer, row):\n    return -len(answer)\n", encoding="utf-8")
    assert "your own code: reward.py has changed" in complaint(execute, config, resume=True)


def test_before_the_first_checkpoint_nothing_was_learnt_and_data_may_change(place, monkeypatch):
    config = tiny_run(place, name="x", save_every=0)
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            execute(config)
    grow(place.text)
    assert execute(config, resume=True).state == "finished"


def test_a_run_without_a_record_is_resumed_and_that_is_said(place, monkeypatch):
    config = tiny_run(place, name="x")
    half(config, monkeypatch)
    (config.folder / "inputs.json").unlink()
    assert execute(config, resume=True).state == "finished"
    assert "inputs.json is new: whether" in (config.folder / "log.txt").read_text(encoding="utf-8")
    assert (config.folder / "inputs.json").is_file()


# Two trainers, and none

HOLD = """
import sys, time
from pathlib import Path
from nano_llada.session.lock import RunLock
lock = RunLock.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_trainer_is_refused_with_host_and_process_and_a_dead_ones_lock_is_taken_over(place):
    config = tiny_run(place, name="x")
    config.folder.mkdir(parents=True)
    environment = os.environ | {"PYTHONPATH": str(Path(nano_llada.__file__).parents[1])}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(config.folder)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        said = complaint(execute, config)
        assert f"is being trained by process {holder.pid} on {socket.gethostname()}" in said
        assert sorted(path.name for path in config.folder.iterdir()) == [".lock"]  # nothing was written
    finally:
        holder.kill()
        holder.wait()
    assert (config.folder / ".lock").is_file()
    assert execute(config).state == "finished"
    assert not (config.folder / ".lock").exists()


def test_training_twice_at_once_within_one_process_is_refused_too(place, monkeypatch):
    config, said = tiny_run(place, name="x"), []
    watch = RunObserver.on_step

    def on_step(observer, report):
        watch(observer, report)
        said.append(complaint(execute, config))

    monkeypatch.setattr(RunObserver, "on_step", on_step)
    assert execute(config).state == "finished"
    assert len(said) == 3
    assert all(f"is being trained by process {os.getpid()} on" in text for text in said)


def test_a_lock_of_another_host_is_not_taken_over(tmp_path):
    (tmp_path / ".lock").write_text('{"host": "elsewhere", "pid": 12}', encoding="utf-8")
    said = complaint(RunLock.acquire, tmp_path)
    assert "was being trained by process 12 on elsewhere" in said
    assert f"if it does not, delete {tmp_path / '.lock'}" in said


@pytest.mark.parametrize("text", ["", "{", "[" * 10000, '{"host": 1}', '{"pid": "x", "host": 0}'])
def test_a_broken_lock_of_nobody_is_taken_over(tmp_path, text):
    (tmp_path / ".lock").write_text(text, encoding="utf-8")
    lock = RunLock.acquire(tmp_path)
    assert json.loads((tmp_path / ".lock").read_text(encoding="utf-8")) == {
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    lock.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("back", [False, True], ids=["deleted", "made anew"])
def test_a_run_folder_that_is_deleted_while_it_trains_ends_the_run_at_once(place, monkeypatch, back):
    config, steps = tiny_run(place, name="x", steps=9), []
    watch = RunObserver.on_step

    def on_step(observer, report):
        watch(observer, report)
        steps.append(report.step)
        if report.step == 2:
            shutil.rmtree(config.folder)
            if back:
                config.folder.mkdir()

    monkeypatch.setattr(RunObserver, "on_step", on_step)
    said = complaint(execute, config)
    assert said == f"the run folder {config.folder} was deleted or replaced while it was being trained: stopped"
    assert steps == [1, 2]
    assert config.folder.exists() == back
    assert not back or list(config.folder.iterdir()) == []


@pytest.mark.parametrize("command", ["demo", "generate", "export"])
def test_several_processes_of_torchrun_are_refused_where_the_work_cannot_be_shared(place, monkeypatch, capsys, command):
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert run_cli([command, place.runs / "x"]) == 2
    said = capsys.readouterr().err
    assert f"this was started as 16 processes, and each of them would do the same work: {command} uses one" in said
    assert not place.runs.exists()


def test_one_process_of_torchrun_is_one_process(place, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert execute(tiny_run(place, name="x")).state == "finished"


# How a run ended


def test_a_run_that_stopped_early_takes_no_further_step(place):
    config = tiny_run(place, name="x", steps=20, eval_every=1, patience=2, min_delta=100.0, keep_last=1)
    assert execute(config).state == "stopped early"
    before, metrics = weights(find_checkpoint(config.folder, "last")), read_lines(config.folder / "metrics.jsonl")
    for round_ in range(3):
        if round_ == 2:
            (config.folder / "outcome.json").unlink()  # as version 0.1.0 left it, or a kill
        assert finished(config)
        assert complete([config])
        outcome = execute(config, resume=True)
        assert (outcome.state, outcome.step, outcome.total_steps) == ("stopped early", 3, 20)
        assert read_outcome(config.folder) == outcome
    assert read_lines(config.folder / "metrics.jsonl") == metrics
    assert same(weights(find_checkpoint(config.folder, "last")), before)
    assert [path.name for path in config.folder.glob("step-*")] == ["step-000003"]


def test_prompts_that_read_like_the_log_fool_nothing(place, monkeypatch):
    prompts = ("x: finished", "x: finished at step 3 of 3, saved in x", "x: stopped early at step 2 of 3")
    config = tiny_run(place, name="x", sample_prompts=prompts, sample_every=1)
    half(config, monkeypatch)
    assert "sample: x: finished" in (config.folder / "log.txt").read_text(encoding="utf-8")
    assert not finished(config)
    outcome = read_outcome(config.folder)
    assert outcome is not None
    assert (outcome.state, outcome.step, outcome.total_steps) == ("interrupted", 2, 3)
    assert complete([config])
    assert losses(config.folder)[-1][0] == 3


def test_outcomes_in_every_case(place, monkeypatch):
    config = tiny_run(place, name="x", save_every=1)

    def state() -> tuple[str, int]:
        outcome = read_outcome(config.folder)
        assert outcome is not None
        return outcome.state, outcome.step

    seen, watch = [], RunObserver.on_step

    def on_step(observer, report):
        watch(observer, report)
        seen.append(state())
        if report.step == 3:
            raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "on_step", on_step)
        with pytest.raises(RuntimeError):
            execute(config)
    assert seen == [("running", 0)] * 3
    assert state() == ("failed", 2)
    assert not finished(config)
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "on_step", lambda *_: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
        with pytest.raises(KeyboardInterrupt):
            execute(config, resume=True)
    assert state() == ("interrupted", 2)
    assert execute(config, resume=True).state == "finished"
    assert state() == ("finished", 3)
    assert finished(config)


def test_a_complete_run_whose_checkpoints_were_deleted_is_not_complete(place):
    config = tiny_run(place, name="x", save_every=1)
    execute(config)
    whole = weights(config.folder / "step-000003")
    shutil.rmtree(config.folder / "step-000003")
    assert not finished(config)
    assert complete([config])
    assert same(weights(config.folder / "step-000003"), whole)
    for folder in config.folder.glob("step-*"):
        shutil.rmtree(folder)
    assert "says it is finished at step 3, but its checkpoints are gone" in complaint(finished, config)


def test_what_is_derived_is_rebuilt_and_what_is_left_over_is_deleted(place):
    config = tiny_run(place, name="x", save_every=1, eval_every=1, keep_last=1, learning_rate=0.01)
    execute(config)
    names = {path.name for path in config.folder.rglob("*")}
    best = json.loads((config.folder / "best.json").read_text(encoding="utf-8"))
    assert best["checkpoint"] == "step-000003"  # what a kill after the last checkpoint could lose
    stale = shutil.copytree(config.folder / "step-000003", config.folder / "step-000001")
    (config.folder / "best.json").write_text(
        json.dumps({"checkpoint": stale.name, "validation_loss": 9.0}), encoding="utf-8"
    )
    for name in (".step-000002.removed", ".step-000004.writing", ".merged.writing"):
        shutil.copytree(stale, config.folder / name)
    for name in (".metrics.jsonl.writing", ".outcome.json.writing"):
        (config.folder / name).write_text("{", encoding="utf-8")
    assert find_checkpoint(config.folder) == stale
    assert execute(config, resume=True).state == "finished"
    assert {path.name for path in config.folder.rglob("*")} == names
    assert json.loads((config.folder / "best.json").read_text(encoding="utf-8")) == best


# Damage


def flip(path: Path, place: float = 0.7) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


FILES = ("model.safetensors", "training.safetensors", "training.json", "model.json", "tokenizer.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["flip", "cut", "delete"])
def test_a_damaged_newest_checkpoint_is_put_aside_and_the_one_before_is_resumed_from(place, monkeypatch, name, harm):
    whole, config = (tiny_run(place, name=name, save_every=1, steps=4) for name in ("whole", "x"))
    half(config, monkeypatch, 3)
    if name == FILES[0] and harm == "flip":
        execute(whole)
    path = config.folder / "step-000003" / name
    if harm == "flip":
        flip(path)
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    assert execute(config, resume=True).state == "finished"
    log = (config.folder / "log.txt").read_text(encoding="utf-8")
    assert f"{path} " in log
    assert "resuming from step-000002: the damaged one is now step-000003.damaged" in log
    assert {path.name for path in config.folder.glob("step-*")} >= {"step-000003.damaged", "step-000004"}
    if whole.folder.exists():
        for kind in ("model.safetensors", "training.safetensors"):
            last = [load_file(run.folder / "step-000004" / kind) for run in (whole, config)]
            assert same(*last)
        assert losses(config.folder) == losses(whole.folder)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_only_checkpoint_is_refused_and_stays(place, monkeypatch, name):
    config = tiny_run(place, name="x")
    half(config, monkeypatch)
    path = config.folder / "step-000002" / name
    flip(path)
    harmed = path.read_bytes()
    assert f"{path} does not match its checksum" in complaint(execute, config, resume=True)
    assert path.read_bytes() == harmed


@pytest.mark.parametrize("at", [0.02, 0.3, 0.6, 0.9])
def test_no_command_uses_weights_with_a_flipped_bit(trained, tmp_path, capsys, at):
    run = shutil.copytree(trained.runs / "ar", tmp_path / "ar")
    path = find_checkpoint(run) / "model.safetensors"
    flip(path, at)
    for words in (
        ["generate", run, "--prompt", "Tom"],
        ["merge", run, trained.runs / "ar-sft", "--output", tmp_path / "merged"],
        ["export", run, "--out", tmp_path / "exported"],
        tiny_arguments(trained, "sft", "ar", name="never", init_from=run),
    ):
        capsys.readouterr()
        assert run_cli(words) == 2, words
        assert str(path) in capsys.readouterr().err, words
    others = [folder.name for folder in run.glob("step-*") if folder != path.parent]
    assert others
    assert f"other checkpoints in {run}: {others[0]}" in complaint(load_checkpoint, run) or at < 0.1


def test_a_checkpoint_without_checksums_loads(trained, tmp_path):
    folder = shutil.copytree(find_checkpoint(trained.runs / "ar"), tmp_path / "old")
    (folder / "checksums.json").unlink()
    assert load_checkpoint(folder).card.run == "ar"


def test_a_file_that_was_edited_on_purpose_can_be_kept(trained, tmp_path):
    folder = shutil.copytree(find_checkpoint(trained.runs / "ar"), tmp_path / "edited")
    plain = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    plain["card"]["run"] = "another"
    (folder / "model.json").write_text(json.dumps(plain), encoding="utf-8")
    said = complaint(load_checkpoint, folder)
    assert said.endswith(f"if you edited it on purpose, delete {folder / 'checksums.json'}")
    (folder / "checksums.json").unlink()
    assert load_checkpoint(folder).card.run == "another"


# Absurd contents

DEEP, HUGE = "[" * 100_000, "1" * 5000
NONSENSE: list[Any] = [None, True, -1, 0, 10**30, 1e308, float("nan"), "x", [], {}, [[]], {"a": {}}]


def broken_texts(text: str) -> list[str]:
    """A JSON object as text, with each value in it replaced by nonsense in turn, deep, huge, or no JSON."""
    plain = json.loads(text)
    out = [DEEP, HUGE, '{"a":' * 50_000, "", "{", "[]", "null", '"x"', "\ud800".encode(errors="surrogatepass").hex()]

    def replaced(value: Any, rebuild: Callable[[Any], Any]) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                replaced(inner, lambda new, key=key, value=value, up=rebuild: up({**value, key: new}))
                rest = {name: one for name, one in value.items() if name != key}
                out.append(json.dumps(rebuild(rest)))
        out.extend(json.dumps(rebuild(new)) for new in NONSENSE)
        out.append(json.dumps(rebuild("PUT DEEP HERE")).replace('"PUT DEEP HERE"', DEEP))
        out.append(json.dumps(rebuild("PUT HUGE HERE")).replace('"PUT HUGE HERE"', HUGE))

    replaced(plain, lambda value: value)
    return out


def tried(call: Callable[[], Any]) -> str | None:
    """What a UserError says, None if it worked; anything else is a traceback."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


def test_every_value_of_a_model_json_is_refused_or_understood(trained, tmp_path, monkeypatch):
    folder = shutil.copytree(find_checkpoint(trained.runs / "ar"), tmp_path / "x")
    (folder / "checksums.json").unlink()
    path = folder / "model.json"
    allocated = []
    monkeypatch.setattr(
        "nano_llada.checkpoint.files.load_weights", lambda model, path: allocated.append(model.embed.weight.numel())
    )
    cases = broken_texts(path.read_text(encoding="utf-8"))
    said = []
    for text in cases:
        path.write_text(text, encoding="utf-8")
        said.append(tried(lambda: load_checkpoint(folder)))
    refused = [text for text in said if text is not None]
    assert len(cases) > 400
    assert all(str(folder) in text for text in refused)
    assert all(len(text) < 1000 for text in refused)
    assert len(refused) > len(cases) // 2
    assert set(allocated) == {load_checkpoint(trained.runs / "ar").model.embed.weight.numel()}  # no other size ever


def test_every_value_of_a_best_json_is_refused_or_understood(trained, tmp_path):
    run = shutil.copytree(trained.runs / "ar", tmp_path / "x")
    outside = shutil.copytree(find_checkpoint(run), tmp_path / "step-000009")
    path = run / "best.json"
    text = path.read_text(encoding="utf-8")
    cases = [*broken_texts(text), *(json.dumps({"checkpoint": name}) for name in ("../step-000009", str(outside), "."))]
    for case in cases:
        path.write_text(case, encoding="utf-8")
        said = tried(lambda: load_checkpoint(run))
        assert said is None or str(path) in said
        assert said is not None or find_checkpoint(run).parent == run


def test_every_value_of_an_outcome_json_is_refused_or_understood(place):
    config = tiny_run(place, name="x")
    execute(config)
    path = config.folder / "outcome.json"
    for text in broken_texts(path.read_text(encoding="utf-8")):
        path.write_text(text, encoding="utf-8")
        said = tried(lambda: finished(config))
        assert said is None or f"delete {path}: --resume writes it again" in said
    path.write_text("{", encoding="utf-8")
    path.unlink()  # as the message says
    assert execute(config, resume=True).state == "finished"
    assert finished(config)


def test_every_value_of_a_training_json_is_refused_or_understood(place, monkeypatch):
    config = tiny_run(place, name="x", log_every=9)
    half(config, monkeypatch)
    folder = config.folder / "step-000002"
    (folder / "checksums.json").unlink()
    path = folder / "training.json"
    text = path.read_text(encoding="utf-8")
    assert json.loads(text)["window"]
    kept = shutil.copytree(config.folder, place.root / "kept")
    texts_ = broken_texts(text)
    model = Transformer(load_checkpoint(config.folder).model.config)
    for case in texts_:
        path.write_text(case, encoding="utf-8")
        said = tried(lambda: RunCheckpoints(config.folder, 2, 1).resume(model))
        assert said is None or str(path) in said
    for window in ([1], {"a": 1}, [{"step": 1}], "x", None, [[]]):  # is understood by the observer
        plain = json.loads(text) | {"window": window}
        path.write_text(json.dumps(plain), encoding="utf-8")
        assert "the training state cannot be used" in complaint(execute, config, resume=True)
    shutil.rmtree(config.folder)
    shutil.copytree(kept, config.folder)
    assert execute(config, resume=True).state == "finished"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 10**9}, "too few for the 1000000000 layers of model.json"),
        ({"hidden_size": 2**40, "head_size": 8}, "model.json: no model can have this shape|the model's is"),
        ({"vocab_size": 10**12}, "the model's is"),
        ({"intermediate_size": 2**50}, "no model can have this shape|the model's is"),
        ({"num_heads": 2**30, "head_size": 8}, "no model can have this shape|the model's is"),
    ],
)
def test_shapes_are_compared_before_memory_is_allocated(trained, tmp_path, change, message):
    folder = shutil.copytree(find_checkpoint(trained.runs / "ar"), tmp_path / "x")
    (folder / "checksums.json").unlink()
    plain = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    plain["model"] |= change
    (folder / "model.json").write_text(json.dumps(plain), encoding="utf-8")
    begin = time.monotonic()
    with pytest.raises(UserError, match=f"{message}|must be at most|must be from"):
        load_checkpoint(folder)
    assert time.monotonic() - begin < 20


# Weights that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_by_every_command(trained, tmp_path, capsys, value):
    run = shutil.copytree(find_checkpoint(trained.runs / "ar-sft"), tmp_path / "x")
    some = load_file(run / "model.safetensors")
    some["norm.weight"][3] = value
    save_file(some, run / "model.safetensors")
    write_checksums(run)
    text = write_rows(tmp_path / "text.jsonl", texts(4))
    pairs = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 9
    commands: list[list[Any]] = [
        ["generate", run, "--prompt", "Tom"],
        ["eval", run, "--text", text],
        ["compare", run, trained.runs / "diffusion-sft", "--prompts", "Tom"],
        ["merge", run, trained.runs / "ar-sft", "--output", tmp_path / "merged"],
        ["export", run, "--out", tmp_path / "exported"],
        tiny_arguments(trained, "sft", "ar", name="never", init_from=run),
        tiny_arguments(
            trained,
            "dpo",
            "ar",
            name="never",
            init_from=trained.runs / "ar-sft",
            reference=run,
            data=(write_rows(tmp_path / "pairs.jsonl", pairs),),
        ),
    ]
    for words in commands:
        capsys.readouterr()
        assert run_cli(words) == 2, words
        err = capsys.readouterr().err
        assert "model.safetensors: 1 of 32 numbers of norm.weight are not finite (nan or infinity)" in err, (words, err)


def test_weights_that_are_not_finite_are_not_saved_over_good_ones(place, monkeypatch):
    config = tiny_run(place, name="x", steps=4, save_every=1, keep_last=1, eval_every=0)
    watch = RunObserver.on_step

    def poison(observer, report):
        watch(observer, report)
        if report.step == 3:
            with torch.no_grad():
                observer.model.norm.weight[0] = float("inf")

    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "on_step", poison)
        said = complaint(execute, config)
    assert said.startswith("step 3 is not saved: 1 of 32 numbers of norm.weight are not finite")
    assert [path.name for path in config.folder.glob("step-*")] == ["step-000002"]
    assert execute(config, resume=True).state == "finished"


# Files that the system refuses


def refusing(monkeypatch, name: str, error: OSError) -> None:
    """Have Path.open refuse files of a name."""
    real = Path.open

    def opened(path, *arguments, **options):
        if path.name == name:
            raise error
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "tokenizer.json", "checksums.json"])
def test_a_file_that_may_not_be_read_is_not_called_corrupt(trained, monkeypatch, name):
    folder = find_checkpoint(trained.runs / "ar")
    refusing(monkeypatch, name, PermissionError(13, "Permission denied"))
    said = complaint(load_checkpoint, folder)
    assert said == f"{folder / name} cannot be read: permission denied"


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_damaged(place, monkeypatch):
    config = tiny_run(place, name="x", save_every=1)
    half(config, monkeypatch)
    refusing(monkeypatch, "training.safetensors", PermissionError(13, "Permission denied"))
    assert "cannot be read: permission denied" in complaint(execute, config, resume=True)
    assert {path.name for path in config.folder.glob("step-*")} == {"step-000001", "step-000002"}


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "log.txt"])
def test_a_log_that_cannot_be_written_ends_the_run_in_words(place, monkeypatch, name):
    config = tiny_run(place, name="x", save_every=1, sample_prompts=("Tom",), sample_every=1)
    half(config, monkeypatch)
    with monkeypatch.context() as patch:
        refusing(patch, name, PermissionError(13, "Permission denied"))
        assert f"cannot write {config.folder / name}: Permission denied" in complaint(execute, config, resume=True)
    assert execute(config, resume=True).state == "finished"


def test_a_plot_that_cannot_be_written_fails_no_run(place, monkeypatch):
    config = tiny_run(place, name="x")
    refusing(monkeypatch, ".loss.png.writing", OSError(28, "No space left on device"))
    assert execute(config).state == "finished"
    assert finished(config)
    log = (config.folder / "log.txt").read_text(encoding="utf-8")
    assert f"cannot write {config.folder / 'loss.png'}: No space left on device" in log


@POSIX
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_and_caches_follow_the_umask(place, mask):
    config = tiny_run(place, name="x", save_every=1, merge_best=1)

    def train() -> None:
        os.umask(mask)
        execute(config)

    assert in_child(train) == 0
    found = [path for base in (config.folder, place.cache) for path in (base, *base.rglob("*"))]
    assert len(found) > 25
    wrong = {
        str(path): oct(mode)
        for path in found
        if (mode := path.stat().st_mode & 0o777) != (0o777 if path.is_dir() else 0o666) & ~mask
    }
    assert wrong == {}


# Trackers


class _Keyless:
    """A package like wandb, without a key."""

    class UsageError(Exception):
        pass

    def init(self, **_: Any) -> None:
        raise self.UsageError("api_key not configured (no-tty). call wandb.login(key=[your_api_key])\nmore")


class _Failing:
    """A package like wandb, whose network fails while it is used."""

    calls = 0

    def init(self, **_: Any) -> _Failing:
        return self

    def log(self, *_: Any, **__: Any) -> None:
        self.calls += 1
        raise ConnectionError("no network")

    def finish(self) -> None:
        raise ConnectionError("no network")


def test_a_tracker_without_a_key_ends_in_words(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", _Keyless())
    said = complaint(execute, tiny_run(place, name="x", tracker="wandb"))
    assert said.startswith("tracker 'wandb' did not start: UsageError: api_key not configured (no-tty).")
    assert "log in with `wandb login` or set WANDB_MODE=offline, or leave --tracker out" in said


def test_a_tracker_that_fails_later_costs_no_run(place, monkeypatch):
    package = _Failing()
    monkeypatch.setitem(sys.modules, "wandb", package)
    config = tiny_run(place, name="x", tracker="wandb")
    assert execute(config).state == "finished"
    assert package.calls == 1
    log = (config.folder / "log.txt").read_text(encoding="utf-8")
    assert log.count("the tracker failed and gets no more metrics: ConnectionError: no network") == 1
    assert [step for step, _ in losses(config.folder)] == [1, 2, 3]
