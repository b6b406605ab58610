"""The first Nano-LLaDA's commands with its LLaDA 2.0 options: blocks, their curriculum, CAP, merging, preferences."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import test_scripts
from nano_llada.checkpoint.files import load_checkpoint
from test_scripts import (
    DIFFUSION,
    DIFFUSION_SFT,
    EVAL_DIFFUSION,
    GENERATION,
    ONE_PROMPT,
    PRETRAIN,
    SFT_DIFFUSION,
    notes,
)

folder, old, translated = test_scripts.folder, test_scripts.old, test_scripts.translated

PHASES = "--wsd-phase-ratios 0.3,0.5,0.2"
SIZES = "--wsd-block-sizes-up 32,64,128,256 --wsd-block-sizes-down 256,128,64,32"
BLOCK_PRETRAIN = (
    "--mask-schedule wsd --use-block-curriculum --time-weighted-loss --use-doc-attention-mask "
    f"{PHASES} {SIZES} --llada2-topk-merge --llada2-topk-merge-k 3 --llada2-enable-parallel-decoding"
)
BLOCK_SFT = (
    "--llada2-enable-block-diffusion --llada2-block-size 32 --llada2-alpha-min 0.05 --llada2-alpha-max 0.95 "
    "--llada2-enable-cap --llada2-cap-lambda 0.1 --llada2-enable-complementary-masking "
    "--llada2-quantize-effective-length"
)
DPO = (
    "scripts.train.train_dpo_diffusion --data dataset/dpo.jsonl --tokenizer-dir . --load-from weights/diffusion_sft.pt "
    "--run-name diffusion_dpo --max-seq-len 512 --batch-size 64 --epochs 1 --dpo-beta 0.1 --llada2-block-size 32 "
    "--llada2-alpha-min 0.05 --llada2-alpha-max 0.95"
)
TEXT = "scripts.train.diffusion --train --use-tokenizer --data x.jsonl"
CHAT = "scripts.train.train_sft_diffusion --data x.jsonl --load-from weights/x"
PAIRS = "scripts.train.train_dpo_diffusion --data x.jsonl --load-from weights/x"
SHARES = "--block-warmup-share 0.3 --block-decay-share 0.2"
TEXT_WORDS = "--name diffusion_no_v1 --data x.jsonl"
CHAT_START, PAIR_START = (f"--name diffusion_{stage} --init-from weights/x" for stage in ("sft", "dpo"))
LENGTH, DATA = "--sequence-length 512", "--data x.jsonl"
CHAT_WORDS, PAIR_WORDS = f"{CHAT_START} {LENGTH} {DATA}", f"{PAIR_START} {LENGTH} {DATA}"


def saved(run: str) -> dict[str, Any]:
    """What a run's config.json holds."""
    config: dict[str, Any] = json.loads(Path("weights", run, "config.json").read_text(encoding="utf-8"))
    return config


def part(plain: dict[str, Any], names: str) -> dict[str, Any]:
    """Some of the entries."""
    return {name: plain[name] for name in names.split()}


def test_the_chain_runs_with_the_options_of_llada2(old):
    done = old(PRETRAIN, "--hidden-size 32 --num-hidden-layers 2 --num-attention-heads 4 --batch-size 8")
    assert done.status == 0, done.err

    done = old(DIFFUSION, BLOCK_PRETRAIN, "--max-iters 5 --batch-size 2")
    assert done.status == 0, done.err
    run = saved("diffusion_from_ar_eq3")
    assert run["objective"]["blocks"] == {
        "type": "BlockSizeSchedule",
        "block_size": 32,
        "block_warmup": [32, 64, 128, 256],
        "block_decay": [256, 128, 64, 32],
        "block_warmup_share": 0.3,
        "block_decay_share": 0.2,
    }
    assert part(run["train"], "steps keep_best merge_best") == {"steps": 5, "keep_best": 3, "merge_best": 3}
    assert len(load_checkpoint(Path("weights/diffusion_from_ar_eq3/merged")).card.merged_from) == 3

    done = old(SFT_DIFFUSION, BLOCK_SFT, "--batch-size 4 --epochs 1")
    assert done.status == 0, done.err
    run = saved("diffusion_sft")
    assert run["init_from"] == "weights/diffusion_from_ar_eq3"
    assert run["objective"]["blocks"]["block_size"] == 32
    masking = {"mask_rate_min": 0.05, "mask_rate_max": 0.95, "complementary": True}
    assert part(run["objective"]["corruption"], " ".join(masking)) == masking
    assert run["objective"]["confidence_weight"] == 0.1
    assert part(run["data"], "sequence_length fill_multiple") == {"sequence_length": 512, "fill_multiple": 32}

    done = old(DPO, "--batch-size 2 --reference-from weights/diffusion_from_ar_eq3_best.pt")
    assert done.status == 0, done.err
    run = saved("diffusion_dpo")
    assert part(run, "init_from reference") == {
        "init_from": "weights/diffusion_sft",
        "reference": "weights/diffusion_from_ar_eq3",
    }
    assert run["objective"]["beta"] == 0.1
    assert run["objective"]["score"]["block_size"] == 32
    assert part(run["train"], "batch_size epochs") == {"batch_size": 4, "epochs": 1.0}
    assert load_checkpoint(Path("weights/diffusion_dpo")).card.stage == "dpo"
    assert "--llada2-block-size" not in notes(done.err)  # as it was trained

    line = EVAL_DIFFUSION.replace("diffusion_no_v1", "diffusion_dpo")
    done = old(line, GENERATION, "--llada2-enable-parallel-decoding --max-new-tokens 40")
    assert (done.status, bool(done.out)) == (0, True), done.err
    command = done.err.splitlines()[0]
    assert "--threshold 0.9" in command
    assert "--steps" not in command
    assert "--guidance" not in command
    told = notes(done.err)
    assert "no effect here: this model writes blocks of 32 tokens" in told["--gen-steps"]
    assert "and has no guidance" in told["--gen-cfg-scale"]
    done = old(ONE_PROMPT, DIFFUSION_SFT, "--max-new-tokens 40")
    assert (done.status, bool(done.out)) == (0, True), done.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            f"{TEXT} --jsonl-field text --seq-len 256 {BLOCK_PRETRAIN}",
            f"pretrain diffusion --runs weights --block-size 32 {SHARES} --name diffusion_no_v1 --text-field text "
            "--sequence-length 256 --data x.jsonl --block-warmup 32 64 128 256 --block-decay 256 128 64 32 "
            "--keep-best 3 --merge-best 3",
        ),
        *(
            (
                f"{TEXT} {option}",
                f"pretrain diffusion --runs weights --block-size 32 {SHARES} {TEXT_WORDS} "
                "--block-warmup 1 4 32 64 128 --block-decay 128 64 32",
            )
            for option in ("--mask-schedule wsd", "--use-block-curriculum")
        ),
        (
            f"{TEXT} --use-block-curriculum --wsd-block-sizes-down 64,16 --wsd-phase-ratios 0.5,0.25,0.25",
            "pretrain diffusion --runs weights --block-size 16 --block-warmup-share 0.5 --block-decay-share 0.25 "
            f"{TEXT_WORDS} --block-warmup 1 4 32 64 128 --block-decay 64 16",
        ),
        (
            f"{TEXT} --llada2-topk-merge",
            f"pretrain diffusion --runs weights {TEXT_WORDS} --keep-best 3 --merge-best 3",
        ),
        (f"{TEXT} --mask-schedule iid_t {PHASES} {SIZES}", f"pretrain diffusion --runs weights {TEXT_WORDS}"),
        (
            f"{CHAT} --llada2-enable-block-diffusion",
            f"sft diffusion --runs weights {CHAT_WORDS} --block-size 32 --mask-rate-min 0.05 --mask-rate-max 0.95",
        ),
        (
            f"{CHAT} {BLOCK_SFT} --llada2-block-size=16 --llada2-cap-lambda 0.5 --learning-rate 2.5e-5",
            f"sft diffusion --runs weights --fill-multiple 16 {CHAT_START} {LENGTH} --learning-rate 2.5e-5 {DATA} "
            "--block-size 16 --mask-rate-min 0.05 --mask-rate-max 0.95 --confidence-weight 0.5 --complementary",
        ),
        (PAIRS, f"dpo diffusion --runs weights {PAIR_WORDS} --block-size 32"),
        (
            f"{PAIRS} --batch-size 64 --dpo-beta 0.3 --llada2-block-size 16",
            f"dpo diffusion --runs weights --batch-size 128 {PAIR_WORDS} --beta 0.3 --block-size 16",
        ),
        (
            f"{PAIRS} --reference-from weights/y",
            f"dpo diffusion --runs weights {PAIR_START} --reference weights/y {LENGTH} {DATA} --block-size 32",
        ),
    ],
)
def test_the_command_that_a_line_stands_for(translated, line, words):
    done = translated(line)
    assert done.status == 0, done.err
    assert done.words == shlex.split(words)


@pytest.mark.parametrize("needless", BLOCK_SFT.replace("--llada2-enable-block-diffusion ", "").split(" --llada2-"))
def test_without_block_diffusion_its_options_have_no_effect_and_say_so(translated, needless):
    option = "--llada2-" + needless.removeprefix("--llada2-")
    done = translated(CHAT, option)
    assert done.words == shlex.split(f"sft diffusion --runs weights {CHAT_WORDS}")
    assert f"note: {option}: no effect without --llada2-enable-block-diffusion, as in the old script" in done.err


def test_what_has_no_effect_without_another_option_says_so(translated):
    done = translated(CHAT, "--llada2-enable-block-diffusion --llada2-cap-lambda 0.2")
    assert "--confidence-weight" not in done.words
    assert "no effect without --llada2-enable-cap" in notes(done.err)["--llada2-cap-lambda"]
    told = notes(translated(TEXT, f"{PHASES} {SIZES} --llada2-topk-merge-k 5").err)
    for name in ("--wsd-phase-ratios 0.3,0.5,0.2", "--wsd-block-sizes-up 32,64,128,256", "--wsd-block-sizes-down"):
        assert name in told[name.split()[0]]
        assert "no effect without --mask-schedule wsd or --use-block-curriculum" in told[name.split()[0]]
    assert "no effect without --llada2-topk-merge" in told["--llada2-topk-merge-k"]
    told = notes(translated(CHAT, "--llada2-enable-block-diffusion").err)
    assert told == {}  # nothing is said of defaults that nobody gave


def test_remarks(translated):
    told = notes(translated(TEXT, BLOCK_PRETRAIN).err)
    assert "in the old project it was a schedule of mask ratios" in told["--mask-schedule"]
    assert "clean text before it" in told["--use-block-curriculum"]
    assert "`merged`" in told["--llada2-topk-merge"]
    assert "`nano-llada generate --threshold`" in told["--llada2-enable-parallel-decoding"]
    assert "always on here" in told["--time-weighted-loss"]
    assert "always on here" in told["--use-doc-attention-mask"]
    told = notes(translated(CHAT, BLOCK_SFT).err)
    assert "up to a multiple of the block size" in told["--llada2-quantize-effective-length"]
    told = notes(translated(DPO).err)
    assert "two a pair" in told["--batch-size"]
    assert all("no effect here" in told[f"--llada2-alpha-{end}"] for end in ("min", "max"))
    assert "weights/diffusion_sft.pt is not a checkpoint of a model in blocks" in told["--llada2-block-size"]


def test_another_block_size_than_the_model_was_trained_with_is_spoken_of(translated):
    shape = {"format": 1, "track": "diffusion", "model": {}, "tokenizer_hash": "", "info": {"block_size": 16}}
    Path("weights/x").mkdir(parents=True)
    Path("weights/x/model.json").write_text(json.dumps(shape), encoding="utf-8")
    told = notes(translated(PAIRS).err)["--llada2-block-size"]
    assert "weights/x was trained in blocks of 16 tokens; from here on it is one in blocks of 32" in told
    assert notes(translated(PAIRS, "--llada2-block-size 16").err) == {}


def test_parallel_decoding_is_a_threshold(translated):
    for given, threshold in (("", "0.9"), ("--gen-confidence-threshold 0.7", "0.7")):
        done = translated(EVAL_DIFFUSION, "--gen-steps 64 --llada2-enable-parallel-decoding", given)
        assert done.words[:3] == ["generate", "--threshold", threshold]
        assert "no effect here: with a confidence threshold" in notes(done.err)["--gen-steps"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            f"{TEXT} --mask-schedule wsd --wsd-phase-ratios 0.3,0.5,0.3",
            "add up to 1, such as 0.3,0.5,0.2; got '0.3,0.5",
        ),
        (f"{TEXT} --mask-schedule wsd --wsd-phase-ratios 0.5,0.5", "take three shares of the run"),
        (f"{TEXT} --mask-schedule wsd --wsd-phase-ratios a,b,c", "take three shares of the run"),
        (f"{TEXT} --mask-schedule wsd --wsd-phase-ratios 0.9,-0.4,0.5", "take three shares of the run"),
        (f"{TEXT} --mask-schedule wsd --wsd-block-sizes-up 32,big", "'32,big' is not a list of block sizes"),
        (f"{TEXT} --mask-schedule iid_t --use-block-curriculum", "goes with --mask-schedule wsd, not iid_t"),
        (f"{PAIRS} --batch-size some", "argument --batch-size: invalid int value: 'some'"),
        ("scripts.train.train_dpo_diffusion --data x.jsonl", "required: --load-from"),
        (f"{CHAT} --llada2-no-such-option", "unrecognized arguments: --llada2-no-such-option"),
    ],
)
def test_mistakes_stop_before_anything_runs(translated, line, reason):
    done = translated(line)
    assert (done.status, done.words) == (2, None)
    assert reason in done.err


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            f"{TEXT} --mask-schedule wsd --wsd-block-sizes-up 8,96",
            "block sizes [96] do not divide sequence_length 256; these do: 1, 2, 4, 8, 16, 32, 64, 128, 256",
        ),
        (f"{TEXT} --mask-schedule wsd --wsd-block-sizes-down 0", "block_size must be at least 1, got 0"),
        (
            f"{CHAT} --llada2-enable-block-diffusion --llada2-block-size 48",
            "block sizes [48] do not divide sequence_length 512",
        ),
        (
            f"{CHAT} --llada2-enable-block-diffusion --llada2-alpha-min 0.96",
            "mask rates must satisfy 0 <= mask_rate_min < mask_rate_max <= 1, got 0.96 and 0.95",
        ),
        (f"{PAIRS} --dpo-beta 0", "beta must be positive, got 0.0"),
    ],
)
def test_what_the_library_refuses_reaches_the_user(old, line, reason):
    done = old(line)
    assert done.status == 2
    assert reason in " ".join(done.err.replace("│", " ").split())  # it stands in a box as wide as the terminal


def test_help_names_every_option(translated):
    done = translated("scripts.train.train_dpo_diffusion --help")
    assert (done.status, done.words) == (0, None)
    assert "nano-llada dpo diffusion" in " ".join(done.out.split())
    assert all(word in done.out for word in shlex.split(DPO) if word.startswith("--"))
