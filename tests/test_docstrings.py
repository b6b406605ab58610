"""Public functions that take or give tensors say their shapes, and what they raise."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "nano_llada"
ROOMS = ("core", "model", "diffusion", "objectives", "training", "decode", "session")

# One size of a shape: B, 2L, B|1, H*D, D/2, 3, ... or one of these words
WORDS = "batch|rows|heads|kv_heads|groups|draws|documents|layers|width|k|m|n"
SIZE = rf"(?:[0-9]*[A-Z](?:[|*/+][0-9A-Z]+)*'?|[0-9]+|\.\.\.|{WORDS})"
SHAPE = re.compile(rf"\(\)|\({SIZE},\)|\({SIZE}(?:, {SIZE})+\)")

# Functions that do not say it yet. This list may only become shorter.
MISSING = frozenset(
    {
        "model/cache.py:KVCache.extend",
        "model/lean.py:normed",
    }
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Public:
    """A public function or method of the library."""

    name: str
    node: Function

    @property
    def takes_tensors(self) -> bool:
        arguments = self.node.args
        given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        annotations = [argument.annotation for argument in given if argument is not None]
        return any("Tensor" in ast.unparse(a) for a in (*annotations, self.node.returns) if a is not None)

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def raised(self) -> bool:
        """Whether its own body raises something new; what functions inside it raise is theirs."""
        nested = [node for node in ast.walk(self.node) if node is not self.node and isinstance(node, Function)]
        inner = {child for node in nested for child in ast.walk(node)}
        return any(isinstance(node, ast.Raise) and node.exc and node not in inner for node in ast.walk(self.node))

    @property
    def problems(self) -> list[str]:
        found = [] if SHAPE.search(self.docstring) else ["no shape"]
        return [*found, *(["no Raises"] if self.raised and not re.search(r"\bRaises\b", self.docstring) else [])]


def public_functions(tree: ast.Module, place: str) -> Iterator[Public]:
    """Functions of a module and methods of its classes whose names do not begin with an underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            members = [(f"{node.name}.{member.name}", member) for member in node.body if isinstance(member, Function)]
        else:
            members = [(node.name, node)] if isinstance(node, Function) else []
        yield from (Public(f"{place}:{name}", m) for name, m in members if not m.name.startswith("_"))


def with_tensors() -> list[Public]:
    paths = [path for room in ROOMS for path in sorted((SOURCE / room).rglob("*.py"))]
    trees = [(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(SOURCE).as_posix()) for path in paths]
    return [function for tree, place in trees for function in public_functions(tree, place) if function.takes_tensors]


FUNCTIONS = with_tensors()


def test_every_room_is_looked_at():
    rooms = {function.name.split("/")[0] for function in FUNCTIONS}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f.name not in MISSING], ids=lambda f: f.name)
def test_a_public_function_with_tensors_says_shapes_and_what_it_raises(function):
    assert function.problems == []


def test_the_exceptions_are_still_needed():
    known = {function.name: function.problems for function in FUNCTIONS}
    assert {name for name in MISSING if not known.get(name)} == set()


@pytest.mark.parametrize(
    ("code", "problems"),
    [
        ('def f(x: Tensor) -> int:\n    """Of x (B, L)."""', []),
        ('def f(x: Tensor) -> int:\n    """Of x (seed, step)."""', ["no shape"]),
        ("def f(x: int) -> Tensor | None:\n    raise ValueError(x)", ["no shape", "no Raises"]),
        ('def f(x: Tensor) -> int:\n    """(N,) values. Raises ValueError."""\n    raise ValueError(x)', []),
        ('def f(x: Tensor) -> int:\n    """() of (B|1, 2L, D/2)."""\n    def g():\n        raise ValueError', []),
    ],
)
def test_what_is_missing_is_found(code, problems):
    (function,) = public_functions(ast.parse(code), "a.py")
    assert function.takes_tensors
    assert function.problems == problems
