"""What a run writes down survives a kill: lines of steps that will be taken again are forgotten, cut lines too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nano_llada.training.log import RunLog, forget_after, read_metrics
from tiny import read_lines


def write(path: Path, *steps: int, cut: bytes = b"") -> None:
    lines = [json.dumps({"step": step, "text": "汤\u2028姆"}, ensure_ascii=False) + "\n" for step in steps]
    path.write_bytes("".join(lines).encode() + cut)


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
@pytest.mark.parametrize("cut", [b"", b'{"st', b"{}", '{"step": 3, "text": "汤'.encode()[:-1]])
def test_lines_after_the_step_are_forgotten(tmp_path, name, cut):
    write(tmp_path / name, 1, 2, 2, 3, 4, cut=cut)
    forget_after(tmp_path, 2)
    kept = (tmp_path / name).read_bytes()
    write(tmp_path / name, 1, 2, 2)
    assert (tmp_path / name).read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == [name]  # and no file appears that was not there


def test_a_log_starts_where_the_run_does_and_knows_its_samples(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    write(tmp_path / "samples.jsonl", 2, 3)
    log = RunLog(tmp_path, 9, None)
    log.start(2)
    assert (log.has_samples(2), log.has_samples(3)) == (True, False)
    log.samples(3, [("Tom", "汤姆"), ("a", "b\u2028c")])
    log.metrics(3, {"loss": 1.5})
    log.close()
    assert log.has_samples(3)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_bytes().splitlines()]
    assert rows[1:] == [
        {"step": 3, "prompt": "Tom", "text": "汤姆"},
        {"step": 3, "prompt": "a", "text": "b\u2028c"},
    ]
    assert "sample: Tom -> 汤姆\n" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_a_run_without_samples_has_none(tmp_path):
    log = RunLog(tmp_path, 9, None)
    log.start(0)
    log.close()
    assert not log.has_samples(0)
    assert read_lines(tmp_path / "metrics.jsonl") == []
    assert not (tmp_path / "samples.jsonl").exists()
