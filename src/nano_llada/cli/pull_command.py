"""`nano-llada pull`: fetch a model from a hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nano_llada.cli.options import parse
from nano_llada.core.errors import UserError


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    name: str
    """OWNER/NAME on the hub."""
    out: Path
    """Folder to write; `nano-llada import` makes a checkpoint of it, where it is not one already."""
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """Where it is. The token of a model that is not open is read from HF_TOKEN or MODELSCOPE_API_TOKEN."""
    revision: str | None = None
    """Branch, tag or commit; default: the main one."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(Options, arguments, command="pull", about="Fetch a model from a hub.", leading="name")
    from nano_llada.core.files import write_folder
    from nano_llada.interop.hub import fetch, only_files

    if options.out.exists():
        raise UserError(f"{options.out} exists already; give the name of a new folder")

    def fill(hidden: Path) -> None:
        fetch(options.name, options.hub, hidden, options.revision)
        only_files(hidden)

    write_folder(options.out, fill)
    print(f"fetched into {options.out}")
    return 0
