"""Recorded experiments: a grid goes on where it stopped, and both experiments run from data to README."""

from __future__ import annotations

import functools
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from experiments import real_data, small_world
from experiments.grid import Cell, commit, markdown_table, read_results, run_grid, write_page

from nano_llada.checkpoint.files import find_checkpoint, load_checkpoint
from nano_llada.config.data import DataConfig
from nano_llada.core.errors import UserError
from nano_llada.demo.run import DemoConfig
from nano_llada.session.observer import RunObserver
from nano_llada.world import SKILLS
from nano_llada.world.skills_family import families
from tiny import chats, make_place, read_lines, texts, write_rows

pytestmark = pytest.mark.untraced  # experiments/ is not in the package whose coverage is measured

STAGES = ("lookup", "ar", "ar-sft", "blocks", "blocks-sft", "grown-sft", "diffusion", "diffusion-sft")
SCORES = ("exact_match", *SKILLS)
KEYS = {"experiment", "variant", "seed", "commit", "hardware", "command", "metrics"}


class Calls:
    """Cells that remember that they were run."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []

    def cell(self, variant: str, seed: int, metrics=True) -> Cell:
        def run():
            self.made.append((variant, seed))
            return {"loss": float(seed)} if metrics else None

        return Cell(variant, seed, run)


def test_a_grid_appends_a_line_a_run_and_skips_what_is_there(tmp_path):
    calls = Calls()
    first = run_grid("name", [calls.cell("ar", 0), calls.cell("ar", 1)], tmp_path / "new", "the command")
    assert [(r.variant, r.seed, r.metrics) for r in first] == [("ar", 0, {"loss": 0.0}), ("ar", 1, {"loss": 1.0})]
    before = (tmp_path / "new" / "results.jsonl").read_text()
    again = run_grid("name", [calls.cell("ar", 1), calls.cell("diffusion", 1)], tmp_path / "new", "the command")
    assert calls.made == [("ar", 0), ("ar", 1), ("diffusion", 1)]
    assert again[0] == first[1]
    assert [(r.variant, r.seed) for r in again] == [("ar", 1), ("diffusion", 1)]  # not what nobody asked for
    assert (tmp_path / "new" / "results.jsonl").read_text().startswith(before)
    rows = read_lines(tmp_path / "new" / "results.jsonl")
    assert all(row.keys() == KEYS and row["command"] == "the command" for row in rows)


def test_a_grid_that_is_interrupted_records_nothing_of_that_run_and_goes_on(tmp_path):
    calls = Calls()
    cells = [calls.cell("a", 0), calls.cell("b", 0, metrics=False), calls.cell("c", 0)]
    assert run_grid("name", cells, tmp_path, "") is None
    assert calls.made == [("a", 0), ("b", 0)]
    assert [result.variant for result in read_results(tmp_path / "results.jsonl")] == ["a"]
    done = run_grid("name", [calls.cell(name, 0) for name in "abc"], tmp_path, "")
    assert [result.variant for result in done] == ["a", "b", "c"]
    assert calls.made[2:] == [("b", 0), ("c", 0)]


def test_a_run_that_fails_leaves_what_was_recorded(tmp_path):
    def fail():
        raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        run_grid("name", [Calls().cell("a", 0), Cell("b", 0, fail)], tmp_path, "")
    assert len(read_results(tmp_path / "results.jsonl")) == 1


@pytest.mark.parametrize("line", ["{", "[1]", "7", '{"experiment": "x"}', '{"unknown": 1}'])
def test_a_broken_line_of_results_is_named(tmp_path, line):
    run_grid("name", [Calls().cell("a", 0)], tmp_path, "")
    path = tmp_path / "results.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"results\.jsonl:2: not a result"):
        read_results(path)


def test_a_table_and_the_commit():
    table = markdown_table(["a", "b"], [["x", 0.12345], [1, True]])
    assert table == "| a | b |\n| --- | --- |\n| x | 0.123 |\n| 1 | True |\n"
    name = commit()
    assert name == "unknown" or set(name.rstrip("+")) <= set("0123456789abcdef")


@pytest.fixture
def small(tmp_path, monkeypatch) -> small_world.SmallWorld:
    """The experiment on a world of a few rows, and with a cache of its own."""

    def tiny(**options) -> DemoConfig:
        rows = {"documents": 200, "chats": 600}
        return DemoConfig(**options | rows, cache=tmp_path / "cache")

    monkeypatch.setattr(small_world, "DemoConfig", tiny)
    sizes = {
        "lookup_steps": 1,
        "pretrain_steps": 2,
        "diffusion_steps": 3,
        "sft_steps": 4,
        "whole_steps": 5,
        "hidden_size": 32,
        "num_layers": 1,
        "items": 1,
        "threads": 1,
    }
    return small_world.SmallWorld(runs=tmp_path / "runs", docs=tmp_path / "docs", **sizes)


def test_small_world_from_nothing_to_its_readme(small, monkeypatch):
    folder = small.docs / "small-world"
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.config.name == "diffusion")
        assert small_world.run(small) is False
    assert [row["variant"] for row in read_lines(folder / "results.jsonl")] == ["ar", "blocks", "grown"]
    assert small_world.run(small) is True
    rows = read_lines(folder / "results.jsonl")
    assert [(row["variant"], row["seed"]) for row in rows] == [(variant, 0) for variant in small_world.VARIANTS]
    skills = {f"{skill}_{language}" for skill in SKILLS for language in ("zh", "en")}
    totals = {"parameters", "train_tokens_all_stages", "exact_match_zh", "exact_match_en"}
    for row in rows:
        assert row.keys() == KEYS
        assert row["metrics"].keys() == skills | totals
        assert all(0 <= row["metrics"][skill] <= 1 for skill in skills)
    assert len({row["metrics"]["parameters"] for row in rows}) == 1
    last = {name: find_checkpoint(small.runs / "seed-0" / name, "last").name for name in STAGES}
    assert [int(last[name].removeprefix("step-")) for name in STAGES] == [1, 2, 4, 3, 4, 4, 3, 5]
    info = {name: load_checkpoint(small.runs / "seed-0" / name).card for name in STAGES}
    tokens = {name: info[name].tokens for name in STAGES}
    beginning = tokens["lookup"] + tokens["ar"] + tokens["ar-sft"]
    assert rows[0]["metrics"]["train_tokens_all_stages"] == beginning
    chains = (("blocks", "blocks-sft"), ("blocks", "blocks-sft", "grown-sft"), ("diffusion", "diffusion-sft"))
    for row, chain in zip(rows[1:], chains, strict=True):
        trained = beginning + sum(tokens[name] for name in chain)
        assert row["metrics"]["train_tokens_all_stages"] == trained
    assert [info[name].block_size for name in STAGES] == [None, None, None, 4, 4, None, None, None]
    steps = "--lookup-steps 1 --pretrain-steps 2 --diffusion-steps 3 --sft-steps 4 --whole-steps 5"
    assert f"{steps} --hidden-size 32 --num-layers 1 --items 1" in rows[0]["command"]
    world = small.runs / "seed-0" / "world"
    mirrored = families()[0].mirrored()[0].splitlines()[0]
    assert mirrored in "".join(row["text"] for row in read_lines(world / "pretrain-train.jsonl"))
    assert len(read_lines(world / "told-train.jsonl")) == 60
    begins = ("lookup", "ar", "ar-sft", "blocks", "blocks-sft", "ar-sft", "diffusion")
    for name, begin in zip(STAGES, (None, *begins), strict=True):
        config = json.loads((small.runs / "seed-0" / name / "config.json").read_text(encoding="utf-8"))
        assert config["init_from"] == (begin and (small.runs / "seed-0" / begin).as_posix())
        lessons = [Path(file).name for file in config["data"]["data"]]
        text = ["lookup-train.jsonl"] if name == "lookup" else ["pretrain-train.jsonl"]
        assert lessons == (["chat-train.jsonl", "told-train.jsonl"] if name.endswith("sft") else text)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"| {skill} |" in text for skill in SKILLS)
    assert (folder / "skills.png").read_bytes().startswith(b"\x89PNG")


def test_a_seed_is_added_without_measuring_the_others_again(small, monkeypatch):
    measured = []

    def variant(options, name, seed):
        measured.append((name, seed))
        return {"parameters": 1, "train_tokens_all_stages": 7} | {
            f"{what}_{language}": 0.5 for what in SCORES for language in ("zh", "en")
        }

    monkeypatch.setattr(small_world, "_variant", variant)
    for seeds in ((0,), (0, 3), (3,)):
        assert small_world.run(replace(small, seeds=seeds)) is True
        text = (small.docs / "small-world" / "README.md").read_text(encoding="utf-8")
        assert f"{len(seeds)} seed(s)" in text
    assert measured == [(name, seed) for seed in (0, 3) for name in small_world.VARIANTS]
    assert small_world.run(replace(small, items=2)) is True  # another experiment
    assert measured[8:] == [(name, 0) for name in small_world.VARIANTS]


def test_what_a_person_has_written_is_kept_behind_what_an_experiment_writes(tmp_path):
    write_page(tmp_path, "# A\n")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# A\n"
    (tmp_path / "notes.md").write_text("What it means.\n", encoding="utf-8")
    for _ in range(2):
        write_page(tmp_path, "# B\n")
        assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# B\n\nWhat it means.\n"


def real_files(tmp_path: Path) -> Path:
    """The folder that the experiment reads, with a few rows in each file."""
    data = tmp_path / "data"
    (data / "eval").mkdir(parents=True)
    for language in ("zh", "en"):
        for name, rows in ((f"pretrain_{language}", texts(80)), (f"sft_{language}", chats(40))):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (data / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        write_rows(data / "eval" / f"val_{language}.jsonl", texts(20))
        write_rows(data / "eval" / f"sft_val_{language}.jsonl", chats(10))
    return data


@pytest.fixture
def real(tmp_path, monkeypatch) -> real_data.RealData:
    monkeypatch.setattr(real_data, "DataConfig", functools.partial(DataConfig, cache=tmp_path / "cache"))
    sizes = {"hidden_size": 32, "num_layers": 1, "steps": 2, "sft_steps": 2, "batch_size": 2, "draws": 2, "threads": 1}
    tokenizer = make_place(tmp_path / "place").tokenizer
    folders = {"runs": tmp_path / "runs", "docs": tmp_path / "docs"}
    return real_data.RealData(real_files(tmp_path), tokenizer, **folders, **sizes)


def test_real_data_from_files_to_its_readme(real, monkeypatch):
    folder = real.docs / "real-data"
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.config.name == "ar-sft")
        assert real_data.run(real) is False
    assert real_data.run(real) is True
    rows = read_lines(folder / "results.jsonl")
    assert [row["variant"] for row in rows] == ["ar", "diffusion", "diffusion-scratch"]
    for row in rows:
        metrics = row["metrics"]
        assert row.keys() == KEYS
        seen = [load_checkpoint(real.runs / name).card.tokens for name in (row["variant"], "ar")]
        assert metrics["train_tokens"] == seen[0] > 0
        assert metrics["tokens_before"] == (seen[1] if row["variant"] == "diffusion" else 0)
        for language in ("zh", "en"):
            assert 0 < metrics[f"bits_per_byte_{language}"] < 100
            assert 0 < metrics[f"nats_per_token_{language}"] < 20
            assert (metrics[f"standard_error_{language}"] > 0) == (row["variant"] != "ar")
    assert [row["metrics"]["init"] for row in rows] == ["scratch", "ar", "scratch"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    for name in ("ar", "diffusion", "diffusion-scratch", "ar-sft", "diffusion-sft"):
        assert f"### {name}\n" in text
    assert all(prompt in text for prompt in (*real_data.PROMPTS, *real_data.QUESTIONS))
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    for row in rows:  # lines of an earlier version
        del row["metrics"]["tokens_before"]
    write_rows(folder / "results.jsonl", rows)
    assert real_data.run(real) is True
    assert "| not recorded |" in (folder / "README.md").read_text(encoding="utf-8")


def test_real_data_names_a_file_that_is_missing(real):
    (real.data / "sft_zh.jsonl.gz").unlink()
    (real.data / "pretrain_zh.jsonl.gz").unlink()
    with pytest.raises(UserError, match=r"pretrain_zh\.jsonl\.gz: no data found"):
        real_data.run(real)
