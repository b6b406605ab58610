"""Every option of the original's commands: understood, told or refused, and none accepted without a word."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import test_scripts
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.core.pattern import AttentionPattern
from original_options import COUNT, TABLE, Case, cases
from test_scripts import PRETRAIN, notes
from test_torch_models import ARGS, PRETRAINED, minimind, original, original_logits, sample, save
from tiny import write_rows

folder, old, translated = test_scripts.folder, test_scripts.old, test_scripts.translated
ALL = list(cases())
SMALL = "--hidden-size 32 --num-hidden-layers 2 --num-attention-heads 4 --batch-size 4"
EVERYTHING = "scripts.train.diffusion --train --use-tokenizer --tokenizer-dir . --data dataset/pretrain_hq.jsonl"
CHATS = "--data dataset/sft_mini_512.jsonl --tokenizer-dir . --batch-size 4 --epochs 1"
BRIEF = "--max-iters 2 --batch-size 4"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [
        {
            "question": f"Who has hat {i}?",
            "title": f"t{i}",
            "context": f"Hat {i} is Amy's.",
            "answers": {"text": ["Amy"]},
        }
        for i in range(5)
    ] + [{"question": "?", "title": "none", "context": "", "answers": {"text": []}}, {"question": " ", "answers": "x"}]


@pytest.fixture
def place(folder, rows) -> Path:
    """Files that the table's options name."""
    Path("prompts.txt").write_text("\ufefffirst\r\n\nsecond\nfirst\n", encoding="utf-8")
    write_rows(Path("prompts.jsonl"), [{"prompt": "third", "other": "fourth"}])
    plain = [{**row, "answers": {"text": row["answers"]["text"]}} for row in rows if isinstance(row["answers"], dict)]
    write_rows(Path("questions/validation.jsonl"), plain)
    write_rows(Path("questions/train.jsonl"), plain)
    return folder


@pytest.fixture
def every(place, old, monkeypatch):
    """All commands that a line runs, none of them for real."""
    seen: list[list[str]] = []
    monkeypatch.setattr("scripts.translate.nano_llada", lambda words: seen.append(list(words)) or 0)

    def run(line: str) -> SimpleNamespace:
        seen.clear()
        done = old(line)
        done.commands = [list(words) for words in seen]
        return done

    importlib.import_module("scripts.translate")
    return run


def test_the_table_is_whole():
    listed = {(case.command, case.option) for case in ALL}
    assert len(listed) == COUNT
    for command in TABLE:  # and every option that a script has is in it, but for our own
        script = importlib.import_module(command)
        names = {option.name for option in script.OPTIONS}
        own = {"--resume", "--num-heads"} | ({"--save-dir"} if command.endswith("train.diffusion") else set())
        assert names - own == {case.option for case in ALL if case.command == command}


@pytest.mark.parametrize("command", TABLE)
def test_what_becomes_of_every_option(every, command: str):
    mine = [case for case in ALL if case.command == command]
    assert mine
    for case in mine:
        try:
            check_option(every, case)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


def check_option(every, case: Case) -> None:
    """Whether it is refused with a reason, told, or becomes what the table says."""
    line = f"{case.command} {without(case)} {case.needs} {shlex.join([case.option, *given(case)])}"
    done = every(line)
    about = [text for text in done.err.splitlines() if text.startswith("note: ") and case.option in text]
    if case.becomes == "refused":
        assert (done.status, done.commands) == (2, [])
        reason = done.err.split("error: ", 1)[1]
        assert case.option in reason
        assert len(reason) > len(case.option) + 20  # why, and what to do
    elif case.becomes == "told":
        assert done.status == 0, done.err
        assert len(about) == 1, done.err
        assert len(about[0].split(":", 2)[2]) > 12
    else:
        assert done.status == 0, done.err
        words = [word for command in done.commands for word in command]
        for wanted in re.findall(r"--\S+(?: [^-\s]\S*)*|[^-\s]\S*", case.becomes):
            name, *values = wanted.split()
            assert has(words, name, values), f"{wanted} is not in {done.commands}"


def without(case: Case) -> str:
    """What the command needs besides, but for the option itself."""
    words = shlex.split(case.base)
    if case.option in words:
        place = words.index(case.option)
        del words[place : place + 1 + (place + 1 < len(words) and not words[place + 1].startswith("--"))]
    return shlex.join(words)


def given(case: Case) -> list[str]:
    return [case.value] if case.value else []


def has(words: list[str], name: str, values: list[str]) -> bool:
    if not name.startswith("--"):
        return any(name in word for word in words)
    return any(words[i : i + 1 + len(values)] == [name, *values] for i in range(len(words)))


@pytest.mark.parametrize("command", TABLE)
def test_nothing_is_accepted_silently(every, command):
    """Each option changes the commands or is spoken of: what is run without it, and what is said, differ."""
    without_it: dict[str, list[list[str]]] = {}
    for case in (case for case in ALL if case.command == command and case.becomes != "refused"):
        with_it = every(f"{command} {without(case)} {case.needs} {shlex.join([case.option, *given(case)])}")
        spoken = [text for text in with_it.err.splitlines() if text.startswith("note: ") and case.option in text]
        if spoken:
            continue
        commands, bare = with_it.commands, f"{command} {without(case)} {case.needs}"
        if bare not in without_it:
            without_it[bare] = every(bare).commands
        assert without_it[bare] != commands, case


@pytest.mark.parametrize("command", TABLE)
def test_an_unknown_option_is_refused(every, command):
    base = next(case.base for case in ALL if case.command == command)
    done = every(f"{command} {base} --no-such-option 3")
    assert (done.status, done.commands) == (2, [])
    assert "unrecognized arguments: --no-such-option 3" in done.err


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("scripts.train.train_sft_diffusion --data x --load-from y --max-seq-len many", "--max-seq-len"),
        (
            "scripts.train.train_sft_minimind --data x --load-from y --accumulation-steps 2 --batch-size a",
            "--batch-size",
        ),
        (
            "scripts.train.train_sft_minimind --data x --load-from y --streaming --steps-per-epoch 2 --epochs a",
            "--epochs",
        ),
        ("scripts.train.diffusion --train --use-tokenizer --seq-len 1.5", "--seq-len"),
        ("scripts.train.diffusion --train --use-tokenizer --lr-stable-ratio 0.4 --max-iters inf", "--max-iters"),
        ("scripts.eval.eval_minimind --checkpoint x --temperature warm", "--temperature"),
        ("scripts.eval.eval_minimind --checkpoint x --eval-data y --eval-max-batches 1e3", "--eval-max-batches"),
        ("scripts.eval.compare_llada_styles --checkpoint x --prompt a --max-samples b", "--max-samples"),
    ],
)
def test_what_is_no_number_is_said_by_name(every, line, option):
    done = every(line)
    assert (done.status, done.commands) == (2, [])
    assert f"argument {option}: invalid" in done.err


def test_defaults_that_differ_are_told_once_and_rightly(every):
    done = every("scripts.train.train_pretrain --data x.jsonl")
    told = [line for line in done.err.splitlines() if line.startswith("defaults: ")]
    assert len(told) == 1
    for part in ("--lr 0.0003 (here 0.001)", "--weight-decay 0.01 (here 0.05)", "--seed 42 (here 0)"):
        assert part in told[0]
    for same in ("--epochs", "--hidden-size", "--batch-size", "--grad-clip", "--save-interval"):
        assert same not in told[0]
    given = every("scripts.train.train_pretrain --data x.jsonl --lr 3e-4 --seed 42").err
    assert "--lr 0.0003 (here" not in given
    assert "--seed 42 (here" not in given
    started = every("scripts.train.train_sft_minimind --data x.jsonl --load-from weights/x").err
    assert "--learning-rate 2.5e-05 (here 0.0003)" in started
    assert "--rope-theta" not in started  # which the checkpoint decides
    assert "--tokenizer-dir . (here the bundled tokenizer)" in told[0]
    assert "--tokenizer-dir" not in every("scripts.train.train_sft_minimind --data x --load-from weights/x").err
    zero = "scripts.train.diffusion --train --use-tokenizer --repeat-penalty-weight 0 --lr-stable-ratio 0"  # 0 is given
    assert not [line for line in every(zero).err.splitlines() if "defaults" in line and "ratio 0.4" in line]
    assert "--decay-share 1" in every(zero).err
    assert "--repeat-penalty-weight 0.1" not in every(zero).err
    drawn = every("scripts.eval.eval_minimind --checkpoint x --temperature 0.8").err
    assert "--top-k 20 (here off: drawn from all tokens)" in drawn
    assert "--gen-temp 0.8 (here 0: greedy)" in every("scripts.eval.eval_diffusion --checkpoint x").err


def test_what_the_files_are_called_here_is_told(every):
    done = every("scripts.train.train_pretrain --data x.jsonl --run-name mine --save-dir elsewhere")
    told = "the run folder elsewhere/mine, which takes the place of elsewhere/mine.pt, elsewhere/mine_best.pt, "
    assert told + "elsewhere/mine_state_dict.pt" in done.err
    Path("weights/diffusion_no_v1").mkdir(parents=True)
    done = every("scripts.eval.eval_diffusion --checkpoint weights/diffusion_tokenizer_best.pt")
    assert "this is the run folder weights/diffusion_no_v1 here" in done.err


def test_defaults_of_what_is_read(every):
    assert "--data ./dataset/pretrain_hq.jsonl" in shlex.join(every("scripts.train.train_pretrain").commands[0])
    assert "--data data.txt" in shlex.join(every("scripts.train.diffusion --train --use-tokenizer").commands[0])
    assert "你好，请介绍一下你自己。" in every("scripts.eval.eval_minimind --checkpoint x").commands[0]


def test_two_ways_of_writing(every):
    done = every("scripts.eval.compare_cfg --checkpoint x --prompt hi --gen-steps 8 --no-chat-wrap")
    first = shlex.split("generate --guidance 0.0 --mode text --checkpoint x --prompt hi --steps 8")
    assert done.commands == [first, [word if word != "0.0" else "1.5" for word in first]]
    done = every("scripts.eval.compare_llada_styles --checkpoint x --prompt a --prompt b --prompt a --gen-steps 8")
    wanted = "compare --checkpoints x --prompts a b --thresholds 0.9 --steps 8 --out outputs/llada_style_compare"
    assert done.commands == [shlex.split(wanted)]


def test_questions_of_a_dataset(every, rows):
    line = "scripts.eval.eval_sft_hf_qa --minimind-checkpoint a --diffusion-checkpoint b --dataset questions"
    done = every(f"{line} --num-samples 3 --include-context --ar-temperature 0.8 --ar-top-k 20 --gen-steps 8")
    assert done.status == 0, done.err
    file = "outputs/sft_cmrc2018_eval.questions.jsonl"
    wanted = (
        f"eval --checkpoints ar=a diffusion=b --suites generation --questions {file} --out outputs/sft_cmrc2018_eval "
        "--temperature 0.8 --top-k 20 --decoders steps=8,temperature=0,top_k=0"
    )
    assert done.commands == [shlex.split(wanted)]
    asked = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    assert len(asked) == 3
    for row in asked:
        source = rows[int(row["id"])]
        assert row["prompt"] == f"资料：{source['context']}\n问题：{source['question']}"
        assert (row["references"], row["verifier"]) == (["Amy"], "contains")
    assert "3 of 5 questions" in done.err
    again = every(f"{line} --num-samples 3 --seed 42")
    picked = [json.loads(line)["id"] for line in Path(file).read_text(encoding="utf-8").splitlines()]
    assert picked == [row["id"] for row in asked]
    assert again.status == 0
    every(f"{line} --num-samples 5 --seed 7")
    assert len(Path(file).read_text(encoding="utf-8").splitlines()) == 5


def test_from_scratch_with_a_shape_and_on_from_there(old):
    done = old(f"{EVERYTHING} --run-name small {BRIEF} {SMALL.replace('32', '64')}")
    assert done.status == 0, done.err
    config = load_checkpoint(Path("weights/small")).model.config
    assert (config.hidden_size, config.num_layers, config.num_heads, config.max_length) == (64, 2, 4, 512)
    agreeing = f"{EVERYTHING} --run-name next {BRIEF} --init-from-minimind weights/small.pt --hidden-size 64"
    done = old(agreeing, "--num-attention-heads 4")
    assert done.status == 0, done.err
    assert "which has the same" in notes(done.err)["--hidden-size"]
    done = old(agreeing.replace("next", "third"), "--num-attention-heads 8")
    assert done.status == 2
    assert "--num-attention-heads is 8, but the model of --init-from-minimind weights/small.pt has 4" in done.err
    # rows longer than the context: the old model took them
    longer = old(f"{EVERYTHING} --run-name longer {BRIEF} --init-from-minimind weights/small.pt --seq-len 1024")
    assert longer.status == 0, longer.err
    assert load_checkpoint(Path("weights/longer")).model.config.max_length == 1024


def test_runs_are_resumed(old):
    line = f"{EVERYTHING} --run-name a {SMALL} --max-iters 4"
    assert old(line).status == 0
    steps = lambda: [json.loads(row)["step"] for row in Path("weights/a/metrics.jsonl").read_text().splitlines()]  # noqa: E731
    before = steps()
    again = old(line)  # the old script went on with the file that was there
    assert again.status == 0, again.err
    assert "the run is resumed, as in the old script" in again.err
    assert steps() == before  # it is complete
    assert old(f"{line} --resume").status == 0
    done = old(f"{line} --learning-rate 1e-2")
    assert done.status == 2
    assert "with other settings than those it was started with: train.learning_rate was 0.001, is 0.01" in done.err

    sft = f"scripts.train.train_sft_diffusion {CHATS}"
    first = old(f"{sft} --load-from weights/a_best.pt")
    assert first.status == 0, first.err
    twice = old(f"{sft} --load-from weights/a_best.pt")
    assert twice.status == 2
    assert "continue it with `nano-llada resume" in twice.err
    assert old(f"{sft} --load-from weights/a_best.pt --resume").status == 0  # what the error says works
    own = old(f"{sft} --load-from weights/diffusion_sft.pt --resume-optimizer-state")
    assert own.status == 0, own.err
    assert "this is the run itself" in own.err
    assert "--init-from weights/a --" in own.err
    other = old(f"{sft} --load-from weights/a.pt --resume-optimizer-state")
    assert other.status == 2
    assert "belongs to its run" in other.err


def test_pretraining_goes_on_from_its_own_file(old):
    small = "--hidden-size 32 --num-hidden-layers 2 --num-attention-heads 4"
    assert old(PRETRAIN, small, "--batch-size 64").status == 0
    done = old(PRETRAIN, small, "--batch-size 64 --load-from weights/minimind_pretrain.pt")
    assert done.status == 0, done.err
    assert "--resume" in done.err.splitlines()[0]
    assert "--init-from" not in done.err.splitlines()[0]


def test_a_tokenizer_is_trained_first(old):
    done = old(PRETRAIN, "--hidden-size 32 --num-hidden-layers 2 --num-attention-heads 4 --batch-size 64", RETRAIN)
    assert done.status == 0, done.err
    assert load_checkpoint(Path("weights/minimind_pretrain")).tokenizer.vocab.size == 400
    assert Path("own/tokenizer.json").is_file()


RETRAIN = "--retrain-tokenizer --retrained-tokenizer-json-name own.json --tokenizer-vocab-size 400"


def test_the_three_commands_of_the_test_branch_and_measuring_run(old, place):
    for line in (f"{PRETRAIN} --run-name base {SMALL.replace('size 4', 'size 64')}", f"{EVERYTHING} {BRIEF} {SMALL}"):
        assert old(line).status == 0
    for script, start, name in (("minimind", "base", "ar"), ("diffusion", "diffusion_no_v1", "dif")):
        done = old(f"scripts.train.train_sft_{script} {CHATS} --load-from weights/{start}.pt --run-name {name}")
        assert done.status == 0, done.err
    short = "--max-new-tokens 6 --prompt hi --checkpoint weights"
    done = old(f"scripts.eval.compare_cfg {short}/dif.pt --gen-steps 3 --cfg-on-scale 3")
    assert done.status == 0, done.err
    assert done.err.count("runs: nano-llada generate") == 2
    assert len(done.out.strip("\n").split("\n")) >= 1

    done = old(f"scripts.eval.compare_llada_styles {short}/dif.pt --gen-steps 3 --prompt-file prompts.txt")
    assert done.status == 0, done.err
    records = [json.loads(row) for row in Path("outputs/llada_style_compare/records.jsonl").read_text().splitlines()]
    assert {record["decoder"] for record in records} == {"default", "threshold=0.9"}
    assert {record.get("detail", {}).get("prompt") for record in records} >= {"hi", "first", "second"}

    models = "--minimind-checkpoint weights/ar.pt --diffusion-checkpoint weights/dif_state_dict.pt"
    more = "--num-samples 3 --max-new-tokens 6 --ar-temperature 0.8 --gen-steps 3"
    done = old(f"scripts.eval.eval_sft_hf_qa {models} --dataset questions {more} --output outputs/qa.jsonl")
    assert done.status == 0, done.err
    records = [json.loads(row) for row in Path("outputs/qa/records.jsonl").read_text().splitlines()]
    assert len(records) == 6
    missing = old(f"scripts.eval.eval_sft_hf_qa {models} --dataset questions --split none {more}")
    assert missing.status == 2
    assert "could not be read" in missing.err

    done = old(
        "scripts.eval.eval_minimind --prompt a --checkpoint weights/base.pt --eval-data dataset/pretrain_hq.jsonl",
        "--eval-batch-size 2 --eval-max-batches 3 --max-seq-len 32 --max-new-tokens 4",
    )
    assert done.status == 0, done.err
    assert "nats" in done.out or "bits" in done.out


def original_file(path: str, size: int, args: dict | None = None) -> dict[str, torch.Tensor]:
    weights = original(size)
    Path(path).parent.mkdir(exist_ok=True)
    save(Path(path), weights if args is None else {"model_state_dict": weights, "args": args, "step": 3})
    return weights


def test_old_files_of_weights_are_used(old):
    from nano_llada.data.tokenizer import Tokenizer

    size = Tokenizer.load(Path()).vocab.size
    weights = original_file("weights/old.pt", size, PRETRAINED)
    line = "scripts.eval.eval_diffusion --checkpoint weights/old.pt --tokenizer-dir . --prompt Tom --max-new-tokens 8"
    done = old(line)
    assert done.status == 0, done.err
    (place,) = Path("weights").glob("old.imported-*")
    checkpoint = load_checkpoint(place)
    tokens = sample(vocab=size)
    with torch.no_grad():
        mine = checkpoint.model(tokens, AttentionPattern("full"))
    assert (mine - original_logits(weights, tokens, False, PRETRAINED)).abs().max() < 2e-5
    assert f"old file of weights; its tensors are in the checkpoint {place}" in done.err
    assert old(line).status == 0  # and is not imported again
    assert "nano-llada import" not in old(line).err
    assert old(f"{EVERYTHING} --run-name a --init-from-minimind weights/old.pt {BRIEF}").status == 0
    assert load_checkpoint(Path("weights/a")).model.config.rope_theta == ARGS["rope_theta"]
    wrong = old(f"{EVERYTHING} --run-name b --init-from-minimind weights/old.pt --hidden-size 64 {BRIEF}")
    assert wrong.status == 2
    assert "--hidden-size is 64, but the model of --init-from-minimind weights/old.pt has 32" in wrong.err

    scaled = original_file(
        "weights/scaled_best.pt", size, PRETRAINED | {"inference_rope_scaling": True, "rope_theta": 1e6}
    )
    start = f"{EVERYTHING} {BRIEF} --inference-rope-scaling --init-from-minimind"
    done = old(f"{start} weights/scaled_best.pt --run-name scaled_too")
    assert done.status == 0, done.err
    assert load_checkpoint(Path("weights/scaled_too")).model.config.yarn is not None
    save(Path("weights/bare.pt"), scaled)
    assert old(f"{start} weights/bare.pt --run-name c --num-attention-heads 4").status == 0
    assert load_checkpoint(Path("weights/c")).model.config.yarn is not None
    done = old(f"{start} weights/old.pt --run-name d")
    assert done.status == 2
    assert "the file says that RoPE scaling is off" in done.err

    original_file("weights/base_state_dict.pt", size)
    sft = f"scripts.train.train_sft_minimind {CHATS}"
    done = old(f"{sft} --load-from weights/base_state_dict.pt")
    assert done.status == 2
    assert "does not state how many attention heads" in done.err
    done = old(f"{sft} --load-from weights/base_state_dict.pt --num-attention-heads 4")
    assert done.status == 0, done.err
    assert load_checkpoint(Path("weights/minimind_sft")).model.config.num_heads == 4

    save(Path("weights/mind.pth"), minimind(3, vocab=size))
    done = old(
        "scripts.eval.eval_minimind --checkpoint weights/mind.pth --tokenizer-dir . --max-new-tokens 4 --prompt Tom"
    )
    assert done.status == 0, done.err


def test_hostile_files_run_nothing(old):
    import os

    from test_torch_files import Call

    Path("weights").mkdir()
    torch.save({"model_state_dict": original(), "args": Call(os.mkdir, "ran")}, "weights/evil.pt")
    for line in (
        "scripts.eval.eval_diffusion --checkpoint weights/evil.pt",
        "scripts.eval.eval_minimind --checkpoint weights/evil.pt",
        "scripts.eval.eval_sft_one_prompt --prompt a --diffusion-checkpoint weights/evil.pt",
        "scripts.eval.compare_cfg --prompt a --checkpoint weights/evil.pt",
        "scripts.eval.compare_llada_styles --prompt a --checkpoint weights/evil.pt",
        f"{EVERYTHING} --init-from-minimind weights/evil.pt",
        "scripts.train.train_pretrain --load-from weights/evil.pt",
        "scripts.train.train_sft_minimind --data dataset/sft_mini_512.jsonl --load-from weights/evil.pt",
        "scripts.train.train_sft_diffusion --data dataset/sft_mini_512.jsonl --load-from weights/evil.pt",
        "scripts.train.train_dpo_diffusion --data dataset/dpo.jsonl --load-from weights/evil.pt",
        "scripts.train.train_dpo_diffusion --data x --load-from weights/x --reference-from weights/evil.pt",
    ):
        done = old(line)
        assert done.status == 2, line
        assert "Nothing in it was run" in done.err, line
    assert not Path("ran").exists()


def test_scripts_hold_no_training_and_no_decoding():
    root = Path(__file__).resolve().parent.parent / "scripts"
    for path in root.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "import torch" not in source, path
        for room in ("model", "objectives", "diffusion", "decode", "train", "session", "language_model"):
            assert f"nano_llada.{room}" not in source, path
