"""A recipe: a file that names the steps of a whole pipeline in order. One command makes or resumes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_llada.config.record import from_plain, read_config
from nano_llada.config.run import KINDS, RunConfig, default_run
from nano_llada.core.errors import UserError
from nano_llada.core.text import printable
from nano_llada.core.words import did_you_mean
from nano_llada.data.read import resolve

COMMANDS = {  # kind -> command and its first words
    "tokenizer": ("tokenizer", "train"),
    "tokenizer characters": ("tokenizer", "train", "--kind=characters"),
    "merge": ("merge",),
    "eval": ("eval",),
    "export": ("export",),
}
MODELS = ("checkpoint", "checkpoints")  # options of commands that name models, given as words without a name
FILES = ("data", "text", "questions", "choices", "chinese_words")  # options of commands that name files to read


@dataclass(frozen=True)
class CommandStep:
    """A step that trains no model: a command with options."""

    name: str
    kind: str
    folder: Path
    """What it writes."""
    start: Mapping[str, Path]
    """Folders of the earlier steps whose models it takes, by name."""
    options: Mapping[str, Any]
    """Other options of the command, by name."""

    @property
    def makes_model(self) -> bool:
        """Whether a later step may begin with it."""
        return self.kind == "merge"

    @property
    def done(self) -> bool:
        """Whether it was made before. An evaluation resumes by itself, and measures what is new."""
        return self.kind != "eval" and self.folder.exists()

    @property
    def words(self) -> list[str]:
        """Its command line."""
        named = self.kind == "eval"  # tables then have the names of the recipe
        words = [f"{name}={path}" if named else str(path) for name, path in self.start.items()]
        for name in MODELS:
            given = self.options.get(name, ())
            words += [given] if isinstance(given, str) else given
        words.append(f"--out={self.folder}")
        for name, value in self.options.items():
            option = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                words.append(option if value else option.replace("--", "--no-", 1))
            elif name not in MODELS:
                words += [f"{option}={item}" for item in (value if isinstance(value, list) else [value])]
        return words


@dataclass(frozen=True)
class Recipe:
    """The steps of a pipeline, in order."""

    path: Path
    steps: tuple[RunConfig | CommandStep, ...]

    @property
    def runs(self) -> tuple[RunConfig, ...]:
        """The steps that train."""
        return tuple(step for step in self.steps if not isinstance(step, CommandStep))


def read_recipe(path: Path, variables: Mapping[str, str], runs: Path | None = None) -> Recipe:
    """Read a TOML or JSON recipe.

    It holds `runs`, the folder of the runs; `variables`, texts that stand for `{name}` in all others and can be given
    on the command line (`{runs}` is the folder of the runs); `common`, options of every training run; and `run`, a list
    of steps, each with its `kind` (`pretrain ar`, `sft diffusion`, ...), a `name`, optionally `start`, the name of an
    earlier step to begin with, and options as in a run's config file. What is not given has the default of its kind.

    The kinds `tokenizer`, `merge`, `eval` and `export` are the commands of these names, with their options; they write
    to RUNS/NAME, and `start` names one or several earlier steps whose models they take.

    Raises:
        UserError: for a file that is not a recipe, an unknown variable, kind, option or start, or a name used twice.
    """
    plain = read_config(path)
    known = _table(plain.pop("variables", {}), f"{path}: variables")
    if unknown := sorted(set(variables) - set(known)):
        near = did_you_mean(unknown[0], known)
        raise UserError(f"{path}: no variable {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}{near}")
    if "runs" in known:
        raise UserError(f"{path}: variables: {{runs}} is always the folder of the runs; choose another name")
    filled = {name: _value(name, known, variables, path) for name in known}
    folder = _filled(plain.pop("runs", "runs"), filled, path)
    plain = _filled(plain, filled | {"runs": str(runs or folder)}, path)
    listed = plain.pop("run", [])
    common = _table(plain.pop("common", {}), f"{path}: common")
    if plain:
        near = did_you_mean(next(iter(plain)), ("runs", "variables", "common", "run"))
        raise UserError(f"{path}: unknown entries: {', '.join(sorted(plain))}{near}")
    if not isinstance(folder, str) or "\0" in folder:
        raise UserError(f"{path}: runs: expected the name of a folder, got {folder!r}")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{path}: no runs: add [[run]] tables")
    made: dict[str, RunConfig | CommandStep] = {}
    for number, entry in enumerate(listed, 1):
        where = f"{path}: run {number}"
        step = _step(_table(entry, where), common, runs or Path(folder), made, where)
        if step.name in made:
            raise UserError(f"{where}: the name {step.name!r} is taken by an earlier run")
        made[step.name] = step
    return Recipe(path, tuple(made.values()))


def _value(
    name: str, known: Mapping[str, Any], given: Mapping[str, str], path: Path, above: tuple[str, ...] = ()
) -> Any:
    """A variable's value: what is given, or its default, which may name other variables."""
    if name in given or not isinstance(known[name], str):
        return given.get(name, known[name])
    if name in above:
        raise UserError(f"{path}: variables: {{{name}}} depends on itself, by way of {', '.join(above)}")
    inner = [word for word in re.findall(r"\{(\w+)\}", known[name]) if word in known]
    return _filled(known[name], {word: _value(word, known, given, path, (*above, name)) for word in inner}, path)


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a table, got {type(value).__name__}")
    return value


Made = Mapping[str, RunConfig | CommandStep]


def _step(
    entry: dict[str, Any], common: Mapping[str, Any], folder: Path, made: Made, where: str
) -> RunConfig | CommandStep:
    kind = entry.get("kind")
    if kind not in (*KINDS, *COMMANDS):
        near = did_you_mean(kind, (*KINDS, *COMMANDS)) if isinstance(kind, str) else ""
        raise UserError(f"{where}: kind {kind!r} is not one of {', '.join((*KINDS, *COMMANDS))}{near}")
    if "name" not in entry:
        raise UserError(f"{where}: it has no name")
    if kind in COMMANDS:
        return _command_step(dict(entry), folder, made, where)
    return _run_config(_merged(common, entry), folder, made, where)


def _model(start: Any, made: Made, where: str) -> Path:
    """The folder of the model that an earlier step makes."""
    if not isinstance(start, str) or start not in made:
        near = did_you_mean(start, made) if isinstance(start, str) else ""
        raise UserError(f"{where}: start {start!r} is not an earlier run; there are {', '.join(made) or 'none'}{near}")
    step = made[start]
    if not isinstance(step, CommandStep):
        return step.folder / ("merged" if step.train.merge_best > 0 else "")
    if not step.makes_model:
        raise UserError(f"{where}: start {start!r} is of the kind {step.kind!r}, which makes no model to start with")
    return step.folder


def _command_step(entry: dict[str, Any], folder: Path, made: Made, where: str) -> CommandStep:
    kind, name, start = entry.pop("kind"), entry.pop("name"), entry.pop("start", [])
    if not isinstance(name, str) or Path(name).name != name or name in ("", "..") or printable(name) != name:
        raise UserError(f"{where}: name: expected the name of a folder, got {name!r}")
    for option, value in entry.items():
        _check_option(option, value, f"{where}.{option}")
    out = entry.pop("out", str(folder / name))
    if not isinstance(out, str) or not out:
        raise UserError(f"{where}.out: expected the name of a folder, got {out!r}")
    models = [start] if isinstance(start, str) else start
    if not isinstance(models, list) or (models and "tokenizer" in COMMANDS[kind]):
        raise UserError(f"{where}: start {start!r}: expected names of earlier runs; a tokenizer has none")
    # of a run whose checkpoints are to be chosen from, not the mean of its best ones
    chosen = {one: made[one].folder if "top_k" in entry and one in made else _model(one, made, where) for one in models}
    return CommandStep(name, kind, Path(out), chosen, entry)


def _check_option(name: str, value: Any, where: str) -> None:
    """Raises UserError for what cannot be an option of a command in a recipe, or not its value."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in ("help", "help_all", "config"):
        raise UserError(f"{printable(where)}: not an option that a recipe can give")
    kinds = str if name in MODELS else str | int | float
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, kinds) for item in items):
        raise UserError(f"{where}: expected a value or a list of values, as on the command line")


def _run_config(entry: dict[str, Any], folder: Path, made: Made, where: str) -> RunConfig:
    kind, start = entry.pop("kind"), entry.pop("start", None)
    if start is not None:
        entry["init_from"] = _model(start, made, where).as_posix()
    stage, track = kind.split()
    try:
        config = from_plain(RunConfig, entry | {"runs": folder.as_posix()}, base=default_run(stage, track), where=where)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    if config.kind != kind:
        raise UserError(f"{where}: its options describe a run of `{config.kind}`, not `{kind}`")
    return config


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Options of both; those of `above` win."""
    both = dict(below)
    for name, value in above.items():
        nested = isinstance(value, dict) and isinstance(both.get(name), dict)
        both[name] = _merged(both[name], value) if nested else value
    return both


def _filled(value: Any, variables: Mapping[str, str], path: Path) -> Any:
    """The same values with each `{name}` in a text replaced."""
    if isinstance(value, dict):
        return {key: _filled(item, variables, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables, path) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1] not in variables:
            raise UserError(f"{path}: {match[0]} in {value!r} is not a variable of the recipe")
        return str(variables[match[1]])

    return re.sub(r"\{(\w+)\}", replace, value)


def check_inputs(recipe: Recipe) -> None:
    """Look for everything that the steps of a recipe read and no earlier step makes.

    Raises:
        UserError: naming the step, and the first file or folder that is missing.
    """
    made: set[Path] = set()
    for step in recipe.steps:
        where = f"{recipe.path}: run {step.name}"
        if isinstance(step, CommandStep):
            _check_command(step, made, where)
        else:
            _check_run(step, made, where)
        made.add(step.folder)


def _check_run(config: RunConfig, made: set[Path], where: str) -> None:
    _check_files((*config.data.data, *config.data.validation), where)
    if not config.data.data:
        raise UserError(f"{where}: it has no training data")
    tokenizer = config.tokenizer
    if tokenizer is not None and tokenizer not in made and not (tokenizer / "tokenizer.json").is_file():
        raise UserError(f"{where}: no tokenizer.json in {tokenizer}")
    for start in filter(None, (config.init_from, config.reference)):
        _check_model(start, made, where)


def _check_command(step: CommandStep, made: set[Path], where: str) -> None:
    for option in FILES:
        given = step.options.get(option, [])
        _check_files([str(name) for name in (given if isinstance(given, list) else [given])], where)
    for option in MODELS:
        given = step.options.get(option, [])
        for name in given if isinstance(given, list) else [given]:
            _check_model(Path(name if Path(name).exists() else name.partition("=")[2] or name), made, where)


def _check_files(names: Sequence[str], where: str) -> None:
    try:
        resolve([name for name in names if not name.startswith("hf:")])
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _check_model(folder: Path, made: set[Path], where: str) -> None:
    if folder not in made and folder.parent not in made and not folder.exists():
        raise UserError(f"{where}: there is no checkpoint {folder}, and no earlier run makes it")
