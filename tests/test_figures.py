"""Figures, intervals and tests between models, all from records."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from nano_llada.core.errors import UserError
from nano_llada.evaluation.figures import ALL, BOTH, differences, figures
from nano_llada.evaluation.items import language_of
from nano_llada.evaluation.metric import CalibrationError, Quantile, Ratio, Share, separately
from nano_llada.evaluation.record import Record, read_records, write_records
from nano_llada.evaluation.statistics import RESAMPLES, bootstrap, sign_test, swap_test, wilson

METRICS = (Share("right", "right"), Ratio("bits_per_byte", "bits", "bytes", "low"))


def metrics(suite):
    return METRICS


def record(item, right, *, model="a", task="copy", language="en", run=0, **values):
    return Record(model, "greedy", "generation", task, language, str(item), {"right": float(right), **values}, run)


def find(found, **wanted):
    (one,) = (figure for figure in found if all(getattr(figure, name) == value for name, value in wanted.items()))
    return one


def test_shares_ratios_quantiles_and_perplexity_are_what_they_say():
    columns = {"bits": np.array([10.0, 2.0]), "bytes": np.array([5.0, 5.0])}
    once, twice = np.ones(2), np.array([2.0, 0.0])
    assert Ratio("x", "bits", "bytes").of(columns, once) == pytest.approx(12 / 10)
    assert Ratio("x", "bits", "bytes", scale=3).of(columns, twice) == pytest.approx(6)
    assert Ratio("x", "bits").of(columns, once) == 6
    assert Ratio("x", "bits", "bytes", exponential=True).of(columns, once) == pytest.approx(math.exp(1.2))
    assert math.isnan(Ratio("x", "bits", "bytes").of(columns, np.zeros(2)))
    values = {"seconds": np.arange(1.0, 101.0)[::-1]}
    assert Quantile("x", "seconds", 0.5).of(values, np.ones(100)) == 50
    assert Quantile("x", "seconds", 0.95, scale=1000).of(values, np.ones(100)) == 95_000
    assert Quantile("x", "seconds", 1.0).of(values, np.ones(100)) == 100
    assert math.isnan(Quantile("x", "seconds", 0.5).of({"seconds": np.array([])}, np.array([])))


def test_calibration_error_weighs_each_bin_by_its_tokens():
    # bin 0: 10 tokens, said 0.2, right 0.5; bin 1: 30 tokens, said 0.9, right 0.9
    columns = {"count_0": [10], "right_0": [5], "confidence_0": [2], "count_1": [30], "right_1": [27]}
    columns = {name: np.array(value, dtype=float) for name, value in (columns | {"confidence_1": [27]}).items()}
    metric = CalibrationError("error", 2)
    assert metric.of(columns, np.ones(1)) == pytest.approx(3 / 40)
    assert set(metric.needs) == set(columns)


def test_every_task_both_languages_and_all_together_get_a_figure():
    records = [record(i, i < 3, language=language) for i in range(4) for language in ("zh", "en")]
    records += [record(i, 0, task="sums", language="zh") for i in range(4)]
    found = [figure for figure in figures(records, metrics) if figure.metric == "right"]
    assert [(f.task, f.language, f.value) for f in found] == [
        (ALL, "zh", 3 / 8),
        (ALL, "en", 3 / 4),
        (ALL, BOTH, (3 / 8 + 3 / 4) / 2),  # the mean of the languages, not of all answers
        ("copy", "zh", 3 / 4),
        ("copy", "en", 3 / 4),
        ("copy", BOTH, 3 / 4),
        ("sums", "zh", 0.0),
    ]
    assert [f.items for f in found] == [8, 4, 8, 4, 4, 4, 4]  # wordings of one question are one example
    assert (found[3].low, found[3].high) == wilson(3 / 4, 4)


def test_a_record_that_lacks_a_value_is_left_out_of_that_metric_alone():
    records = [record(0, 1, bits=8.0, bytes=4.0), record(1, 0)]
    found = figures(records, metrics)
    assert find(found, metric="right").items == 2
    assert find(found, metric="bits_per_byte").value == 2.0
    assert find(found, metric="bits_per_byte").items == 1


def test_seeds_are_pooled_and_shown():
    records = [record(i, i < run, run=run) for run in (1, 3) for i in range(4)]
    figure = find(figures(records, metrics), metric="right")
    assert figure.value == 0.5
    assert figure.runs == (0.25, 0.75)
    assert (figure.low, figure.high) == wilson(0.5, 4)  # four questions, not eight


def test_the_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        values = rng.exponential(1.0, 60)
        low, high = bootstrap(
            lambda weights, values=values: weights @ values / len(values), [np.arange(60)], seed=trial
        )
        covered += low <= 1.0 <= high
    assert 50 <= covered <= 60


def test_bootstrap_draws_whole_examples_and_repeats_itself():
    seen = []

    def statistic(weights):
        seen.append(weights)
        return weights[:, 0]

    five = [np.arange(5)]
    assert bootstrap(statistic, five) == bootstrap(statistic, five)
    assert [weights.shape for weights in seen] == [(RESAMPLES, 5)] * 2
    assert (seen[0].sum(1) == 5).all()
    assert all(map(math.isnan, bootstrap(statistic, [np.arange(1)])))
    assert all(map(math.isnan, bootstrap(lambda weights: np.full(len(weights), np.nan), five)))


def test_each_stratum_keeps_its_size():
    seen = []
    bootstrap(lambda weights: seen.append(weights) or weights[:, 0], [np.array([0, 3]), np.array([1, 2, 4])])
    assert (seen[0][:, [0, 3]].sum(1) == 2).all()
    assert (seen[0][:, [1, 2, 4]].sum(1) == 3).all()
    assert len(np.unique(seen[0], axis=0)) > 10


def test_a_mean_over_unlike_languages_is_as_sure_as_its_smaller_one():
    records = [record(f"z{i}", i % 2, language="zh") for i in range(10)]
    records += [record(f"e{i}", i % 2, bits=float(i), bytes=1.0) for i in range(990)]
    records += [record(f"z{i}", i % 2, language="zh", task="x", bits=5.0, bytes=1.0) for i in range(1)]
    mean = next(f for f in figures(records[:1000], metrics) if f.language == BOTH and f.metric == "right")
    assert (mean.low, mean.high) == wilson(0.5, 4 / (1 / 10 + 1 / 990))
    pairs = [record(i, i % 2, language=language) for i in range(10) for language in ("zh", "en")]
    both = next(f for f in figures(pairs, metrics) if f.language == BOTH)
    assert (both.low, both.high) == wilson(0.5, 10)  # wordings of one question are one example
    alone = [f for f in figures(records[10:], metrics) if f.metric == "bits_per_byte" and f.language == BOTH]
    assert all(map(math.isnan, (alone[0].low, alone[0].high)))  # of one Chinese example nothing is known


def test_conditions_are_not_pooled():
    records = [replace(record(0, 1, task=task), suite="speed") for task in ("batch 1", "batch 8")]
    found = figures(records, lambda suite: separately(*metrics(suite)))
    assert [f.task for f in found] == ["batch 1", "batch 8"]


def test_other_protocols_have_no_examples_in_common():
    ours, theirs = record(0, 1), replace(record(0, 0, model="b"), protocol="another")
    assert differences([ours, theirs], metrics, ("a", "greedy"), ("b", "greedy")) == []


def test_the_sign_test_is_exact():
    assert sign_test([1, 1, 1, 1, 0], [0, 0, 0, 0, 0]) == pytest.approx(2 / 16)  # 4 of 4 discordant pairs
    assert sign_test([1, 0, 1, 0], [0, 1, 1, 0]) == 1.0
    assert sign_test([1, 1], [1, 1]) == 1.0
    assert sign_test([1] * 9 + [0], [0] * 9 + [1]) == pytest.approx(2 * 11 / 2**10)


def test_the_swap_test_finds_what_is_there_and_nothing_else():
    first, second = np.arange(20.0) + 5, np.arange(20.0)

    def difference(swaps, a=first, b=second):
        return np.mean(np.where(swaps, b, a) - np.where(swaps, a, b), axis=-1)

    assert swap_test(difference, 20) == pytest.approx(1 / (RESAMPLES + 1), abs=2e-3)
    assert swap_test(lambda swaps: difference(swaps, first, first), 20) == 1.0
    assert math.isnan(swap_test(lambda swaps: np.full(len(swaps), np.nan), 20))


def test_two_models_are_compared_on_the_examples_both_were_given():
    ours = [record(i, 1, bits=8.0 + i, bytes=8.0) for i in range(9)]
    theirs = [record(i, i > 6, model="b", bits=16.0 + i, bytes=8.0) for i in range(8)]
    right, bits = differences([*ours, *theirs], metrics, ("a", "greedy"), ("b", "greedy"))
    assert (right.items, right.value) == (8, 1 - 1 / 8)
    assert right.p == sign_test([1] * 8, [0] * 7 + [1])
    assert bits.value == pytest.approx(-1.0)
    assert bits.low <= -1.0 <= bits.high < 0
    assert bits.p < 0.02
    swapped = differences([*ours, *theirs], metrics, ("b", "greedy"), ("a", "greedy"))
    assert [d.value for d in swapped] == [-right.value, -bits.value]
    assert swapped[0].p == right.p


def test_a_model_is_no_different_from_itself_under_another_name():
    ours = [
        record(i, i % 2, language=language, run=run) for i in range(6) for language in ("zh", "en") for run in (0, 1)
    ]
    theirs = [replace(one, model="b") for one in ours]
    for difference in differences([*ours, *theirs], metrics, ("a", "greedy"), ("b", "greedy")):
        assert (difference.value, difference.p) == (0.0, 1.0)


def test_models_without_a_common_suite_are_not_compared():
    assert (
        differences(
            [record(0, 1), replace(record(0, 1, model="b"), suite="x")], metrics, ("a", "greedy"), ("b", "greedy")
        )
        == []
    )


def test_records_come_back_as_they_were_written(tmp_path):
    records = [record(0, 1, bits=0.1), replace(record(1, 0), detail={"answer": "你好\u2028\n", "n": [1, 2]})]
    write_records(tmp_path / "records.jsonl", records)
    assert list(read_records(tmp_path)) == records
    assert list(read_records(tmp_path / "records.jsonl")) == records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": {"right": "yes"}}, "no record of an evaluation"),
        ({"values": [1]}, "no record of an evaluation"),
        ({"values": {"right": float("nan")}}, "right must be finite"),
        ({"item": None, "model": None}, ""),
    ],
)
def test_a_broken_record_is_named_by_file_and_line(tmp_path, change, message):
    path = tmp_path / "records.jsonl"
    write_records(path, [record(0, 1)])
    row = json.loads(path.read_text()) | change
    if not message:
        del row["item"]
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=rf"records.jsonl:2: .*{message}"):
        list(read_records(path))


def test_missing_and_unwritable_record_files_are_told(tmp_path):
    with pytest.raises(UserError, match="cannot read the records"):
        list(read_records(tmp_path / "none.jsonl"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_records(tmp_path / "file" / "records.jsonl", [])


def test_languages_are_told_by_their_letters():
    assert language_of("汤姆有 a red ball。") == "en"
    assert language_of("小明用 Python 写了一个程序，效果很好") == "zh"
    assert language_of("Hello") == "en"
    assert language_of("12 + 3") == "en"
