"""Models on the hubs of Hugging Face and ModelScope: fetched by name, and published. Only files of models move.

What is fetched is checked by the importer as any other folder. Code that a repository holds is neither fetched nor run.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from nano_llada.checkpoint.checksums import FILE as CHECKSUMS
from nano_llada.checkpoint.checksums import write_checksums
from nano_llada.core.errors import UserError
from nano_llada.core.text import printable

Hub = Literal["huggingface", "modelscope"]
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WANTED: tuple[str, ...] = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "adapter_config.json", "model.json", "checksums.json", "README.md", "LICENSE*"),
)
OURS = ("model.json", "config.json", "adapter_config.json")  # one of these makes a folder a model
PRIVATE = re.compile(r"^(\.|training\.|environment\.json$|inputs\.json$|log\.txt$)")  # of a run, of no use to others
ENDPOINTS = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}
TOKENS = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}


def is_name(text: str) -> bool:
    """Whether a text can be the name of a model on a hub, such as Qwen/Qwen3-0.6B."""
    return NAME.fullmatch(text) is not None and ".." not in text


def fetch(name: str, hub: Hub = "huggingface", folder: Path | None = None, revision: str | None = None) -> Path:
    """The folder of a model of a hub, fetched unless it is there already.

    Args:
        name: of the model, OWNER/NAME.
        hub: where it is; HF_ENDPOINT or MODELSCOPE_ENDPOINT names a mirror.
        folder: where its files go; default: the hub's own cache.
        revision: branch, tag or commit; default: the main one.

    Raises:
        UserError: for a name that cannot be one, a model that is not there or not open, or without a connection.
    """
    _check_name(name)
    library = _library(hub)
    place = {} if folder is None else {"local_dir": str(folder)}
    try:
        found = library.snapshot_download(
            name, revision=revision, allow_patterns=list(WANTED), token=_token(hub), endpoint=_endpoint(hub), **place
        )
    except Exception as error:  # of two libraries and of what they use
        raise UserError(
            f"cannot fetch {name} from {hub}: {_reason(error)}. Without a connection, fetch it on another machine and "
            f"give the folder; for a model that is not open, set {TOKENS[hub]} to your token"
        ) from error
    return Path(found)


def publish(folder: Path, name: str, hub: Hub = "huggingface", *, private: bool = True) -> str:
    """Upload a folder that `export` wrote, or a checkpoint; gives its address.

    Raises:
        UserError: for a folder without a model, a name that cannot be one, without a token or a connection.
    """
    _check_name(name)
    files = files_of(folder)
    library = _library(hub)
    try:
        if hub == "huggingface":
            api = library.HfApi(endpoint=_endpoint(hub), token=_token(hub))
            api.create_repo(name, private=private, exist_ok=True)
            address = f"{api.endpoint}/{name}"
        else:
            api = library.HubApi(endpoint=_endpoint(hub), token=_token(hub))
            # left to itself, the client states a licence, and makes what is missing public
            visibility = "private" if private else "public"
            api.create_repo(name, visibility=visibility, license="other", exist_ok=True)
            address = f"{_endpoint(hub) or 'https://modelscope.cn'}/models/{name}"
        with tempfile.TemporaryDirectory() as place:  # a client may leave notes of its own in what it uploads
            for file in files:
                shutil.copyfile(folder / file, Path(place) / file)
            if CHECKSUMS in files:  # which names files that are not published
                write_checksums(Path(place))
            api.upload_folder(repo_id=name, folder_path=place)
    except Exception as error:
        raise UserError(
            f"cannot publish {folder} as {name} on {hub}: {_reason(error)}. Set {TOKENS[hub]} to a token that may "
            "write, and check the connection; nothing on this machine was changed"
        ) from error
    return address


def only_files(folder: Path) -> None:
    """Delete what a client of a hub keeps for itself in a folder that it filled.

    Raises:
        UserError: if no model is left.
    """
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name.startswith("."):
            path.unlink()
    files_of(folder)


def _check_name(name: str) -> None:
    if not is_name(name):
        raise UserError(f"{printable(name)[:80]!r} is not the name of a model on a hub: it has the form OWNER/NAME")


def _token(hub: Hub) -> str | None:
    return os.environ.get(TOKENS[hub]) or None


def _endpoint(hub: Hub) -> str | None:
    return os.environ.get(ENDPOINTS[hub]) or None


def files_of(folder: Path) -> list[str]:
    """The files of a model that are published: not the training state, nothing hidden, nothing in folders or linked.

    Raises:
        UserError: for a folder that holds no model.
    """
    if not folder.is_dir() or not (any((folder / name).is_file() for name in OURS) or any(folder.glob("*.gguf"))):
        raise UserError(
            f"{folder} holds no model: give a folder that `nano-llada export` wrote, or a checkpoint folder"
        )
    plain = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.is_symlink()]
    return [path.name for path in plain if not PRIVATE.match(path.name)]


def _library(hub: Hub) -> Any:
    """The client of a hub, which only this file needs."""
    try:
        if hub == "huggingface":
            import huggingface_hub

            return huggingface_hub
        from modelscope import snapshot_download
        from modelscope.hub.api import HubApi

        return SimpleNamespace(snapshot_download=snapshot_download, HubApi=HubApi)
    except ImportError as error:
        package = "nano-llada[hub]" if hub == "huggingface" else "modelscope"
        raise UserError(f'{hub} needs a package that is missing ({error}): pip install "{package}"') from error


def _reason(error: Exception) -> str:
    """The first line of what a client says, and its kind."""
    lines = [line.strip() for line in printable(str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}"
