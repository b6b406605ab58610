"""Models on the hubs of Hugging Face and ModelScope: fetched by name, and published."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from nano_llada.core.errors import UserError

Hub = Literal["huggingface", "modelscope"]
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_name(text: str) -> bool:
    """Whether a text can be the name of a model on a hub, such as Qwen/Qwen3-0.6B."""
    return NAME.fullmatch(text) is not None and ".." not in text


def fetch(name: str, hub: Hub = "huggingface") -> Path:
    raise UserError(name)
