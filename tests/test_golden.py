"""Version 0.1.0, recorded: small runs of every kind compute the same losses, weights and texts to the last bit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from golden.record import machine, record

OLD = json.loads((Path(__file__).parent / "golden" / "0.1.0.json").read_text(encoding="utf-8"))


@pytest.mark.untraced
@pytest.mark.slow
def test_nothing_learnt_or_written_has_changed(tmp_path):
    found = record(tmp_path)
    assert found["losses"].keys() == OLD["losses"].keys()
    if machine() == OLD["machine"]:
        for what in ("losses", "weights", "texts"):
            assert {name for name in OLD[what] if found[what][name] != OLD[what][name]} == set(), what
    for name, lines in OLD["losses"].items():  # on another processor sums are rounded in another order
        for before, now in zip(lines, found["losses"][name], strict=True):
            old, new = (float.fromhex(line.get("loss", line.get("validation_loss"))) for line in (before, now))
            assert math.isclose(old, new, rel_tol=0.02, abs_tol=0.05), (name, before["step"])
