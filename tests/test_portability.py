"""What other systems than this one would trip over: modules they lack, encodings without Chinese, open files."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from forked import Forked, needs_fork, piped
from nano_llada.checkpoint import manager
from nano_llada.checkpoint.manager import RunCheckpoints
from tiny import write_rows

POSIX_ONLY = ["fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"]


@needs_fork
def test_no_module_needs_what_only_posix_has():
    def work() -> None:
        # what is installed is built differently there: only our own modules are imported anew
        for name in [name for name in sys.modules if name.split(".")[0] == "nano_llada"]:
            del sys.modules[name]
        sys.modules.update(dict.fromkeys(POSIX_ONLY))  # an import of it raises
        import nano_llada as package

        names = [module.name for module in pkgutil.walk_packages(package.__path__, "nano_llada.")]
        for name in names:
            if "harness" not in name:  # lm-eval is an extra with demands of its own
                importlib.import_module(name)
        print(len(names))

    done = Forked(work).finish()
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) > 100


@needs_fork
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_chinese_is_written_where_the_usual_encoding_has_none(tmp_path, encoding):
    rows = write_rows(tmp_path / "texts.jsonl", [{"text": "汤姆有一个红色的球。"}] * 3)
    done = piped("data", "show", rows, encoding=encoding)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    assert "汤姆有一个红色的球" in done.stdout.decode("utf-8")
    assert piped("data", "show", rows, encoding="gbk").stdout.decode("gbk") == done.stdout.decode("utf-8")
    missing = piped("data", "show", tmp_path / "没有.jsonl", encoding=encoding)
    assert missing.returncode == 2
    assert "没有.jsonl" in missing.stderr.decode("utf-8")


def test_a_file_whose_name_is_no_text_is_named_in_the_error(tmp_path):
    words = ("-m", "nano_llada.cli.main", "data", "show", str(tmp_path / "a\udcff.jsonl"))
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"}  # a process of its own: names are decoded by them
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "\\udcff.jsonl" in done.stderr.decode()


def saved(run_folder: Path, *steps: int) -> RunCheckpoints:
    """A run with folders of checkpoints, of which the newest one is to be kept."""
    for step in steps:
        (run_folder / f"step-{step:06d}").mkdir(parents=True)
        (run_folder / f"step-{step:06d}" / "model.safetensors").write_bytes(b"weights")
    return RunCheckpoints(run_folder, keep_last=1, keep_best=0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_that_somebody_reads_stays_until_the_next_time(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path / "run", 1, 2)
    checkpoints.losses = {"step-000001": 1.0, "step-000002": 2.0}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "in use")))
        checkpoints.tidy()
    assert names(tmp_path / "run") == ["step-000001", "step-000002"]
    assert checkpoints.losses == {"step-000001": 1.0, "step-000002": 2.0}
    checkpoints.tidy()
    assert names(tmp_path / "run") == ["step-000002"]
    assert checkpoints.losses == {"step-000002": 2.0}


def test_half_a_removed_checkpoint_does_not_look_like_one(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path / "run", 1, 2)
    monkeypatch.setattr(manager.shutil, "rmtree", lambda *_, **__: None)  # killed before anything was deleted
    checkpoints.tidy()
    assert names(tmp_path / "run") == [".step-000001.removed", "step-000002"]
    monkeypatch.undo()
    checkpoints.tidy()
    assert names(tmp_path / "run") == ["step-000002"]
