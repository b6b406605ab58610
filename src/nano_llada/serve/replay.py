"""A replay as one HTML file, which needs nothing else; the studio makes the same (page/bundle.js)."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "page"


def write_replay(trace: Any) -> str:
    """The text of an HTML file that shows a trace.

    Args:
        trace: the JSON value of a trace that `nano_llada.serve.trace.read_trace` accepts.
    """
    modules = [_read(f"{name}.js") for name in _parts()]
    parts = {
        "NONCE": secrets.token_hex(16),
        "STYLE": _read("studio.css"),
        # a script element ends at `</`, whatever the JSON means by it
        "TRACE": json.dumps(trace, separators=(",", ":")).replace("<", "\\u003c"),
        "SCRIPT": "\n".join(_joined(module) for module in modules),
    }
    return re.sub(r"\{\{(NONCE|STYLE|TRACE|SCRIPT)\}\}", lambda found: parts[found[1]], _read("replay.html"))


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _parts() -> list[str]:
    """The modules of a replay in their order, from the one place that lists them."""
    listed = re.search(r"PARTS = (\[.*?\])", _read("bundle.js"))
    assert listed is not None, "page/bundle.js lists the modules of a replay"
    names: list[str] = json.loads(listed[1])
    return names


def _joined(module: str) -> str:
    """A module without its imports and exports: joined, the modules are one."""
    return re.sub("^export ", "", re.sub("^import .*\n", "", module, flags=re.MULTILINE), flags=re.MULTILINE)
