"""The ablation's models at a tiny size: what the experiments of LLaDA 2.1 start from."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from experiments import editing, llada2_ablation
from experiments.llada2_ablation import SKILLS
from experiments.options import Llada2Ablation

from nano_llada.config.data import DataConfig
from nano_llada.config.model import ModelConfig
from nano_llada.world.files import write_world
from tiny import SHAPE

STEPS = {"ar_steps": 1, "ar_sft_steps": 1, "pretrain_steps": 1, "sft_steps": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a small world, in which the ablation's models are made once, by the first test that needs them."""
    root = tmp_path_factory.mktemp("llada21")
    write_world(root / "models" / "world", documents_count=60, chats_count=60, skills=SKILLS, seed=0)
    return root


@pytest.fixture(autouse=True)
def tiny_models(root, monkeypatch):
    monkeypatch.setattr(llada2_ablation, "ModelConfig", lambda **_: ModelConfig(**SHAPE))
    monkeypatch.setattr(llada2_ablation, "DataConfig", functools.partial(DataConfig, cache=root / "cache"))
    monkeypatch.setattr(editing, "Llada2Ablation", functools.partial(Llada2Ablation, **STEPS))


@pytest.fixture
def models(root) -> Path:
    assert editing.complete(editing.wsd_stages(root / "models", 0, 1))
    return root / "models"
