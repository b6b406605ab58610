"""A run killed at some of its file operations; `python tests/kills.py` kills it at every one."""

from __future__ import annotations

import os

import pytest

from kills import Sweep

POINTS = 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_or_without_room_on_the_disk_ends_as_if_nothing_had_happened(tmp_path):
    sweep = Sweep(tmp_path)
    assert sweep.points > 300  # the shim sees opening, writing, flushing, renaming, deleting
    first = sweep.points // (2 * POINTS)
    for number, point in enumerate(range(first, sweep.points, sweep.points // POINTS)):
        sweep.kill(point, twice=number == 0)
        if number % 2:
            sweep.fill(point + 1)
    assert sweep.found == []
