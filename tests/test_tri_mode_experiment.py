"""The experiment on tri-mode models in its tiny size, from nothing to its page, interrupted on the way."""

from __future__ import annotations

import json

import pytest
from experiments import tri_mode
from experiments.options import TriMode

from nano_llada.session.observer import RunObserver
from tiny import read_lines


def test_the_experiment_runs_from_nothing_to_its_page_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr("nano_llada.core.device.matmul_rate", lambda machine: 1e11)
    options = TriMode(runs=tmp_path / "runs", docs=tmp_path / "docs", seeds=(0, 1), threads=1, smoke=True)
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.config.name == "tri-next")
        assert tri_mode.run(options) is False
    folder = tmp_path / "runs" / "smoke" / "tri-mode"
    assert [row["variant"] for row in read_lines(folder / "results.jsonl")] == ["ar", "block"]
    assert tri_mode.run(options) is True
    rows = {row["variant"]: row["metrics"] for row in read_lines(folder / "results.jsonl")}
    assert tuple(rows) == tri_mode.VARIANTS
    assert not (tmp_path / "docs").exists()
    for variant, metrics in rows.items():
        assert set(tri_mode.METRICS) <= metrics.keys()
        assert all(0 < metrics[f"bits_per_byte_{language}"] < 20 for language in ("zh", "en"))
        assert metrics["exact_match_zh"] is not None
        if variant.startswith("tri"):
            assert metrics["identical"] == 1
            assert metrics["tokens_per_pass"] >= 1
            assert metrics["k"] in (1, 2)
            assert metrics["questions"] == 12
            assert len(metrics["tokens_per_pass_right_by_k"]) == len(metrics["pass_cost_by_k"]) == 3
            assert metrics["pass_cost_by_k"][0] == 1
    assert rows["ar"]["tokens_per_pass"] == pytest.approx(1)
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"| {variant} |" in page for variant in tri_mode.VARIANTS)
    assert "| tri-self | 2 |" in page
    json.loads(json.dumps(rows, allow_nan=False))
