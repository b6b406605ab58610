"""The experiments on decoding rules and on eight-bit weights, in their tiny size."""

from __future__ import annotations

import pytest
from experiments import decoding_rules, int8
from experiments.options_measuring import DecodingRules, Int8

from nano_llada.core.errors import UserError
from tiny import family, read_lines


@pytest.fixture
def place(tmp_path_factory):
    return family(tmp_path_factory.getbasetemp())


def test_the_area_is_the_mean_height_of_the_curve():
    points = [(1.0, 0.8), (3.0, 0.4), (2.0, 0.8)]
    assert decoding_rules.area(points, 1, 3) == pytest.approx(0.7)  # level, then a line down
    assert decoding_rules.area(points, 0, 2) == pytest.approx(0.8)  # level before the first point
    assert decoding_rules.area(points, 2.5, 3) == pytest.approx(0.5)
    assert decoding_rules.area([(1.0, 0.2), (1.0, 0.6), (2.0, 0.6)], 1, 2) == pytest.approx(0.6, abs=0.21)


def test_rules_are_ranked_by_their_curves(place, tmp_path, monkeypatch):
    curves = {name: decoding_rules.CURVES[name][:2] for name in ("confidence", "threshold", "random, remask 0.5")}
    monkeypatch.setattr(decoding_rules, "CURVES", curves)
    monkeypatch.setattr(decoding_rules, "DRAWS", 40)
    options = DecodingRules(place.runs / "diffusion-sft", tmp_path, skills=("copy",), items=1, answer=4)
    assert decoding_rules.run(options)
    rows = read_lines(tmp_path / "decoding-rules" / "results.jsonl")
    assert [row["variant"] for row in rows] == [f"{name} {i}" for name in curves for i in range(2)]
    assert all(len(row["metrics"]["right"]) == 2 for row in rows)
    page = (tmp_path / "decoding-rules" / "README.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in page for name in curves)
    with pytest.raises(UserError, match="fills no canvas"):
        decoding_rules.run(DecodingRules(place.runs / "ar-sft", tmp_path))


def test_eight_bits_are_compared_with_float32(place, tmp_path):
    models = (place.runs / "ar", place.runs / "diffusion-sft")
    assert int8.run(Int8(models, place.text, tmp_path, documents=4, items=0, draws=1))
    rows = {row["variant"]: row["metrics"] for row in read_lines(tmp_path / "int8" / "results.jsonl")}
    assert rows.keys() == {"ar", "diffusion-sft"}
    for metrics in rows.values():
        assert 0.2 < metrics["size"] < 0.5
        change = metrics["bits_per_byte_int8"] / metrics["bits_per_byte_fp32"] - 1
        assert metrics["bits_per_byte_change"] == pytest.approx(change)
        assert 0 < abs(change) < 0.01
