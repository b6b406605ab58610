"""Parts of the user's own: a class or function that is named FILE.py:NAME, and the name of one that is handed over."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from nano_llada.core.errors import UserError

T = TypeVar("T")
PREFIX = "nano_llada_own."  # of the names under which such files are modules


def load_own(name: str, kind: type[T], *, what: str) -> type[T]:
    """The class FILE.py:NAME, which must derive from `kind`. The file is run: only ever call this for a name that the
    user gave on the command line, in a config or in Python, never for a name found in data.

    Raises:
        UserError: if the file or class does not exist, the file fails, or the class is of another kind.
    """
    found = load_object(name, what=what)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(f"{what} {name!r}: it must be a class that derives from {kind.__module__}.{kind.__name__}")
    return found


def load_function(name: str, *, what: str, known: str = "") -> tuple[Callable[..., Any], Neighbours]:
    """The function FILE.py:NAME, and the modules beside its file, which it may import when it is called.

    Raises:
        UserError: as `load_object` does, or if it is not a function.
    """
    found = load_object(name, what=what, known=known)
    if not callable(found):
        raise UserError(f"{what} {name!r}: {name.rpartition(':')[2]} is not a function")
    return found, _neighbours(name)


def load_object(name: str, *, what: str, known: str = "") -> Any:
    """The object NAME of a Python file, given as FILE.py:NAME. The file is run, and may import files beside it.

    Args:
        name: FILE.py:NAME.
        what: the part it is to be, such as "suite", for messages.
        known: what else could have been given, for messages.

    Raises:
        UserError: if the file or the name does not exist, or running the file fails.
    """
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if file == "__main__" and hasattr(sys.modules[file], attribute):  # defined in this interactive session
        return getattr(sys.modules[file], attribute)
    if not attribute or path.suffix != ".py" or not path.is_file():
        raise UserError(f"{what} {name!r}: expected {known}FILE.py:NAME with a file that exists")
    module = _run(path, f"{what} {name!r}")
    if not hasattr(module, attribute):
        raise UserError(f"{what} {name!r}: {path} does not define {attribute}")
    return getattr(module, attribute)


def is_own(name: str) -> bool:
    """Whether a name is FILE.py:NAME."""
    return ".py:" in name


def own_file(thing: type) -> Path | None:
    """The file that a class was loaded from by its name; None for a class of this library."""
    return Path(inspect.getfile(thing)) if thing.__module__.startswith(PREFIX) else None


class Neighbours:
    """The modules beside a file, which it may import; those beside another file may have the same names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._modules: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """While this lasts, the folder is searched first; afterwards other files cannot find its modules."""
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
                if file and not name.startswith(PREFIX) and Path(file).resolve().is_relative_to(self._folder):
                    self._modules[name] = sys.modules.pop(name)
            sys.modules.update(before)


def _neighbours(name: str) -> Neighbours:
    return Neighbours(Path(name.rpartition(":")[0]).resolve().parent)


def _run(path: Path, where: str) -> ModuleType:
    """The module of a file; it is run once, so that one file gives one class, and again when it has changed."""
    place = path.resolve()
    key, state = f"{PREFIX}{place}", path.stat()
    stamp = (state.st_mtime_ns, state.st_size)
    if key in sys.modules and sys.modules[key].__dict__.get("__stamp__") == stamp:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, place)
    if spec is None or spec.loader is None:
        raise UserError(f"{where}: {path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__stamp__"] = stamp
    sys.modules[key] = module  # where a dataclass looks up the names in its annotations
    try:
        with Neighbours(place.parent).importable():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a file that calls sys.exit must not end the command without a word
        del sys.modules[key]
        raise UserError(f"{where}: running {path} failed: {type(error).__name__}: {error}") from error
    return module


def name_of(thing: Any) -> str:
    """FILE.py:NAME of a class or function, with the file relative to the working folder where it lies below it.

    One that was defined in a notebook or an interactive session has no file: its name is __main__:NAME, and only the
    same session can load it.

    Raises:
        ValueError: for one that was defined inside a function, or is built into Python: it cannot be found by name.
    """
    name = thing.__qualname__
    if "." in name:
        raise ValueError(f"{name} cannot be loaded by name: define it at the top level of a file")
    if thing.__module__ == "builtins":
        raise ValueError(f"{name} is a part of Python: it cannot be used here")
    if thing.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        return f"__main__:{name}"
    file, here = Path(inspect.getfile(thing)).resolve(), Path.cwd()
    return f"{(file.relative_to(here) if file.is_relative_to(here) else file).as_posix()}:{name}"


def type_name(cls: type) -> str:
    """Under which name a class is saved: its own for a class of this library, else FILE.py:NAME."""
    return cls.__name__ if cls.__module__.startswith("nano_llada.") else name_of(cls)
