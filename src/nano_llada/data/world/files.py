"""The small world as ordinary files, so that everything that reads user data reads it too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nano_llada.core.errors import UserError
from nano_llada.data.world.documents import documents
from nano_llada.data.world.generate import chats
from nano_llada.data.world.preferences import preferences
from nano_llada.data.world.skills_family import told_families
from nano_llada.data.world.splits import SPLITS
from nano_llada.data.world.vocabulary import chinese_words

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


def write_lessons(folder: Path, *, count: int, seed: int) -> list[Path]:
    """Write `lookup-SPLIT.jsonl`, `count` texts that say again what they said and nothing else, for a model to begin
    with, and `told-SPLIT.jsonl`, as many conversations that tell of families and ask nothing, so that what was read is
    not forgotten while answers are learnt. Half of each is Chinese.

    Raises:
        UserError: for a folder that cannot be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            share = count if split == "train" else count // HELD_OUT
            paths.append(_write(folder / f"lookup-{split}.jsonl", documents(split, share, seed, kinds=("lookup",))))
            paths.append(_write(folder / f"told-{split}.jsonl", told_families(split, share, seed)))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    return paths


def write_preferences(folder: Path, *, count: int, skills: Sequence[str], seed: int) -> list[Path]:
    """Write `preference-SPLIT.jsonl` for the three splits: `count` training pairs, and a tenth in each of the others.

    Raises:
        UserError: for an unknown skill or a folder that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shares = {split: count if split == "train" else count // HELD_OUT for split in SPLITS}
        return [
            _write(folder / f"preference-{split}.jsonl", preferences(skills, split, share, seed))
            for split, share in shares.items()
        ]
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error


def _write(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    hidden = path.with_name(f".{path.name}.writing")  # a file that is there is complete
    with hidden.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    hidden.replace(path)
    return path
