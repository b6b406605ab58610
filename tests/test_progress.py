"""What long work says about how far it is."""

from __future__ import annotations

import re

import pytest

from nano_llada.config.data import DataConfig
from nano_llada.core import progress as module
from nano_llada.core.progress import Progress, duration, left
from nano_llada.data.read import resolve
from nano_llada.session.data import documents_in
from nano_llada.training.log import RunLog
from tiny import texts, write_rows


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when it is set."""
    now = {"time": 100.0}
    monkeypatch.setattr(module.time, "monotonic", lambda: now["time"])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (7260, "2 h 1 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_rest_at_the_rate_so_far():
    assert left(3, 12, 60.0) == "about 3 min left"
    assert left(12, 12, 60.0) == "about 0 s left"
    assert left(0, 12, 60.0) == ""


def test_lines_come_every_ten_seconds_with_rate_and_rest(clock, capsys):
    work = Progress("tokenising", "documents", lambda: 4000)
    work(1000)
    assert capsys.readouterr().err == ""  # short work says nothing
    clock["time"] += 20
    work(1000)
    clock["time"] += 5
    work(1500)
    assert capsys.readouterr().err == "tokenising: 1,000 of about 4,000 documents, 50 documents/s, about 60 s left\n"
    unknown = Progress("tokenising", "documents")
    clock["time"] += 10
    unknown(300)
    assert capsys.readouterr().err == "tokenising: 300 documents, 30 documents/s\n"


def test_how_many_documents_there_are_is_counted_where_it_is_known(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", texts(7))
    (tmp_path / "b.txt").write_text("one\ntext\n", encoding="utf-8")
    assert documents_in(resolve([str(path)]), DataConfig()) == 7
    assert documents_in(resolve([str(path)]), DataConfig(format="preference", packing=False)) == 14
    assert documents_in(resolve([str(path)]), DataConfig(format="chat", turns="each")) is None
    assert documents_in(resolve([str(tmp_path)]), DataConfig()) is None


def test_training_says_how_long_it_still_takes(tmp_path, clock, capsys):
    log = RunLog(tmp_path, 100, None)
    log.start(40)
    clock["time"] += 30
    log.progress(50, "loss 1.000")
    clock["time"] += 300
    log.progress(100, "loss 1.000")
    log.close()
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r".*: step 50/100  loss 1\.000  about 2 min left", lines[0])
    assert lines[1].endswith("step 100/100  loss 1.000")
