"""`nano-llada report`: evaluations and runs in any mixture, names told apart, and mistakes that are explained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from nano_llada.config.record import to_plain
from nano_llada.config.run import default_run
from nano_llada.evaluation.metric import Share
from nano_llada.evaluation.record import Record, write_records
from nano_llada.evaluation.suites import suite_named
from tiny import run_cli, write_rows

LINES = (
    {"step": 10, "loss": 3.0, "tokens": 1000, "tokens_per_second": 100.0},
    {"step": 10, "validation_loss": 2.5},
)


@pytest.fixture(autouse=True)
def one_suite(monkeypatch):
    """A suite of one metric, whatever the real ones are."""
    suite = SimpleNamespace(title="Suite", explanation="", metrics=(Share("exact_match", "right"),), meanings={})
    monkeypatch.setattr("nano_llada.evaluation.suites.suite_named", lambda name: suite)
    monkeypatch.setattr("nano_llada.evaluation.statistics.RESAMPLES", 50)


def evaluation(folder: Path, model: str, rights: str, protocol: str = "same", suite: str = "generation") -> Path:
    records = [
        Record(model, "plain", suite, "copy", "en", str(i), {"right": float(mark)}, protocol=protocol)
        for i, mark in enumerate(rights)
    ]
    write_records(folder / "records.jsonl", records)
    return folder


def training(folder: Path, stage: str = "pretrain", track: str = "ar", lines=LINES) -> Path:
    write_rows(folder / "metrics.jsonl", lines)
    (folder / "config.json").write_text(json.dumps(to_plain(default_run(stage, track))), encoding="utf-8")
    return folder


def made(folder: Path, *words) -> dict:
    assert run_cli(["report", *words, "--out", folder / "out"]) == 0
    return json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))


def test_evaluations_and_runs_in_a_mixture(tmp_path, capsys):
    sources = [evaluation(tmp_path / "one", "A", "1100"), evaluation(tmp_path / "two", "B", "1111") / "records.jsonl"]
    sources += [training(tmp_path / "run"), training(tmp_path / "other", "sft", "diffusion")]
    plain = made(tmp_path, *sources, "--title", "What <we> found")
    assert f"the report is {tmp_path / 'out' / 'report.html'}" in re.sub(r"\s+", " ", capsys.readouterr().out)
    assert {figure["model"]: figure["value"] for figure in plain["figures"]} == {"A": 0.5, "B": 1.0}
    runs = [(run["name"], run["kind"], run["tokens"], run["seconds"]) for run in plain["training"]]
    assert runs == [("run", "pretrain ar", 1000, 10.0), ("other", "sft diffusion", 1000, 10.0)]
    assert plain["training"][0]["final_validation_loss"] == 2.5
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h1>What &lt;we&gt; found</h1>" in page


COMMITTED = Path(__file__).parents[1] / "docs" / "experiments" / "evaluation" / "real"


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="the recorded evaluations are not part of this checkout")
def test_records_of_the_first_version_give_the_figures_published_then(tmp_path, monkeypatch):
    """Records that 0.1.0 wrote, and its report.json: every value, interval and p-value is the same."""
    monkeypatch.undo()
    suites = {"likelihood", "choices"}
    lines = (COMMITTED / "records.jsonl").read_text(encoding="utf-8").splitlines()
    write_rows(tmp_path / "old" / "records.jsonl", [row for row in map(json.loads, lines) if row["suite"] in suites])
    plain = made(tmp_path, tmp_path / "old")
    published = json.loads((COMMITTED / "report.json").read_text(encoding="utf-8"))
    for name, least in (("figures", 100), ("differences", 50)):
        expected = [row for row in published[name] if row["suite"] in suites]
        assert len(plain[name]) == len(expected) > least
        for found, row in zip(plain[name], expected, strict=True):
            numbers = [key for key in ("value", "low", "high", "p") if row.get(key) is not None]
            assert [found[key] for key in numbers] == pytest.approx([row[key] for key in numbers], abs=1e-12)
            assert {k: v for k, v in found.items() if k not in numbers} == {k: row[k] for k in row if k not in numbers}
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert all(f"\n## {suite_named(suite).title}\n" in markdown for suite in suites)


def test_a_folder_may_be_both(tmp_path):
    both = training(evaluation(tmp_path / "run", "A", "1"))
    plain = made(tmp_path, both)
    assert (len(plain["figures"]), len(plain["training"])) == (1, 1)


def test_models_of_one_name_are_told_apart_by_their_folders(tmp_path):
    first, second = evaluation(tmp_path / "one", "A", "11"), evaluation(tmp_path / "two", "A", "00")
    third = evaluation(tmp_path / "three", "B", "10")
    plain = made(tmp_path, first, second, third)
    found = {figure["model"]: figure["value"] for figure in plain["figures"]}
    assert found == {"A (one)": 1.0, "A (two)": 0.0, "B": 0.5}


def test_folders_of_one_name_are_told_apart_by_those_above(tmp_path):
    first, second = (evaluation(tmp_path / name / "eval", "A", "1") for name in ("x", "y"))
    assert {f["model"] for f in made(tmp_path, first, second)["figures"]} == {"A (x/eval)", "A (y/eval)"}


def test_parameters_are_counted_in_the_last_checkpoint(tmp_path):
    run = training(tmp_path / "run")
    for step, rows in (("step-000005", 2), ("step-000010", 3)):
        (run / step).mkdir()
        weights = {"a": np.zeros((rows, 4), np.float32), "b": np.zeros(5, np.float32)}
        save_file(weights, run / step / "model.safetensors")
    assert made(tmp_path, run)["training"][0]["parameters"] == 17
    (run / "step-000010" / "model.safetensors").write_bytes(b"cut off")
    assert made(tmp_path, run)["training"][0]["parameters"] == 13
    assert made(tmp_path, training(tmp_path / "bare"))["training"][0]["parameters"] is None


def test_a_run_that_is_still_writing_can_be_looked_at(tmp_path):
    run = training(tmp_path / "run")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 20, "lo')
    assert made(tmp_path, run)["training"][0]["final_loss"] == 3.0


def fails(capsys, *words) -> str:
    assert run_cli(["report", *words]) == 2
    return re.sub(r"\s+", " ", capsys.readouterr().err)


def test_evaluations_by_other_protocols_are_not_mixed(tmp_path, capsys):
    first, second = evaluation(tmp_path / "one", "A", "1"), evaluation(tmp_path / "two", "B", "0", "another")
    told = fails(capsys, first, second, "--out", tmp_path / "out")
    assert "one and two measured generation by different protocols" in told
    assert not (tmp_path / "out").exists()
    third = evaluation(tmp_path / "three", "B", "0", "another", suite="choices")  # of another suite it may be another
    assert {figure["suite"] for figure in made(tmp_path, first, third)["figures"]} == {"generation", "choices"}
    assert len(made(tmp_path, second)["figures"]) == 1


def test_a_folder_with_neither_is_refused_with_what_is_expected(tmp_path, capsys):
    told = fails(capsys, tmp_path)
    assert f"{tmp_path} holds nothing to report" in told
    assert "records.jsonl" in told
    assert "metrics.jsonl" in told
    assert "holds nothing to report" in fails(capsys, tmp_path / "nowhere")


def test_mistakes_are_explained(tmp_path, capsys):
    run, other = training(tmp_path / "run"), evaluation(tmp_path / "eval", "A", "1")
    assert "given twice" in fails(capsys, run, run)
    assert "given twice" in fails(capsys, other, other / "records.jsonl")
    write_rows(run / "metrics.jsonl", [{"step": 1, "loss": 1.0}, {"loss": 2.0}, {"step": 3}])
    assert f"{run / 'metrics.jsonl'}:2: not a line of metrics" in fails(capsys, run)
    (run / "metrics.jsonl").write_text("", encoding="utf-8")
    assert "has no line yet" in fails(capsys, run)
    training(run)
    (run / "config.json").write_text('{"nam": "x"}', encoding="utf-8")
    assert "did you mean 'name'" in fails(capsys, run)
    (run / "config.json").unlink()
    assert "cannot read the config file" in fails(capsys, run)
    (other / "records.jsonl").write_text("{}\n", encoding="utf-8")
    assert f"{other / 'records.jsonl'}:1: no record of an evaluation" in fails(capsys, other)
