"""Merging checkpoints: the mean is the mean, only what belongs together is merged, and nothing is overwritten."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nano_llada.checkpoint.files import load_checkpoint, model_weights, save_model
from nano_llada.checkpoint.merge import best_checkpoints, merge_checkpoints, validation_loss
from nano_llada.config.card import MergedPart, ModelCard
from nano_llada.config.model import ModelConfig
from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import Tokenizer, train_characters
from nano_llada.model.transformer import Transformer
from nano_llada.session.run import execute
from tiny import Place, family, make_place, run_cli, tiny_run

TYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_characters(["Tom has a red ball. 汤姆有一个红色的球。"])


def save(
    folder: Path,
    tokenizer: Tokenizer,
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    track: str = "diffusion",
    info: Mapping[str, Any] | None = None,
    **shape: Any,
) -> Path:
    """A random model's checkpoint."""
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "max_length": 64} | shape
    config = ModelConfig(vocab_size=tokenizer.vocab.size, **sizes)
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(seed))
    folder.mkdir(parents=True)
    weights = {name: tensor.to(dtype) for name, tensor in model_weights(model).items()}
    weights["norm.weight"][0] = -0.0
    save_model(folder, weights, config, tokenizer, ModelCard(track, **(info or {"stage": "sft", "step": seed})))
    return folder


def measured(folder: Path, losses: Mapping[str, float]) -> None:
    (folder / "training.json").write_text(json.dumps({"validation_losses": losses}), encoding="utf-8")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def info(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model.json").read_text(encoding="utf-8"))["card"]


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("copies", [1, 3])
def test_the_mean_of_a_model_and_itself_is_that_model_bit_for_bit(tmp_path, tokenizer, dtype, copies):
    folders = [save(tmp_path / f"model-{i}", tokenizer, dtype=dtype) for i in range(copies)]
    merged, before = weights(merge_checkpoints(folders, tmp_path / "merged")), weights(folders[0])
    assert merged.keys() == before.keys()
    assert all(torch.equal(bits(merged[name]), bits(before[name])) for name in before)
    assert merged["norm.weight"][0].signbit()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_weights_are_the_mean_in_the_types_they_had(tmp_path, tokenizer, dtype, tied, count):
    folders = [save(tmp_path / f"{i}", tokenizer, i, dtype=dtype, tie_embeddings=tied) for i in range(count)]
    output = merge_checkpoints(folders, tmp_path / "out" / "merged")
    assert output == tmp_path / "out" / "merged"
    merged, parts = weights(output), [weights(folder) for folder in folders]
    assert ("head.weight" in merged) == (not tied)
    assert merged.keys() == parts[0].keys()
    for name, tensor in merged.items():
        mean = torch.stack([part[name].float() for part in parts]).mean(0)
        assert tensor.dtype == dtype
        torch.testing.assert_close(tensor, mean.to(dtype))
    assert not torch.equal(merged["embed.weight"], parts[0]["embed.weight"])
    model = load_checkpoint(output).model
    assert (model.head.weight is model.embed.weight) == tied


def test_many_halves_are_not_rounded_on_the_way(tmp_path, tokenizer):
    folders = [save(tmp_path / f"{i}", tokenizer, i, dtype=torch.bfloat16) for i in range(9)]
    merged = weights(merge_checkpoints(folders, tmp_path / "merged"))
    for name, tensor in merged.items():
        exact = torch.stack([weights(folder)[name].double() for folder in folders]).mean(0)
        assert torch.equal(tensor, exact.to(torch.bfloat16))


def test_the_info_is_the_firsts_and_says_where_the_weights_are_from(tmp_path, tokenizer):
    first = {"stage": "sft", "step": 6, "tokens": 70, "run": "a", "answer_length": 16}
    run = tmp_path / "run"
    folders = [
        save(run / "step-000006", tokenizer, 6, info=first),
        save(run / "step-000009", tokenizer, 9, info={"stage": "sft", "step": 9, "tokens": 90, "run": "a"}),
        save(tmp_path / "imported", tokenizer, 1, info={"stage": "pretrain", "step": 0}),
    ]
    measured(folders[0], {"step-000003": 0.5, "step-000006": 1.25})
    measured(folders[1], {"step-000006": 1.25})
    output = merge_checkpoints(folders, tmp_path / "merged")
    loaded = load_checkpoint(output)
    parts = (
        MergedPart("step-000006", "a", 6, 1.25),
        MergedPart("step-000009", "a", 9),
        MergedPart("imported", None, 0),
    )
    assert loaded.card == ModelCard("diffusion", **(first | {"tokens": 90, "merged_from": parts}))
    assert (loaded.card.track, loaded.tokenizer.hash) == ("diffusion", tokenizer.hash)
    assert load_checkpoint(merge_checkpoints(folders[2:], tmp_path / "alone")).card.tokens is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_layers": 3, "max_length": 32}, "num_layers is 2 and 3, max_length is 64 and 32"),
        ({"tie_embeddings": True}, "tie_embeddings is False and True"),
        ({"track": "ar"}, "track is diffusion and ar"),
    ],
)
def test_only_models_of_one_kind_are_merged(tmp_path, tokenizer, other, message):
    same = [save(tmp_path / f"{i}", tokenizer, i) for i in range(2)]
    odd = save(tmp_path / "odd", tokenizer, **other)
    with pytest.raises(UserError) as caught:
        merge_checkpoints([*same, odd], tmp_path / "merged")
    assert str(caught.value) == f"{same[0]} and {odd} cannot be merged: {message}"
    assert not (tmp_path / "merged").exists()


def test_another_tokenizer_of_the_same_size_is_told(tmp_path, tokenizer):
    other = train_characters(["Tom has a red ball. 汤姆有一个红色的碗。"])
    assert other.vocab.size == tokenizer.vocab.size
    one, two = save(tmp_path / "one", tokenizer), save(tmp_path / "two", other)
    with pytest.raises(UserError) as caught:
        merge_checkpoints([one, two], tmp_path / "merged")
    assert f"{one} and {two} cannot be merged: tokenizer hash is {tokenizer.hash} and {other.hash}" == str(caught.value)


def test_what_cannot_be_merged_is_refused(tmp_path, tokenizer):
    step = save(tmp_path / "run" / "step-000001", tokenizer)
    (tmp_path / "there").mkdir()
    for folders, output, message in (
        ([], "merged", "nothing to merge"),
        ([step], "there", "there exists already; give the name of a new folder"),
        ([step, tmp_path / "run"], "merged", "step-000001 is given twice"),
        ([step, tmp_path / "run" / ".." / "run" / "step-000001"], "merged", "step-000001 is given twice"),
        ([step, tmp_path / "nowhere"], "merged", "there is no such file or folder"),
    ):
        with pytest.raises(UserError, match=message):
            merge_checkpoints(folders, tmp_path / output)
    (step / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(UserError, match="corrupt"):
        merge_checkpoints([step], tmp_path / "merged")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "there"}


def test_the_best_are_those_of_lowest_loss_that_are_still_there(tmp_path, tokenizer):
    losses = {"step-000001": 0.1, "step-000002": 2.0, "step-000004": 1.0, "step-000010": 3.0}
    for step in (2, 4, 6, 10):
        folder = save(tmp_path / f"step-{step:06d}", tokenizer, step)
        measured(folder, {name: loss for name, loss in losses.items() if name <= folder.name})
    assert validation_loss(tmp_path / "step-000006") is None
    for k, steps in ((1, [4]), (2, [4, 2]), (3, [4, 2, 10])):
        assert [int(path.name[5:]) for path in best_checkpoints(tmp_path, k)] == steps
    with pytest.raises(UserError, match=r"holds 3 of the 4 checkpoints .* --keep-best 4, which keeps them"):
        best_checkpoints(tmp_path, 4)
    with pytest.raises(UserError, match="top_k must be at least 1, got 0"):
        best_checkpoints(tmp_path, 0)


def test_without_losses_there_is_no_best(tmp_path, tokenizer):
    folder = save(tmp_path / "step-000001", tokenizer)
    with pytest.raises(UserError, match="holds 0 of the 1 checkpoints with a validation loss"):
        best_checkpoints(tmp_path, 1)
    with pytest.raises(UserError, match="no step-N folder in"):
        best_checkpoints(folder, 1)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Place:
    """The tiny family; to be read only."""
    return family(tmp_path_factory.getbasetemp())


def test_a_run_keeps_its_best_and_the_command_merges_them(tmp_path, capsys):
    place = make_place(tmp_path)
    config = tiny_run(place, name="x", steps=5, eval_every=1, save_every=1, keep_best=3, keep_last=1)
    assert execute(config).state == "finished"
    run, output = place.runs / "x", tmp_path / "merged"
    best = best_checkpoints(run, 3)
    assert json.loads((run / "best.json").read_text(encoding="utf-8"))["checkpoint"] == best[0].name
    capsys.readouterr()
    assert run_cli(["merge", run, "--top-k", 3, "--output", output]) == 0
    out = capsys.readouterr().out
    shown = re.findall(r"(step-\d+): validation loss (\S+)", out)
    assert shown == [(path.name, f"{validation_loss(path):.4f}") for path in best]
    mean = torch.stack([weights(path)["embed.weight"] for path in best]).mean(0)
    torch.testing.assert_close(weights(output)["embed.weight"], mean)
    assert info(output)["tokens"] == max(info(path)["tokens"] for path in best)
    assert run_cli(["merge", run, "--top-k", 6, "--output", tmp_path / "more"]) == 2
    assert "--keep-best 6" in capsys.readouterr().err


def test_the_command_merges_checkpoints_that_then_write_text(done, tmp_path, capsys):
    steps = [done.runs / "ar" / f"step-00000{step}" for step in (2, 3)]
    output = tmp_path / "merged"
    assert run_cli(["merge", *steps, "--output", output]) == 0
    assert f"the mean of these 2 is in {output}" in capsys.readouterr().out
    assert [part["name"] for part in info(output)["merged_from"]] == ["step-000002", "step-000003"]
    words = ["generate", output, "--prompt", "Tom has", "--max-new-tokens", 5, "--min-new-tokens", 5, "--json-lines"]
    assert run_cli([*words, "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 5


def test_mistakes_at_the_command_are_told(done, tmp_path, capsys):
    ar, diffusion = done.runs / "ar", done.runs / "diffusion"
    for words, message in (
        ([ar], "is only one checkpoint: give several, or --top-k K for a run"),
        ([ar, diffusion, "--top-k", 2], "--top-k chooses among the checkpoints of one run, but 2 folders are given"),
        ([ar, diffusion], "cannot be merged: track is ar and diffusion"),
        (["--checkpoints"], "nothing to merge"),
    ):
        assert run_cli(["merge", *words, "--output", tmp_path / "merged"]) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
