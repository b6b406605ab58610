"""`nano-llada recipe FILE`: a whole pipeline with one command."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nano_llada.cli.options import parse
from nano_llada.core.errors import UserError
from nano_llada.core.text import printable

if TYPE_CHECKING:
    from nano_llada.session.recipe import CommandStep


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    file: Path
    """A recipe, TOML or JSON: the steps of a pipeline, in order."""
    set: tuple[str, ...] = ()
    """Values of the recipe's variables, as NAME=VALUE."""
    runs: Path | None = None
    """Folder for the runs; default: the recipe's."""
    check: bool = False
    """List the steps and look for the files that they read, without running anything."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status: 130 when a run was interrupted (the same command resumes it)."""
    about = "Make the steps of a recipe in order. Complete ones are skipped, an interrupted one is resumed."
    options = parse(Options, arguments, command="recipe", about=about, leading="file")
    variables = {}
    for item in options.set:
        name, sign, value = item.partition("=")
        if not sign or not name:
            raise UserError(f"--set {item}: expected NAME=VALUE")
        variables[name] = value
    from nano_llada.session.recipe import COMMANDS, CommandStep, check_inputs, read_recipe
    from nano_llada.session.run import complete

    recipe = read_recipe(options.file, variables, options.runs)
    for step in recipe.steps:
        if options.check:
            print(printable(f"{step.name}: {step.kind}, in {step.folder}"))
        if isinstance(step, CommandStep):
            command, *fixed = COMMANDS[step.kind]
            words = [*(word for word in fixed if word.startswith("--")), *step.words]
            _check_words(command, words, f"{recipe.path}: run {step.name}")
    check_inputs(recipe)  # before the first run trains for hours
    if options.check:
        return 0
    for number, step in enumerate(recipe.steps, 1):
        print(f"run {number} of {len(recipe.steps)}: {step.name}", flush=True)
        if not isinstance(step, CommandStep):
            status = 0 if complete([step]) else 130
        else:
            status = _run_command(COMMANDS[step.kind], step)
        if status:
            return status
    return 0


def _run_command(fixed: Sequence[str], step: CommandStep) -> int:
    if step.done:
        print(f"{step.name}: already complete, in {step.folder}")
        return 0
    command, *words = fixed
    status: int = importlib.import_module(f"nano_llada.cli.{command}_command").main([*words, *step.words])
    return status


def _check_words(command: str, words: Sequence[str], where: str) -> None:
    """Read the options of a step as its command will. Raises UserError that names the step."""
    try:
        importlib.import_module(f"nano_llada.cli.{command}_command").read(words)
    except UserError as error:
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from error
