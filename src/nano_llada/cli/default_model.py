"""The model that commands use when none is named: the one that comes with the package."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from nano_llada.core.errors import UserError

DEFAULT = Path("story")
_TEXT = re.compile(r"\s|___|[\u3000-\u9fff\uff00-\uffef]")  # in a prompt, and hardly ever in the name of a run


def model_and_text(checkpoint: Path, text: str) -> tuple[Path, tuple[str, ...]]:
    """What `COMMAND MODEL TEXT` means where a lone word may be either: the model, and the texts that are given.

    A word that names no file and no bundled model and reads like a sentence is a text for the default model; this is
    said on standard error, since the name of a run may be misspelt.
    """
    given = (text,) if text else ()
    word = str(checkpoint)
    if checkpoint.exists() or not _TEXT.search(word):
        return checkpoint, given
    print(f"note: there is no model {word!r}; taken as a text for the bundled model {DEFAULT}", file=sys.stderr)
    return DEFAULT, (word, *given)


def one_text(checkpoint: Path, text: str, missing: str) -> tuple[Path, str]:
    """As `model_and_text` for a command that takes one text. Raises UserError, saying `missing`, for none or two."""
    model, texts = model_and_text(checkpoint, text)
    if len(texts) != 1:
        raise UserError(missing if not texts else f"no model at {checkpoint}: there is no such file or folder")
    return model, texts[0]
