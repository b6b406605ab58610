"""Stories and conversations about them as ordinary files, so that everything that reads user data reads them too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random

from nano_llada.core.errors import UserError
from nano_llada.world.splits import LANGUAGES, SPLITS, Language, Split, check_request
from nano_llada.world.stories.simulate import simulate
from nano_llada.world.stories.story import tell
from nano_llada.world.stories.tasks import conversations, summarised

Row = Mapping[str, object]
HELD_OUT = 10  # validation and test hold a tenth of the training rows each


def documents(split: Split, count: int, seed: int) -> Iterator[dict[str, object]]:
    """`count` stories as pretraining rows, half in each language, no two alike; the same ones for the same seed.

    One in eight is told in the first person, and one in eight ends with its summary. Raises UserError for an unknown
    split or a negative count.
    """
    check_request(split, count)
    rng = Random(f"documents/{seed}/{split}")
    seen: set[bytes] = set()
    made = 0
    while made < count:
        language: Language = LANGUAGES[made % 2]
        text, key = _document(rng, split, language)
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=12).digest()
        if digest in seen:
            continue
        seen.add(digest)
        made += 1
        yield {"text": text, "language": language, "key": key}


def _document(rng: Random, split: Split, language: Language) -> tuple[str, list[str]]:
    story = simulate(rng, split)
    draw = rng.random()
    if draw < 1 / 8:
        return tell(story.seen_by(rng.choice(story.cast)), language, rng).text, list(story.key)
    text = tell(story, language, rng).text
    if draw < 2 / 8:
        text += "\n" + summarised(story, language, rng)
    return text, list(story.key)


def write_stories(folder: Path, *, documents_count: int, chats_count: int, seed: int) -> list[Path]:
    """Write `pretrain-SPLIT.jsonl` (stories) and `chat-SPLIT.jsonl` (conversations about them) for the three splits.

    Raises:
        UserError: for a negative count or a folder that cannot be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            share = 1 if split == "train" else HELD_OUT
            rows = (talk.to_row() for talk in conversations(split, chats_count // share, seed))
            texts = documents(split, documents_count // share, seed)
            paths.append(_write(folder / f"pretrain-{split}.jsonl", texts))
            paths.append(_write(folder / f"chat-{split}.jsonl", rows))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    return paths


def _write(path: Path, rows: Iterable[Row]) -> Path:
    hidden = path.with_name(f".{path.name}.writing")  # a file that is there is complete
    with hidden.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    hidden.replace(path)
    return path
