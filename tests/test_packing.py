"""Plans of rows: nothing lost but the tail, nothing twice, nothing too long, and little wasted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_llada.data import packing
from nano_llada.data.packing import ContinuousPlan, Piece, WholePlan, best_fit

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


def ints(values) -> np.ndarray:
    return np.asarray(values, dtype=np.int64)


def rows_of(plan) -> list[list[Piece]]:
    return [plan.row(index) for index in range(len(plan))]


def places(pieces) -> list[tuple[int, int]]:
    """(document, place in it) of each token."""
    return [(piece.document, piece.start + i) for piece in pieces for i in range(piece.length)]


def test_continuous_rows_by_hand():
    plan = ContinuousPlan(ints([3, 99, 2, 12]), ints([3, 0, 2]), 5)
    assert rows_of(plan) == [
        [Piece(3, 0, 5)],
        [Piece(3, 5, 5)],
        [Piece(3, 10, 2), Piece(0, 0, 3)],  # what is left, 2 tokens of document 2, is dropped
    ]


@given(lengths=LENGTHS, length=st.integers(2, 25), data=st.data())
@settings(max_examples=100, deadline=None)
def test_continuous_rows_hold_every_token_once_but_the_tail(lengths, length, data):
    order = data.draw(st.permutations(range(len(lengths))))
    order = order[: data.draw(st.integers(1, len(order)))]
    plan = ContinuousPlan(ints(lengths), ints(order), length)
    everything = [(document, i) for document in order for i in range(lengths[document])]
    assert len(plan) == len(everything) // length
    rows = rows_of(plan)
    assert all(len(places(row)) == length for row in rows)
    assert places(piece for row in rows for piece in row) == everything[: len(plan) * length]
    assert all(piece.length > 0 for row in rows for piece in row)
    assert all(piece.start == 0 for row in rows for piece in row[1:])  # only a row's first can go on from before
    assert [plan.row(index) for index in reversed(range(len(plan)))] == rows[::-1]


@pytest.mark.parametrize(("lengths", "order"), [([4], [0]), ([2, 2], [1, 0]), ([9], []), ([], [])])
def test_too_little_for_a_row_is_no_row(lengths, order):
    assert len(ContinuousPlan(ints(lengths), ints(order), 5)) == 0


def fewest_rows(lengths: list[int], capacity: int) -> int:
    """The best there is, by trying everything: each document into each row it fits in, or a new one."""
    best = len(lengths)

    def place(index: int, rooms: tuple[int, ...]) -> None:
        nonlocal best
        if len(rooms) >= best:
            return
        if index == len(lengths):
            best = len(rooms)
            return
        for spot, room in enumerate(rooms):
            if room >= lengths[index]:
                place(index + 1, (*rooms[:spot], room - lengths[index], *rooms[spot + 1 :]))
        place(index + 1, (*rooms, capacity - lengths[index]))

    place(0, ())
    return best


@given(lengths=LENGTHS, spare=st.integers(0, 30), data=st.data())
@settings(max_examples=100, deadline=None)
def test_best_fit_uses_each_document_once_and_no_row_is_too_long(lengths, spare, data):
    capacity = max(lengths) + spare
    names = data.draw(st.permutations(range(100, 100 + len(lengths))))
    size = dict(zip(names, lengths, strict=True))
    rows = best_fit(lengths, names, capacity)
    assert sorted(name for row in rows for name in row) == sorted(names)
    fill = [sum(size[name] for name in row) for row in rows]
    assert max(fill) <= capacity
    assert all(one + other > capacity for i, one in enumerate(fill) for other in fill[:i])  # no two would fit in one
    at = [[names.index(name) for name in row] for row in rows]
    assert at == sorted(sorted(row) for row in at)  # in the order that was given


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8), spare=st.integers(0, 12))
@settings(max_examples=100, deadline=None)
def test_best_fit_comes_near_the_best_there_is(lengths, spare):
    capacity = max(lengths) + spare
    count = len(best_fit(lengths, range(len(lengths)), capacity))
    assert count <= (11 * fewest_rows(lengths, capacity) + 6) / 9  # proved for longest first


@pytest.mark.parametrize("seed", range(3))
def test_best_fit_wastes_little_on_random_lengths(seed):
    lengths = np.random.Generator(np.random.Philox(seed)).integers(3, 128, 2000)
    rows = best_fit(lengths.tolist(), range(2000), 256)
    assert len(rows) <= 1.01 * np.ceil(lengths.sum() / 256)


def test_best_fit_by_hand():
    assert best_fit([4, 7, 3, 6], "abcd", 10) == [["a", "d"], ["b", "c"]]
    assert best_fit([5, 5, 5], "abc", 5) == [["a"], ["b"], ["c"]]
    assert best_fit([2, 3, 6, 5], "abcd", 8) == [["a", "c"], ["b", "d"]]  # as they come, 2 and 3 would share a row
    assert best_fit([6, 5, 3, 2], "abcd", 9) == [["a", "c"], ["b", "d"]]  # 3 fits both rows, one without a gap
    assert best_fit([], [], 5) == []


@given(lengths=LENGTHS, length=st.integers(2, 25), packed=st.booleans(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_whole_rows_hold_every_document_once(lengths, length, packed, data):
    order = data.draw(st.permutations(range(len(lengths))))
    plan = WholePlan(ints(lengths), ints(order), length, packing=packed)
    rows = rows_of(plan)
    assert sorted(piece.document for row in rows for piece in row) == sorted(order)
    cut = {document: min(size, length) for document, size in enumerate(lengths)}  # long ones are cut at the row's end
    assert all(piece == Piece(piece.document, 0, cut[piece.document]) for row in rows for piece in row)
    assert all(0 < len(places(row)) <= length for row in rows)
    if not packed:
        assert [row[0].document for row in rows] == order
        assert {len(row) for row in rows} == {1}


def test_pools_are_packed_by_themselves(monkeypatch):
    monkeypatch.setattr(packing, "POOL", 10)
    rng = np.random.Generator(np.random.Philox(0))
    lengths, order = rng.integers(1, 9, 35), rng.permutation(35)
    plan = WholePlan(lengths, order, 20, packing=True)
    pool = {document: place // 10 for place, document in enumerate(order.tolist())}
    rows = [[pool[piece.document] for piece in row] for row in rows_of(plan)]
    assert all(len(set(row)) == 1 for row in rows)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert sorted(piece.document for row in rows_of(plan) for piece in row) == list(range(35))


def test_another_order_is_another_plan():
    lengths = np.random.Generator(np.random.Philox(1)).integers(1, 30, 200)
    plans = [WholePlan(lengths, ints(order), 64, packing=True) for order in (range(200), range(199, -1, -1))]
    first, second = ([row[0].document for row in rows_of(plan)] for plan in plans)
    assert first == sorted(first)
    assert second == sorted(second, reverse=True)
