"""A user's own parts, named FILE.py:NAME: the file is run and its function or class returned."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from nano_llada.core.errors import UserError

PREFIX = "nano_llada_own "  # of the names under which such files are modules


def is_own(spec: str) -> bool:
    """Whether a name is FILE.py:NAME."""
    return ".py:" in spec


def load_own(spec: str, what: str, kind: str, known: str = "") -> Any:
    """The function or class of FILE.py:NAME; the file is run.

    Args:
        what: the part it is to be, such as "suite", for messages.
        kind: "function" or "class", for messages.
        known: what else could have been given, for messages.

    Raises:
        UserError: if there is no such file or name, or running the file fails.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not name or path.suffix != ".py" or not path.is_file():
        raise UserError(f"{what} {spec!r}: expected {known}FILE.py:{kind.upper()} with a file that exists")
    found = importlib.util.spec_from_file_location(f"{PREFIX}{path.resolve()}", path)
    if found is None or found.loader is None:
        raise UserError(f"{what} {spec!r}: {path} cannot be loaded")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # where a dataclass looks up the names in its annotations
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{what} {spec!r}: running {path} failed: {type(error).__name__}: {error}") from error
    value = getattr(module, name, None)
    if not callable(value):
        raise UserError(f"{what} {spec!r}: {path} has no {kind} {name}")
    return value
