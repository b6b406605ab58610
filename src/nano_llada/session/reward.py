"""What an answer is worth: the row's own verifier, or a function of the user's."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.core.text import printable
from nano_llada.data.rows import to_question
from nano_llada.rl.answer import Judge, judge_of
from nano_llada.rl.pattern import Matcher

VERIFIER = "verifier"

# question, answer, the row of the data file -> a number
Reward = Callable[[str, str, Mapping[str, Any]], float]


def load_reward(spec: str) -> Reward:
    """`verifier`, or the function in FILE.py:FUNCTION; the file is run, and may import files beside it.

    Raises:
        UserError: if there is no such file or function.
    """
    if spec == VERIFIER:
        return functools.partial(_verified, Matcher())
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not name or path.suffix != ".py" or not path.is_file():
        raise UserError(f"reward {spec!r}: expected verifier, or FILE.py:FUNCTION with a file that exists")
    found = importlib.util.spec_from_file_location(f"reward of {path.resolve()}", path)
    if found is None or found.loader is None:
        raise UserError(f"reward {spec!r}: {path} cannot be loaded")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # where a dataclass looks up the names in its annotations
    neighbours = _Neighbours(path.resolve().parent)
    try:
        with neighbours.importable():
            found.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"reward {spec!r}: running {path} failed: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"reward {spec!r}: {path} has no function {name}")
    return _checked(function, spec, neighbours)


class _Neighbours:
    """The modules beside a file, which it may import; those beside another file may have the same names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._modules: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """While this lasts, the folder is searched first; afterwards nothing of it is left for others to find."""
        before = {name: sys.modules.pop(name) for name in self._modules if name in sys.modules}
        known = set(sys.modules)
        sys.modules.update(self._modules)
        sys.path.insert(0, str(self._folder))
        try:
            yield
        finally:
            sys.path.remove(str(self._folder))
            for name in set(sys.modules) - known:
                file = getattr(sys.modules[name], "__file__", None)
                if file and Path(file).resolve().is_relative_to(self._folder):
                    self._modules[name] = sys.modules.pop(name)
            sys.modules.update(before)


def verifier_of(row: Mapping[str, Any], matcher: Matcher) -> Judge:
    """The judge of a row. Raises UserError if there is none, or none that can be read."""
    try:
        references = to_question(row).references if not isinstance(row.get("verifier"), dict) else ()
        return judge_of(row, references, matcher)[0]
    except ValueError as error:
        hint = "" if row.get("verifier") else "; or give a reward function with --reward FILE.py:FUNCTION"
        raise UserError(f"{error}{hint}") from error


def _verified(matcher: Matcher, question: str, answer: str, row: Mapping[str, Any]) -> float:
    return float(verifier_of(row, matcher)(answer))


def _checked(function: Callable[..., Any], spec: str, neighbours: _Neighbours) -> Reward:
    def reward(question: str, answer: str, row: Mapping[str, Any]) -> float:
        try:
            with neighbours.importable():
                value = float(function(question, answer, row))
        except Exception as error:
            raise UserError(
                f"reward {spec!r} failed on {printable(repr(answer))}: {type(error).__name__}: {error}"
            ) from error
        if not math.isfinite(value):
            raise UserError(f"reward {spec!r} gave {value} for {answer!r}: rewards are finite numbers")
        return value

    return reward
