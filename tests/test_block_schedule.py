"""The size of the blocks over a run: it grows, stays at whole rows, shrinks, and ends at what generation uses."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from built import act
from nano_llada.config.objectives import BlockSizeSchedule, Denoising
from nano_llada.core.batch import TokenBatch

LLADA2 = BlockSizeSchedule(32, (1, 4, 32, 64), (128, 64, 32), 0.4, 0.3)


def over_run(schedule: BlockSizeSchedule, steps: int) -> list[tuple[int | None, int]]:
    """(size, steps it lasts), in order."""
    sizes = [schedule.at(step / steps) for step in range(steps)]
    return [(size, len(list(group))) for size, group in groupby(sizes)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (LLADA2, [(1, 100), (4, 100), (32, 100), (64, 100), (None, 300), (128, 100), (64, 100), (32, 100)]),
        (BlockSizeSchedule(), [(None, 1000)]),
        (BlockSizeSchedule(8), [(8, 1000)]),
        (BlockSizeSchedule(block_warmup=(1, 4), block_warmup_share=0.5), [(1, 250), (4, 250), (None, 500)]),
        (BlockSizeSchedule(4, block_decay=(8, 4), block_decay_share=0.5), [(None, 500), (8, 250), (4, 250)]),
        (BlockSizeSchedule(4, (2,), (4,)), [(2, 300), (None, 500), (4, 200)]),
        (BlockSizeSchedule(4, (2,), (4,), 0.5, 0.5), [(2, 500), (4, 500)]),
        (BlockSizeSchedule(4, (), (8, 4), 0.0, 1.0), [(8, 500), (4, 500)]),
    ],
    ids=["llada2", "rows", "constant", "only-warmup", "only-decay", "one-of-each", "no-rows", "decay-all-along"],
)
def test_sizes_over_a_run_are_these(schedule, expected):
    found = over_run(schedule, 1000)
    assert [size for size, _ in found] == [size for size, _ in expected]
    for (_, steps), (_, wanted) in zip(found, expected, strict=True):
        assert abs(steps - wanted) <= 1  # a boundary that falls on a step may be rounded to either side


@pytest.mark.parametrize(
    ("schedule", "first", "last"),
    [
        (LLADA2, 1, 32),
        (BlockSizeSchedule(), None, None),
        (BlockSizeSchedule(8), 8, 8),
        (BlockSizeSchedule(block_warmup=(2, 4)), 2, None),
        (BlockSizeSchedule(4, block_decay=(8, 4)), None, 4),
        (BlockSizeSchedule(4, (), (8, 4), 0.0, 1.0), 8, 4),
    ],
)
def test_it_begins_as_it_is_told_and_ends_at_the_block_size(schedule, first, last):
    assert schedule.at(0.0) == first
    assert schedule.at(1.0) == last == schedule.block_size


@settings(max_examples=200, deadline=None)
@given(
    growing=st.lists(st.integers(1, 64), min_size=1, max_size=7, unique=True).map(sorted),
    shrinking=st.lists(st.integers(1, 64), min_size=1, max_size=7, unique=True).map(sorted),
    shares=st.tuples(st.integers(1, 10), st.integers(1, 10)).filter(lambda pair: sum(pair) <= 20),
    steps=st.integers(40, 400),
)
def test_any_run_grows_stays_and_shrinks_in_equal_parts(growing, shrinking, shares, steps):
    shrinking = shrinking[::-1]
    warmup, decay = shares[0] / 20, shares[1] / 20
    schedule = BlockSizeSchedule(shrinking[-1], tuple(growing), tuple(shrinking), warmup, decay)
    sizes = [schedule.at(step / steps) for step in range(steps)]
    # where a size may begin and end, in steps: equal parts of each share
    ends = [warmup * steps * (i + 1) / len(growing) for i in range(len(growing))]
    ends += [steps * (1 - decay * (1 - i / len(shrinking))) for i in range(len(shrinking) + 1)]
    order, begin = [*growing, None, *shrinking], 0.0
    for size, end in zip(order, ends, strict=True):
        inside = [sizes[step] for step in range(steps) if begin + 1e-6 < step < end - 1e-6]
        assert set(inside) <= {size}
        begin = end
    assert sizes[0] == growing[0]
    assert schedule.at(1.0) == shrinking[-1]
    grown = sizes[: sizes.index(None)] if None in sizes else sizes[: int(warmup * steps)]
    assert grown == sorted(grown)
    shrunk = sizes[len(sizes) - sizes[::-1].index(None) :] if None in sizes else sizes[int(warmup * steps) + 1 :]
    assert shrunk == sorted(shrunk, reverse=True)


def test_measuring_stands_where_the_run_ends(context):
    ctx = context(4, step=7)
    assert ctx.progress == pytest.approx(0.07)
    assert LLADA2.at(ctx.progress) == 1
    measured = replace(ctx, measuring=True)
    assert measured.progress == 1.0
    assert LLADA2.at(measured.progress) == 32
    assert replace(ctx, total_steps=0, step=0).progress == 0.0


def test_training_uses_the_size_of_its_step_and_measuring_the_last(peaky, make_batch, context):
    schedule = BlockSizeSchedule(2, (1, 4), (8, 2), 0.2, 0.2)
    batch = make_batch([[16]] * 3)

    def told(**changes) -> float:
        out = act(Denoising(blocks=schedule)).loss(peaky, batch, replace(context(3), **changes))
        fixed = None if out.metrics["block_size"][0] == 16 else int(out.metrics["block_size"][0])
        alone = act(Denoising(blocks=BlockSizeSchedule(fixed))).loss(peaky, batch, replace(context(3), **changes))
        assert torch.equal(out.total, alone.total)  # the size is used, not only told
        assert out.positions == alone.positions
        return float(out.metrics["block_size"][0] / out.metrics["block_size"][1])

    assert [told(step=step) for step in (0, 9, 11, 19, 21, 79, 81, 89, 91, 99)] == [1, 1, 4, 4, 16, 16, 8, 8, 2, 2]
    assert told(step=0, measuring=True) == 2


def test_a_constant_size_is_no_metric(peaky, make_batch, context):
    batch = make_batch([[6]])
    for schedule in (BlockSizeSchedule(), BlockSizeSchedule(2)):
        assert "block_size" not in act(Denoising(blocks=schedule)).loss(peaky, batch, context(1)).metrics


def test_a_size_is_whole_rows_once_it_holds_the_longest_document(peaky, make_batch, context):
    batch: TokenBatch = make_batch([[3, 5], [5, 3]])
    positions = [
        act(Denoising(blocks=BlockSizeSchedule(size))).loss(peaky, batch, context(2)).positions for size in (4, 5, 6)
    ]
    assert positions == [32, 16, 16]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"block_warmup": (1, -2)}, "block_warmup must be at least 1, got -2"),
        ({"block_size": 4, "block_decay": (0, 4)}, "block_decay must be at least 1, got 0"),
        ({"block_size": 4, "block_decay": (16, 8)}, "block_decay ends with 8, but block_size is 4"),
        ({"block_decay": (16, 8)}, "block_decay ends with 8, but block_size is None"),
        (
            {"block_size": 4, "block_warmup": (1,)},
            "whole rows follow block_warmup: block_size 4 needs a block_decay",
        ),
        ({"block_warmup": (1,), "block_warmup_share": -0.1}, r"block_warmup_share must be in \[0, 1\], got -0.1"),
        (
            {"block_size": 4, "block_decay": (8, 4), "block_decay_share": 0.0},
            r"add up to at most 1, got {'block_decay': 0.0}",
        ),
        (
            {"block_size": 4, "block_warmup": (1,), "block_decay": (4,), "block_decay_share": 0.8},
            r"add up to at most 1, got {'block_warmup': 0.3, 'block_decay': 0.8}",
        ),
        ({"block_warmup": (4, 1)}, r"block_warmup must grow, got \(4, 1\)"),
        ({"block_size": 8, "block_decay": (4, 8)}, r"block_decay must shrink, got \(4, 8\)"),
    ],
)
def test_schedules_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BlockSizeSchedule(**options)


def test_shares_may_fill_the_whole_run():
    """Rounding refuses none of them."""
    for thousandths in range(1, 1000):
        schedule = BlockSizeSchedule(2, (1,), (2,), thousandths / 1000, (1000 - thousandths) / 1000)
        assert [schedule.at((thousandths + shift) / 1000) for shift in (-0.1, 0.1)] == [1, 2]


@pytest.mark.parametrize(
    ("schedule", "wrong"),
    [
        (BlockSizeSchedule(5), "[5]"),
        (BlockSizeSchedule(7, (4, 5), (8, 7)), "[5, 7]"),
        (BlockSizeSchedule(block_warmup=(1, 9)), "[9]"),
    ],
)
def test_sizes_that_do_not_divide_the_row_are_named_with_those_that_do(schedule, wrong):
    with pytest.raises(ValueError, match="do not divide") as caught:
        schedule.check_row(24)
    legal = "1, 2, 3, 4, 6, 8, 12, 24"
    assert str(caught.value) == f"block sizes {wrong} do not divide sequence_length 24; these do: {legal}"


def test_sizes_that_divide_the_row_or_exceed_it_pass():
    for size in range(1, 80):
        schedule = BlockSizeSchedule(size)
        if size >= 24 or 24 % size == 0:
            schedule.check_row(24)
        else:
            with pytest.raises(ValueError, match=rf"^block sizes \[{size}\] do not divide sequence_length 24"):
                schedule.check_row(24)
    BlockSizeSchedule(2, (1, 3, 24, 48), (12, 2)).check_row(24)
    BlockSizeSchedule().check_row(7)
