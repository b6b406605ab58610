"""The rooms of the package: who may import whom, what waits for torch, and that nothing happens at import."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import nano_llada

ROOT = Path(nano_llada.__file__).parent
# what exports bring along is a file of the transformers library, not a module of ours
FILES = sorted(path for path in ROOT.rglob("*.py") if "assets" not in path.relative_to(ROOT).parts)
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]

LIGHT_ROOMS = ("config/", "cli/", "__init__.py", "core/errors.py", "core/own.py", "core/waiting.py")
LIGHT = [name for name in NAMES if name.startswith(LIGHT_ROOMS)]
SLOW = {"torch", "transformers", "matplotlib", "datasets", "pyarrow"}
DRAWS = {"rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal", "poisson", "rand_like"}
DRAWS |= {"randn_like", "randint_like", "uniform_", "normal_", "random_", "bernoulli_", "exponential_", "trunc_normal_"}


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def imports(node: ast.AST, *, at_module_level: bool = False) -> Iterator[str]:
    """Full names of what is imported, also in functions unless told otherwise; never what is for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from imports(other, at_module_level=at_module_level)
        elif not (at_module_level and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
            yield from imports(child, at_module_level=at_module_level)


def room(name: str) -> str:
    return name.split("/")[0]


def offenders(find: Callable[[str], Iterable[object]], names: Iterable[str] = NAMES) -> dict[str, list[object]]:
    """What is wrong with each file, where something is."""
    found = {name: list(find(name)) for name in names}
    return {name: wrong for name, wrong in found.items() if wrong}


def test_module_level_imports_are_absolute_and_of_what_is_always_installed():
    base = {"torch", "numpy", "tokenizers", "safetensors", "rich", "matplotlib", "jinja2", "nano_llada"}
    extras = {"serve": {"fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"}}  # of whole rooms

    def other(name: str) -> set[str]:
        outside = {full.split(".")[0] for full in imports(tree(name), at_module_level=True)}
        return outside - set(sys.stdlib_module_names) - base - extras.get(room(name), set())

    assert offenders(other) == {}
    assert offenders(lambda name: [n for n in ast.walk(tree(name)) if getattr(n, "level", 0)]) == {}


def test_what_help_needs_does_not_import_torch():
    def slow(name: str) -> set[str]:
        return {full.split(".")[0] for full in imports(tree(name), at_module_level=True)} & SLOW

    assert offenders(slow, LIGHT) == {}


def test_a_file_begins_with_what_it_is_for():
    assert [name for name in NAMES if not ast.get_docstring(tree(name))] == []


def test_torch_is_imported_at_the_top_of_a_file():
    def inside(name: str) -> list[str]:
        functions = [n for n in ast.walk(tree(name)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        found = [full for function in functions for full in imports(function)]
        return [full for full in found if full.split(".")[0] == "torch"]

    assert offenders(inside) == {}


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call with a name, and the name, dotted."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Attribute, ast.Name)):
            yield ast.unparse(node.func), node


def global_draws(name: str) -> Iterator[str]:
    """Calls that draw from a random state that is nobody's."""
    for called, node in calls(name):
        last = called.rpartition(".")[2]
        seeded = any(keyword.arg == "generator" for keyword in node.keywords)
        bare = (
            (called.startswith("random.") and last not in ("Random", "SystemRandom"))
            or ("np.random." in called and last not in ("Generator", "Philox", "PCG64", "SeedSequence", "default_rng"))
            or (last in DRAWS and not seeded and (called.startswith("torch.") or last.endswith("_")))
            or (last in ("Random", "default_rng") and not node.args)
        )
        if bare:
            yield ast.unparse(node)


def test_nothing_is_drawn_from_a_global_random_state():
    assert offenders(global_draws) == {}


def test_nothing_is_global_and_nothing_is_pickled():
    risky = {"pickle.load", "pickle.loads", "torch.load", "torch.save", "eval", "exec"}
    assert offenders(lambda name: [called for called, _ in calls(name) if called in risky]) == {}
    assert offenders(lambda name: [n for n in ast.walk(tree(name)) if isinstance(n, (ast.Global, ast.Nonlocal))]) == {}


def test_files_are_read_and_written_as_utf_8():
    def by_chance(name: str) -> list[str]:
        texts = [node for called, node in calls(name) if called.endswith((".read_text", ".write_text"))]
        return [ast.unparse(node) for node in texts if not any(k.arg == "encoding" for k in node.keywords)]

    assert offenders(by_chance) == {}


# imports every module and tells what that changed; told first which modules must not bring torch in
IMPORTER = """
import contextlib, importlib, io, json, os, pkgutil, random, signal, sys
sys.argv = []
out = io.StringIO()
found = {"torch": [], "modules": 0}
before = {"environment": dict(os.environ), "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]}
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    for name in json.loads(sys.stdin.read()):
        importlib.import_module(name)
        if "torch" in sys.modules:
            found["torch"].append(name)
    import torch
    before["random"] = random.getstate()
    threads, state, grad = torch.get_num_threads(), torch.get_rng_state(), torch.is_grad_enabled()
    package = importlib.import_module("nano_llada")
    for info in pkgutil.walk_packages(package.__path__, "nano_llada."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
            found["modules"] += 1
found["changed"] = [
    what
    for what, same in {
        "environment": before["environment"] == dict(os.environ),
        "signals": before["signals"] == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "random": before["random"] == random.getstate(),
        "threads": threads == torch.get_num_threads(),
        "torch's random state": torch.equal(state, torch.get_rng_state()),
        "gradients": grad == torch.is_grad_enabled(),
    }.items()
    if not same
]
found["printed"] = out.getvalue()
print(json.dumps(found))
"""


def test_importing_every_module_does_nothing(tmp_path):
    modules = ["nano_llada." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in LIGHT]
    places = {"PYTHONPATH": str(ROOT.parent), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"} | places
    done = subprocess.run(
        [sys.executable, "-c", IMPORTER],
        input=json.dumps(modules),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["torch"], found["changed"], found["printed"]) == ([], [], "")
    assert found["modules"] >= len(FILES) - 15
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("torchinductor")] == []


def looks(function: ast.AST, helpers: set[str]) -> bool:
    """Whether a function of the tests asserts something, or calls one that does."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) or (isinstance(node, ast.With) and "pytest.raises(" in ast.unparse(node)):
            return True
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in helpers | {"fail"}:
            return True
    return False


def test_every_test_asserts_something():
    files = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in Path(__file__).parent.glob("*.py")}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [(name, node) for name, file in files.items() for node in ast.walk(file) if isinstance(node, kinds)]
    helpers: set[str] = set()
    for _ in range(3):  # a helper may call another
        helpers |= {node.name for _, node in functions if looks(node, helpers)}
    tests = [(name, node) for name, node in functions if node.name.startswith("test_")]
    assert len(tests) > 1500
    assert [f"{name}:{node.lineno}" for name, node in tests if node.name not in helpers] == []
