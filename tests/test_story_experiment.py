"""The measurement of story models: a row for each way of decoding, and answers to read."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiments import story
from experiments.options import Story

from tiny import family, read_lines

PROMPTS = Path(__file__).parents[1] / "docs" / "experiments" / "story" / "prompts.jsonl"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return family(tmp_path_factory.getbasetemp())


def test_a_row_for_each_model_and_answers_with_what_was_asked(done, tmp_path, monkeypatch):
    monkeypatch.setattr(story, "LENGTH", 4)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Who <are> you?", "language": "en"}\n', encoding="utf-8")
    for name in ("ar-sft", "diffusion-sft"):
        options = Story(done.runs / name, name, tmp_path, conversations=4, items=1, prompts=prompts, threads=1)
        assert story.run(options) is True
    rows = read_lines(tmp_path / "story" / "results.jsonl")
    assert [row["variant"] for row in rows] == ["ar-sft", "diffusion-sft"]
    for row in rows:
        assert set(story.METRICS) <= set(row["metrics"])
        assert 0 <= row["metrics"]["tasks_zh_interval"][0] <= row["metrics"]["tasks_zh"] <= 1
    assert rows[1]["metrics"]["threshold"] == 0.9
    page = (tmp_path / "story" / "README.md").read_text(encoding="utf-8")
    assert "ar-sft" in page
    assert "diffusion-sft" in page
    assert "**Who <are> you?**" in (tmp_path / "story" / "answers-ar-sft.md").read_text(encoding="utf-8")
    before = (tmp_path / "story" / "results.jsonl").read_bytes()
    assert story.run(Story(done.runs / "ar-sft", "ar-sft", tmp_path, conversations=4, items=1)) is True
    assert (tmp_path / "story" / "results.jsonl").read_bytes() == before


def test_the_committed_prompts_are_two_hundred_different_ones_in_both_languages():
    rows = read_lines(PROMPTS)
    assert len({row["prompt"] for row in rows}) == len(rows) == 200
    assert [row["language"] for row in rows].count("zh") == 100
