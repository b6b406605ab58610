"""The functions of the public Python API; `nano_llada` itself offers them under its own name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_llada.config.decoding import shared_length
from nano_llada.config.outcome import Outcome
from nano_llada.config.run import RunConfig
from nano_llada.core.device import choose_machine
from nano_llada.core.errors import UserError, text_of, texts_of
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites import suite_options
from nano_llada.language_model import LanguageModel
from nano_llada.report.evaluation import Evaluation, run_evaluation
from nano_llada.training.log import read_metrics

Model = LanguageModel | str | Path
FILES = ("text", "questions", "choices", "skills")  # options that take several files or names

LONGEST_PATH = 4096  # characters


def load(path_or_name: str | Path, device: str = "auto") -> LanguageModel:
    """A trained model, ready for use.

    Args:
        path_or_name: a run folder (its best checkpoint), a checkpoint folder, or the name of a model that comes with
            this package.
        device: cpu, cuda, cuda:1, mps, or auto.

    Raises:
        UserError: if there is no such model, it is damaged, or the device cannot be used.
    """
    if not isinstance(path_or_name, str | Path):
        raise UserError(f"load takes the folder or the name of a model, got {type(path_or_name).__name__}")
    path = Path(path_or_name)
    if len(str(path)) > LONGEST_PATH:
        raise UserError(f"no model at {str(path)[:60]}...: the name is too long")
    return LanguageModel.load(path, choose_machine(device).device)


@dataclass(frozen=True)
class TrainedRun:
    """A run that was trained, and its folder."""

    folder: Path
    outcome: Outcome

    def metrics(self) -> list[dict[str, Any]]:
        """Every logged line: step, loss, learning_rate, validation_loss and so on."""
        return read_metrics(self.folder)

    def load(self, device: str = "auto") -> LanguageModel:
        """The model of lowest validation loss, or, where none was measured, the last one."""
        return load(self.folder, device)


def train(config: RunConfig, *, resume: bool = False) -> TrainedRun:
    """Train as the config says, into the folder RUNS/NAME.

    Ctrl-C ends the run after the current step and saves it; `resume=True` continues it, to the same weights bit for
    bit on a CPU as if it had not been interrupted.

    Args:
        config: what to train; `nano_llada.default_run(stage, track)` gives the defaults of each kind of run. Its
            objective may be a class of your own, see `nano_llada.ObjectiveConfig`.
        resume: continue the run that the folder holds.

    Raises:
        UserError: for data, folders or shapes that cannot be used, or a run that exists already.
    """
    if not isinstance(config, RunConfig):
        raise UserError(f"train takes a RunConfig (see nano_llada.default_run), got {type(config).__name__}")
    from nano_llada.session.run import execute  # imports what only training needs, for half a second

    return TrainedRun(config.folder, execute(config, resume=resume))


def evaluate(
    models: Mapping[str, Model],
    suites: Sequence[str] = (),
    *,
    decoders: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> Evaluation:
    """Measure models by suites, all by one protocol, and write a report.

    Args:
        models: each under the name it has in tables: a loaded model, or what `load` takes.
        suites: names of suites (likelihood, choices, generation, quality, infilling, speed, calibration,
            stories), or your own as FILE.py:NAME; default: those of likelihood, choices, generation and stories that
            have examples.
        decoders: decodings by name, each with fields of `nano_llada.DecodingOptions`; default: greedy.
        out: folder for records and report; default: one in runs/eval. The same call resumes what was interrupted.
        device: cpu, cuda, mps, or auto.
        options: those of the suites, as in `nano-llada eval --help`: text, questions, choices, skills, items and so on.

    Raises:
        UserError: for a model, suite, option or decoding that does not exist, or examples that cannot be read.
    """
    if not isinstance(models, Mapping):
        raise UserError(f"evaluate takes models by name, {{'A': model}}, got {type(models).__name__}")
    if not models:
        raise UserError("nothing to evaluate: give at least one model")
    if decoders is not None and not (
        isinstance(decoders, Mapping) and all(isinstance(some, Mapping) for some in decoders.values())
    ):
        raise UserError("decoders are settings by name, {'greedy': {}, 'fast': {'threshold': 0.9}}")
    machine = choose_machine(device).device
    found = []
    loaded = {
        name: given if isinstance(given, LanguageModel) else load(given, device) for name, given in models.items()
    }
    length = shared_length(model.card for model in loaded.values()) or 24
    for name, model in loaded.items():
        for decoder, settings in (decoders or {"default": {}}).items():
            found.append(Subject(name, model.checkpoint, model.decoding(length, **settings), decoder))
    one = (str, Path)  # of an option that takes several
    texts = {key: (value,) if isinstance(value, one) and key in FILES else value for key, value in options.items()}
    folder = out if out is None or isinstance(out, Path) else Path(text_of(out, "out"))
    return run_evaluation(found, suite_options(texts_of(suites, "suites"), **texts), folder, machine)
