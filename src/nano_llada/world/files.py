"""The small world as ordinary files, so that everything that reads user data reads it too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from nano_llada.core.errors import UserError
from nano_llada.world.documents import documents
from nano_llada.world.generate import chats
from nano_llada.world.preferences import preferences
from nano_llada.world.skills_family import told_families
from nano_llada.world.splits import SPLITS, Split
from nano_llada.world.vocabulary import chinese_words

Rows = Iterable[Mapping[str, object]]
HELD_OUT = 10  # validation and test hold a tenth of the training rows each


def write_world(
    folder: Path, *, documents_count: int, chats_count: int, skills: Sequence[str], seed: int, mirrored: bool = False
) -> list[Path]:
    """Write `pretrain-SPLIT.jsonl` and `chat-SPLIT.jsonl` for the three splits, and `words.txt` for a tokenizer.

    Skills and `mirrored` are those of `chats` and `documents`.

    Raises:
        UserError: for an unknown skill or a folder that cannot be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            share = 1 if split == "train" else HELD_OUT
            rows = (example.to_row() for example in chats(skills, split, chats_count // share, seed))
            texts = documents(split, documents_count // share, seed, skills, mirrored=mirrored)
            paths.append(_write(folder / f"pretrain-{split}.jsonl", texts))
            paths.append(_write(folder / f"chat-{split}.jsonl", rows))
        paths.append(folder / "words.txt")
        paths[-1].write_text("\n".join(chinese_words()) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    return paths


def write_lookups(folder: Path, *, count: int, seed: int) -> list[Path]:
    """Write `lookup-SPLIT.jsonl` for the three splits: texts that say again what they said and nothing else, from which
    a model learns to look things up before it learns anything to look up.

    Raises:
        UserError: for a folder that cannot be written.
    """
    return _write_splits(folder, "lookup", count, lambda split, n: documents(split, n, seed, kinds=("lookup",)))


def write_tellings(folder: Path, *, count: int, seed: int) -> list[Path]:
    """Write `told-SPLIT.jsonl` for the three splits: conversations that tell of families and ask nothing, so that what
    was read is not forgotten while answers are learnt.

    Raises:
        UserError: for a folder that cannot be written.
    """
    return _write_splits(folder, "told", count, lambda split, n: told_families(split, n, seed))


def write_preferences(folder: Path, *, count: int, skills: Sequence[str], seed: int) -> list[Path]:
    """Write `preference-SPLIT.jsonl` for the three splits: `count` training pairs, and a tenth in each of the others.

    Raises:
        UserError: for an unknown skill or a folder that cannot be written.
    """
    return _write_splits(folder, "preference", count, lambda split, n: preferences(skills, split, n, seed))


def _write_splits(folder: Path, name: str, count: int, make: Callable[[Split, int], Rows]) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shares = {split: count if split == "train" else count // HELD_OUT for split in SPLITS}
        return [_write(folder / f"{name}-{split}.jsonl", make(split, share)) for split, share in shares.items()]
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error


def _write(path: Path, rows: Rows) -> Path:
    hidden = path.with_name(f".{path.name}.writing")  # a file that is there is complete
    with hidden.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    hidden.replace(path)
    return path
