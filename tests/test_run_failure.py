"""A run that cannot go on for want of memory or of a compiler says so, and what to do."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from forked import Forked, needs_fork
from nano_llada.cli.main import main
from nano_llada.config.run import default_run
from nano_llada.config.train import TrainConfig
from nano_llada.core.errors import UserError
from nano_llada.session.failure import _explain_memory
from nano_llada.session.run import execute
from nano_llada.training.trainer import Trainer
from tiny import Place, make_place, tiny_arguments, tiny_run


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return make_place(tmp_path_factory.mktemp("failure"))


def too_much() -> None:
    torch.empty(2**55, dtype=torch.float32)


def no_device_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee the documentation.")


def fail_in_step(monkeypatch, number: int, work) -> None:
    step = Trainer._train_step

    def failing(trainer):
        if trainer.step + 1 == number:
            work()
        return step(trainer)

    monkeypatch.setattr(Trainer, "_train_step", failing)


def too_large_for_numpy() -> None:
    np.empty(2**55)


def windows() -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:115] data. DefaultCPUAllocator: not enough memory: 9 bytes.")


@pytest.mark.parametrize(
    ("work", "gist"),
    [
        (too_much, "can't allocate memory"),
        (no_device_memory, "(CUDA out of memory. Tried to"),
        (too_large_for_numpy, "Unable to allocate"),
        (windows, "not enough memory"),
    ],
)
def test_too_little_memory(place, monkeypatch, work, gist):
    fail_in_step(monkeypatch, 3, work)
    options = {"name": f"memory-{work.__name__}", "steps": 4, "save_every": 2, "batch_size": 8}
    with pytest.raises(UserError) as caught:
        execute(tiny_run(place, **options))
    said = str(caught.value)
    assert said.startswith("step 3 needs more memory than there is (")
    assert gist in said
    ways = "try --micro-batch-size 4 (as many rows a step, fewer at once) or --gradient-checkpointing"
    assert f"{ways} with `nano-llada resume {place.runs / options['name']}`, which continues from " in said
    assert said.endswith("step-000002, or a shorter --sequence-length or a smaller model")
    assert "See the documentation" not in said
    monkeypatch.undo()
    assert execute(tiny_run(place, **options, micro_batch_size=4), resume=True).state == "finished"


def test_only_what_would_help_is_advised(place, monkeypatch):
    fail_in_step(monkeypatch, 1, no_device_memory)
    config = tiny_run(place, name="one", steps=2, batch_size=8, micro_batch_size=1, gradient_checkpointing=True)
    with pytest.raises(UserError, match=r"\): try a shorter --sequence-length or a smaller model$"):
        execute(config)


def test_an_error_of_ours_stays_what_it_is(place, monkeypatch):
    from torch._dynamo.exc import TorchRuntimeError  # takes a second, of everybody who collects tests

    def broken() -> None:
        torch.ones(2) @ torch.ones(3)

    def broken_when_compiled() -> None:
        torch.compile(broken, fullgraph=True)()

    for work, kind in ((broken, RuntimeError), (broken_when_compiled, TorchRuntimeError)):
        with monkeypatch.context() as patch:
            fail_in_step(patch, 1, work)
            with pytest.raises(kind) as caught:
                execute(tiny_run(place, name=work.__name__, steps=2))
        assert caught.type is kind


@pytest.mark.parametrize(
    ("batch", "micro", "advised"), [(8, None, "4"), (8, 64, "4"), (2, 2, "1"), (1, None, None), (3, None, "1")]
)
def test_rows_at_once_that_are_advised(place, batch, micro, advised):
    config = tiny_run(place, name="never", batch_size=batch, micro_batch_size=micro)
    told = _explain_memory(config, 1, "full")
    assert (f"--micro-batch-size {advised} (" in told) == (advised is not None)
    assert ("--micro-batch-size" in told) == (advised is not None)


@pytest.mark.parametrize(("batch", "micro", "advised"), [(6, None, "2"), (8, None, "4"), (16, 2, None)])
def test_pairs_stay_together(place, batch, micro, advised):
    train = TrainConfig(batch_size=batch, micro_batch_size=micro)
    told = _explain_memory(replace(default_run("dpo", "ar"), train=train), 1, "full")
    assert (f"--micro-batch-size {advised} (" in told) == (advised is not None)
    assert ("--micro-batch-size" in told) == (advised is not None)


# knows its version and cannot compile, like a compiler on a machine without Python's headers
HEADLESS = """#!/bin/sh
[ "$1" = --version ] && echo "g++ (GCC) 12.2.0" && exit
echo "x.cpp:1: fatal error: Python.h: No such file or directory" >&2
exit 1
"""


@needs_fork
@pytest.mark.parametrize(
    ("compiler", "gist"),
    [
        ("no-such-compiler", "InvalidCxxCompiler: No working C++ compiler found"),
        pytest.param(
            HEADLESS,
            "fatal error: Python.h: No such file or directory",
            marks=pytest.mark.skipif(os.name != "posix", reason="a shell script plays the compiler"),
        ),
    ],
    ids=["no compiler", "no headers"],
)
def test_without_a_compiler(place, tmp_path, compiler, gist):
    if compiler is HEADLESS:
        path = tmp_path / "g++"
        path.write_text(compiler, encoding="utf-8")
        path.chmod(0o755)
        compiler = str(path)
    words = tiny_arguments(place, name=f"without-{tmp_path.name}", steps=2, compile=True)

    import torch._inductor.compile_fx  # here, for the children of both cases

    def work() -> int:
        torch._inductor.config.cpp.cxx = (None, compiler)  # CXX is read at import
        return main(words)

    done = Forked(work, environment={"CXX": compiler, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}).finish()
    said = done.stderr.decode()
    assert done.returncode == 2, said
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: torch.compile does not work here (")
    assert gist in last
    assert last.endswith("leave --compile out, or install a C++ compiler and Python's headers")
