"""`nano-llada serve`: models behind OpenAI's HTTP API."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nano_llada.cli.options import parse, short_names
from nano_llada.config.checks import Threads, check_numbers
from nano_llada.config.serving import LOOPBACK, Port, ServingOptions
from nano_llada.core.errors import UserError
from nano_llada.core.text import printable

if TYPE_CHECKING:
    from nano_llada.language_model import LanguageModel

NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    models: tuple[str, ...] = ()
    """Run folders, checkpoint folders or names of bundled models; NAME=FOLDER chooses the name under which clients know
    it. Default: the models that come with this package."""
    host: str = "127.0.0.1"
    """Address to listen on; only this machine reaches the default."""
    port: Port = 8000
    """Port to listen on; 0: any free one."""
    keys: Path | None = None
    """File of API keys, a line `NAME SHA256` each. NANO_LLADA_KEYS may hold more, as NAME:KEY,NAME:KEY."""
    make_key: str | None = None
    """Print a new key for this name and its line for the file, and end."""
    open: bool = False
    """Serve other machines without keys."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """CPU threads; default: PyTorch's choice."""
    serving: ServingOptions = field(default_factory=ServingOptions)
    """Limits."""

    def __post_init__(self) -> None:
        check_numbers(self)


SHOWN = {
    "options": "host port keys make_key open device threads",
    "limits": "max_rows max_waiting max_tokens max_per_key request_seconds drain_seconds",
    "log": "log_prompts",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command until a signal ends it; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="serve",
        about="Serve models over OpenAI's HTTP API, with frames of how a diffusion model writes.",
        leading="models",
        shown=SHOWN,
    )
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f'{", ".join(missing)} is missing: pip install "nano-llada[serve]"')
    from nano_llada.serve.keys import VARIABLE, Keys, make_key

    if options.make_key is not None:
        key, line = make_key(options.make_key)
        print(f"key, for the client (it is not stored anywhere):\n{key}\nline for the file of keys:\n{line}")
        return 0
    keys = Keys.read(options.keys, os.environ.get(VARIABLE, ""))
    if options.host not in LOOPBACK and not keys and not options.open:
        raise UserError(
            f"{options.host} is reached by other machines: give --keys FILE (--make-key NAME prints a key), or --open "
            "to serve everybody"
        )
    from nano_llada.core.device import use_threads
    from nano_llada.serve.run import log_to_stderr, serve

    use_threads(options.threads)
    writers = load_models(options)
    log_to_stderr()

    def listening(address: str) -> None:
        print(f"serving {', '.join(writers)} on {address} (Ctrl-C ends)", flush=True)

    serve(writers, options.serving, keys, host=options.host, port=options.port, listening=listening)
    print("stopped", file=sys.stderr)
    return 0


def load_models(options: Options) -> dict[str, LanguageModel]:
    """The models by the names under which they are served."""
    from nano_llada.api import load
    from nano_llada.checkpoint.files import bundled_models

    wanted = options.models or tuple(bundled_models())
    if not wanted:
        raise UserError("no model: name a run folder; this package comes without models")
    pairs = [one.partition("=")[::2] if "=" in one and not Path(one).exists() else ("", one) for one in wanted]
    short = short_names([Path(place) for _, place in pairs])
    names = [printable(name or other) for (name, _), other in zip(pairs, short, strict=True)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two models have the name {', '.join(twice)}: NAME=FOLDER gives another")
    return {name: load(place, options.device) for name, (_, place) in zip(names, pairs, strict=True)}
