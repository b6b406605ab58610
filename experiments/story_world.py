"""Measures the story world: uniqueness, coherence, the verifier on planted errors, diversity, speed.

    python experiments/story_world.py --stories 100000 --planted 20000 --reference FILE.jsonl.gz

`--reference` is a JSON-lines file of texts (`text`, `source`) to compare the diversity of the English stories with;
only rows whose source is `--source` count.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from random import Random

from nano_llada.world.splits import LANGUAGES, SPLITS, split_of
from nano_llada.world.stories.check import check, faithful_summary, same_story
from nano_llada.world.stories.events import FAULTS
from nano_llada.world.stories.plant import plant
from nano_llada.world.stories.simulate import simulate
from nano_llada.world.stories.story import tell
from nano_llada.world.stories.tasks import summarised

TITLE = "| story | language | plots | text |\n|---|---|---|---|\n"


def wilson(hits: int, total: int) -> list[float]:
    """The 95 % interval of a proportion (Wilson's score interval)."""
    if not total:
        return [0.0, 1.0]
    z, rate = 1.959964, hits / total
    middle = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return [round(middle - half, 5), round(min(1.0, middle + half), 5)]


def speed(seconds: float) -> dict[str, float]:
    """Megabytes of text per second of CPU time: one telling per simulated story, and both languages of each."""
    found = {}
    for name, languages in (("one_language", 1), ("both_languages", 2)):
        rng, size, stories = Random(1), 0, 0
        start = time.process_time()
        while time.process_time() - start < seconds:
            story = simulate(rng)
            for index in range(languages):
                size += len(tell(story, LANGUAGES[(stories + index) % 2], rng).text.encode("utf-8"))
            stories += 1
        found[name] = round(size / 1e6 / (time.process_time() - start), 3)
    return found


def coherence_of(part: range) -> tuple[set[bytes], dict[str, set[tuple[str, ...]]], Counter[str]]:
    """Stories number `part`, over the three splits: digests of texts, skeletons of each split, and counts."""
    seen: set[bytes] = set()
    keys: dict[str, set[tuple[str, ...]]] = {split: set() for split in SPLITS}
    result: Counter[str] = Counter()
    for index in part:
        split, language = SPLITS[(index % 10) // 8 + (index % 10) // 9], LANGUAGES[index // 10 % 2]
        rng = Random(f"measure/{index}")
        story = simulate(rng, split)
        keys[split].add(story.key)
        telling = tell(story, language, rng)
        text = telling.text
        seen.add(hashlib.blake2b(text.encode("utf-8"), digest_size=12).digest())
        report = check(text, language)
        result[report.verdict] += 1
        if not report.coherent:
            print(report.describe(), file=sys.stderr)
        result["sentences"] += len(telling.sentences)
        result["characters"] += len(text)
        if index % 20 == 0:
            other = LANGUAGES[1 - LANGUAGES.index(language)]
            result["translations"] += 1
            result["faithful translations"] += same_story(report, check(tell(story, other, rng).text, other))
            result["summaries"] += 1
            result["faithful summaries"] += faithful_summary(summarised(story, language, rng), report, language)
    return seen, keys, result


def coherence(count: int, workers: int) -> dict[str, object]:
    """`count` stories over the three splits: repeated texts, contradictions, faithful translations and summaries."""
    bounds = [count * worker // workers for worker in range(workers + 1)]
    parts = [range(first, last) for first, last in pairwise(bounds)]
    seen: set[bytes] = set()
    keys: dict[str, set[tuple[str, ...]]] = {split: set() for split in SPLITS}
    result: Counter[str] = Counter()
    with ProcessPoolExecutor(workers) as pool:
        for digests, found, counts in pool.map(coherence_of, parts):
            seen |= digests
            result += counts
            for split in SPLITS:
                keys[split] |= found[split]
    shared = (keys["train"] & keys["validation"]) | (keys["train"] & keys["test"]) | (keys["validation"] & keys["test"])
    wrong = sum(split_of(key) != split for split, found in keys.items() for key in found)
    return {
        "stories": count,
        "distinct": len(seen),
        "skeletons": {split: len(found) for split, found in keys.items()},
        "skeletons_in_two_splits": len(shared) + wrong,
        "sentences_per_story": round(result.pop("sentences") / count, 2),
        "characters_per_story": round(result.pop("characters") / count, 1),
        **result,
    }


def planted(count: int) -> dict[str, object]:
    """The verifier on `count` texts, half of them with one planted contradiction, half without."""
    rng, kinds = Random(7), sorted(FAULTS)
    tried: Counter[str] = Counter()
    found: Counter[str] = Counter()
    flagged = clean = wrongly = 0
    made = 0
    while made < count // 2:
        kind, language = kinds[made % len(kinds)], LANGUAGES[made // len(kinds) % 2]
        story = simulate(rng)
        change = plant(story, language, rng, kind)
        if change is None:
            continue
        made += 1
        report = check(change.telling.text, language)
        first = report.problems[0] if report.problems else None
        tried[kind] += 1
        flagged += first is not None
        found[kind] += first is not None and first.sentence == change.sentence
        found[f"{kind} named"] += first is not None and (first.sentence, first.kind) == (change.sentence, kind)
        clean += 1
        wrongly += not check(tell(simulate(rng), language, rng).text, language).coherent
    hits, total = sum(found[kind] for kind in kinds), sum(tried.values())
    return {
        "planted": total,
        "recall_at_the_sentence": round(hits / total, 5),
        "recall_interval": wilson(hits, total),
        "precision": round(hits / max(1, flagged + wrongly), 5),
        "precision_interval": wilson(hits, flagged + wrongly),
        "clean_texts": clean,
        "clean_texts_flagged": wrongly,
        "by_kind": {kind: [tried[kind], found[kind], found[f"{kind} named"]] for kind in kinds},
    }


def diversity(texts: Iterable[str], size: int) -> dict[str, float]:
    """Distinct word 4-grams per 4-gram, and how many times zlib shrinks the text, over `size` bytes of texts."""
    grams: set[tuple[str, ...]] = set()
    total = used = 0
    kept: list[str] = []
    for text in texts:
        words = re.findall(r"[a-z']+", text.lower())
        grams.update(zip(words, words[1:], words[2:], words[3:], strict=False))
        total += max(0, len(words) - 3)
        used += len(text.encode("utf-8"))
        kept.append(text)
        if used >= size:
            break
    joined = "\n\n".join(kept).encode("utf-8")
    return {
        "texts": len(kept),
        "bytes": used,
        "distinct_4": round(len(grams) / max(1, total), 4),
        "compression_ratio": round(len(joined) / len(zlib.compress(joined, 9)), 3),
    }


def _english() -> Iterator[str]:
    rng = Random(3)
    while True:
        yield tell(simulate(rng), "en", rng).text


def _reference(path: Path, source: str) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = (json.loads(line) for line in file)
        return [row["text"] for row in rows if row["source"] == source]


def samples(count: int) -> str:
    """A table of `count` stories, half in each language."""
    lines = []
    for index in range(count):
        rng, language = Random(f"sample/{index}"), LANGUAGES[index * 2 // count]
        story = simulate(rng, "validation")
        text = tell(story, language, rng).text.replace("\n", "<br>")
        lines.append(f"| {index + 1} | {language} | {', '.join(story.key[1:-3])} | {text} |\n")
    return TITLE + "".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure, and write `world.json` and `samples.md` to the folder given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", type=int, default=100_000)
    parser.add_argument("--planted", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--source", default="tinystories")
    parser.add_argument("--out", type=Path, default=Path("docs/experiments/story"))
    options = parser.parse_args(argv)
    figures: dict[str, object] = {"speed_mb_per_cpu_second": speed(options.seconds)}
    figures["verifier"] = planted(options.planted)
    if options.reference:
        texts = _reference(options.reference, options.source)
        size = sum(len(text.encode("utf-8")) for text in texts)
        figures["diversity"] = {options.source: diversity(texts, size), "stories": diversity(_english(), size)}
    figures["coherence"] = coherence(options.stories, options.workers)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    (options.out / "world.json").write_text(text, encoding="utf-8")
    page = (
        "# Sixty stories\n\nThirty in each language, from held-out skeletons; "
        "written by `python experiments/story_world.py`.\n\n" + samples(60)
    )
    (options.out / "samples.md").write_text(page, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
