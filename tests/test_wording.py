"""Phrases that may not come back into what a person reads: messages, help, docstrings, pages."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BANNED = re.compile(
    r"\bgone on with|goes on with|go on with|is no multiple|nobody|stands in no|has never heard", re.IGNORECASE
)
CODE = [
    path
    for room in ("src/nano_llada", "experiments", "scripts", "examples", "benchmarks")
    for path in sorted((ROOT / room).rglob("*.py"))
    if "stories" not in path.parts  # its strings are the stories
]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "story"),  # stories, again
    *sorted((ROOT / "recipes").glob("*.toml")),
]
NOTEBOOK = ROOT / "LOG.md"  # its entries stay as they were written, and it quotes what was rewritten


def strings(code: str) -> list[str]:
    """Every string of a program: docstrings, messages, help."""
    nodes = ast.walk(ast.parse(code))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_no_string_of_a_program_has_them():
    assert len(CODE) > 200
    found = [(path, text) for path in CODE for text in strings(path.read_text(encoding="utf-8"))]
    assert [(path, text) for path, text in found if BANNED.search(text)] == []


def test_no_page_has_them():
    pages = [page for page in PAGES if page != NOTEBOOK]
    assert len(pages) > 40
    assert [page for page in pages if BANNED.search(page.read_text(encoding="utf-8"))] == []


def test_they_are_found():
    assert [
        text
        for text in strings('"""It goes on with a run."""\nx = f"{n} is no multiple of {m}"')
        if BANNED.search(text)
    ] == [
        "It goes on with a run.",
        " is no multiple of ",
    ]
