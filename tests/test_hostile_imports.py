"""What may stand in place of a file of an import: pipes, devices, links to nowhere and to themselves, folders.

Damaged contents are tested with their formats: test_export_page.py and test_hugging_face.py (folders of transformers,
adapters), test_llama_cpp.py (GGUF), test_torch_files.py (.pt).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from nano_llada.checkpoint.files import model_weights, save_model
from nano_llada.config.card import ModelCard
from nano_llada.data.tokenizer import train_bpe
from tiny import run_cli

KINDS = ("pipe", "device", "folder", "loop", "nowhere", "nothing")


def put(path: Path, kind: str) -> None:
    """Something else in place of a file."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "nothing":
        path.write_bytes(b"")
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path.name, "nowhere": "nowhere"}[kind])


@pytest.fixture(scope="module")
def sources(tmp_path_factory, make_model) -> Path:
    """A folder of transformers in shards, a GGUF file, a .pt file and adapters."""
    root = tmp_path_factory.mktemp("sources")
    tokenizer = train_bpe(["user assistant system hello there"], vocab_size=300)
    model = make_model(vocab_size=300)
    (root / "own").mkdir()
    save_model(root / "own", model_weights(model), model.config, tokenizer, ModelCard("ar"))
    assert run_cli(["export", root / "own", "--out", root / "hf"]) == 0
    (root / "hf" / "model.safetensors").rename(root / "hf" / "a.safetensors")
    index = {"weight_map": {"model.norm.weight": "a.safetensors"}}
    (root / "hf" / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (root / "gguf").mkdir()
    (root / "gguf" / "model.gguf").write_bytes(b"GGUF")
    (root / "pt").mkdir()
    (root / "pt" / "model.pt").write_bytes(b"PK")
    tokenizer.save(root / "pt")
    (root / "adapter").mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": str(root / "own")}
    (root / "adapter" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    (root / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    return root


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and devices are files on POSIX systems")
@pytest.mark.parametrize(
    ("kind", "file"),
    [
        *[("hf", name) for name in ("config.json", "tokenizer.json", "model.safetensors.index.json", "a.safetensors")],
        *[("gguf", "model.gguf"), ("pt", "model.pt"), ("pt", "tokenizer.json")],
        *[("adapter", "adapter_config.json"), ("adapter", "adapter_model.safetensors")],
    ],
)
def test_what_is_not_a_file_is_refused_and_nothing_is_written(tmp_path, sources, capsys, kind, file):
    def hung(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, hung)
    for what in KINDS:
        place = tmp_path / "given"
        shutil.copytree(sources / kind, place)
        put(place / file, what)
        source = place / {"gguf": "model.gguf", "pt": "model.pt"}.get(kind, "")
        signal.alarm(60)
        assert run_cli(["import", source, "--out", tmp_path / "out"]) == 2, what
        signal.alarm(0)
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert "given" in said, what  # it names the file or its folder
        assert [entry.name for entry in tmp_path.iterdir()] == ["given"]
        shutil.rmtree(place)
    signal.signal(signal.SIGALRM, before)
