"""A recipe: a file that names the runs of a whole pipeline in order. One command trains or resumes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_llada.config.record import from_plain, read_config
from nano_llada.config.run import KINDS, RunConfig, default_run
from nano_llada.core.errors import UserError
from nano_llada.core.words import did_you_mean
from nano_llada.data.read import resolve


@dataclass(frozen=True)
class Recipe:
    """The runs of a pipeline, in order."""

    path: Path
    runs: tuple[RunConfig, ...]


def read_recipe(path: Path, variables: Mapping[str, str], runs: Path | None = None) -> Recipe:
    """Read a TOML or JSON recipe.

    It holds `runs`, the folder of the runs; `variables`, texts that stand for `{name}` in all others and can be given
    on the command line; `common`, options of every run; and `run`, a list of runs, each with its `kind` (`pretrain ar`,
    `sft diffusion`, ...), a `name`, optionally `start`, the name of an earlier run to begin with, and options as in a
    run's config file. What is not given has the default of its kind.

    Raises:
        UserError: for a file that is not a recipe, an unknown variable, kind, option or start, or a name used twice.
    """
    plain = read_config(path)
    known = _table(plain.pop("variables", {}), f"{path}: variables")
    if unknown := sorted(set(variables) - set(known)):
        near = did_you_mean(unknown[0], known)
        raise UserError(f"{path}: no variable {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}{near}")
    plain = _filled(plain, known | dict(variables), path)
    folder, listed = plain.pop("runs", "runs"), plain.pop("run", [])
    common = _table(plain.pop("common", {}), f"{path}: common")
    if plain:
        near = did_you_mean(next(iter(plain)), ("runs", "variables", "common", "run"))
        raise UserError(f"{path}: unknown entries: {', '.join(sorted(plain))}{near}")
    if not isinstance(folder, str) or "\0" in folder:
        raise UserError(f"{path}: runs: expected the name of a folder, got {folder!r}")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{path}: no runs: add [[run]] tables")
    made: dict[str, RunConfig] = {}
    for number, entry in enumerate(listed, 1):
        where = f"{path}: run {number}"
        config = _run_config(_merged(common, _table(entry, where)), runs or Path(folder), made, where)
        if config.name in made:
            raise UserError(f"{where}: the name {config.name!r} is taken by an earlier run")
        made[config.name] = config
    return Recipe(path, tuple(made.values()))


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a table, got {type(value).__name__}")
    return value


def _run_config(entry: dict[str, Any], folder: Path, made: Mapping[str, RunConfig], where: str) -> RunConfig:
    kind, start = entry.pop("kind", None), entry.pop("start", None)
    if kind not in KINDS:
        near = did_you_mean(kind, KINDS) if isinstance(kind, str) else ""
        raise UserError(f"{where}: kind {kind!r} is not one of {', '.join(KINDS)}{near}")
    if "name" not in entry:
        raise UserError(f"{where}: it has no name")
    if start is not None:
        if not isinstance(start, str) or start not in made:
            near = did_you_mean(start, made) if isinstance(start, str) else ""
            raise UserError(
                f"{where}: start {start!r} is not an earlier run; there are {', '.join(made) or 'none'}{near}"
            )
        merged = made[start].train.merge_best > 0
        entry["init_from"] = (made[start].folder / ("merged" if merged else "")).as_posix()
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
    """Look for everything that the runs of a recipe read and no earlier run makes.

    Raises:
        UserError: naming the run, and the first file or folder that is missing.
    """
    made: set[Path] = set()
    for config in recipe.runs:
        where = f"{recipe.path}: run {config.name}"
        try:
            resolve([name for name in (*config.data.data, *config.data.validation) if not name.startswith("hf:")])
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if not config.data.data:
            raise UserError(f"{where}: it has no training data")
        if config.tokenizer is not None and not (config.tokenizer / "tokenizer.json").is_file():
            raise UserError(f"{where}: no tokenizer.json in {config.tokenizer}")
        for start in filter(None, (config.init_from, config.reference)):
            if start not in made and start.parent not in made and not start.exists():
                raise UserError(f"{where}: there is no checkpoint {start}, and no earlier run makes it")
        made.add(config.folder)
