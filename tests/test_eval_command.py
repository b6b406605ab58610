"""`nano-llada eval` from run folders to a report, and its evaluations as folders that can be gone on with."""

from __future__ import annotations

import json

import pytest

from nano_llada.core.errors import UserError
from nano_llada.data.world import SKILLS
from nano_llada.evaluate import measure
from nano_llada.evaluate.figures import figures
from nano_llada.evaluate.measure import evaluate, plan_name
from nano_llada.evaluate.record import read_records
from nano_llada.evaluate.suites import SUITES, metrics_of, suite_named
from tiny import Place, family, read_lines, run_cli, write_rows

LENGTH = ("--max-new-tokens", 6, "--device", "cpu")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Place:
    """All four kinds, trained; to be read only."""
    return family(tmp_path_factory.getbasetemp())


@pytest.fixture
def words(done, tmp_path):
    """All that every suite needs, of little size."""
    lines = [{"text": " ".join(f"{name} has a red ball and a blue hat." for name in ("Tom", "Amy", "Bob", "Eve"))}]
    lines += [{"text": "汤姆有一个红色的球。" * 8}]
    rows = [
        {"question": "1+1?", "choices": ["1", "2"], "answer": "B"},
        {"question": "一加一？", "choices": ["一", "二"], "answer": 1},
    ]
    asked = [{"prompt": "What is 1+1?", "answer": "2", "verifier": "numeric", "task": "sums"}]
    files = {
        "--text": write_rows(tmp_path / "text.jsonl", lines * 2),
        "--choices": write_rows(tmp_path / "mc.jsonl", rows),
        "--questions": write_rows(tmp_path / "asked.jsonl", asked),
    }
    given = [word for option, path in files.items() for word in (option, path)]
    sizes = ["--items", 1, "--draws", 2, "--spans", 1, 3, "--batch-sizes", 1, 2, "--window", 64, "--prompt-tokens", 8]
    return ["--suites", *SUITES, *given, "--skills", "copy", "--judge", done.runs / "ar", *sizes, *LENGTH]


def test_every_suite_measures_both_tracks_and_all_decoders(done, words, tmp_path, capsys):
    models = [f"AR={done.runs / 'ar-sft'}", f"D={done.runs / 'diffusion-sft'}"]
    out = tmp_path / "first"
    assert run_cli(["eval", *models, *words, "--decoders", "default", "threshold=0.5", "--out", out]) == 0
    told = capsys.readouterr().out
    records = list(read_records(out))
    asked = {(r.model, r.decoder, r.suite) for r in records}
    writing = {name for name in SUITES if suite_named(name).writes}
    ways = {("AR", "default"), ("D", "default"), ("D", "threshold=0.5")}
    assert asked == {(*way, suite) for way in ways for suite in writing} | {
        (model, "", suite) for model in ("AR", "D") for suite in set(SUITES) - writing
    }
    found = figures(records, metrics_of)
    for name in SUITES:
        assert {f.model for f in found if f.suite == name} == {"AR", "D"}
        assert any(f.language == "mean" for f in found if f.suite == name)
    assert (out / "report.html").stat().st_size > 5_000
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert str(out / "report.html") in told
    assert run_cli(["report", out, "--out", tmp_path / "again"]) == 0
    assert (tmp_path / "again" / "report.html").is_file()


def test_all_means_every_skill_and_a_name_given_twice_is_one_model(done, tmp_path):
    models = [f"D={done.runs / 'diffusion-sft'}"] * 2
    words = ["eval", *models, "--skills", "all", "--items", 1, "--max-new-tokens", 1, "--out", tmp_path / "out"]
    assert run_cli(words) == 0
    records = list(read_records(tmp_path / "out"))
    assert {record.task for record in records} == set(SKILLS)
    assert {(record.model, record.run) for record in records} == {("D", 0), ("D", 1)}
    assert len(records) == 2 * 2 * len(SKILLS)


def test_figures_do_not_depend_on_the_batch_size(done, words, tmp_path):
    values = []
    for size in (1, 7):
        out = tmp_path / str(size)
        suites = ["--suites", *(name for name in SUITES if name != "speed")]
        options = [*suites, *words[1 + len(SUITES) :], "--batch-size", size, "--temperature", 1.0, "--out", out]
        assert run_cli(["eval", done.runs / "diffusion-sft", *options]) == 0
        records = {(r.suite, r.task, r.language, r.item): r for r in read_records(out)}
        values.append(records)
    assert values[0].keys() == values[1].keys()
    for key, record in values[0].items():
        assert values[1][key].values == pytest.approx(record.values, abs=1e-5, rel=1e-5)
        assert values[1][key].detail.get("answer") == record.detail.get("answer")


def test_without_a_name_and_a_folder_both_are_made(done, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_cli(["eval", done.runs / "ar", "--text", done.text, "--limit", 4, "--window", 32]) == 0
    (folder,) = (path.parent for path in (tmp_path / "runs" / "eval").rglob("records.jsonl"))
    (name,) = {record.model for record in read_records(folder)}
    assert name.endswith("ar")
    assert len(list(read_records(folder))) == 4


class Suite:
    """Counts what it is asked, and may fail once."""

    name, metrics, writes = "likelihood", (), False

    def __init__(self, fails=0):
        self.asked, self.fails = [], fails

    def run(self, subject):
        self.asked.append(subject.name)
        if len(self.asked) == self.fails:
            raise KeyboardInterrupt
        yield subject.record(self, "t", "en", "0", {"bits": 1.0})


@pytest.fixture
def named():
    from nano_llada.evaluate.suite import Subject

    return [Subject(name, None, None, decoder) for name in ("a", "b") for decoder in ("x", "y")]


def test_what_was_measured_is_not_measured_again(named, tmp_path):
    suite = Suite(fails=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(named, [suite], tmp_path / "out", {"plan": 1})
    assert not (tmp_path / "out" / "records.jsonl").exists()
    records = evaluate(named, [suite], tmp_path / "out", {"plan": 1})
    assert suite.asked == ["a", "b", "b"]  # a model is asked once, whatever its decoders
    assert [(record.model, record.decoder) for record in records] == [("a", ""), ("b", "")]
    assert list(read_records(tmp_path / "out")) == records


def test_another_plan_needs_another_folder(named, tmp_path):
    evaluate(named, [Suite()], tmp_path / "out", {"plan": 1})
    with pytest.raises(UserError, match="holds another evaluation"):
        evaluate(named, [Suite()], tmp_path / "out", {"plan": 2})
    (tmp_path / "out" / measure.PLAN).unlink()
    with pytest.raises(UserError, match="without its"):
        evaluate(named, [Suite()], tmp_path / "out", {"plan": 1})
    assert plan_name({"plan": 1}) != plan_name({"plan": 2})


def test_the_plan_tells_other_weights_and_settings_apart(done, tmp_path):
    out = tmp_path / "out"
    words = ["--text", done.text, "--limit", 2, "--window", 32, "--out", out]
    assert run_cli(["eval", f"M={done.runs / 'ar'}", *words]) == 0
    assert run_cli(["eval", f"M={done.runs / 'ar'}", *words]) == 0
    assert run_cli(["eval", f"M={done.runs / 'ar-sft'}", *words]) != 0
    assert run_cli(["eval", f"M={done.runs / 'ar'}", *words, "--temperature", 0.5]) != 0
    assert len(read_lines(out / "records.jsonl")) == 2
