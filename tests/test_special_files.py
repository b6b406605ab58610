"""A named pipe in a run folder, on which reading and writing wait for ever: refused by name, or not used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nano_llada.checkpoint.files import step_folders
from nano_llada.core.files import regular
from tiny import Place, family, run_cli

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes"),
    pytest.mark.timeout(120),
]
# what a command makes anew, or does without
NOT_NEEDED = {"best.json", "environment.json", "inputs.json", "loss.png", "outcome.json"}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Place:
    return family(tmp_path_factory.getbasetemp())


def files_of(run: Path) -> list[str]:
    last = step_folders(run)[-1]
    return sorted(path.relative_to(run).as_posix() for base in (run, last) for path in base.iterdir() if path.is_file())


def with_pipe(run: Path, name: str, to: Path) -> Path:
    """A copy of a run in which one file is a named pipe."""
    copy = shutil.copytree(run, to / name.replace("/", "-") / "ar")
    (copy / name).unlink()
    os.mkfifo(copy / name)
    return copy


def test_no_command_waits_for_a_named_pipe(done, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = done.runs / "ar"
    names = files_of(run)
    model = {name for name in names if name.startswith("step-")}
    assert {*NOT_NEEDED, "config.json", "log.txt", "metrics.jsonl", "samples.jsonl"} | model == set(names)
    assert len(model) == 7
    refused: dict[str, set[str]] = {}
    for name in names:
        resumed, used = (with_pipe(run, name, tmp_path / copy) for copy in "ab")
        reading = (
            ["generate", used, "Tom", "--max-new-tokens", 1] if name in {*model, "best.json"} else ["report", used]
        )
        for words in (["resume", resumed, "--steps", 4], reading):
            if run_cli(words):
                told = capsys.readouterr().err
                assert "Traceback" not in told
                assert name.rpartition("/")[2] in told
                refused.setdefault(words[0], set()).add(name)
    assert refused == {
        "resume": set(names) - NOT_NEEDED,
        "generate": model,
        "report": {"config.json", "metrics.jsonl"},
    }


def test_only_what_can_be_read_to_its_end_is_regular(tmp_path):
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    file.touch()
    assert regular(file) == file
    assert regular(tmp_path / "none") == tmp_path / "none"
    for path, what in ((pipe, "named pipe"), (Path("/dev/zero"), "device")):
        with pytest.raises(OSError, match=what):
            regular(path)
