"""A recipe: a file that names the runs of a whole pipeline in order. One command makes them, or goes on with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_llada.config.record import from_plain, read_config
from nano_llada.config.run import RunConfig, default_run
from nano_llada.core.errors import UserError

KINDS = tuple(f"{stage} {track}" for stage in ("pretrain", "sft", "dpo", "rl") for track in ("ar", "diffusion"))


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
        UserError: for a file that is no recipe, an unknown variable, kind, option or start, or a name used twice.
    """
    plain = read_config(path)
    known = plain.pop("variables", {})
    if unknown := sorted(set(variables) - set(known)):
        raise UserError(f"{path}: no variable {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}")
    plain = _filled(plain, known | dict(variables), path)
    folder, common, listed = Path(plain.pop("runs", "runs")), plain.pop("common", {}), plain.pop("run", [])
    if plain or not isinstance(listed, list) or not listed:
        problem = f"unknown entries: {', '.join(sorted(plain))}" if plain else "no runs: add [[run]] tables"
        raise UserError(f"{path}: {problem}")
    made: dict[str, RunConfig] = {}
    for number, entry in enumerate(listed, 1):
        config = _run_config(_merged(common, entry), runs or folder, made, f"{path}: run {number}")
        if config.name in made:
            raise UserError(f"{path}: run {number}: the name {config.name!r} is taken by an earlier run")
        made[config.name] = config
    return Recipe(path, tuple(made.values()))


def _run_config(entry: dict[str, Any], folder: Path, made: Mapping[str, RunConfig], where: str) -> RunConfig:
    kind, start = entry.pop("kind", None), entry.pop("start", None)
    if kind not in KINDS:
        raise UserError(f"{where}: kind {kind!r} is not one of {', '.join(KINDS)}")
    if "name" not in entry:
        raise UserError(f"{where}: it has no name")
    if start is not None:
        if start not in made:
            raise UserError(f"{where}: start {start!r} is no earlier run; there are {', '.join(made) or 'none'}")
        merged = made[start].train.merge_best > 0
        entry["init_from"] = (made[start].folder / ("merged" if merged else "")).as_posix()
    stage, track = kind.split()
    try:
        config = from_plain(RunConfig, entry | {"runs": folder.as_posix()}, base=default_run(stage, track), where=where)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    if (config.stage, config.track) != (stage, track):
        raise UserError(f"{where}: its options describe a run of `{config.stage} {config.track}`, not `{kind}`")
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
            raise UserError(f"{path}: {match[0]} in {value!r} is no variable of the recipe")
        return str(variables[match[1]])

    return re.sub(r"\{(\w+)\}", replace, value)
