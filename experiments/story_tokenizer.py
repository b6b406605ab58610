"""Trains the tokenizer for stories, their tasks, the small world and ordinary text, from generated text alone.

    python experiments/story_tokenizer.py --size 5120 --out src/nano_llada/assets/tokenizer-story

Ordinary Chinese and English come in as statistics: `experiments/ordinary.tsv` holds how often characters and words
occur, and a bag of them, in random order, is part of the training text. No sentence of anybody's is read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from nano_llada.data.tokenizer import train_bpe
from nano_llada.world import SKILLS, chats
from nano_llada.world import documents as world_documents
from nano_llada.world.stories.files import documents
from nano_llada.world.stories.tasks import conversations
from nano_llada.world.stories.words import chinese_words
from nano_llada.world.vocabulary import chinese_words as world_words

ORDINARY = Path(__file__).with_name("ordinary.tsv")


def ordinary(rng: Random, lines: int) -> Iterator[str]:
    """Lines of words drawn by a root of their frequency, so that rarer ones occur often enough, too."""
    table: dict[str, list[tuple[str, float]]] = {"zh": [], "en": []}
    for line in ORDINARY.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            language, word, count = line.split("\t")
            table[language].append((word, float(count) ** 0.3))
    for index in range(lines):
        language = ("zh", "en")[index % 2]
        words, weights = zip(*table[language], strict=True)
        drawn = rng.choices(words, weights, k=60)
        yield ("，" if language == "zh" else " ").join(drawn)


def texts(documents_count: int) -> Iterator[str]:
    """What the tokenizer is trained on."""
    for row in documents("train", documents_count, 0):
        yield str(row["text"])
    for talking in conversations("train", documents_count // 2, 0):
        for exchange in talking.exchanges:
            yield exchange.user
            yield exchange.assistant
    for example in chats(SKILLS, "train", documents_count // 2, 0):
        yield example.prompt
        yield example.answer
    for document in world_documents("train", documents_count // 4, 0):
        yield str(document["text"])
    yield from ordinary(Random(0), 3 * documents_count)


def main(argv: list[str] | None = None) -> int:
    """Train, save, and print how many tokens a story takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=5120)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("src/nano_llada/assets/tokenizer-story"))
    options = parser.parse_args(argv)
    words = sorted({*chinese_words(), *world_words()}, key=lambda word: (-len(word), word))
    tokenizer = train_bpe(texts(options.documents), options.size, chinese_words=words)
    tokenizer.save(options.out)
    for language in ("zh", "en"):
        held = (str(row["text"]) for row in documents("test", 2000, 1) if row["language"] == language)
        counts = sorted(len(tokenizer.encode(text)) for text in islice(held, 1000))
        at = {share: counts[int(share * len(counts))] for share in (0.0, 0.05, 0.5, 0.95)}
        print(f"{language}: tokens per story {at}, at most {counts[-1]}, {len(counts)} stories")
    print(f"vocabulary {tokenizer.vocab.size}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
