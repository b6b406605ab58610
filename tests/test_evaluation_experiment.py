"""The experiment that measures trained models by every suite, on tiny ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from experiments import evaluation
from experiments.options_measuring import Evaluation

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.core.errors import UserError
from nano_llada.evaluation.figures import Figure, figures
from nano_llada.evaluation.record import read_records
from nano_llada.evaluation.suites import SUITES, metrics_of
from tiny import Place, family, read_lines, write_rows

pytestmark = pytest.mark.untraced  # experiments/ is not in the package whose coverage is measured

TEXT = {"zh": "汤姆有一个红色的球，艾米有一只蓝色的猫。" * 6, "en": "Tom has a red ball and Amy has a blue hat. " * 6}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Place:
    return family(tmp_path_factory.getbasetemp())


@pytest.fixture
def options(done, tmp_path, monkeypatch) -> Evaluation:
    monkeypatch.setattr(evaluation, "LENGTH", 4)
    data = tmp_path / "data"
    for language, text in TEXT.items():
        write_rows(data / "eval" / f"val_{language}.jsonl", [{"text": text}, {"text": text[5:]}])
        rows = [{"question": text[:4], "choices": ["a", "b"], "answer": i, "lang": language} for i in (0, 1)]
        write_rows(data / "eval" / f"mc_{language}.jsonl", rows)
    write_rows(data / "eval" / "gsm8k_test_200.jsonl", [{"id": 1, "question": "1+1?", "answer": "It is 2.\n#### 2"}])
    return Evaluation(
        world=(f"AR={done.runs / 'ar-sft'}", f"D={done.runs / 'diffusion-sft'}"),
        real=(f"AR={done.runs / 'ar'}", f"D={done.runs / 'diffusion'}"),
        data=data,
        judge=done.runs / "ar",
        docs=tmp_path / "docs",
        runs=tmp_path / "runs",
        items=1,
        skills=("copy",),
        limit=2,
        draws=2,
        threads=1,
    )


def test_every_suite_over_small_world_and_real_text(options):
    assert evaluation.run(options) is True
    folder = options.docs / "evaluation"
    rows = [row["metrics"] for row in read_lines(folder / "results.jsonl")]
    assert {row["suite"] for row in rows if row["part"] == "world"} == {"generation", "speed"}
    assert {row["suite"] for row in rows if row["part"] == "real"} == set(SUITES) - {"stories"}
    assert {row["language"] for row in rows} == {"zh", "en", "mean"}
    assert {(row["model"], row["decoder"]) for row in rows if row["suite"] == "infilling"} == {
        ("AR", "greedy"),
        ("D", "one a pass"),
        ("D", "threshold 0.9"),
    }
    names = [(row["part"], row["model"], row["decoder"], row["suite"], row["language"]) for row in rows]
    assert len(set(names)) == len(names)
    for part in ("world", "real"):
        measured, shown = list(read_records(options.runs / part)), list(read_records(folder / part))
        assert [replace(record, detail={}) for record in measured] == [replace(record, detail={}) for record in shown]
        assert all(record.protocol for record in shown)
        kept = {record.suite: record.detail.keys() for record in shown}
        if part == "world":
            assert shown == measured
            assert {"prompt", "answer", "references"} <= kept["generation"]
            continue
        assert kept == {  # texts of others are not published
            "likelihood": set(),
            "calibration": set(),
            "choices": {"answer", "picked", "picked_norm", "scores", "errors", "dropped_tokens"},
            "infilling": {"place", "sees", "skipped"},
            "generation": {"order"},
            "speed": {"repeat"},
            "quality": {"judge"},
        }
        for record, whole in zip(shown, measured, strict=True):
            assert record.detail == {name: whole.detail[name] for name in record.detail}
    for part in ("world", "real"):
        again = {
            (f.model, f.decoder, f.suite, f.language, f.metric): f.value
            for f in figures(read_records(folder / part), metrics_of)
            if f.task in ("all", "copy") and f.suite != "speed" and f.value == f.value
        }
        assert again
        published = {(r["model"], r["decoder"], r["suite"], r["language"]): r for r in rows if r["part"] == part}
        for (*place, metric), value in again.items():
            assert published[tuple(place)][metric] == value
        assert (folder / part / "report.html").is_file()
    assert "evaluation.md" in (folder / "README.md").read_text(encoding="utf-8")
    before = (folder / "real" / "records.jsonl").read_bytes()
    assert evaluation.run(options) is True  # nothing is measured twice
    assert (folder / "real" / "records.jsonl").read_bytes() == before


def test_nobody_judges_unless_told_to(options):
    told, silent = (evaluation._real(replace(options, judge=judge)) for judge in (options.judge, None))
    assert (set(told.suites), told.judge) == (set(SUITES) - {"stories"}, options.judge)
    assert (set(silent.suites), silent.judge) == (set(SUITES) - {"quality", "stories"}, None)


def test_the_command_names_what_was_given_and_no_folder(options):
    figure = Figure("D", "", "likelihood", "all", "en", "bits_per_byte", 1.0, 0.9, 1.1, 4, (1.0,))
    told = evaluation._result(options, "real", [figure]).command
    assert "--world AR=ar-sft D=diffusion-sft --real AR=ar D=diffusion --data DATA --skills copy" in told
    assert told.endswith("--items 1 --limit 2 --draws 2 --judge ar")
    assert str(options.runs.parent) not in told
    alone = evaluation._result(replace(options, real=(), judge=None), "world", [figure]).command
    assert "--real" not in alone
    assert "--judge" not in alone


def test_models_are_written_with_as_they_were_trained(done):
    checkpoint = load_checkpoint(done.runs / "diffusion-sft")
    length = checkpoint.card.answer_length
    assert {way.max_new_tokens for way in evaluation.ways(checkpoint).values()} == {length}
    block = replace(checkpoint, card=replace(checkpoint.card, block_size=4, edits=True))
    ways = evaluation.ways(block)
    assert list(ways) == ["one a pass", "threshold 0.9", "Q mode", "S mode"]
    assert {way.block_size for way in ways.values()} == {4}
    assert (ways["S mode"].threshold, ways["S mode"].edit_threshold) == (0.5, 0.0)
    fixed = replace(block, card=replace(block.card, edits=False))
    assert list(evaluation.ways(fixed)) == [
        "one a pass",
        "threshold 0.9",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"world": (), "real": ()}, "nothing to evaluate"),
        ({"world": ("runs/ar",)}, "give models as NAME=RUN"),
        ({"data": None}, "need --data"),
    ],
)
def test_what_is_missing_is_told(options, change, message):
    with pytest.raises(UserError, match=message):
        evaluation.run(replace(options, **change))
