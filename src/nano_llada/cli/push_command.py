"""`nano-llada push`: publish a model on a hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nano_llada.cli.options import parse


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    folder: Path
    """Folder that `nano-llada export` wrote, or a checkpoint folder."""
    name: str
    """OWNER/NAME on the hub."""
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """Where to publish. The token is read from HF_TOKEN or MODELSCOPE_API_TOKEN."""
    public: bool = False
    """Let everybody see the model; default: only you."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(Options, arguments, command="push", about="Publish a model on a hub.", leading=("folder", "name"))
    from nano_llada.interop.hub import publish

    print(f"published: {publish(options.folder, options.name, options.hub, private=not options.public)}")
    return 0
