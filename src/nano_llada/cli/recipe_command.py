"""`nano-llada recipe FILE`: a whole pipeline with one command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nano_llada.cli.options import parse
from nano_llada.core.errors import UserError


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    file: Path
    """A recipe, TOML or JSON: the runs of a pipeline, in order."""
    set: tuple[str, ...] = ()
    """Values of the recipe's variables, as NAME=VALUE."""
    runs: Path | None = None
    """Folder for the runs; default: the recipe's."""
    check: bool = False
    """List the runs and look for the files that they read, without running anything."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status: 130 when a run was interrupted (the same command resumes it)."""
    about = "Train the runs of a recipe in order. Complete runs are skipped, an interrupted one is resumed."
    options = parse(Options, arguments, command="recipe", about=about, leading="file")
    variables = {}
    for item in options.set:
        name, sign, value = item.partition("=")
        if not sign or not name:
            raise UserError(f"--set {item}: expected NAME=VALUE")
        variables[name] = value
    from nano_llada.session.recipe import check_inputs, read_recipe

    recipe = read_recipe(options.file, variables, options.runs)
    if options.check:
        for config in recipe.runs:
            print(f"{config.name}: {config.kind}, in {config.folder}")
        check_inputs(recipe)
        return 0
    check_inputs(recipe)  # before the first run trains for hours
    from nano_llada.session.run import complete

    return 0 if complete(recipe.runs) else 130
