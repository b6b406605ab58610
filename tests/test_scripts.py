"""The first Nano-LLaDA's commands: all run as they were written, and no option is dropped without a word."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.run import RunConfig, default_run
from nano_llada.data.tokenizer import train_characters
from tiny import chats, texts, write_rows

ROOT = Path(__file__).resolve().parent.parent

PRETRAIN = (
    "scripts.train.train_pretrain --data ./dataset/pretrain_hq.jsonl --jsonl-field text --tokenizer-dir . "
    "--run-name minimind_pretrain --hidden-size 512 --num-hidden-layers 8 --num-attention-heads 8 --max-seq-len 256 "
    "--epochs 1 --batch-size 96"
)
EVAL_AR = (
    "scripts.eval.eval_minimind --checkpoint weights/minimind_pretrain_state_dict.pt --tokenizer-dir . "
    '--prompt "..." --max-new-tokens 200'
)
DIFFUSION = (
    "scripts.train.diffusion --train --use-tokenizer --data ./dataset/pretrain_hq.jsonl --inference-rope-scaling "
    "--learning-rate 4e-4 --warmup-steps 2000 --min-lr-ratio 0.025 --mask-schedule iid_t --repeat-penalty-weight 0 "
    "--init-from-minimind weights/minimind_pretrain_state_dict.pt --run-name diffusion_from_ar_eq3 "
    "--early-stop-patience 5 --early-stop-min-delta 0.001 --max-iters 40000 --batch-size 96"
)
EVAL_DIFFUSION = (
    "scripts.eval.eval_diffusion --checkpoint weights/diffusion_no_v1.pt --tokenizer-dir . --seq-len 256 "
    '--prompt "..." --max-new-tokens 200'
)
GENERATION = (
    "--gen-steps 64 --gen-cfg-scale 1.5 --gen-confidence-threshold 0.9 --gen-top-k 8 --gen-cap-start-ratio 0.08 "
    "--gen-cap-end-ratio 0.5 --gen-max-decode-per-step 32"
)
SFT_AR = (
    "scripts.train.train_sft_minimind --data dataset/sft_mini_512.jsonl --tokenizer-dir . "
    "--load-from weights/minimind_pretrain_state_dict.pt --run-name minimind_sft --max-seq-len 512 --batch-size 96 "
    "--epochs 2"
)
SFT_DIFFUSION = (
    "scripts.train.train_sft_diffusion --data dataset/sft_mini_512.jsonl --tokenizer-dir . "
    "--load-from weights/diffusion_from_ar_eq3_best.pt --run-name diffusion_sft --max-seq-len 512 --batch-size 96 "
    "--epochs 3"
)
ONE_PROMPT = 'scripts.eval.eval_sft_one_prompt --prompt "..." --tokenizer-dir . --seq-len 512 --max-new-tokens 128'
AR_SFT = "--minimind-checkpoint weights/minimind_sft_state_dict.pt"
DIFFUSION_SFT = "--diffusion-checkpoint weights/diffusion_sft_state_dict.pt"
COMMANDS = (PRETRAIN, EVAL_AR, DIFFUSION, EVAL_DIFFUSION, SFT_AR, SFT_DIFFUSION, ONE_PROMPT)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder like that of the first project: data, a tokenizer at the root, nothing trained."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    write_rows(Path("dataset/pretrain_hq.jsonl"), texts(300))
    rows = [{"conversations": row["messages"]} for row in chats(16)]
    write_rows(Path("dataset/sft_mini_512.jsonl"), rows)
    questions = [row["messages"][0]["content"] for row in chats(12)]
    pairs = [{"prompt": asked, "chosen": "A ball.", "rejected": "Amy has no hat."} for asked in questions]
    write_rows(Path("dataset/dpo.jsonl"), pairs)
    said = [message["content"] for row in rows for message in row["conversations"]]
    told = [row["text"] for row in texts(300)]
    train_characters([*said, *told, "system user assistant\n."]).save(Path())
    return tmp_path


@pytest.fixture
def old(folder, monkeypatch, capsys):
    """Runs a line of the old README; only what the line says is shrunk by what is put after it."""

    def in_tmp(stage: str, track: str) -> RunConfig:
        run = default_run(stage, track)
        data = replace(run.data, cache=folder / "cache", validation_share=0.2)
        return replace(run, data=data, train=replace(run.train, device="cpu", eval_every=1, eval_rows=2, save_every=1))

    def run(line: str, *more: str) -> SimpleNamespace:
        module, *arguments = shlex.split(" ".join((line, *more)))
        try:
            status = importlib.import_module(module).main(arguments)
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr()
        return SimpleNamespace(status=status, out=said.out, err=said.err)

    monkeypatch.setattr("nano_llada.cli.training.default_run", in_tmp)
    return run


@pytest.fixture
def translated(old, monkeypatch):
    """What a line of the old README is turned into, without running that."""
    seen: list[list[str]] = []

    def run(line: str, *more: str) -> SimpleNamespace:
        seen.clear()
        done = old(line, *more)
        done.words = seen[0] if seen else None
        return done

    def record(words: list[str]) -> int:
        seen.append(list(words))
        return 0

    importlib.import_module("scripts.translate")
    monkeypatch.setattr("scripts.translate.nano_llada", record)
    return run


def notes(err: str) -> dict[str, str]:
    """Remarks by the option they are about."""
    lines = [line.removeprefix("note: ") for line in err.splitlines() if line.startswith("note: ")]
    lines = [line for line in lines if " is the old form of " not in line]  # of nano-llada's own options
    return {line.split()[0].rstrip(":"): line for line in lines}


def test_the_old_chain_runs_as_written(old):
    small = "--batch-size 4"
    done = old(PRETRAIN, "--hidden-size 32 --num-hidden-layers 2 --num-attention-heads 4", small)
    assert done.status == 0, done.err
    assert done.err.startswith("runs: nano-llada pretrain ar --runs weights --max-length 512 --name minimind_pretrain")
    assert load_checkpoint(Path("weights/minimind_pretrain")).model.config.max_length == 512

    done = old(EVAL_AR)
    assert (done.status, bool(done.out)) == (0, True), done.err
    assert "the run folder weights/minimind_pretrain here" in notes(done.err)["--checkpoint"]

    done = old(DIFFUSION, "--max-iters 3", small)
    assert done.status == 0, done.err
    checkpoint = load_checkpoint(Path("weights/diffusion_from_ar_eq3"))
    assert (checkpoint.card.track, checkpoint.card.step, checkpoint.model.config.hidden_size) == ("diffusion", 3, 32)

    done = old(EVAL_DIFFUSION)
    assert done.status == 2
    assert "error: no checkpoint at weights/diffusion_no_v1.pt" in done.err
    shutil.copytree("weights/diffusion_from_ar_eq3", "weights/diffusion_no_v1")
    for more in ((), (GENERATION,)):
        done = old(EVAL_DIFFUSION, *more)
        assert (done.status, bool(done.out)) == (0, True), done.err

    for line, run, track in ((SFT_AR, "minimind_sft", "ar"), (SFT_DIFFUSION, "diffusion_sft", "diffusion")):
        done = old(line, small)
        assert done.status == 0, done.err
        checkpoint = load_checkpoint(Path("weights", run))
        assert (checkpoint.card.track, checkpoint.card.stage) == (track, "sft")

    done = old(ONE_PROMPT, AR_SFT, DIFFUSION_SFT)
    assert done.status == 0, done.err
    assert "the report is runs/compare/report.html" in done.out
    report = Path("runs/compare/report.md").read_text(encoding="utf-8")
    assert all(name in report for name in ("minimind_sft (ar)", "diffusion_sft (diffusion)"))
    for model in (AR_SFT, DIFFUSION_SFT):
        done = old(ONE_PROMPT, model, "--max-new-tokens 8")
        assert done.status == 0, done.err

    again = old(SFT_AR, small)
    assert again.status == 2
    assert "continue it with `nano-llada resume weights/minimind_sft`" in again.err


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line.split()[0].split(".")[-1])
def test_every_option_is_passed_on_or_spoken_of(translated, line):
    line += " " + {EVAL_DIFFUSION: GENERATION, ONE_PROMPT: f"{AR_SFT} {DIFFUSION_SFT}"}.get(line, "")
    done = translated(line)
    assert done.status == 0
    assert done.err.splitlines()[0] == f"runs: nano-llada {shlex.join(done.words)}"
    told, words = notes(done.err), shlex.split(line)
    for place, word in enumerate(words):
        if word.startswith("--") and word not in told:
            value = words[place + 1]
            assert value in done.words, f"{word} {value} is neither in the command nor in a remark"


def test_options_get_their_new_names(translated):
    words = translated(PRETRAIN, "--max-seq-len 1024").words
    pairs = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["pretrain", "ar"]
    assert pairs == {
        "--runs": "weights",
        "--name": "minimind_pretrain",
        "--data": "./dataset/pretrain_hq.jsonl",
        "--text-field": "text",
        "--tokenizer": ".",
        "--hidden-size": "512",
        "--num-layers": "8",
        "--num-heads": "8",
        "--sequence-length": "1024",
        "--max-length": "1024",
        "--epochs": "1",
        "--batch-size": "96",
    }
    words = translated(DIFFUSION).words
    pairs = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["pretrain", "diffusion"]
    assert pairs["--init-from"] == "weights/minimind_pretrain_state_dict.pt"  # nothing trained here
    assert (pairs["--steps"], pairs["--patience"], pairs["--min-delta"]) == ("40000", "5", "0.001")
    assert (pairs["--learning-rate"], pairs["--warmup-steps"], pairs["--min-lr-ratio"]) == ("4e-4", "2000", "0.025")


def test_what_has_no_effect_says_so_and_why(translated):
    told = notes(translated(DIFFUSION, "--time-weighted-loss --use-doc-attention-mask").err)
    silent = ("--train", "--use-tokenizer", "--mask-schedule", "--inference-rope-scaling", "--repeat-penalty-weight")
    assert all("no effect here: " in told[name] for name in silent)
    assert "always on here: " in told["--time-weighted-loss"]
    assert "always on here: " in told["--use-doc-attention-mask"]
    told = notes(translated(EVAL_DIFFUSION, GENERATION).err)
    silent = ("--tokenizer-dir", "--seq-len", "--gen-steps", "--gen-top-k", "--gen-max-decode-per-step")
    assert all("no effect here: " in told[name] for name in (*silent, "--gen-cap-start-ratio", "--gen-cap-end-ratio"))
    assert "greedy" in told["--gen-top-k"]
    assert "with a confidence threshold" in told["--gen-steps"]


def test_steps_and_threshold(translated):
    words = translated(EVAL_DIFFUSION, "--gen-steps 64 --gen-cfg-scale 1.5").words
    assert words[1:5] == ["--steps", "64", "--guidance", "1.5"]
    words = translated(EVAL_DIFFUSION, GENERATION).words
    assert "--steps" not in words
    assert words[words.index("--threshold") + 1] == "0.9"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"{DIFFUSION} --repeat-penalty-weight 0.1", "leave it at 0"),
        (DIFFUSION.replace("--train ", ""), "this script only trains"),
        ("scripts.train.diffusion --train --data x.jsonl", "nano-llada tokenizer train --kind characters"),
        (ONE_PROMPT, "no model: give --minimind-checkpoint or --diffusion-checkpoint"),
        (f"{PRETRAIN} --no-such-option 3", "unrecognized arguments: --no-such-option 3"),
        (f"{PRETRAIN} --hidden 3", "unrecognized arguments"),
        (f"{PRETRAIN} --max-seq-len many", "--max-seq-len"),
        ("scripts.train.train_sft_minimind --data x.jsonl", "required: --load-from"),
    ],
)
def test_mistakes_stop_before_anything_runs(translated, line, reason):
    done = translated(line)
    assert (done.status, done.words) == (2, None)
    assert reason in done.err


def test_old_weight_files_are_found_as_run_folders(folder):
    run_folder = importlib.import_module("scripts.translate").run_folder
    for name in ("a", "b_best", "b"):
        Path("weights", name).mkdir(parents=True)
    for path, found in {
        "weights/a.pt": "weights/a",
        "weights/a_best.pt": "weights/a",
        "weights/a_state_dict.pt": "weights/a",
        "weights/b_best.pt": "weights/b_best",
        "weights/a": "weights/a",
        "weights/c.pt": "weights/c.pt",
    }.items():
        assert run_folder(path) == found
    Path("weights/a.pt").touch()
    assert run_folder("weights/a.pt") == "weights/a.pt"


def test_mistakes_that_only_the_command_can_see(old):
    Path("weights").mkdir()
    Path("weights/minimind_pretrain_state_dict.pt").write_bytes(b"pickle")
    done = old(EVAL_AR)
    assert done.status == 2
    assert "is a pickle file" in done.err
    Path("tokenizer.json").unlink()
    done = old(PRETRAIN.replace("pretrain_hq.jsonl", "missing.jsonl"))
    assert done.status == 2
    assert "--tokenizer-dir .: no tokenizer.json there, so the bundled one" in done.err
    assert "missing.jsonl" in done.err


def test_help_in_a_process_of_its_own():
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "scripts.train.train_pretrain", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--num-attention-heads" in done.stdout
    assert "nano-llada pretrain ar" in done.stdout
