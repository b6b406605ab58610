"""`nano-llada eval` from run folders to a report, and its evaluations as folders that can be gone on with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.cli import eval_command
from nano_llada.cli.options import named_folders
from nano_llada.config.decoding import DecodingOptions
from nano_llada.core.errors import UserError
from nano_llada.evaluation import measure
from nano_llada.evaluation.figures import figures
from nano_llada.evaluation.items import Passage
from nano_llada.evaluation.measure import evaluate, plan_name, protocol_of
from nano_llada.evaluation.record import read_records
from nano_llada.evaluation.suites import SUITES, metrics_of, options_class, suite_named
from nano_llada.evaluation.suites.likelihood import Likelihood
from nano_llada.evaluation.suites.quality import Quality
from nano_llada.world import SKILLS
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
    sizes += ["--stories", 2]
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
    models = [f"D={done.runs / 'diffusion-sft'}", f"D={done.runs / 'diffusion'}"]
    words = ["eval", *models, "--skills", "all", "--items", 1, "--max-new-tokens", 1, "--out", tmp_path / "out"]
    assert run_cli(words) == 0
    records = list(read_records(tmp_path / "out"))
    assert {record.task for record in records} == set(SKILLS)
    assert {(record.model, record.run) for record in records} == {("D", 0), ("D", 1)}
    assert len(records) == 2 * 2 * len(SKILLS)


@pytest.mark.untraced
def test_figures_do_not_depend_on_the_batch_size(done, words, tmp_path):
    values = []
    for size in (1, 7):
        out = tmp_path / str(size)
        suites = ["--suites", *(name for name in SUITES if name != "speed")]
        place = words.index("--batch-sizes")  # an option of speed alone
        rest = [*words[1 + len(SUITES) : place], *words[place + 3 :]]
        options = [*suites, *rest, "--batch-size", size, "--temperature", 1.0, "--out", out]
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


@dataclass(frozen=True)
class Suite:
    """Counts what it is asked, and may fail once."""

    fails: int = 0
    batch_size: int = 1
    asked: list = field(default_factory=list)
    name, metrics, writes = "likelihood", (), False

    def run(self, subject):
        self.asked.append(subject.name)
        if len(self.asked) == self.fails:
            raise KeyboardInterrupt
        yield subject.record(self, "t", "en", "0", {"bits": 1.0})


@pytest.fixture
def named():
    from nano_llada.evaluation.suite import Subject

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
    assert not (tmp_path / "out" / measure.PARTS).exists()
    assert plan_name({"plan": 1}) != plan_name({"plan": 2})


def test_a_model_whose_files_went_while_it_was_measured_is_told_as_that(done, tmp_path):
    """A run that still trains deletes its old checkpoints; the part's own folder can be written all right."""
    judge = load_checkpoint(done.runs / "ar")
    gone = replace(judge, folder=tmp_path / "step-000001")
    suite = Quality((Passage("Tom has a red ball.", "en", "a", "0"),), gone, "judge")

    class Unread:
        name, decoder, run = "m", "d", 0

    with pytest.raises(UserError, match=r"cannot read .*step-000001.* again: .*is its run still training\?"):
        evaluate([Unread()], [suite], tmp_path / "out", {})
    assert not list((tmp_path / "out" / measure.PARTS).glob("*"))


def test_the_plan_tells_other_weights_and_settings_apart(done, tmp_path):
    out = tmp_path / "out"
    words = ["--text", done.text, "--limit", 2, "--window", 32, "--out", out]
    assert run_cli(["eval", f"M={done.runs / 'ar'}", *words]) == 0
    assert run_cli(["eval", f"M={done.runs / 'ar'}", *words]) == 0
    assert run_cli(["eval", f"M={done.runs / 'ar-sft'}", *words]) != 0
    assert run_cli(["eval", f"M={done.runs / 'ar'}", *words, "--temperature", 0.5]) != 0
    assert run_cli(["eval", f"M={done.runs / 'ar'}", *words, "--batch-size", 3]) == 0
    assert len(read_lines(out / "records.jsonl")) == 2


def test_a_protocol_is_its_settings_and_examples(done):
    passages = tuple(Passage(text, "en", "f", str(i)) for i, text in enumerate(("Tom has a ball.", "Amy has a hat.")))
    suite = Likelihood(passages, 32, 2)
    same = [replace(suite, batch_size=3), Likelihood(tuple(list(passages)), 32, 2)]
    other = [
        replace(suite, window=31),
        replace(suite, draws=3),
        replace(suite, seed=1),
        replace(suite, passages=passages[:1]),
    ]
    assert {protocol_of(one) for one in same} == {protocol_of(suite)}
    assert len({protocol_of(one) for one in [suite, *other]}) == 5
    judges = [load_checkpoint(done.runs / name) for name in ("ar", "ar-sft")]
    assert len({protocol_of(Quality(passages, judge, "judge")) for judge in judges}) == 2


def test_reports_refuse_to_compare_other_protocols(done, tmp_path, capsys):
    for window in (32, 48):
        words = ["--text", done.text, "--limit", 2, "--window", window, "--out", tmp_path / str(window)]
        assert run_cli(["eval", f"M={done.runs / 'ar'}", *words]) == 0
    assert run_cli(["report", tmp_path / "32", tmp_path / "48", "--out", tmp_path / "report"]) != 0
    assert "measured likelihood by different protocols" in capsys.readouterr().err


def test_folders_without_names_are_told_apart_and_names_mean_seeds(tmp_path):
    for folder in ("a/sft/last", "b/sft/last", "c/other/last"):
        (tmp_path / folder).mkdir(parents=True)
    paths = [str(tmp_path / folder) for folder in ("a/sft/last", "b/sft/last", "c/other/last")]
    assert [name for name, _ in named_folders(paths, least=2)] == ["a/sft/last", "b/sft/last", "other/last"]
    assert [name for name, _ in named_folders([f"M={paths[0]}", f"M={paths[1]}"], least=2)] == ["M", "M"]
    with pytest.raises(UserError, match="given twice"):
        named_folders([f"M={paths[0]}", f"N={paths[0]}"], least=2)


def test_one_name_for_unlike_models_is_refused(done, capsys):
    words = [f"M={done.runs / 'ar'}", f"M={done.runs / 'diffusion'}", "--text", done.text]
    assert run_cli(["eval", *words]) != 0
    assert "differ in track, tokenizer or shape" in capsys.readouterr().err


def test_a_model_leaves_out_decoders_that_are_not_its_own(done, capsys):
    ar, diffusion = (load_checkpoint(done.runs / name) for name in ("ar-sft", "diffusion-sft"))
    block = replace(diffusion, card=replace(diffusion.card, block_size=4))
    asked = ("default", "steps=8", "threshold=0.9", "edit_threshold=0.5", "preset=q", "temperature=0.5")
    options = eval_command.Options(("x",), decoders=asked, decoding=DecodingOptions(max_new_tokens=5, threshold=0.8))
    kept = {
        name: list(eval_command.decoders_for(model, options))
        for name, model in (("ar", ar), ("d", diffusion), ("b", block))
    }
    assert kept == {
        "ar": ["default", "temperature=0.5"],
        "d": ["default", "steps=8", "threshold=0.9", "temperature=0.5"],
        "b": ["default", "threshold=0.9", "edit_threshold=0.5", "preset=q", "temperature=0.5"],
    }
    assert "does not support steps=8" in capsys.readouterr().out
    assert eval_command.decoders_for(ar, options)["default"] == DecodingOptions(max_new_tokens=5)
    assert eval_command.decoders_for(diffusion, options)["default"].threshold == 0.8


def test_numbers_that_are_none_are_told_with_their_model(named):
    with pytest.raises(UserError, match=r"likelihood: a gives bits = nan for t, 0"):
        named[0].record(Suite(), "t", "en", "0", {"bits": float("nan")})
    with pytest.raises(UserError, match="may not be called 'all'"):
        named[0].record(Suite(), "all", "en", "0", {"bits": 1.0})


def test_an_option_that_no_chosen_suite_reads_is_refused(done, capsys):
    words = ["eval", done.runs / "ar", "--text", done.text, "--spans", 2]
    assert run_cli(words) == 2
    told = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "--spans is for infilling, measured is likelihood: leave it out, or name one that reads it" in told


@pytest.mark.parametrize("named", [(), ("infilling", "quality")])
def test_help_lists_the_options_of_the_suites_that_are_named(named, capsys):
    assert run_cli(["eval", *(("--suites", *named) if named else ()), "--help"]) == 0
    shown = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert all(option in shown for option in ("--text", "--skills", "--draws", "--suites NAME --help"))
    assert all(("Lengths of the gaps" in shown, "--prompt-tokens N" in shown)) == bool(named)


def test_a_config_file_of_an_earlier_version_is_read(done, tmp_path):
    """All options of suites were in one object."""
    suites = {
        "text": [str(done.text)],
        "limit": 2,
        "window": 32,
        "draws": 2,
        "spans": [1, 4, 16],
        "batch_sizes": [1, 8, 32],
    }
    place = tmp_path / "eval.json"
    place.write_text(json.dumps({"checkpoints": [f"M={done.runs / 'ar'}"], "suites": suites}), encoding="utf-8")
    assert run_cli(["eval", "--config", place, "--out", tmp_path / "out"]) == 0
    assert len(read_lines(tmp_path / "out" / "records.jsonl")) == 2


OWN = Path(__file__).parents[1] / "examples" / "own_suite.py"


def test_a_suite_of_ones_own_is_measured_and_reported(done, tmp_path, capsys):
    """One file: its options are options of the command, its metrics and words are in the report."""
    out, spec = tmp_path / "out", f"{OWN}:LastWord"
    words = ["--suites", spec, "--words", "red", "blue", "--own-items", 2, *LENGTH, "--out", out]
    assert run_cli(["eval", f"M={done.runs / 'ar-sft'}", *words]) == 0
    shown = capsys.readouterr().out
    assert "ends_right (%) ↑" in shown
    records = list(read_records(out))
    assert {(r.suite, r.task, r.language) for r in records} == {
        ("last_word", word, lang) for word in ("red", "blue") for lang in ("zh", "en")
    }
    page = (out / "report.html").read_text(encoding="utf-8")
    for text in ("Ends with the right word", "the answer has to end with it", "characters (characters/answer)"):
        assert text in page
    assert "ends_right:</strong> share of answers whose end is the word asked for" in page
    assert run_cli(["report", out, "--suites", spec, "--out", tmp_path / "again"]) == 0
    assert (tmp_path / "again" / "report.html").read_text(encoding="utf-8") == page
    assert run_cli(["report", out, "--out", tmp_path / "third"]) == 2
    assert "unknown suite 'last_word': use" in capsys.readouterr().err


def test_other_code_of_ones_own_suite_is_another_protocol(tmp_path):
    found = []
    for number, change in enumerate(("", "", "# changed\n")):
        path = tmp_path / str(number) / "own.py"
        path.parent.mkdir()
        path.write_text(OWN.read_text(encoding="utf-8") + change, encoding="utf-8")
        found.append(protocol_of(suite_named(f"{path}:LastWord")(("red",), 2)))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class X: pass", "must be a class that derives from nano_llada.evaluation.suite.Suite"),
        ("X = 1", "must be a class that derives from"),
        ("1 / 0", "failed: ZeroDivisionError"),
        ("from nano_llada.evaluation.suites.speed import Speed as X", "that of a built-in suite"),
    ],
)
def test_a_file_without_a_suite_is_refused(done, tmp_path, code, message, capsys):
    (tmp_path / "own.py").write_text(code, encoding="utf-8")
    assert run_cli(["eval", done.runs / "ar", "--suites", f"{tmp_path / 'own.py'}:X"]) == 2
    assert message in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert run_cli(["eval", done.runs / "ar", "--suites", f"{tmp_path / 'missing.py'}:X"]) == 2
    assert "expected FILE.py:NAME with a file that exists" in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_options_of_two_suites_must_differ(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN.read_text(encoding="utf-8").replace("own_items", "items"), encoding="utf-8")
    with pytest.raises(UserError, match="the option items of suite last_word exists already in the shared options"):
        options_class([f"{path}:LastWord"])
