"""One file of everything: stories, conversations about them and the skills of the small world, as texts in any order.

It is for pretraining a model that is to talk: conversations are written out with their turn marks, so that every token
of them is learnt, the questions too. Read it with `--marks tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.world.files import write_world
from nano_llada.world.skills import SKILLS

SHORT = 1200  # texts for validation: enough for a curve


def write_mixture(folder: Path, *, skill_documents: int, skill_chats: int, seed: int) -> list[Path]:
    """Write the skills to `folder/skills`, and all texts of both to `mixed-train.jsonl` and `mixed-validation.jsonl`.

    `folder` holds what `write_stories` wrote.

    Raises:
        UserError: for a folder that cannot be read or written.
    """
    skills = folder / "skills"
    paths = write_world(
        skills, documents_count=skill_documents, chats_count=skill_chats, skills=tuple(SKILLS), seed=seed
    )
    try:
        for split, most in (("train", None), ("validation", SHORT)):
            parts = [part / f"{kind}-{split}.jsonl" for part in (folder, skills) for kind in ("pretrain", "chat")]
            texts = [text for part in parts for text in _texts(part)]
            Random(seed).shuffle(texts)
            target = folder / f"mixed-{split}.jsonl"
            hidden = target.with_name(f".{target.name}.writing")
            with hidden.open("w", encoding="utf-8") as file:
                for text in texts[:most]:
                    file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            hidden.replace(target)
            paths.append(target)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    return paths


def _texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield written_out(json.loads(line))


def written_out(row: Mapping[str, Any]) -> str:
    """The text of a row; a conversation with the marks that a chat model meets, as `data.chat` cuts it."""
    if "text" in row:
        return str(row["text"])
    turns = row["conversations"] if "conversations" in row else row["messages"]
    return "\n".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>" for turn in turns)
