"""The suites by name. A new one is a file in this folder and a line in this table, or a user's own FILE.py:NAME."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, make_dataclass
from typing import Any

import torch

from nano_llada.config.record import from_plain, to_plain
from nano_llada.core.errors import UserError
from nano_llada.core.own import is_own, load_own
from nano_llada.evaluation.metric import Metric
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.suite import Suite

SUITES = {
    "likelihood": "Likelihood",
    "choices": "Choices",
    "generation": "Generation",
    "quality": "Quality",
    "infilling": "Infilling",
    "speed": "Speed",
    "calibration": "Calibration",
    "stories": "Stories",
}
SuiteOf = Callable[[str], type[Suite]]  # by the name in its records


def suite_named(name: str) -> type[Suite]:
    """The class of a built-in suite, or of a user's own given as FILE.py:NAME.

    Raises:
        UserError: if there is none of that name, or it is not a suite.
    """
    if name in SUITES:
        found: type[Suite] = getattr(importlib.import_module(f"nano_llada.evaluation.suites.{name}"), SUITES[name])
        return found
    if not is_own(name):
        raise UserError(f"unknown suite {name!r}: use {', '.join(SUITES)}, or your own as --suites FILE.py:NAME")
    own: type[Suite] = load_own(name, Suite, what="suite")  # type: ignore[type-abstract]
    if own.name in SUITES:
        raise UserError(f"suite {name!r}: its name {own.name!r} is that of a built-in suite, choose another")
    return own


def suites_of(specs: Iterable[str]) -> SuiteOf:
    """Finds a suite by its name in records: a user's own of `specs`, or else a built-in one."""
    own = {cls.name: cls for cls in map(suite_named, specs)}
    return lambda name: own[name] if name in own else suite_named(name)


def metrics_of(name: str) -> Sequence[Metric]:
    """What a suite's records are summed up by. Raises UserError for an unknown suite."""
    return suite_named(name).metrics


def options_class(suites: Iterable[str] = ()) -> type[SuiteOptions]:
    """A record of the shared options and of those that suites add: the built-in ones and a user's own of `suites`.

    Raises:
        UserError: for an unknown suite, or two options of one name.
    """
    catalogue = {name: suite_named(name) for name in dict.fromkeys([*SUITES, *suites])}
    bases: list[type] = [SuiteOptions]
    owner = {option.name: "the shared options" for option in fields(SuiteOptions)}
    for cls in catalogue.values():
        for option in fields(cls.Options):
            if option.name in owner:
                raise UserError(f"the option {option.name} of suite {cls.name} exists already in {owner[option.name]}")
            owner[option.name] = f"suite {cls.name}"
        bases += [cls.Options] if fields(cls.Options) else []
    return make_dataclass("SuiteOptions", [], bases=tuple(bases), frozen=True, namespace={"catalogue": catalogue})


def suite_options(suites: Sequence[str] = (), **values: Any) -> SuiteOptions:
    """Options for `make_suites`, from Python. Raises UserError for an option that does not exist."""
    cls = options_class(suites)
    if unknown := sorted(set(values) - {option.name for option in fields(cls)}):
        raise UserError(f"unknown option {unknown[0]!r} of an evaluation")
    try:
        return from_plain(cls, to_plain({"suites": tuple(suites), **values}))
    except ValueError as error:
        raise UserError(str(error)) from error


def make_suites(options: SuiteOptions, context: int, device: torch.device | str = "cpu") -> list[Suite]:
    """The suites that are named, or those that examples are given for.

    Args:
        options: of a class made by `options_class`.
        context: tokens that all models can see at once.

    Raises:
        UserError: for an unknown suite, one without examples, examples that cannot be read, options out of range, or
            an option that none of the suites reads.
    """
    known: Mapping[str, type[Suite]] = options.catalogue
    if missing := [name for name in options.suites if name not in known]:
        raise UserError(f"suite {missing[0]!r} is not known: name it on the command line with --suites")
    classes = [known[name] for name in options.suites]
    if not classes:
        classes = [cls for cls in known.values() if any(getattr(options, name) for name in cls.default_for)]
    if not classes:
        raise UserError(
            "nothing to measure: give --text FILES, --skills all, --questions FILES or --choices FILES, and perhaps "
            f"--suites (some of {', '.join(SUITES)})"
        )
    if len({cls.name for cls in classes}) < len(classes):
        raise UserError(f"--suites names a suite twice: {', '.join(cls.name for cls in classes)}")
    try:
        suites = [cls.build(options, options, context, device) for cls in classes]
    except ValueError as error:
        raise UserError(str(error)) from error
    _check_read(options, classes)
    return suites


def _check_read(options: SuiteOptions, classes: Sequence[type[Suite]]) -> None:
    """Raises UserError for examples or options that none of the chosen suites reads."""
    all_read = {"suites", "items", "limit", "text_field", "draws", "batch_size", "noise_seed"}
    for option in fields(options):
        given = getattr(options, option.name) != option.default
        readers = [cls for cls in options.catalogue.values() if option.name in _options_of(cls)]
        if given and option.name not in all_read and not set(readers) & set(classes):
            raise UserError(
                f"--{option.name.replace('_', '-')} is for {', '.join(cls.name for cls in readers)}, measured is "
                f"{', '.join(cls.name for cls in classes)}: leave it out, or name one that reads it in --suites"
            )


def _options_of(cls: type[Suite]) -> tuple[str, ...]:
    return (*cls.reads, *(option.name for option in fields(cls.Options)))
