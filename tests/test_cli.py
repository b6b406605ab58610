"""The command line, every command of it: help that is quick and complete, and the main paths on tiny models."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nano_llada
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.cli.main import COMMANDS
from nano_llada.core.waiting import CHOICE, let_threads_sleep, waiting
from nano_llada.decode.engine import BatchSampler
from nano_llada.evaluation.suites.generation import world_questions
from nano_llada.language_model import LanguageModel
from nano_llada.world.skills_family import families
from tiny import Place, family, losses, make_place, read_lines, run_cli, tiny_arguments, write_rows

WORDS = {
    "bench": ("decode",),
    "data": ("world", "stories", "show"),
    "tokenizer": ("train", "show"),
    "pretrain": ("ar", "diffusion", "tri"),
    "sft": ("ar", "diffusion", "tri"),
    "dpo": ("ar", "diffusion"),
    "rl": ("ar", "diffusion"),
    "experiment": ("small-world", "real-data", "llada2-ablation", "block-speed", "dpo", "editing", "rl"),
}
HELPS = [(), *((name,) for name in COMMANDS), *((name, word) for name, words in WORDS.items() for word in words)]
WITH_OPTIONS = [words for words in HELPS if len(words) == 2 or (words and words[0] not in WORDS)]

# prints what each help says, with torch made impossible to import
HELPER = """
import contextlib, io, json, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ImportError("torch is needed")

sys.meta_path.insert(0, NoTorch())
from nano_llada.cli.main import main
found = []
for words in json.loads(sys.argv[1]):
    out, error, status = io.StringIO(), "", 0
    try:
        with contextlib.redirect_stdout(out):
            status = main([*words, "--help"])
    except SystemExit as end:
        status = end.code or 0
    except ImportError as problem:
        error = str(problem)
    found.append([status, out.getvalue(), error])
print(json.dumps(found))
"""


def python(*words: str, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(Path(nano_llada.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def helps() -> dict[tuple[str, ...], tuple[int, str, str]]:
    done = python("-c", HELPER, json.dumps(HELPS), COLUMNS="110")
    assert done.returncode == 0, done.stderr
    return dict(zip(HELPS, json.loads(done.stdout), strict=True))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Place:
    """All four kinds, trained; to be read only."""
    return family(tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("words", HELPS, ids="-".join)
def test_help_needs_no_torch(helps, words):
    status, text, error = helps[words]
    assert (error, status) == ("", 0)
    assert text.startswith("usage: nano-llada")


@pytest.mark.parametrize("words", WITH_OPTIONS, ids="-".join)
def test_help_describes_every_option(helps, words):
    lines = [re.sub(r"[│╭╮╰╯─]", " ", line).strip() for line in helps[words][1].splitlines()]
    options = {}
    for i, line in enumerate(lines):
        if re.match(r"--?\w", line):
            _, _, here = line.partition("   ")
            options[line.split()[0].rstrip(",")] = here.strip() or re.split(r"\s{3}", line)[-1] + lines[i + 1]
    bare = [name for name, text in options.items() if len(re.sub(r"\((default:|required\)).*", "", text).split()) < 3]
    assert len(options) >= 2
    assert bare == []


def test_help_of_the_program_lists_every_command(helps):
    text = helps[()][1]
    assert all(re.search(rf"^  {name} +\w", text, re.MULTILINE) for name in COMMANDS)
    for name in COMMANDS:
        assert callable(importlib.import_module(f"nano_llada.cli.{name}_command").main)
    for name, words in WORDS.items():
        assert all(word in helps[(name,)][1] for word in words)


def test_no_command_an_unknown_one_and_the_version(capsys):
    assert run_cli(["fly"]) == 2
    shown = capsys.readouterr()
    assert "unknown command 'fly'" in shown.err
    assert "usage: nano-llada" in shown.err
    assert run_cli([]) == 2
    assert run_cli(["--version"]) == 0
    assert nano_llada.__version__ in capsys.readouterr().out


def test_it_runs_as_a_module():
    done = python("-m", "nano_llada", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pretrain" in done.stdout


@pytest.mark.parametrize("kind", ["json", "toml"])
def test_a_config_file_is_read_and_the_command_line_wins(tmp_path, kind):
    place = make_place(tmp_path)
    tables = {
        "model": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_length": 64},
        "data": {"data": [str(place.text)], "sequence_length": 64, "cache": str(place.cache)},
        "train": {"steps": 9, "batch_size": 2, "learning_rate": 0.01, "threads": 1, "log_every": 1},
    }
    top = {"runs": str(place.runs), "tokenizer": str(place.tokenizer), "name": "configured"}
    text = json.dumps(top | tables)
    if kind == "toml":
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in top.items())
        for name, table in tables.items():
            text += f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    path = tmp_path / f"run.{kind}"
    path.write_text(text)
    assert run_cli(["pretrain", "ar", "--config", path, "--steps", 2, "--sample-prompts", "Tom", "汤姆"]) == 0
    saved = json.loads((place.runs / "configured" / "config.json").read_text(encoding="utf-8"))
    assert (saved["train"]["steps"], saved["train"]["learning_rate"], saved["model"]["num_heads"]) == (2, 0.01, 2)
    assert saved["sample_prompts"] == ["Tom", "汤姆"]
    assert [step for step, _ in losses(place.runs / "configured")] == [1, 2]


def test_a_saved_config_makes_the_run_again(done, tmp_path):
    saved = done.runs / "diffusion" / "config.json"
    assert run_cli(["pretrain", "diffusion", f"--config={saved}", "--runs", tmp_path, "--name", "again"]) == 0
    assert losses(tmp_path / "again") == losses(done.runs / "diffusion")


def test_resume_is_an_option(tmp_path, capsys):
    place = make_place(tmp_path)
    words = tiny_arguments(place, name="x")
    assert run_cli(words) == 0
    assert run_cli(words) == 2
    assert "continue it with `nano-llada resume" in capsys.readouterr().err
    assert run_cli([*words, "--resume"]) == 0


def generate(capsys, *words: object) -> list[str]:
    capsys.readouterr()
    assert run_cli(["generate", *words]) == 0
    return capsys.readouterr().out.splitlines()


PROMPTS = ("Tom has a red ball, number", "汤姆", "Amy")


@pytest.mark.parametrize("name", ["ar", "diffusion", "ar-sft", "diffusion-sft"])
@pytest.mark.parametrize("options", [(), ("--temperature", 1.0, "--samples", 2, "--seed", 3)])
def test_batching_changes_no_text(done, capsys, name, options):
    words = ("--checkpoint", done.runs / name, "--prompt", *PROMPTS, "--max-new-tokens", 9, "--json-lines", *options)
    rows = [
        [json.loads(line) for line in generate(capsys, *words, "--batch-size", size, "--device", "cpu")]
        for size in (1, 2, 16)
    ]
    texts = [[(row["prompt"], row["text"], row["tokens"], row["forwards"]) for row in some] for some in rows]
    assert texts[0] == texts[1] == texts[2]
    assert [row["prompt"] for row in rows[0]] == [prompt for prompt in PROMPTS for _ in range(2 if options else 1)]
    assert all({"finish", "seconds", "first_seconds"} <= row.keys() and row["tokens"] <= 9 for row in rows[0])


def test_generate_from_lines_of_standard_input(done, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Tom has\n\n汤姆有\n"))
    lines = generate(capsys, "--checkpoint", done.runs / "ar", "--max-new-tokens", 3, "--device", "cpu")
    assert [line.split(" -> ")[0] for line in lines if " -> " in line] == ["Tom has", "汤姆有"]


def test_stop_ends_a_text_before_the_word(done, capsys):
    words = ("--checkpoint", done.runs / "ar", "--prompt", "Tom", "--max-new-tokens", 20, "--json-lines")
    (whole,) = (json.loads(line) for line in generate(capsys, *words))
    stop = whole["text"][4:6]
    (cut,) = (json.loads(line) for line in generate(capsys, *words, "--stop", stop))
    assert cut["text"] == whole["text"].split(stop)[0]
    assert (cut["tokens"] < whole["tokens"], cut["finish"]) == (True, "stop")


def test_every_forward_pass_can_be_shown(done, capsys):
    words = ("--checkpoint", done.runs / "diffusion", "--prompt", "Tom", "--max-new-tokens", 5, "--min-new-tokens", 5)
    lines = generate(capsys, *words, "--show-steps")
    assert [line.split()[0] for line in lines[:5]] == ["1", "2", "3", "4", "5"]


def test_mode_text_continues_and_mode_chat_answers(done, capsys):
    words = ("--checkpoint", done.runs / "ar-sft", "--prompt", "Tom has", "--max-new-tokens", 12)
    auto, chat, text = (generate(capsys, *words, "--mode", mode) for mode in ("auto", "chat", "text"))
    assert auto == chat != text


@pytest.mark.parametrize("name", ["ar-sft", "diffusion-sft"])
def test_chat_answers_until_the_input_ends(done, capsys, monkeypatch, name):
    monkeypatch.setattr("sys.stdin", io.StringIO("What has Tom?\n\n1加1?\n"))
    assert run_cli(["chat", done.runs / name, "--max-new-tokens", 6, "--system", "Be short."]) == 0
    assert capsys.readouterr().err == ""


def test_a_chat_goes_on_when_it_outgrows_the_context(done, capsys, monkeypatch):
    questions = [f"What has Tom, question {i}?" for i in range(12)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(questions)))
    asked = []
    encode = LanguageModel.encode
    monkeypatch.setattr(
        LanguageModel, "encode", lambda w, prompt, *, chat: asked.append(prompt) or encode(w, prompt, chat=chat)
    )
    assert run_cli(["chat", done.runs / "ar-sft", "--max-new-tokens", 20]) == 0
    assert capsys.readouterr().err == ""
    assert {messages[-1].content for messages in asked} == set(questions)


def test_chat_puts_no_line_breaks_into_an_answer(done, capsys, monkeypatch):
    monkeypatch.setattr("nano_llada.data.tokenizer.Tokenizer.decode", lambda *_, **__: "word " * 60)
    monkeypatch.setattr("sys.stdin", io.StringIO("What?\n"))
    assert run_cli(["chat", done.runs / "ar-sft", "--max-new-tokens", 2]) == 0
    assert capsys.readouterr().out.strip() == ("word " * 60).strip()


def test_infill_keeps_what_was_there_and_fills_every_gap(done, capsys):
    words = ["infill", "--checkpoint", done.runs / "diffusion", "--text", "Tom ___ a ___ ball.", "--length", 3, 2]
    assert run_cli(words) == 0
    text = capsys.readouterr().out.removesuffix("\n")
    found = re.fullmatch(r"Tom (.+) a (.+) ball\.", text, re.DOTALL)
    assert found, text
    assert "mask" not in text


@pytest.mark.parametrize(("command", "usual"), [("generate", 128), ("chat", 64), ("compare", 64), ("eval", 24)])
@pytest.mark.parametrize(("known", "asked", "length"), [(11, None, 11), (11, 7, 7), (None, 7, 7), (None, None, None)])
def test_a_checkpoint_says_how_long_its_answers_are(done, tmp_path, monkeypatch, command, usual, known, asked, length):
    folder = shutil.copytree(done.runs / "diffusion-sft" / "step-000003", tmp_path / "model")
    shape = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    shape["card"]["answer_length"] = known
    (folder / "model.json").write_text(json.dumps(shape), encoding="utf-8")
    (folder / "checksums.json").unlink()
    lengths, start = [], BatchSampler.__init__
    spy = lambda *args, **rows: lengths.append(args[3].max_new_tokens) or start(*args, **rows)  # noqa: E731
    monkeypatch.setattr(BatchSampler, "__init__", spy)
    monkeypatch.setattr("sys.stdin", io.StringIO("Tom has\n"))
    words = {
        "compare": ["--prompts", "Tom", "--out", tmp_path / "report"],
        "eval": ["--skills", "copy", "--items", 1, "--out", tmp_path / "out"],
    }
    given = ["--max-new-tokens", asked] if asked else []
    assert run_cli([command, folder, *words.get(command, ()), *given]) == 0
    assert set(lengths) == {length or usual}


def no_external_links(page: str) -> bool:
    page = re.sub(r'\bhref="#[\w.-]+"|\burl\(#[\w.-]+\)', "", page)  # places in the page itself
    return not re.search(r"\b(src|href|srcset|action)\s*=|\burl\(|<(script|link|iframe)|@import|https?:|//\w", page)


def test_compare_writes_a_report(done, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")  # tables as wide as they need
    models = (done.runs / "ar-sft", done.runs / "diffusion-sft", done.runs / "diffusion-sft" / "step-000003")
    words = ["compare", "--checkpoints", *models, "--skills", "copy", "--items", 1, "--prompts", "What <has> Tom?"]
    words += ["--out", tmp_path / "report", "--timed", 1, "--max-new-tokens", 8, "--device", "cpu"]
    assert run_cli(words) == 0
    out = capsys.readouterr().out
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert all(text in out for text in ("report.html", "exact match", "tokens per second", "What <has> Tom?"))
    assert no_external_links(page)
    assert "What &lt;has&gt; Tom?" in page
    assert "<has>" not in page
    same = ("diffusion-sft diffusion-sft (diffusion)", "diffusion-sft step-000003 (diffusion)")
    ways = {("ar-sft (ar)", "default"), *((name, way) for name in same for way in ("default", "threshold=0.9"))}
    assert all(f"{name} · {way}" in page for name, way in ways)
    rows = read_lines(tmp_path / "report" / "records.jsonl")
    assert {(row["model"], row["decoder"]) for row in rows} == ways
    answers = [row for row in rows if row["suite"] == "generation"]
    assert (len(answers), len(rows)) == (3 * 5, 4 * 5)  # a question in two languages and a prompt; one of them timed
    assert sum("right" in row["values"] for row in answers) == 2 * 5
    assert {"prompt", "answer", "references"} <= answers[0]["detail"].keys()
    assert {"forwards", "tokens"} <= answers[0]["values"].keys()
    assert (tmp_path / "report" / "report.md").read_text(encoding="utf-8").startswith("# ")
    plain = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert [run["kind"] for run in plain["training"]] == ["sft ar", "sft diffusion"]  # a checkpoint alone has no curve
    assert {"frontier.png", "training-loss.png"} <= {path.name for path in (tmp_path / "report").iterdir()}


@pytest.mark.usefixtures("measured")
def test_doctor_says_what_will_be_used(capsys):
    assert run_cli(["doctor", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("processor", "fp32 matrix products", "precision", "attention", "compile"))
    assert f"waiting threads       {waiting(os.environ)}" in out


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({}, "OpenMP's default, usually spin for long and then sleep"),
        (CHOICE, "spin for a moment, then sleep (OMP_WAIT_POLICY=PASSIVE, GOMP_SPINCOUNT=1000)"),
        ({"OMP_WAIT_POLICY": "passive"}, "sleep (OMP_WAIT_POLICY=passive)"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "as set (OMP_WAIT_POLICY=ACTIVE)"),
        ({"GOMP_SPINCOUNT": "100"}, "as set (GOMP_SPINCOUNT=100)"),
        ({"KMP_BLOCKTIME": "0"}, "sleep (KMP_BLOCKTIME=0)"),
    ],
)
def test_threads_that_wait_sleep_unless_the_user_or_torch_was_first(monkeypatch, chosen, said):
    assert waiting(chosen) == said
    mine = dict(chosen)
    let_threads_sleep(mine)  # torch is loaded in this process: too late, so nothing is claimed
    assert mine == chosen
    monkeypatch.delitem(sys.modules, "torch")
    let_threads_sleep(mine)
    assert mine == (chosen or CHOICE)


def test_data_world_and_show(tmp_path, capsys):
    words = ["data", "world", "--out", tmp_path, "--documents", 20, "--chats", 40, "--skills", "copy", "recall"]
    assert run_cli(words) == 0
    names = [f"{kind}-{split}.jsonl" for split in ("train", "validation", "test") for kind in ("pretrain", "chat")]
    assert set(names) <= {Path(line).name for line in capsys.readouterr().out.split()}
    assert [len(read_lines(tmp_path / name)) for name in names] == [20, 40, 2, 4, 2, 4]
    assert {row["skill"] for row in read_lines(tmp_path / "chat-train.jsonl")} == {"copy", "recall"}
    lessons = ["--lookups", 30, "--tellings", 10, "--mirrored", "--skills", "backward_relation", "--documents", 100]
    assert run_cli(["data", "world", "--out", tmp_path / "more", *lessons, "--chats", 0]) == 0
    assert len(read_lines(tmp_path / "more" / "lookup-train.jsonl")) == 30
    assert len(read_lines(tmp_path / "more" / "told-test.jsonl")) == 1
    text = "".join(row["text"] for row in read_lines(tmp_path / "more" / "pretrain-train.jsonl"))
    assert any(family.mirrored()[1] in text for family in families())
    chat = write_rows(tmp_path / "mixed.jsonl", [*read_lines(tmp_path / "chat-train.jsonl"), {"messages": []}])
    words = ["data", "show", "--data", chat, "--format", "chat", "--turns", "each", "--cache", tmp_path / "cache"]
    for _ in range(2):  # the second time it comes from the cache
        assert run_cli(words) == 0
        out = capsys.readouterr().out
        assert re.search(r"documents +40\n", out)
        assert re.search(r"bad rows +.*1", out)
        assert "--- document 1" in out
        assert "assistant" in out


@pytest.mark.parametrize(("kind", "size"), [("bpe", 300), ("characters", None)])
def test_a_tokenizer_is_trained_and_shown(done, tmp_path, capsys, kind, size):
    words = ["tokenizer", "train", "--data", done.text, done.chat, "--out", tmp_path, "--kind", kind]
    assert run_cli(words + (["--vocab-size", size] if size else [])) == 0
    tokens = int(capsys.readouterr().out.split()[0])
    assert tokens == (size or tokens)
    assert run_cli(["tokenizer", "show", "--tokenizer", tmp_path, "--text", "Tom 汤姆 🙂"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"tokens +{tokens}\n", out)
    assert "<|mask|>" in out


def test_export_and_import_bring_the_same_model_back(done, tmp_path, capsys):
    assert run_cli(["export", "--checkpoint", done.runs / "ar", "--out", tmp_path / "theirs"]) == 0
    assert run_cli(["import", "--source", tmp_path / "theirs", "--out", tmp_path / "ours"]) == 0
    assert load_checkpoint(tmp_path / "ours").card.track == "ar"
    words = ("--prompt", "Tom has", "--max-new-tokens", 8)
    texts = [generate(capsys, "--checkpoint", path, *words) for path in (done.runs / "ar", tmp_path / "ours")]
    assert texts[0] == texts[1]


def test_the_demo_from_nothing_to_a_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    words = ["demo", "--folder", tmp_path / "demo", "--skills", "copy", "identity", "--documents", 200, "--chats", 200]
    words += ["--items", 1, "--threads", 1, "--cache", tmp_path / "cache", "--hidden-size", 32, "--num-layers", 2]
    for stage in ("ar", "ar-sft", "diffusion", "diffusion-sft"):
        words += [f"--{stage}-steps", 2]
    assert run_cli(words) == 0
    out = capsys.readouterr().out
    report = tmp_path / "demo" / "report"
    files = {"report.html", "report.md", "report.json", "records.jsonl", "skills.png", "training-loss.png"}
    assert files <= {path.name for path in report.iterdir()}
    page = (report / "report.html").read_text(encoding="utf-8")
    assert no_external_links(page)
    assert page.count('<svg role="img"') == 3  # speed against right answers, skills, and all four loss curves
    assert all(f"{name} (" in page for name in ("ar", "ar-sft", "diffusion", "diffusion-sft"))
    assert all(skill in page for skill in ("copy", "identity"))
    assert {(row["model"], row["decoder"]) for row in read_lines(report / "records.jsonl")} == {
        ("AR", "default"),
        ("diffusion", "default"),
        ("diffusion", "threshold=0.9"),
    }
    lines = [re.split(r"\s*[│┃]\s*", line)[1:3] for line in out.splitlines() if re.match(r"[│┃]", line)]
    assert all([skill, language] in lines for skill in ("copy", "identity") for language in ("zh", "en"))
    written = out[: out.index("tokens per second")]  # answers come before figures
    assert all(q.prompt in written for q in world_questions(("copy", "identity"), 1))
    before = {path: path.read_bytes() for path in (tmp_path / "demo").rglob("model.safetensors")}
    assert len(before) == 4
    assert run_cli(words) == 0  # nothing is trained twice
    assert {path: path.read_bytes() for path in (tmp_path / "demo").rglob("model.safetensors")} == before
    hint = re.search(r"now try: nano-llada (chat .*)", " ".join(out.split())).group(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO("Hi\n"))
        assert run_cli(hint.split()) == 0


def test_the_demo_goes_on_with_a_stage_that_never_saved(tmp_path):
    words = ["demo", "--folder", tmp_path, "--skills", "copy", "--documents", 200, "--chats", 200, "--items", 1]
    words += ["--threads", 1, "--cache", tmp_path / "cache", "--hidden-size", 32, "--num-layers", 1]
    for stage in ("ar", "ar-sft", "diffusion", "diffusion-sft"):
        words += [f"--{stage}-steps", 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nano_llada.session.run.Trainer.run", lambda trainer: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run_cli(words) == 130
    assert run_cli(words) == 0
