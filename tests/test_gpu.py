"""The script for a GPU works at toy size on a CPU, so that it works the first time a GPU is there."""

from __future__ import annotations

import hashlib
import json

import torch
from benchmarks import gpu
from safetensors.torch import load


def test_the_whole_script_runs_at_toy_size(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PIECE", 100_000)
    monkeypatch.setattr(gpu.hardware, "matmul_rate", lambda machine: 1e11)
    pack, out = tmp_path / "pack", tmp_path / "out"
    assert gpu.main(["pack", "--out", str(pack), "--documents", "60"]) == 0
    words = ["run", "--pack", str(pack), "--out", str(out), "--device", "cpu", "--toy", "--minutes", "1"]
    assert gpu.main(words) == 0
    figures = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    parts = {"attention", "precision", "ddp", "decoded tokens", "training toy", "decoding", "pair"}
    assert parts < figures.keys()
    assert all("error" not in figures[part] for part in parts)
    assert all(row["mfu"] > 0 for row in figures["training toy"]["found"])
    for name in ("ar", "block"):
        found = figures["pair"]["found"][name]
        assert found["steps"] == 3
        assert len(found["pieces"]) > 1
        pieces = [(out / f"weights-{name}" / piece).read_bytes() for piece in found["pieces"]]
        assert [hashlib.sha256(piece).hexdigest() for piece in pieces] == list(found["pieces"].values())
        assert max(map(len, pieces)) <= 100_000
        assert all(bool(tensor.isfinite().all()) for tensor in load(b"".join(pieces)).values())


def test_a_part_that_fails_is_written_down_and_the_next_begins(tmp_path):
    bench = gpu.Bench(gpu.hardware.Machine(torch.device("cpu"), torch.float32, "cpu"), tmp_path, tmp_path, 60.0, True)
    bench.part("broken", lambda b: 1 / 0)
    bench.part("whole", lambda b: b.left > 0)
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert found["broken"]["error"] == "ZeroDivisionError: division by zero"
    assert found["whole"]["found"] is True


def test_run_without_a_pack_says_what_is_missing(tmp_path, capsys):
    assert gpu.main(["run", "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert "run needs the --pack" in capsys.readouterr().err
