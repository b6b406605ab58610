"""Which part of the small world is for training and which is kept back, decided by what an item is about."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

from nano_llada.core.errors import UserError

Language = Literal["zh", "en"]
Split = Literal["train", "validation", "test"]
Key = tuple[str, ...]
Admits = Callable[[Key], bool]

LANGUAGES: tuple[Language, ...] = ("zh", "en")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def split_of(key: Key) -> Split:
    """The one split that a combination belongs to: 80 % train, 10 % validation, 10 % test, for ever the same.

    (Families, which are few, are chosen by their split, so that more of them are held out.)

    A key is a skill's name followed by the entities asked about, in English words, e.g.
    `("recall", "Tom", "red", "ball")`; it does not depend on the language, the wording or the seed.
    """
    digest = hashlib.sha256("\x1f".join(key).encode("utf-8")).digest()
    tenth = int.from_bytes(digest[:8], "big") % 10
    if tenth < 8:
        return "train"
    return "validation" if tenth == 8 else "test"


def admitted_in(split: Split) -> Admits:
    """Whether text of `split` may mention a combination in passing: its own and the training ones only."""
    return lambda key: split_of(key) in ("train", split)


def check_request(split: str, count: int) -> None:
    """Raises UserError unless `split` is known and `count` is not negative."""
    if split not in SPLITS:
        raise UserError(f"The small world has no split {split!r}. Use one of: {', '.join(SPLITS)}.")
    if count < 0:
        raise UserError(f"The small world was asked for {count} items. Ask for 0 or more.")
