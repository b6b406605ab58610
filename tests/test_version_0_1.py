"""What version 0.1.0 wrote is still read: run folders, configs, checkpoints, recipes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import nano_llada
from nano_llada.checkpoint.files import find_checkpoint, load_checkpoint, read_tensors
from nano_llada.config.card import ModelCard
from nano_llada.config.record import from_plain, read_config
from nano_llada.config.run import RunConfig
from nano_llada.session.run import execute, finished
from tiny import run_cli

OLD = Path(__file__).parent / "fixtures" / "run-0.1.0"
CARDS = {
    "ar": ModelCard("ar", "pretrain", "ar", 3, 608),
    "blocks": ModelCard("diffusion", "pretrain", "blocks", 3, 608, block_size=8, edits=True),
    "blocks-sft": ModelCard("diffusion", "sft", "blocks-sft", 3, 608, answer_length=16, block_size=8, fill_multiple=8),
    "ar-sft": ModelCard("ar", "sft", "ar-sft", 3, 608),
    "ar-dpo": ModelCard("ar", "dpo", "ar-dpo", 3, 608),
}


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """A copy of the folder in which 0.1.0 worked, as the working folder."""
    folder = shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", CARDS)
def test_checkpoints_load_with_a_typed_card(old, name):
    checkpoint = load_checkpoint(Path("runs") / name)
    info = json.loads((checkpoint.folder / "model.json").read_text(encoding="utf-8"))["info"]
    assert checkpoint.card.tokens == info["tokens"]
    wanted = vars(CARDS[name]) | {"tokens": info["tokens"]}
    assert vars(checkpoint.card) == wanted


@pytest.mark.parametrize("name", CARDS)
def test_configs_are_read_and_runs_count_as_finished(old, name):
    path = Path("runs") / name / "config.json"
    config = from_plain(RunConfig, read_config(path), where=str(path))
    assert (config.name, config.stage) == (name, CARDS[name].stage)
    assert finished(config)


def test_a_model_decodes_the_text_that_0_1_0_decoded(old):
    found = nano_llada.load(Path("runs") / "blocks-sft").generate("What has Tom?", max_new_tokens=8)
    assert (found.text, found.finish, found.tokens, found.forwards) == ("   BB� �", "length", 8, 8)


def test_a_run_can_be_resumed(old):
    path = Path("runs/blocks/config.json")
    config = from_plain(RunConfig, read_config(path), where=str(path))
    before = read_tensors(find_checkpoint(Path("runs/blocks")) / "model.safetensors")
    assert execute(config, resume=True).state == "finished"
    after = read_tensors(find_checkpoint(Path("runs/blocks")) / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(bool((before[name] == after[name]).all()) for name in before)


def test_training_starts_from_an_old_checkpoint(old):
    words = "sft diffusion --data chat.jsonl --init-from runs/blocks --name new --steps 1 --batch-size 2 --eos-fill 16"
    shape = "--sequence-length 64 --device cpu --threads 1 --validation-share 0.1 --cache cache --warmup-steps 1"
    assert run_cli([*words.split(), *shape.split()]) == 0
    assert nano_llada.load("runs/new").card.objective == "Denoising"
