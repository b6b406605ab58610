"""Runs killed at random times, by one process and by two; `python tests/soak.py` kills 240 times."""

from __future__ import annotations

import os

import pytest

from soak import soak


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("processes", "kills"), [(1, 8), (2, 4)])
def test_runs_that_are_killed_again_and_again_end_as_if_nothing_had_happened(processes, kills):
    done = soak(processes, kills)
    assert done.found == []
    assert done.kills == kills
