"""`nano-llada bench decode`: what is measured adds up, and is written as a table, records, a page and a plot."""

from __future__ import annotations

import json

import pytest

from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Autoregressive, Block, Diffusion, Speculative
from nano_llada.core.device import choose_machine
from nano_llada.evaluation.decoding_cost import (
    Limits,
    PassCost,
    Plan,
    break_even,
    cost_at,
    measure_limits,
    pass_costs,
    text_costs,
    ways,
)
from nano_llada.language_model import LanguageModel
from tiny import family, run_cli

SMALL = Plan(("fp32", "int8"), (1, 2, 5), (1, 3), (1, 2), new=6, held=8, seconds=0.0)


@pytest.fixture
def place(tmp_path_factory):
    return family(tmp_path_factory.getbasetemp())


def line(*points: tuple[int, float]) -> list[PassCost]:
    return [PassCost("fp32", 1, width, ms, 1.0) for width, ms in points]


def test_every_precision_batch_and_width_is_timed_beside_the_limit(peaky):
    limits = Limits(bandwidth=1e9, products=1e10)
    found = list(pass_costs(peaky, SMALL, limits))
    assert len({(one.precision, one.batch, one.width) for one in found}) == len(found) == 12
    for one in found:
        least = limits.seconds(peaky.config, one.batch * one.width, one.precision)
        assert one.share_of_limit == pytest.approx(1e3 * least / one.milliseconds)


def test_the_limit_is_reading_the_weights_or_multiplying_them(peaky):
    weights = sum(p.numel() for name, p in peaky.named_parameters() if p.dim() == 2 and name != "embed.weight")
    assert Limits(1e9, 1e30).seconds(peaky.config, 7, "fp32") == pytest.approx(4 * weights / 1e9, rel=0.02)
    assert Limits(1e9, 1e30).seconds(peaky.config, 7, "int8") == pytest.approx(weights / 1e9, rel=0.02)
    assert Limits(1e30, 1e9).seconds(peaky.config, 7, "fp32") == pytest.approx(14 * weights / 1e9, rel=0.02)


def test_the_machine_is_measured(monkeypatch):
    monkeypatch.setattr("nano_llada.evaluation.decoding_cost.BUFFER", 2**16)
    monkeypatch.setattr("nano_llada.evaluation.decoding_cost.matmul_rate", lambda machine, seconds: 5.0)
    limits = measure_limits(choose_machine("cpu"), 0.0)
    assert limits.bandwidth > 1e6
    assert limits.products == 5.0


@pytest.mark.parametrize(
    ("card", "kinds"),
    [
        (ModelCard("ar"), {"ar": Autoregressive}),
        (ModelCard("diffusion"), {"canvas": Diffusion}),
        (ModelCard("diffusion", block_size=4), {"block": Block}),
        (
            ModelCard("both", block_size=4),
            {
                "ar": Autoregressive,
                "block": Block,
                "speculative, 1 drafts": Speculative,
                "speculative, 2 drafts": Speculative,
            },
        ),
    ],
)
def test_texts_are_written_in_every_way_that_the_model_has(peaky, vocab, card, kinds):
    decodings = ways(card, SMALL, 64)
    assert {name: type(decoding) for name, decoding in decodings.items()} == kinds
    found = list(text_costs(peaky, vocab, decodings, [(6, 7), (9,)], SMALL))
    assert len(found) == 2 * 2 * len(kinds)
    assert all(one.tokens_per_second > 0 and 1 <= one.tokens_per_pass <= 6 for one in found)
    assert all(one.tokens_per_pass == 1 for one in found if one.mode == "ar")


def test_costs_between_measured_widths_are_on_a_line_and_none_beyond():
    passes = line((1, 10.0), (4, 16.0), (16, 40.0))
    assert [cost_at(passes, "fp32", width) for width in (1, 2, 4, 10, 17)] == [10.0, 12.0, 16.0, 28.0, None]
    found = {one.what: (one.width, one.tokens_per_pass, one.most) for one in break_even(passes, "fp32")}
    assert found == {
        "self-speculation, k = 1": (4, 1.6, 2),
        "self-speculation, k = 2": (9, 2.6, 3),
        "self-speculation, k = 3": (16, 4.0, 4),
        "a block of 4": (4, 1.6, 4),
        "a block of 16": (16, 4.0, 16),
    }
    assert break_even(line((2, 1.0), (4, 2.0)), "fp32") == []  # nothing to compare with


def test_the_command_prints_tables_and_writes_records_a_page_and_a_plot(place, tmp_path, capsys, drawn):
    eight = tmp_path / "eight"
    LanguageModel.load(place.runs / "diffusion").save(eight, quantize="int8")
    words = ("--quick", "--seconds", 0, "--max-new-tokens", 3, "--prompt", "Tom has", "--threads", 1, "--device", "cpu")
    for model in (place.runs / "ar", eight):
        out = tmp_path / f"bench-{model.name}"
        assert run_cli(("bench", "decode", model, *words, "--out", out)) == 0
        printed = capsys.readouterr().out
        assert "tokens per second" in printed
        assert "This machine reads" in printed
        rows = [json.loads(text) for text in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [row["kind"] for row in rows] == ["machine"] + ["pass"] * 12 + ["text"] * 4
        assert {row["precision"] for row in rows[1:]} == {"fp32", "int8"}
        page = (out / "README.md").read_text(encoding="utf-8")
        assert "![Milliseconds of a forward pass by width" in page
        assert "| self-speculation, k = 1 | 4 |" in page
        assert (out / "passes.png").read_bytes().startswith(b"\x89PNG")
    assert run_cli(("bench", "decode", place.runs / "ar", "--out", out)) == 2
    assert "exists already" in capsys.readouterr().err
    assert run_cli(("bench", "encode")) == 2
    assert "needs one of decode, not 'encode'" in capsys.readouterr().err
