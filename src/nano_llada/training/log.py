"""What a run writes down: metrics.jsonl, samples.jsonl, log.txt, trackers, and the progress bar on a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nano_llada.core.errors import UserError
from nano_llada.core.progress import left

METRICS, SAMPLES, ROLLOUTS = "metrics.jsonl", "samples.jsonl", "rollouts.jsonl"
QUIET_SECONDS = 10.0  # between lines where there is no terminal to draw a bar on


class Tracker(Protocol):
    """Somewhere else that metrics go."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Module:
    """wandb, and trackio which speaks the same words."""

    def __init__(self, module: Any, name: str) -> None:
        self._run = module.init(project="nano-llada", name=name)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def open_tracker(kind: str, folder: Path) -> Tracker | None:
    """The tracker a run asks for. Raises UserError if its package is not installed."""
    if kind == "none":
        return None
    try:
        if kind == "tensorboard":
            return _TensorBoard(folder)
        return _Module(__import__(kind), folder.name)
    except ImportError as error:
        raise UserError(f"tracker {kind!r} is not installed: pip install {kind}") from error


class RunLog:
    """Metrics as JSON lines, a log to read, and a bar with rate and time left."""

    def __init__(self, folder: Path, total_steps: int, tracker: Tracker | None, console: Console | None = None) -> None:
        self.folder, self.total_steps, self._tracker = folder, total_steps, tracker
        self._console = console or Console()
        self._log = (folder / "log.txt").open("a", encoding="utf-8")
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
        """Draw the bar from a step on, and drop metrics and samples written after it."""
        forget_after(self.folder, step)
        self._metrics = (self.folder / METRICS).open("a", encoding="utf-8")
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
            self._console.print(f"{line}  {rest}" if rest and step < self.total_steps else line, highlight=False)

    def metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """One line of metrics.jsonl, flushed, and the tracker."""
        self._metrics.write(json.dumps({"step": step, **values}) + "\n")
        self._metrics.flush()
        if self._tracker is not None:
            self._tracker.log({k: float(v) for k, v in values.items()}, step)

    def has_samples(self, step: int) -> bool:
        """Whether samples of a step stand in samples.jsonl already."""
        path = self.folder / SAMPLES
        lines = path.read_bytes().splitlines() if path.is_file() else []
        return any(json.loads(line)["step"] == step for line in lines)

    def samples(self, step: int, samples: Iterable[tuple[str, str]]) -> None:
        """Prompts and the texts that answer them, for samples.jsonl and to read."""
        rows = [{"step": step, "prompt": prompt, "text": text} for prompt, text in samples]
        with (self.folder / SAMPLES).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for row in rows:
            self.say(f"sample: {row['prompt']} -> {row['text']}")

    def say(self, text: str) -> None:
        """A line for the terminal and log.txt."""
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._log.flush()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Put everything away."""
        self._bar.stop()
        if self._tracker is not None:
            self._tracker.close()
        self._metrics.close()
        self._log.close()


def forget_after(folder: Path, step: int) -> None:
    """Drop metrics and samples written after a checkpoint, so that a resumed run's files read like a whole run's."""
    for path in (folder / METRICS, folder / SAMPLES, folder / ROLLOUTS):
        if path.is_file():
            _keep_until(path, step)


def _keep_until(path: Path, step: int) -> None:
    kept = []
    for line in path.read_bytes().splitlines():  # bytes: a kill may cut a line inside a character
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, KeyError):
            continue  # a line cut off by a kill
    hidden = path.with_name(f".{path.name}.writing")
    hidden.write_bytes(b"".join(kept))
    hidden.replace(path)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """All lines of a run's metrics. Raises UserError if there are none."""
    path = folder / METRICS
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no metrics.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
