"""Several processes learn what one learns: every stage, DDP and FSDP2, saved and resumed on any number of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import several
from nano_llada.checkpoint.files import step_folders
from nano_llada.config.processes import Processes
from nano_llada.session.outcome import read_outcome
from nano_llada.session.run import execute
from nano_llada.training import parallel
from several import HOW, RUNS, Scene
from tiny import read_lines

STEPS, ROWS = 4, 8


class Group:
    """What two processes did, beside what one did."""

    def __init__(self, root: Path) -> None:
        self.scene, self.root = Scene.make(root, STEPS, ROWS), root
        self.seen = several.in_one(self.scene)
        several.start(self.scene, 2)
        several.resumed_alone(self.scene)

    def result(self, task: str, rank: int) -> dict[str, Any]:
        return json.loads((self.root / "results" / f"{task}-{rank}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    return Group(tmp_path_factory.mktemp("several"))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_of_one_process(group, name, how):
    for rank in (0, 1):
        assert "error" not in group.result(f"{name} {how}", rank), group.result(f"{name} {how}", rank)
    assert several.furthest(group.root / "one" / name, group.root / how / name, "grad_norm") < 1e-5
    assert (
        len(read_lines(group.root / how / name / "metrics.jsonl")) >= STEPS
    )  # no line lost or doubled: as many as one


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", RUNS)
def test_every_row_has_the_text_and_the_noise_of_one_process(group, name, how):
    first, second = (group.result(f"{name} {how}", rank)["done"] for rank in (0, 1))
    assert {**first, **second} == group.seen[name]
    learnt = [{key for key in seen if " False " in key} for seen in (first, second)]
    assert learnt[0]
    assert not learnt[0] & learnt[1]  # shared out, not done twice


@pytest.mark.parametrize("into", ["one-ddp", "one-fsdp", "fsdp-ddp", "ddp-one", "fsdp-one"])
def test_a_run_is_resumed_on_another_number_of_processes(group, into):
    assert several.furthest(group.root / "one" / "ar", group.root / into / "ar") < 1e-5
    notes = (group.root / into / "ar" / "log.txt").read_text(encoding="utf-8")
    assert f"step {STEPS}" in notes


def test_divided_state_is_in_parts_and_the_weights_are_one_file(group):
    for how in HOW:
        newest = step_folders(group.root / how / "ar")[-1]
        parts = sorted(path.name for path in newest.rglob("*") if path.parent.name == "training")
        assert len(parts) == (2 if how == "fsdp" else 0)
        sums = json.loads((newest / "checksums.json").read_text(encoding="utf-8"))
        assert {f"training/{name}" for name in parts} < sums.keys()
        one = load_file(step_folders(group.root / "one" / "ar")[-1] / "model.safetensors")
        weights = load_file(newest / "model.safetensors")
        assert weights.keys() == one.keys()
        assert all(torch.allclose(weights[name], one[name], atol=1e-4) for name in one)


def test_a_flipped_bit_in_one_part_is_noticed_and_the_checkpoint_before_is_used(group):
    config = group.scene.config("ar", "flipped")
    shutil.copytree(group.root / "fsdp" / "ar", config.folder)
    part = step_folders(config.folder)[-1] / "training" / "shard-00002-model-00001-of-00001.safetensors"
    several.flip_bit(part)
    with several.unmeasured():
        assert execute(config, resume=True).state == "finished"
    notes = (config.folder / "log.txt").read_text(encoding="utf-8")
    assert f"{part} does not match its checksum" in notes
    assert f"resuming from step-{STEPS // 2:06d}: the damaged one is now step-{STEPS:06d}.damaged" in notes
    assert several.furthest(group.root / "one" / "ar", config.folder) < 1e-5


def test_training_goes_on_while_a_checkpoint_is_written(group):
    assert group.result("written", 0) == {"done": True}
    assert not list((group.root / "fsdp" / "ar").glob(".step*"))


def test_only_the_first_process_shows_anything(group):
    shown = [(group.root / "results" / f"out-{rank}.txt").read_text(encoding="utf-8") for rank in (0, 1)]
    assert "finished at step" in shown[0]
    assert shown[1] == ""


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("exists", "exists; continue it with `nano-llada resume"),
        ("not a number", "the loss is not a number at step"),
    ],
)
def test_an_error_is_told_once(group, task, said):
    first, second = (group.result(task, rank) for rank in (0, 1))
    assert first["error"] == "UserError"
    assert said in first["text"]
    assert second["error"] == "ReportedElsewhere"


def test_a_batch_that_cannot_be_shared_evenly_is_refused(group):
    said = group.result("uneven", 0)["text"]
    assert said == (
        "a batch_size of 3 gives 2 processes no equal number of rows: make it a multiple of 2, for instance 4"
    )
    assert not (group.root / "uneven").exists()


def test_a_signal_to_one_process_ends_all_with_one_saved_state(group):
    assert all("error" not in group.result("stopped", rank) for rank in (0, 1))
    run = group.root / "stopped" / "ar"
    assert read_outcome(run).state == "interrupted"
    assert [folder.name for folder in step_folders(run)] == ["step-000002"]
    assert not list(run.glob(".step*"))


def test_a_process_that_dies_ends_all_with_a_message_and_what_was_saved(group):
    found = group.result("died", 0)
    assert found["error"] == "UserError"
    assert found["text"].startswith("process 0 of 2 ended because another one did (")
    assert not (group.root / "results" / "died-1.json").exists()  # it was gone
    run = group.root / "died" / "full"
    assert [folder.name for folder in step_folders(run)] == ["step-000002"]
    assert not (run / ".lock").exists()


@pytest.mark.parametrize(
    ("how", "writes"),
    [("ddp", "full-ddp/ar/step-000004"), ("fsdp", "the training state to ")],
)
def test_a_full_disk_ends_all_and_the_checkpoint_before_is_resumed(group, how, writes):
    first, second = (group.result(f"no room {how}", rank) for rank in (0, 1))
    assert first["error"] == "UserError"
    assert writes in first["text"]
    assert "No space left on device" in first["text"]
    # who writes says so; a part that one of them could not write is known to all
    assert second["error"] == ("ReportedElsewhere" if how == "ddp" else "UserError")
    run = group.root / f"full-{how}" / "ar"
    assert [folder.name for folder in step_folders(run)] == ["step-000002"]
    outcome = read_outcome(run)
    assert (outcome.state, outcome.step) == ("failed", 2)
    assert "No space left on device" in outcome.reason
    with several.unmeasured():  # there is room again
        assert execute(group.scene.config("ar", f"full-{how}"), resume=True).state == "finished"
    assert several.furthest(group.root / "one" / "ar", run) < 1e-5
    assert not list(run.glob(".step*"))


def test_a_folder_that_cannot_be_written_is_told_once_and_nothing_is_left(group):
    first, second = (group.result("read-only", rank) for rank in (0, 1))
    assert first["error"] == "UserError"
    assert first["text"].startswith(f"cannot write the run folder {group.root / 'read-only' / 'full'}")
    assert "read-only file system" in first["text"].lower()
    assert second["error"] == "ReportedElsewhere"
    assert not (group.root / "read-only").exists()


def test_two_processes_fall_back_from_a_damaged_checkpoint(group):
    assert all("error" not in group.result("flipped", rank) for rank in (0, 1)), group.result("flipped", 0)
    run = group.root / "flipped-two" / "ar"
    notes = (run / "log.txt").read_text(encoding="utf-8")
    assert f"resuming from step-{STEPS // 2:06d}: the damaged one is now step-{STEPS:06d}.damaged" in notes
    assert several.furthest(group.root / "one" / "ar", run) < 1e-5


def test_a_shared_evaluation_gives_the_same_records_to_the_last_digit(group):
    for rank in (0, 1):
        assert "error" not in group.result("evaluated", rank), group.result("evaluated", rank)
    alone, shared = (group.root / f"evaluated-{how}" / "records.jsonl" for how in ("alone", "shared"))
    assert alone.read_bytes() == shared.read_bytes()
    assert len(read_lines(alone)) > 20


# Without other processes


def test_parts_of_any_batch_are_as_many_in_every_process_and_cover_it_once(monkeypatch):
    for processes in (1, 2, 3, 4):
        monkeypatch.setattr(parallel, "size", lambda n=processes: n)
        for rows in range(1, 14):
            for at_once in (2, 4, 64):
                counts, covered = set(), []
                for rank in range(processes):
                    monkeypatch.setattr(parallel, "rank", lambda r=rank: r)
                    parts = parallel.even_parts(rows, at_once)
                    counts.add(len(parts))
                    covered += [row for part, count in parts if count for row in range(part.start, part.stop)]
                    assert all(part.start % 2 == 0 or processes == 1 for part, _ in parts)
                assert len(counts) == 1
                assert covered == list(range(rows))


def test_matrices_are_shared_out_evenly_and_each_has_one_owner(monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 3)
    shapes = [(96, 32), (32, 32), (128, 32), (32, 64)] * 4
    owned = parallel.owned(shapes)
    assert sorted(i for numbers in owned for i in numbers) == list(range(len(shapes)))
    loads = [sum(shapes[i][0] * shapes[i][1] for i in numbers) for numbers in owned]
    assert max(loads) - min(loads) <= 128 * 32


def test_options_without_effect_are_refused():
    for name in ("keep_gathered", "offload"):
        with pytest.raises(ValueError, match=f"{name} is for parallel 'fsdp'"):
            Processes(**{name: True})
