"""Checkpoints in eight bits: small, exact to read, refused by name when broken, and usable by every command."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from nano_llada.api import load
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.checkpoint.merge import merge_checkpoints
from nano_llada.core.errors import UserError
from nano_llada.model.lean import LeanModel, causal
from nano_llada.model.quantised import SCALE, quantise_state
from tiny import family, run_cli

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return family(tmp_path_factory.getbasetemp())


@pytest.fixture(params=["ar-sft", "diffusion-sft"])
def saved(request, done, tmp_path):
    """A trained tiny model as it is, and its folder in eight bits."""
    model = load(done.runs / request.param, "cpu")
    model.save(tmp_path / "int8", quantize="int8")
    return model, tmp_path / "int8"


def test_a_file_holds_bytes_and_reads_as_the_same_integers(saved):
    model, folder = saved
    stored = load_file(folder / WEIGHTS)
    matrices = [name for name, tensor in stored.items() if tensor.dim() == 2]
    assert len(matrices) >= 9
    assert all(stored[name].dtype == torch.int8 for name in matrices)
    read = load(folder, "cpu").model
    again = quantise_state({name: tensor for name, tensor in read.state_dict().items() if name in stored})
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[name], stored[name]) for name in matrices)
    for name, weight in model.model.state_dict().items():
        if name in matrices:
            error = (read.state_dict()[name] - weight).abs().amax(1)
            assert bool((error <= stored[name + SCALE] * (0.5 + 1e-4)).all())
            assert float(error.max()) > 0
        elif name in stored:
            assert torch.equal(read.state_dict()[name], weight)


def test_integers_of_a_file_are_those_that_the_fast_forward_pass_multiplies(saved):
    model, folder = saved
    tokens = list(range(20, 29))
    found = []
    for source in (model.model, load(folder, "cpu").model):
        lean = LeanModel.prepare(source, "int8")
        found.append(lean.forward([causal(0, 0, tokens, range(9))], lean.new_store(1, 9)))
    assert torch.allclose(*found, rtol=1e-5, atol=1e-5)


def test_the_command_and_commands_that_read_its_result(done, tmp_path, capsys):
    out = tmp_path / "small"
    assert run_cli(["quantize", done.runs / "ar", "--out", out]) == 0
    assert "of float32's" in capsys.readouterr().out
    assert (out / WEIGHTS).stat().st_size < 0.4 * (done.runs / "ar" / "step-000003" / WEIGHTS).stat().st_size
    assert run_cli(["generate", out, "--prompt", "Tom has", "--max-new-tokens", 4]) == 0
    assert run_cli(["quantize", done.runs / "ar", "--out", out]) == 2
    assert "exists already" in capsys.readouterr().err
    merged = merge_checkpoints([out], tmp_path / "merged")
    one, two = (load_checkpoint(path).model.state_dict() for path in (out, merged))
    assert all(torch.equal(one[name], two[name]) for name in one)


def broken(stored, name, value):
    return {**stored, name: value}


WRONG = {
    "lacks norm.weight": lambda s: {n: t for n, t in s.items() if n != "norm.weight"},
    "lacks embed.weight.scale": lambda s: {n: t for n, t in s.items() if n != "embed.weight" + SCALE},
    "has other.weight": lambda s: broken(s, "other.weight", torch.ones(2)),
    "embed.weight is torch.float32, eight-bit weights have torch.int8": lambda s: broken(
        s, "embed.weight", s["embed.weight"].float()
    ),
    "scale that is not a positive number": lambda s: broken(
        s, "embed.weight" + SCALE, s["embed.weight" + SCALE] * math.nan
    ),
    "embed.weight.scale is (1,)": lambda s: broken(s, "embed.weight" + SCALE, torch.ones(1)),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_broken_file_is_refused_by_name(saved, message):
    _, folder = saved
    save_file(WRONG[message](load_file(folder / WEIGHTS)), folder / WEIGHTS)
    (folder / "checksums.json").unlink()
    with pytest.raises(UserError) as caught:
        load(folder, "cpu")
    assert message in str(caught.value)


def test_another_kind_is_refused(saved, tmp_path):
    model, _ = saved
    with pytest.raises(UserError, match="int4"):
        model.save(tmp_path / "new", quantize="int4")
    assert not (tmp_path / "new").exists()
