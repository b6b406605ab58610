"""The model card of an export: what it says, and that no text from outside means anything in it."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt
from safetensors.torch import load_file, save_file

from nano_llada.checkpoint.files import Checkpoint, model_weights, save_model
from nano_llada.config.card import ModelCard
from nano_llada.config.model import LongRope, YarnScaling
from nano_llada.core.pattern import AttentionPattern
from nano_llada.data.tokenizer import BUNDLED_TOKENIZER, Tokenizer
from nano_llada.evaluation.record import Record, write_records
from nano_llada.interop.page import Reported, page
from nano_llada.model.lean import LeanModel, causal
from nano_llada.model.transformer import Transformer
from tiny import run_cli

EVIL = "<script>alert(1)</script>|`*_[x](javascript:1)\n# heading\x1b[31m"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(BUNDLED_TOKENIZER)


def checkpoint(make_model, tokenizer: Tokenizer, folder: Path, card: ModelCard) -> Checkpoint:
    model = make_model(vocab_size=tokenizer.vocab.size)
    folder.mkdir(parents=True)
    save_model(folder, model_weights(model), model.config, tokenizer, card)
    return Checkpoint(model, tokenizer, card, folder)


def test_texts_from_outside_mean_nothing(make_model, tokenizer, tmp_path):
    card = ModelCard("diffusion", stage="sft", run=EVIL, step=3, objective=EVIL, block_size=4, answer_length=16)
    found = checkpoint(make_model, tokenizer, tmp_path / "run" / "step-000003", card)
    run = {"data": {"data": [f"/home/me/{EVIL}.jsonl", "hf:org/name"], "format": EVIL}, "train": {"steps": EVIL}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(run | {"init_from": f"/home/{EVIL}"}), encoding="utf-8")
    text = page(found, ["sh", "run"], [Reported(EVIL, 0.5, 0.25, 0.75, 10)], licence=EVIL)
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert json.loads(fields["license"]) == EVIL
    assert set(fields) == {"library_name", "pipeline_tag", "tags", "license"}
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert "<script" not in html
    assert "<a " not in html
    assert "\x1b" not in text
    assert [line for line in body.splitlines() if line.startswith("# ")] == [body.splitlines()[1]]
    assert "0.25 to 0.75" in body
    assert "hf:org/name" in body
    assert "/home/me" not in body
    assert "filled to 16 tokens" in body


def test_what_is_not_known_is_said(make_model, tokenizer, tmp_path):
    found = checkpoint(make_model, tokenizer, tmp_path / "alone", ModelCard("ar"))
    text = page(found, ["sh", "run"])
    assert "Not recorded with this checkpoint." in text
    assert "Not measured." in text
    assert "Not stated by whoever exported this model." in text
    assert "was not taught to answer" in text
    assert "license" not in text.split("---")[1]


def test_figures_of_an_evaluation_have_intervals(make_model, tokenizer, tmp_path):
    checkpoint(make_model, tokenizer, tmp_path / "model", ModelCard("ar", stage="sft"))
    values = {"forwards": 2.0, "tokens": 4.0, "ended": 1.0}
    records = [
        Record("tiny", "greedy", "generation", "arithmetic", "en", str(i), values | {"right": float(i % 2)})
        for i in range(40)
    ]
    write_records(tmp_path / "eval" / "records.jsonl", records)
    words = ["export", tmp_path / "model", "--out", tmp_path / "out", "--figures", tmp_path / "eval"]
    status = run_cli(words)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert status == 0
    assert "| figure | value | 95 % interval | examples |" in text
    (line,) = [line for line in text.splitlines() if "exact_match" in line]
    assert "| 0.5 | 0.352 to 0.648 | 40 |" in line  # Wilson's
    records = [replace(record, task=f"task {i % 2}") for i, record in enumerate(records)]
    write_records(tmp_path / "eval" / "records.jsonl", records)
    assert run_cli([*words[:3], tmp_path / "again", *words[4:]]) == 0
    again = (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert [line for line in again.splitlines() if "exact_match" in line] == [line.replace("arithmetic", "all")]
    write_records(tmp_path / "eval" / "records.jsonl", [])
    assert run_cli([*words[:3], tmp_path / "none", *words[4:]]) == 2
    assert not (tmp_path / "none").exists()


def test_hostile_folders(make_model, tokenizer, tmp_path, capsys):
    checkpoint(make_model, tokenizer, tmp_path / "model", ModelCard("ar"))
    assert run_cli(["export", tmp_path / "model", "--out", tmp_path / "theirs"]) == 0
    path = tmp_path / "theirs" / "model.safetensors"
    good, weights = path.read_bytes(), load_file(path)
    name = "model.norm.weight"
    cases = {
        "a huge header": struct.pack("<Q", 2**60) + good[8:],
        "a header of another length": struct.pack("<Q", 7) + good[8:],
        "nothing": b"",
        "cut off": good[:-10],
    }
    for case, data in cases.items():
        path.write_bytes(data)
        assert run_cli(["import", tmp_path / "theirs", "--out", tmp_path / "ours"]) == 2, case
        assert "model.safetensors is corrupt or not a safetensors file" in capsys.readouterr().err
    for change, message in (
        ({name: weights[name] * torch.nan}, "of norm.weight are not finite"),
        ({name: torch.ones(32, dtype=torch.int64)}, "norm.weight holds int64, not floating-point numbers"),
        ({"../../evil": torch.ones(1)}, "have ../../evil, which this backbone does not"),
        ({"\x1b[31m": torch.ones(1)}, "have '\\x1b[31m', which this backbone does not"),
    ):
        save_file(weights | change, path)
        assert run_cli(["import", tmp_path / "theirs", "--out", tmp_path / "ours"]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "theirs"]
    assert not (tmp_path.parent / "evil").exists()


def test_biases_and_scalings_in_the_lean_pass(make_model):
    """The shapes that only imports have, in both forward passes."""
    model = make_model(qkv_bias=True, long_rope=LongRope(4.0, 16))
    with torch.no_grad():
        for block in model.blocks:
            assert not bool(block.attention.qkv.bias.any())  # fresh biases are zero
            block.attention.qkv.bias.normal_(0, 1, generator=torch.Generator().manual_seed(0))
        tokens = torch.randint(6, 24, (1, 20), generator=torch.Generator().manual_seed(1))
        wanted = model(tokens, AttentionPattern("causal"))[0]
        lean = LeanModel.prepare(model)
        found = lean.forward([causal(0, 0, tokens[0].tolist(), range(20))], lean.new_store(1, 32))
        assert torch.allclose(found, wanted, atol=1e-4)
        plain = Transformer(replace(model.config, qkv_bias=False, long_rope=None))
        plain.load_state_dict({n: t for n, t in model.state_dict().items() if not n.endswith("bias")})
        assert not torch.allclose(plain(tokens, AttentionPattern("causal"))[0], wanted, atol=0.1)
    with pytest.raises(ValueError, match="yarn and long_rope both scale"):
        make_model(long_rope=LongRope(), yarn=YarnScaling())
    with pytest.raises(ValueError, match=r"high_turns 1\.0 is not above low_turns 1\.0"):
        LongRope(high_turns=1.0)
