"""What a run writes down: metrics.jsonl, samples.jsonl, log.txt, trackers, and the progress bar on a terminal."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nano_llada.core.errors import UserError
from nano_llada.core.files import reason_of, regular, write_bytes, writing
from nano_llada.core.progress import left

METRICS, SAMPLES, ROLLOUTS = "metrics.jsonl", "samples.jsonl", "rollouts.jsonl"
QUIET_SECONDS = 10.0  # between lines where there is no terminal to draw a bar on


class Tracker(Protocol):
    """Somewhere else that metrics go."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class _Module:
    """wandb, and trackio which speaks the same words."""

    def __init__(self, module: Any, name: str) -> None:
        self._run = module.init(project="nano-llada", name=name)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def open_tracker(kind: str, folder: Path) -> Tracker | None:
    """The tracker a run asks for. Raises UserError if its package is not installed, or it refuses to start."""
    if kind == "none":
        return None
    try:
        if kind == "tensorboard":
            from nano_llada.training.tensorboard import TensorBoard  # needs an optional package

            return TensorBoard(folder)
        return _Module(__import__(kind), folder.name)
    except ImportError as error:
        raise UserError(f"tracker {kind!r} is not installed: pip install {kind}") from error
    except Exception as error:  # each package has its own classes for a missing key, no network, a full disk
        advice = "log in with `wandb login` or set WANDB_MODE=offline, or " if kind == "wandb" else ""
        raise UserError(f"tracker {kind!r} did not start: {gist(error)}; {advice}leave --tracker out") from error


def gist(error: Exception) -> str:
    """The first line of what an error says, with its class."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class Log(Protocol):
    """Where a run writes what happens."""

    total_steps: int

    def start(self, step: int) -> None: ...
    def progress(self, step: int, note: str) -> None: ...
    def metrics(self, step: int, values: Mapping[str, float | int]) -> None: ...
    def has_samples(self, step: int) -> bool: ...
    def samples(self, step: int, samples: Iterable[tuple[str, str]]) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


class QuietLog:
    """Of a process that leaves writing to another one."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps

    def start(self, step: int) -> None:
        """Write nothing."""

    def progress(self, step: int, note: str) -> None:
        """Write nothing."""

    def metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """Write nothing."""

    def has_samples(self, step: int) -> bool:
        """Nothing was written."""
        return False

    def samples(self, step: int, samples: Iterable[tuple[str, str]]) -> None:
        """Write nothing."""

    def say(self, text: str) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Nothing is open."""


class RunLog:
    """Metrics as JSON lines, a log to read, and a bar with rate and time left."""

    def __init__(self, folder: Path, total_steps: int, tracker: Tracker | None, console: Console | None = None) -> None:
        self.folder, self.total_steps, self._tracker = folder, total_steps, tracker
        self._console = console or Console()
        self._metrics: IO[str] | None = None
        self._log = _appending(folder / "log.txt")
        self._last_line = 0.0
        self._first = (0, time.monotonic())  # the step that is continued from, and when
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(folder.name, total=total_steps, note="")

    def start(self, step: int) -> None:
        """Draw the bar from a step on, and drop metrics and samples written after it.

        Raises:
            UserError: if they cannot be written.
        """
        forget_after(self.folder, step)
        self._metrics = _appending(self.folder / METRICS)
        self._bar.start()
        self._bar.update(self._task, completed=step)
        self._first = (step, time.monotonic())

    def progress(self, step: int, note: str) -> None:
        """Move the bar; without a terminal, a line now and then."""
        self._bar.update(self._task, completed=step, note=note)
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._last_line > QUIET_SECONDS or step == self.total_steps):
            self._last_line = now
            rest = left(step - self._first[0], self.total_steps - self._first[0], now - self._first[1])
            line = f"{self.folder.name}: step {step}/{self.total_steps}  {note}"
            self._console.print(
                f"{line}  {rest}" if rest and step < self.total_steps else line,
                highlight=False,
                markup=False,
                emoji=False,
            )

    def metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """One line of metrics.jsonl, flushed, and the tracker; one that fails is said so and not asked again.

        Raises:
            UserError: if metrics.jsonl cannot be written.
        """
        assert self._metrics is not None  # started
        _append(self._metrics, json.dumps({"step": step, **values}) + "\n")
        if self._tracker is not None:
            try:
                self._tracker.log({k: float(v) for k, v in values.items()}, step)
            except Exception as error:  # whatever its package raises: the run is worth more
                self._give_up_tracker(error)

    def _give_up_tracker(self, error: Exception) -> None:
        self._tracker = None
        self.say(f"the tracker failed and gets no more metrics: {gist(error)}; {METRICS} has them all")

    def has_samples(self, step: int) -> bool:
        """Whether samples of a step stand in samples.jsonl already."""
        path = self.folder / SAMPLES
        lines = path.read_bytes().splitlines() if path.is_file() else []
        return any(json.loads(line)["step"] == step for line in lines)

    def samples(self, step: int, samples: Iterable[tuple[str, str]]) -> None:
        """Prompts and the texts that answer them, for samples.jsonl and to read."""
        rows = [{"step": step, "prompt": prompt, "text": text} for prompt, text in samples]
        with _appending(self.folder / SAMPLES) as file, writing(file.name):
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        for row in rows:
            self.say(f"sample: {row['prompt']} -> {row['text']}")

    def say(self, text: str) -> None:
        """A line for the terminal and log.txt. Raises UserError if that cannot be written."""
        _append(self._log, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        """Put everything away."""
        self._bar.stop()
        if self._tracker is not None:
            try:
                self._tracker.close()
            except Exception as error:
                self._give_up_tracker(error)
        for file in (self._metrics, self._log):
            if file is not None:
                with contextlib.suppress(OSError):  # said already, when the line that is left was written
                    file.close()


def _appending(path: Path) -> IO[str]:
    with writing(str(path)):
        return regular(path).open("a", encoding="utf-8")


def _append(file: IO[str], text: str) -> None:
    with writing(file.name, "what was saved before is untouched: continue with `nano-llada resume RUN`"):
        file.write(text)
        file.flush()


def forget_after(folder: Path, step: int) -> None:
    """Drop metrics and samples written after a checkpoint, so that a resumed run's files read like a whole run's.

    Raises:
        UserError: if a file cannot be read or written.
    """
    for path in (folder / METRICS, folder / SAMPLES, folder / ROLLOUTS):
        if path.is_file():
            with writing(str(path)):
                _keep_until(path, step)


def _keep_until(path: Path, step: int) -> None:
    kept = []
    for line in path.read_bytes().splitlines():  # bytes: a kill may cut a line inside a character
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, LookupError, TypeError, RecursionError):
            continue  # a line cut off by a kill
    write_bytes(path, b"".join(kept))


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """All lines of a run's metrics. Raises UserError if there are none, or one is broken."""
    path = folder / METRICS
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no metrics.jsonl")
    rows = []
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason_of(error).lower()}") from error
    for number, line in enumerate(lines, 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError, RecursionError) as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break  # being written at this moment, or cut off by a kill
            raise UserError(f"{path}:{number}: this line is broken ({gist(error)})") from error
    return rows
