"""Archives of `torch.save` read without an unpickler: the same tensors, and nothing that a hostile file asks for."""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import pathlib
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from nano_llada.core.errors import UserError
from nano_llada.interop.torch_files import MOST_PICKLE_BYTES, Opaque, StoredTensor, TorchFile


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def archive(path: Path, program: bytes, entries: dict[str, bytes] | None = None, **options) -> Path:
    """A file that looks like one of torch.save, with any pickle and any entries."""
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("model/data.pkl", program)
        for name, data in (entries or {}).items():
            file.writestr(name, data)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        TorchFile(path)
    return str(caught.value)


def short(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def number(value: int) -> bytes:
    return b"\x8a" + bytes([8]) + struct.pack("<q", value)


def tensor_program(count: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle of {"w": a tensor} as torch writes it, with numbers of one's own."""
    storage = b"(" + short("storage") + b"ctorch\nFloatStorage\n" + short("0") + short("cpu") + number(count) + b"tQ"
    sizes = [b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (shape, stride)]
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + b"".join(sizes) + b"\x89"
    return b"\x80\x02}" + short("w") + tensor + b"ccollections\nOrderedDict\n)RtRs."


def test_what_torch_saves_is_read_back(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "plain": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
        "turned": base.t(),
        "piece": base[1:3, 2:5],
        "half": torch.ones(7, dtype=torch.float16) / 3,
        "bfloat": torch.ones(2, 2, dtype=torch.bfloat16) / 3,
        "double": torch.ones(1, dtype=torch.float64) / 3,
        "whole": torch.arange(5),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    state = collections.OrderedDict(tensors)
    state._metadata = collections.OrderedDict(version=1)
    options = {
        "lr": 3e-4,
        "name": "名",
        "none": None,
        "on": True,
        "big": 10**30,
        "pair": (1, "a"),
        "list": [1.5] * 2000,
    }
    saved = {"model_state_dict": state, "args": options, "step": 7, -1: "key"}
    for protocol in (2, 4):
        torch.save(saved, tmp_path / "a.pt", pickle_protocol=protocol)
        file = TorchFile(tmp_path / "a.pt")
        assert file.content["args"] == options
        assert (file.content["step"], file.content[-1]) == (7, "key")
        assert file.content["model_state_dict"].keys() == tensors.keys()
        for name, tensor in tensors.items():
            back = file.read(file.content["model_state_dict"][name])
            assert back.dtype == tensor.dtype
            assert back.shape == tensor.shape
            assert torch.equal(back, tensor)
            assert back.is_contiguous()


def test_the_state_of_a_training_run_is_read(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "namespace": argparse.Namespace(a=1)}
    torch.save(state | {"where": pathlib.PurePosixPath("x").joinpath() and pathlib.Path("x")}, tmp_path / "a.pt")
    file = TorchFile(tmp_path / "a.pt")
    assert isinstance(file.content["namespace"], Opaque)
    assert isinstance(file.content["where"], Opaque)
    first = file.content["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(file.read(first), optimizer.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize(
    "payload",
    [
        Call(os.system, "touch ran"),
        Call(eval, "open('ran', 'w')"),
        Call(exec, "open('ran', 'w')"),
        Call(os.mkdir, "ran"),
        Call(getattr, "text", "upper"),
        Call(torch.load, "ran"),
        Call(torch._utils._rebuild_tensor_v2, Call(os.mkdir, "ran"), 0, (1,), (1,), False, {}),
        Call(collections.OrderedDict, Call(os.mkdir, "ran")),
        Call(collections.defaultdict, Call(os.mkdir, "ran")),
        Call(Call, os.mkdir, "ran"),
        [{"model": [({"a": Call(os.mkdir, "ran")},)]}],
        {"w": torch.ones(2), "lr": Call(os.mkdir, "ran")},
        nn.Linear(2, 2),
    ],
    ids=lambda payload: type(payload).__name__,
)
def test_no_code_runs(tmp_path, monkeypatch, payload):
    monkeypatch.chdir(tmp_path)
    torch.save(payload, "evil.pt")
    before = set(os.listdir())
    assert "is refused" in complaint(Path("evil.pt"))
    assert set(os.listdir()) == before
    plain = pickle.dumps(payload, 4) if not isinstance(payload, dict | nn.Module) else b"\x80\x04cos\nsystem\n."
    assert "is refused" in complaint(archive(Path("evil.pt"), plain))
    assert set(os.listdir()) == before


@pytest.mark.parametrize("protocol", range(6))
def test_no_protocol_runs_code(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    program = pickle.dumps({"a": Call(os.mkdir, "ran")}, protocol)
    assert "Nothing in it was run" in complaint(archive(Path("evil.pt"), program))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cos\nsystem\n(X\x09\x00\x00\x00touch rantR.",  # a call, written by hand
        b"\x80\x02(cos\nsystem\nX\x09\x00\x00\x00touch rano.",  # OBJ
        b"(S'touch ran'\nios\nsystem\n.",  # INST
        b"\x80\x02cbuiltins\n__import__\n.",
        b"\x80\x02\x82\x01.",  # an extension
        b"\x80\x05\x97.",  # a buffer outside the pickle
        b"Pposix\n.",  # a persistent id as text
        b"\x80\x02X\x01\x00\x00\x00aQ.",  # a persistent id that is not a storage
        b"\x80\x02}q\x00cos\nsystem\nb.",  # state for a dict, from a global
    ],
)
def test_opcodes_that_could_do_something_are_refused(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    assert "is refused" in complaint(archive(Path("evil.pt"), program))
    assert os.listdir() == ["evil.pt"]


@pytest.mark.parametrize(
    ("count", "offset", "shape", "stride", "reason"),
    [
        (4, 0, (2**40,), (0,), "does not fit into its storage of 4 elements"),  # expanded without bytes behind it
        (4, 0, (2**31, 2**31), (1, 1), "does not fit"),
        (4, 0, (5,), (1,), "does not fit"),
        (4, 2, (3,), (1,), "does not fit"),
        (4, 0, (2, 2), (4, 1), "does not fit"),
        (4, -1, (2,), (1,), "not made of whole numbers"),
        (4, 0, (-2,), (1,), "not made of whole numbers"),
        (4, 0, (2,), (-1,), "not made of whole numbers"),
        (4, 0, (2, 2), (1,), "not made of whole numbers"),
        (4, 0, (1,) * 9, (1,) * 9, "not made of whole numbers"),
        (2**40, 0, (2,), (1,), "claims 1,099,511,627,776 elements of 4 bytes, and has 16"),
        (3, 0, (2,), (1,), "claims 3 elements of 4 bytes, and has 16"),
    ],
)
def test_shapes_are_checked_before_anything_is_allocated(tmp_path, count, offset, shape, stride, reason):
    program = tensor_program(count, offset, shape, stride)
    path = archive(tmp_path / "a.pt", program, {"model/data/0": bytes(16)})
    assert reason in complaint(path)


def test_the_program_of_these_tests_is_what_torch_reads(tmp_path):
    data = struct.pack("<4f", 1, 2, 3, 4)
    path = archive(tmp_path / "a.pt", tensor_program(4, 1, (3,), (1,)), {"model/data/0": data, "model/version": b"3\n"})
    file = TorchFile(path)
    assert file.content == {"w": StoredTensor("model/data/0", torch.float32, (3,), (1,), 1)}
    assert file.read(file.content["w"]).tolist() == [2, 3, 4]
    assert torch.load(path, weights_only=True)["w"].tolist() == [2, 3, 4]


@pytest.mark.parametrize("name", ["../evil", "model/../../evil", "/etc/evil", "\\evil", "a\\..\\..\\evil"])
def test_entries_outside_the_archive_are_refused(tmp_path, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = archive(inner / "a.pt", b"\x80\x02}.", {name: b"x"})
    assert "points outside the archive" in complaint(path)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["a.pt", "inner"]


def test_bombs_and_damage(tmp_path):
    path = tmp_path / "a.pt"
    bomb = archive(path, b"\x80\x02}.", {"model/data/0": bytes(10**6)}, compression=zipfile.ZIP_DEFLATED)
    assert "is compressed or encrypted" in complaint(bomb)
    assert "at most 16,777,216" in complaint(archive(path, b"\x80\x02}." + bytes(MOST_PICKLE_BYTES)))
    assert "holds code" in complaint(archive(path, b"\x80\x02}.", {"model/constants.pkl": b""}))
    assert "big-endian" in complaint(archive(path, b"\x80\x02}.", {"model/byteorder": b"big"}))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other.txt", "x")
    assert "without data.pkl" in complaint(path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive(path, b"\x80\x02}.", {"model/data.pkl": b"\x80\x02cos\nsystem\n."})
    assert "two entries called" in complaint(twice)
    for program in (b"", b"\x80\x02", b"\x80\x02.", b"\x80\x02h\x05.", b"\x80\x02t.", b"\x80\x02(s.", b"\x80\x02]a."):
        assert "is damaged" in complaint(archive(path, program))
    nested = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    assert isinstance(TorchFile(archive(path, nested)).content, list)  # nothing recurses
    deep = b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns."
    assert "has a key of type tuple" in complaint(archive(path, deep))  # whose hash would recurse
    assert "cannot be read: No such file" in complaint(tmp_path / "missing.pt")
    path.write_bytes(pickle.dumps({"w": 1}))
    assert "is a pickle file" in complaint(path)
    saved = io.BytesIO()
    torch.save({"w": torch.ones(2)}, saved, _use_new_zipfile_serialization=False)
    path.write_bytes(saved.getvalue())
    assert "save it again with a newer torch" in complaint(path)


FRAGMENTS = (
    *(b"cos\nmkdir\n", b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nFloatStorage\n", b"cpathlib\nPosixPath\n"),
    *(b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\ndefaultdict\n"),
    *(b"(", b")", b"t", b"R", b"b", b"\x81", b"\x92", b"o", b"}", b"]", b"a", b"e", b"s", b"u", b"Q", b"0", b"1", b"2"),
    *(b"X\x03\x00\x00\x00ran", b"\x8c\x03ran", b"\x8c\x02os", b"\x8c\x05mkdir", b"\x93", b"\x85", b"\x86", b"\x87"),
    *(b"K\x01", b"N", b"\x88", b"q\x00", b"h\x00", b"\x94", b"(S'ran'\nios\nmkdir\n", b"."),
)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from(FRAGMENTS), max_size=12), head=st.sampled_from([b"\x80\x02", b"\x80\x04", b""]))
def test_no_program_does_anything(tmp_path, monkeypatch, pieces, head):
    monkeypatch.chdir(tmp_path)
    path = archive(Path("a.pt"), head + b"".join(pieces) + b".")
    with contextlib.suppress(UserError):
        TorchFile(path)
    assert os.listdir() == ["a.pt"]


def test_every_truncation_and_every_flipped_byte_is_a_plain_error_or_harmless(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.arange(6.0), "args": {"a": [1, 2, (3,)]}}, path)
    data = path.read_bytes()
    assert len(data) < 4000
    read = 0
    for place in range(0, len(data), 3):
        for changed in (data[:place], data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]):
            path.write_bytes(changed)
            try:
                file = TorchFile(path)
                if isinstance(file.content, dict) and isinstance(file.content.get("w"), StoredTensor):
                    read += torch.equal(file.read(file.content["w"]), torch.arange(6.0))
            except UserError:
                continue
    assert read > 10  # padding between entries does not matter
