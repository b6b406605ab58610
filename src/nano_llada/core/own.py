"""Parts of the user's own: a class or function that is named FILE.py:NAME, and the name of one that is handed over."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from nano_llada.core.errors import UserError

T = TypeVar("T")


def load_own(name: str, kind: type[T], *, what: str) -> type[T]:
    """The class FILE.py:NAME, which must derive from `kind`. The file is run: only ever call this for a name that the
    user gave on the command line, in a config or in Python, never for one that stands in data.

    Raises:
        UserError: if the file or class does not exist, the file fails, or the class is of another kind.
    """
    found = load_object(name, what=what)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(f"{what} {name!r}: it must be a class that derives from {kind.__module__}.{kind.__name__}")
    return found


def load_object(name: str, *, what: str) -> Any:
    """The object NAME of a Python file, given as FILE.py:NAME. The file is run.

    Raises:
        UserError: if the file or the name does not exist, or running the file fails.
    """
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if file == "__main__" and hasattr(sys.modules[file], attribute):  # defined in this interactive session
        return getattr(sys.modules[file], attribute)
    if not attribute or path.suffix != ".py":
        raise UserError(f"{what} {name!r}: expected FILE.py:NAME")
    if not path.is_file():
        raise UserError(f"{what} {name!r}: the file {path} does not exist (from {Path.cwd()})")
    module = _run(path, f"{what} {name!r}")
    if not hasattr(module, attribute):
        raise UserError(f"{what} {name!r}: {path} does not define {attribute}")
    return getattr(module, attribute)


def _run(path: Path, where: str) -> ModuleType:
    """The module of a file; it may import its neighbours."""
    place = path.resolve()
    key = f"nano_llada_own.{place}"
    if key in sys.modules:  # so that one file gives one class, however often it is named
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, place)
    if spec is None or spec.loader is None:
        raise UserError(f"{where}: {path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # where a dataclass looks up the names in its annotations
    sys.path.insert(0, str(place.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[key]
        raise UserError(f"{where}: running {path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(place.parent))
    return module


def name_of(thing: Any) -> str:
    """FILE.py:NAME of a class or function, with the file relative to the working folder where it lies below it.

    One that was defined in a notebook or an interactive session has no file: its name is __main__:NAME, and only the
    same session can load it.

    Raises:
        ValueError: for one that was defined inside a function, which cannot be found by name.
    """
    name = thing.__qualname__
    if "." in name:
        raise ValueError(f"{name} cannot be loaded by name: define it at the top level of a file")
    if thing.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        return f"__main__:{name}"
    file, here = Path(inspect.getfile(thing)).resolve(), Path.cwd()
    return f"{(file.relative_to(here) if file.is_relative_to(here) else file).as_posix()}:{name}"


def type_name(cls: type) -> str:
    """Under which name a class is saved: its own for a class of this library, else FILE.py:NAME."""
    return cls.__name__ if cls.__module__.startswith("nano_llada.") else name_of(cls)
