"""What people found who only used the program, or tried to break it: each with the right value."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import nano_llada
from nano_llada.cli import eval_command
from nano_llada.data.bad_rows import BadRows, Where
from nano_llada.data.rows import to_question
from nano_llada.verify.answer import judge_of
from nano_llada.verify.pattern import Matcher
from tiny import Place, family, run_cli, write_rows


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Place:
    return family(tmp_path_factory.getbasetemp())


def test_a_report_never_runs_code_that_a_run_folder_names(done, tmp_path, capsys):
    foreign = shutil.copytree(done.runs / "diffusion", tmp_path / "foreign")
    code, ran = tmp_path / "evil.py", tmp_path / "ran"
    code.write_text(f"open({str(ran)!r}, 'w').close()\n", encoding="utf-8")
    config = json.loads((foreign / "config.json").read_text(encoding="utf-8"))
    config["objective"] = {"type": f"{code}:E"}
    (foreign / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert run_cli(["report", foreign, "--out", tmp_path / "report"]) == 0
    words = ["compare", foreign, "--prompts", "Tom", "--out", tmp_path / "compare", "--timed", 1]
    assert run_cli([*words, "--max-new-tokens", 4]) == 0
    assert not ran.exists()
    assert "evil.py:E" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8").replace("\\", "")


@pytest.mark.parametrize("field", ["thinking", "reasoning", "reasoning_content"])
@pytest.mark.parametrize("answer", ["response", "answer"])
def test_a_right_answer_is_compared_without_its_reasoning(field, answer):
    assert to_question({"prompt": "2+3=?", answer: "5", field: "two and three"}).references == ("5",)
    said = {"role": "assistant", "content": "5", field: "hm"}
    assert to_question({"messages": [{"role": "user", "content": "2+3=?"}, said]}).references == ("5",)


@pytest.mark.parametrize(
    "verifier",
    [
        {"kind": "exact", "expected": "12", "count": 0},
        {"kind": "exact", "expected": {"12": 1}, "count": 0},
        {"kind": "exact", "expected": [12], "count": 0},
        {"kind": "words", "expected": ["a", "b"], "count": -1},
        {"kind": "words", "expected": ["a", "b"], "count": 1.5},
        {"kind": "words", "expected": ["a", "b"], "count": float("inf")},
        {"kind": "exact", "expected": [], "count": 0},
    ],
    ids=str,
)
def test_a_verifier_that_nothing_can_satisfy_is_refused(verifier):
    with pytest.raises(ValueError, match="verifier"):
        judge_of({"prompt": "x", "verifier": verifier}, (), Matcher())


@pytest.mark.parametrize("kind", ["reward", "objective"])
def test_a_file_that_exits_does_not_end_the_command_without_a_word(done, tmp_path, capsys, kind):
    file = tmp_path / "part.py"
    file.write_text("import sys\n\ndef f(question, answer, row):\n    sys.exit(0)\n", encoding="utf-8")
    if kind == "objective":
        file.write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
        words = ["pretrain", "ar", done.text, "--objective", f"{file}:E"]
    else:
        rows = write_rows(tmp_path / "asked.jsonl", [{"prompt": "1+1?", "answer": "2"}] * 4)
        words = ["rl", "ar", rows, "--init-from", done.runs / "ar-sft", "--reward", f"{file}:f", "--batch-size", 4]
        words += ["--group-size", 2, "--steps", 1, "--max-new-tokens", 4, "--sequence-length", 64]
    assert run_cli([*words, "--runs", tmp_path / "runs", "--threads", 1, "--device", "cpu"]) == 2
    assert "part.py" in capsys.readouterr().err


def test_data_show_recognises_conversations(done, tmp_path, capsys):
    assert run_cli(["data", "show", done.chat, "--cache", tmp_path, "--tokenizer", done.tokenizer]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["format", "chat"]
    assert lines[1].split() == ["documents", "60"]
    words = ["pretrain", "ar", done.chat, "--tokenizer", done.tokenizer, "--runs", tmp_path / "runs"]
    assert run_cli([*words, "--cache", tmp_path]) == 2
    assert "use it for sft" in capsys.readouterr().err


def test_models_that_are_compared_may_write_equally_much(done):
    options = eval_command.Options((f"A={done.runs / 'ar-sft'}", f"D={done.runs / 'diffusion-sft'}"))
    found = {subject.name: subject.decoding.max_new_tokens for subject in eval_command.subjects(options, "cpu")}
    assert found == {"A": 16, "D": 16}  # the answers that the diffusion model was trained on have 16 tokens


def test_a_start_that_fails_leaves_no_folder(done, tmp_path, capsys):
    words = ["pretrain", "ar", tmp_path / "missing.jsonl", "--runs", tmp_path / "runs", "--name", "x"]
    assert run_cli(words) == 2
    assert not (tmp_path / "runs" / "x").exists()


def test_a_reason_keeps_its_numbers():
    bad = BadRows("skip")
    for line in (1, 2):
        bad.report(Where("a.jsonl", line), f"byte 0xc4 ({line}) is not valid UTF-8")
    assert bad.summary().splitlines() == [
        "bad rows skipped: 2",
        "  2 x byte 0xc4 (1) is not valid UTF-8 (a.jsonl:1, a.jsonl:2)",
    ]


def test_mistakes_in_python_are_said_as_on_the_command_line(done):
    with pytest.raises(nano_llada.UserError, match="threshold"):
        nano_llada.load(done.runs / "diffusion").generate("Tom", threshold=2)
    with pytest.raises(ValueError, match="no kind of run pretain ar"):
        nano_llada.default_run("pretain", "ar")
    config = nano_llada.default_run("pretrain", "ar")
    assert replace(config.data, data="one.jsonl").data == ("one.jsonl",)
    assert replace(config.data, validation=Path("one.jsonl")).validation == ("one.jsonl",)


def test_checking_a_recipe_looks_for_its_files(done, tmp_path, capsys):
    recipe = tmp_path / "recipe.toml"
    run = f'[[run]]\nkind = "pretrain ar"\nname = "a"\n[run.data]\ndata = ["{tmp_path.as_posix()}/none.jsonl"]\n'
    recipe.write_text(run, encoding="utf-8")
    assert run_cli(["recipe", recipe, "--check"]) == 2
    assert "run a: " in capsys.readouterr().err
    recipe.write_text(run.replace(f"{tmp_path.as_posix()}/none.jsonl", done.text.as_posix()), encoding="utf-8")
    assert run_cli(["recipe", recipe, "--check"]) == 0
    start = recipe.read_text(encoding="utf-8").replace('name = "a"', 'name = "a"\ninit_from = "nowhere"')
    recipe.write_text(start, encoding="utf-8")
    assert run_cli(["recipe", recipe, "--check"]) == 2
    assert "no checkpoint nowhere" in capsys.readouterr().err


def test_a_run_is_not_made_shorter_by_resuming_it(done, tmp_path, capsys):
    run = shutil.copytree(done.runs / "ar", tmp_path / "runs" / "ar")
    assert run_cli(["resume", run, "--steps", 2]) == 2
    assert "can only be raised" in capsys.readouterr().err


def test_broken_utf_16_on_standard_input_names_its_line(done, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfea\x00\n"), encoding="utf-8"))
    assert run_cli(["generate", done.runs / "ar", "--max-new-tokens", 2]) == 2
    assert "line 1 of standard input is not valid" in capsys.readouterr().err


def test_rewards_have_a_bound(done, tmp_path, capsys):
    code = tmp_path / "large.py"
    code.write_text("def f(question, answer, row):\n    return 1e308\n", encoding="utf-8")
    rows = write_rows(tmp_path / "asked.jsonl", [{"prompt": "1+1?", "answer": "2"}] * 4)
    words = ["rl", "ar", rows, "--init-from", done.runs / "ar-sft", "--reward", f"{code}:f", "--batch-size", 4]
    words += ["--group-size", 2, "--steps", 1, "--max-new-tokens", 4, "--sequence-length", 64, "--threads", 1]
    assert run_cli([*words, "--runs", tmp_path / "runs", "--device", "cpu"]) == 2
    assert "at most 1e+12" in capsys.readouterr().err
