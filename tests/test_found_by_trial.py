"""What people found who only used the program, or tried to break it: each with the right value."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

import nano_llada
from forked import Forked, needs_fork
from nano_llada.cli import eval_command
from nano_llada.cli.main import main
from nano_llada.cli.options import default_folder
from nano_llada.config.card import ModelCard
from nano_llada.core.errors import UserError
from nano_llada.core.words import nearest
from nano_llada.data.bad_rows import BadRows, Where
from nano_llada.data.hostile import unheard
from nano_llada.data.rows import to_question
from nano_llada.evaluation.measure import outlook
from nano_llada.evaluation.record import read_records
from nano_llada.verify.answer import judge_of
from nano_llada.verify.pattern import Matcher
from tiny import Place, family, run_cli, tiny_arguments, write_rows


def complaint(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


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


def test_a_regular_expression_that_takes_too_long_is_named_with_its_row(done, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nano_llada.evaluation.questions.Matcher", lambda: Matcher(0.3))
    monkeypatch.setattr("nano_llada.verify.pattern._WORKER", "import time; time.sleep(60)")  # whatever is written
    rows = [{"prompt": "What has Tom?", "reference": "(a+)+$", "verifier": "regex"}]
    questions = write_rows(tmp_path / "q.jsonl", [{"prompt": "1", "reference": "2"}, *rows])
    words = ["eval", done.runs / "ar-sft", "--questions", questions, "--max-new-tokens", 2, "--out", tmp_path / "e"]
    assert run_cli(words) == 2
    assert f"error: {questions}:2: the regular expression '(a+)+$' took more than 0.3 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answer_length": -3}, "answer_length must be at least 1, got -3"),
        ({"answer_length": 10**30}, "answer_length must be at most"),
        ({"answer_length": True}, "answer_length"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"fill_multiple": 0}, "fill_multiple must be at least 1, got 0"),
        ({"step": -1}, "step must be at least 0, got -1"),
        ({"stage": "sftt"}, "stage 'sftt' is not one of pretrain, sft, dpo, rl"),
        ({"track": "art"}, "'art' is not one of ar, diffusion"),
    ],
    ids=str,
)
def test_the_values_of_a_card_are_checked(done, tmp_path, capsys, changed, message):
    model = shutil.copytree(done.runs / "diffusion-sft" / "step-000003", tmp_path / "model")
    plain = json.loads((model / "model.json").read_text(encoding="utf-8"))
    plain["card"] |= changed
    (model / "model.json").write_text(json.dumps(plain), encoding="utf-8")
    assert run_cli(["generate", model, "Tom"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {model / 'model.json'}: ")
    assert message in told
    with pytest.raises((UserError, ValueError)):
        ModelCard(**{"track": "ar", **changed}) if "track" not in changed else ModelCard(changed["track"])


def test_the_python_api_says_what_it_takes(done, tmp_path):
    assert complaint(lambda: nano_llada.load(None)) == "load takes the folder or the name of a model, got NoneType"
    assert "train takes a RunConfig" in complaint(lambda: nano_llada.train({"steps": 3}))
    assert "evaluate takes models by name" in complaint(lambda: nano_llada.evaluate([done.runs / "ar"]))
    assert "no checkpoint at 3" in complaint(lambda: nano_llada.load("3"))
    assert "the name is too long" in complaint(lambda: nano_llada.load("x" * 5000))
    for device in (None, "meta"):
        assert "device" in complaint(lambda device=device: nano_llada.load(done.runs / "ar", device))
    model, denoiser = nano_llada.load(done.runs / "ar-sft"), nano_llada.load(done.runs / "diffusion")
    wrong = (None, 3, b"x", [3], [None], [b"x"])
    calls = (
        model.generate,
        model.chat,
        lambda value: list(model.stream(value)),
        denoiser.infill,
        model.score,
        model.save,
    )
    for call in calls:
        for value in wrong:
            told = complaint(lambda call=call, value=value: call(value))
            assert "text" in told or "expected an object with role" in told
    assert "message 1" in complaint(lambda: model.chat(["a"]))
    assert "draws must be a whole number" in complaint(lambda: denoiser.score("a", draws=0))
    assert "stop 1 must be text, got int" in complaint(lambda: model.generate("a", stop=[3]))
    text = {"text": done.text, "window": 32}  # a path alone, as a string alone
    for more in ({"limit": "x"}, {"text": 3}, {"nosuch": 1}, {"decoders": 3}, {"decoders": {"a": 3}}, {"out": 3}):
        complaint(lambda more=more: nano_llada.evaluate({"a": model}, ["likelihood"], **(text | more)))
    found = nano_llada.evaluate({"a": model}, "likelihood", **text, limit=2, out=tmp_path / "e")
    assert found.suites == ("likelihood",)


def test_a_stop_text_alone_is_one_text_not_its_letters(done):
    model = nano_llada.load(done.runs / "ar")
    whole = model.generate("Tom has", max_new_tokens=8).text
    assert model.generate("Tom has", max_new_tokens=8, stop=whole[2] + "\x01").text == whole
    assert model.generate("Tom has", max_new_tokens=8, stop=whole[2:4]).text == whole[: whole.index(whole[2:4])]


def test_a_config_file_may_need_what_the_command_line_says(done, tmp_path, capsys):
    """`sequence_length = 128` was refused for `sft diffusion ... --eos-fill 16`, because of the default of 128."""
    path = tmp_path / "run.toml"
    path.write_text("[data]\nsequence_length = 128\n", encoding="utf-8")
    start = {"init_from": done.runs / "diffusion", "steps": 1, "runs": tmp_path / "runs", "cache": tmp_path / "cache"}
    words = tiny_arguments(done, "sft", "diffusion", name="x", **start)
    for name in ("--eos-fill", "--sequence-length"):
        at = words.index(name)
        del words[at : at + 2]
    words += ["--config", path]
    assert run_cli(words) == 2
    assert f"error: {path}: eos_fill" in capsys.readouterr().err
    assert run_cli([*words, "--eos-fill", 16]) == 0
    config = json.loads((tmp_path / "runs" / "x" / "config.json").read_text(encoding="utf-8"))
    assert (config["data"]["sequence_length"], config["data"]["eos_fill"]) == (128, 16)
    path.write_text("[data]\nsequence_lengt = 128\n", encoding="utf-8")
    assert run_cli([*words, "--eos-fill", 16]) == 2
    assert "did you mean 'sequence_length'?" in capsys.readouterr().err


def test_what_the_tokenizer_library_prints_when_it_panics_is_not_heard(capfd):
    with unheard():
        os.write(2, b"thread panicked")
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


@pytest.mark.parametrize(
    "words",
    [
        ("--prompt", "Tom", "--prompt", "Amy", "RUN", "--max-new-tokens", "2"),
        ("--max-new-tokens", "2", "--prompt", "Tom", "Amy", "RUN"),
        ("--prompt", "Tom", "Amy", "--max-new-tokens", "2", "RUN"),
        ("RUN", "--prompt", "Tom", "Amy", "--max-new-tokens", "2"),
        ("--prompt", "Tom", "Amy", "RUN", "--stop", "x", "y", "--max-new-tokens", "2"),
        ("--stop", "x", "RUN", "--max-new-tokens", "2", "--prompt", "Tom", "Amy"),
        ("--prompt", "Tom", "RUN", "--max-new-tokens", "2", "--prompt", "Amy", "--stop", "x", "y"),
    ],
)
def test_a_run_after_prompts_is_the_run(done, capsys, words):
    assert run_cli(["generate", *(done.runs / "ar" if word == "RUN" else word for word in words)]) == 0
    assert [line.split(" -> ")[0] for line in capsys.readouterr().out.splitlines()] == ["Tom", "Amy"]


def test_how_long_suites_still_take_goes_by_the_same_suite():
    took = {"likelihood": [1.0, 3.0], "generation": [60.0]}
    rest = ["likelihood", "generation", "generation"]
    assert outlook(rest, took) == "3 measurements left: about 2 min"
    assert outlook(["likelihood"], took) == "1 measurement left: about 2 s"
    some = outlook(["likelihood", "speed"], took)
    assert some == "2 measurements left: about 2 s for 1 of them, not yet known for speed"
    assert outlook(["speed", "speed"], took) == "2 measurements left: not yet known for speed"


def test_a_report_does_not_replace_another_in_silence(done, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["report", done.runs / "ar"]
    assert [run_cli(words) for _ in range(3)] == [0, 0, 0]
    told = capsys.readouterr()
    assert [Path(line.split()[-1]).parent.as_posix() for line in told.out.splitlines() if "report is" in line] == [
        "runs/report",
        "runs/report-2",
        "runs/report-3",
    ]
    assert run_cli([*words, "--out", "runs/report"]) == 0
    assert "note: the report in runs/report is replaced" in capsys.readouterr().err
    assert default_folder(None, Path("runs/compare")) == Path("runs/compare")


def test_compared_models_have_the_names_that_they_are_given(done, tmp_path):
    models = [f"first={done.runs / 'ar'}", done.runs / "diffusion"]
    words = ["compare", *models, "--prompts", "Tom", "--timed", 1, "--max-new-tokens", 2, "--out", tmp_path / "c"]
    assert run_cli(words) == 0
    names = {record.model for record in read_records(tmp_path / "c")}
    assert names == {"first (ar)", "diffusion (diffusion)"}
    assert run_cli([*words[:1], f"a={done.runs / 'ar'}", f"a={done.runs / 'ar-sft'}", *words[3:]]) == 2


def test_abbreviations_are_understood_as_what_they_begin():
    known = ["steps", "temperature", "top_k", "threshold", "max_new_tokens"]
    assert nearest("temp", known) == "temperature"
    assert nearest("te", known) is None
    assert nearest("thresh", known) == "threshold"


def test_a_chat_has_help(done, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("/help\n\n/exit\nnever asked\n"))
    assert run_cli(["chat", done.runs / "ar-sft", "--max-new-tokens", 2]) == 0
    assert "/exit, /quit or Ctrl-D ends the chat" in capsys.readouterr().out


@needs_fork
def test_somebody_else_without_a_home_trains_chats_and_exports(done, tmp_path):
    """The short form of scripts/try_stranger.sh: an unknown user id (if this is root), umask 077, an ASCII terminal."""
    place = Path(tempfile.mkdtemp())
    shutil.copytree(done.root, place / "done")
    for path in (place, *place.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    options = {"runs": place / "runs", "cache": place / "cache", "init_from": place / "done" / "runs" / "ar"}
    single = write_rows(place / "single.jsonl", [{"prompt": f"{i}?", "response": f"是{i}"} for i in range(40)])

    def work() -> int:
        os.environ.pop("HOME", None)
        os.umask(0o077)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
        words = tiny_arguments(Place(place / "done"), "sft", "ar", name="x", **options, data=(single,))
        status = main(words)
        status += main(["export", str(place / "runs" / "x"), "--out", str(place / "exported")])
        return status + main(["chat", str(place / "runs" / "x"), "--max-new-tokens", "4"])

    try:
        told = Forked(work, encoding="ascii", cwd=place).finish(b"7?\n\n7?\n")
        assert told.returncode == 0, told.stderr.decode()
        # its conversations had one turn each, so the second question is asked as the first was
        *_, first, second = told.stdout.decode().splitlines()
        assert first == second != ""
        assert json.loads((place / "runs" / "x" / "step-000003" / "model.json").read_bytes())["card"]["turns"] is False
        made = [path for base in ("runs", "exported", "cache") for path in (place / base).rglob("*")]
        assert len(made) > 20
        assert {path.stat().st_mode & 0o077 for path in made} == {0}
    finally:
        shutil.rmtree(place)
