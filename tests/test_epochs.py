"""The experiment that shows both tracks the same few texts again and again."""

from __future__ import annotations

import functools
import gzip
import json
from dataclasses import replace

import pytest
from experiments import epochs
from experiments.grid import Result
from experiments.options_measuring import Epochs

from nano_llada.config.data import DataConfig
from nano_llada.core.errors import UserError
from tiny import make_place, read_lines, texts, write_rows

pytestmark = pytest.mark.untraced  # experiments/ is not in the package whose coverage is measured


@pytest.fixture
def options(tmp_path, monkeypatch) -> Epochs:
    monkeypatch.setattr(epochs, "DataConfig", functools.partial(DataConfig, cache=tmp_path / "cache"))
    data = tmp_path / "data"
    (data / "eval").mkdir(parents=True)
    for language in ("zh", "en"):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in texts(60))
        (data / f"pretrain_{language}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        write_rows(data / "eval" / f"val_{language}.jsonl", texts(9))
    sizes = {
        "documents": 20,
        "held_out": 3,
        "hidden_size": 32,
        "num_layers": 1,
        "batch_size": 1,
        "draws": 2,
        "threads": 1,
    }
    folders = {"runs": tmp_path / "runs", "docs": tmp_path / "docs"}
    return Epochs(data, make_place(tmp_path / "place").tokenizer, epochs=(1, 3), **folders, **sizes)


def test_each_number_of_epochs_is_a_run_over_the_same_corpus(options):
    assert epochs.run(options) is True
    rows = read_lines(options.docs / "epochs" / "results.jsonl")
    assert [(row["variant"], row["metrics"]["epochs"]) for row in rows] == [
        ("ar", 1),
        ("diffusion", 1),
        ("ar", 3),
        ("diffusion", 3),
    ]
    corpus = read_lines(next(options.runs.glob("corpus-*-20.jsonl")))
    assert [row["text"] for row in corpus] == [row["text"] for row in texts(20)] * 2  # the first of each language
    seen = [row["metrics"]["train_tokens"] for row in rows]
    assert seen[0] == seen[1]
    assert seen[2] == seen[3] == pytest.approx(3 * seen[0], rel=0.1)
    for row in rows:
        both = [row["metrics"][f"bits_per_byte_{language}"] for language in ("zh", "en")]
        assert row["metrics"]["bits_per_byte"] == pytest.approx(sum(both) / 2)
        assert f"--epochs {row['metrics']['epochs']} " in row["command"]
    told = (options.docs / "epochs" / "README.md").read_text()
    assert "AR is best after" in told
    assert (options.docs / "epochs" / "epochs.png").stat().st_size > 1000
    before = (options.docs / "epochs" / "results.jsonl").read_bytes()
    assert epochs.run(options) is True  # nothing is made twice
    assert (options.docs / "epochs" / "results.jsonl").read_bytes() == before


def test_numbers_that_cannot_be_are_refused(options):
    for wrong in ({"epochs": (0, 1)}, {"documents": 0}, {"held_out": 0}):
        with pytest.raises(UserError, match="at least 1"):
            epochs.run(replace(options, **wrong))


def results(ar: dict[int, float], diffusion: dict[int, float]) -> list[Result]:
    return [
        Result("epochs", track, 0, "", "", "", {"epochs": e, "bits_per_byte": value, "standard_error": 0.02})
        for track, curve in (("ar", ar), ("diffusion", diffusion))
        for e, value in curve.items()
    ]


def test_the_verdict_says_whether_and_where_diffusion_overtakes():
    assert "does not overtake" in epochs.verdict(results({1: 2.0, 5: 1.5}, {1: 2.5, 5: 1.6}))
    assert "does not overtake" in epochs.verdict(results({1: 2.0, 5: 1.5}, {1: 2.5, 5: 1.47}))  # within the noise
    told = epochs.verdict(results({1: 2.0, 5: 1.5, 50: 1.9}, {1: 2.5, 5: 1.7, 50: 1.6}))
    assert "ahead at 50 (of 1, 5, 50)" in told
    assert "but not AR stopped at its best" in told
    assert "at its best, too" in epochs.verdict(results({1: 2.0, 50: 1.9}, {1: 2.5, 50: 1.6}))
