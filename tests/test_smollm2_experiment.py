"""The experiment on SmolLM2 at toy size: a model of ours in its place, from a GGUF file to the page."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from experiments import smollm2
from experiments.options_measuring import Smollm2

from mixed import mixed
from nano_llada.checkpoint.files import model_weights, save_model
from nano_llada.config.card import ModelCard
from nano_llada.config.model import ModelConfig
from nano_llada.data.tokenizer import train_bpe
from nano_llada.interop.export import export_gguf
from nano_llada.model.transformer import Transformer
from tiny import chats, read_lines, texts

pytestmark = pytest.mark.untraced  # experiments/ is not in the package whose coverage is measured
for library in ("transformers", "lm_eval", "datasets", "gguf"):
    pytest.importorskip(library)


def rows(path: Path, found: list[dict]) -> None:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def options(tmp_path) -> Smollm2:
    said = [row["text"] for row in texts()]
    tokenizer = train_bpe([*mixed(), *said], vocab_size=400)
    shape = ModelConfig(
        vocab_size=400, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=96, qk_norm=False
    )
    model, rng = Transformer(shape).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.1, generator=rng)
    (tmp_path / "start").mkdir()
    save_model(tmp_path / "start", model_weights(model), shape, tokenizer, ModelCard("ar", stage="sft"))
    export_gguf(tmp_path / "start", tmp_path / "file", "f32")
    data = tmp_path / "data"
    (data / "eval").mkdir(parents=True)
    rows(data / "pretrain_en.jsonl.gz", texts())
    rows(data / "sft_en.jsonl.gz", chats())
    rows(data / "eval" / "val_en.jsonl", texts())
    rows(data / "eval" / "sft_val_en.jsonl", [{"conversations": row["messages"]} for row in chats()])
    asked = [
        {"id": f"{task}/{i}", "question": said[2 * i + 1], "choices": ["a ball", "two", "red cats"], "answer": i % 3}
        | {"source": task, "lang": "en"}
        for task in ("first", "second")
        for i in range(4)
    ]
    rows(data / "eval" / "mc_en.jsonl", asked)
    return Smollm2(
        model=tmp_path / "file" / "model-f32.gguf",
        data=data,
        tasks=("first", "second"),
        items=3,
        runs=tmp_path / "runs",
        docs=tmp_path / "docs",
        ar_steps=1,
        text_steps=2,
        block_steps=1,
        prompts=5,
        texts=6,
        samples=2,
        threads=1,
    )


def test_from_the_file_to_the_page(options):
    assert smollm2.run(options) is True
    folder = options.docs / "smollm2"
    found = {row["variant"]: row["metrics"] for row in read_lines(folder / "results.jsonl")}
    assert tuple(found) == ("import", "choices", *smollm2.STAGES, "export", "choices-after")
    first = found["import"]
    assert first["prompts"] == first["same_tokens"] == 5
    assert first["same_argmax"] == first["tokens"] > 20
    assert 0 < first["worst_relative_difference"] < 1e-4
    for one in found["choices"].values():
        assert one["items"] == one["same_choice"] == one["same_choice_norm"] == 3
        assert one["accuracy_sum"] == one["harness_accuracy_sum"]
        assert 0 < one["largest_difference"] < 1e-4
    for name in ("ar-sft", "texts", "blocks"):
        assert found[name]["base_bits_equal"] is True
        assert found[name]["train_tokens"] > 0
    assert found["base"]["masked_tokens"] == found["blocks"]["masked_tokens"] > 40
    assert found["base"]["masked_loss"] != found["blocks"]["masked_loss"]
    assert {one["way"] for one in found["blocks"]["samples"]} == {"ar", "block", "speculative"}
    exported = found["export"]
    assert exported["worst_relative_difference"] < 1e-4
    assert exported["same_ar_texts"] == exported["ar_texts"] == 2
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert "| first | 3 | 3 | 3 |" in page
    assert (folder / "distance.png").is_file()
    assert smollm2.run(options) is True  # nothing is measured twice
    assert len(read_lines(folder / "results.jsonl")) == len(found)
