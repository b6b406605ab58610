"""What is checked in a tokenizer.json before the tokenizers library sees it, which trusts its input."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

LARGEST = 2**28  # bytes of a tokenizer.json; those of the largest vocabularies have 2**25
SPARSE = 2**16  # ids that may be missing in a vocabulary


class _Silence:
    """Standard error sent nowhere while any thread asks for it: the first redirects it, the last restores it."""

    def __init__(self) -> None:
        self._lock, self._inside, self._kept = threading.Lock(), 0, -1

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            sys.stderr.flush()
            self._kept = os.dup(2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                os.dup2(self._kept, 2)
                os.close(self._kept)


_SILENCE = _Silence()  # there is one standard error


def unheard() -> contextlib.AbstractContextManager[None]:
    """Keep what the library itself prints off standard error: a panic in it raises an error as well."""
    return _SILENCE


def checked(text: str, marks: tuple[str, ...]) -> str:
    """The tokenizer.json with its marks declared special, so that text never becomes one.

    Raises:
        ValueError: with the reason, for one that is too large, is not an object, has ids out of range or a regular
            expression that takes exponential time.
    """
    if len(text) > LARGEST:
        raise ValueError(f"it has {len(text):,} characters, at most {LARGEST:,} are read")
    try:
        plain = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(plain, dict) or not isinstance(plain.get("model"), dict):
        raise ValueError("it is not an object with a model")
    added = [token for token in plain.get("added_tokens") or [] if isinstance(token, dict)]
    _check_ids(plain["model"], added)
    for pattern in patterns(plain):
        if nested_repeats(pattern):
            raise ValueError(f"its regular expression {pattern[:60]!r} repeats a repetition, which takes forever")
    changed = [token for token in added if token.get("content") in marks and token.get("special") is not True]
    for token in changed:
        token["special"] = True
    return json.dumps(plain, ensure_ascii=False) if changed else text


def _check_ids(model: dict[str, Any], added: list[dict[str, Any]]) -> None:
    vocabulary = model.get("vocab")
    ids: list[Any] = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    count = len(vocabulary) if isinstance(vocabulary, dict | list) else 0
    ids += [token.get("id") for token in added]
    if wrong := [index for index in ids if not isinstance(index, int) or isinstance(index, bool) or index < 0]:
        raise ValueError(f"{wrong[0]!r} is not a token id")
    most = count + len(added)
    if ids and max(ids) > 2 * most + SPARSE:
        raise ValueError(f"it has the token id {max(ids):,} but only {most:,} tokens")
    unknown = model.get("unk_token")
    if isinstance(unknown, str) and isinstance(vocabulary, dict) and unknown not in vocabulary:
        raise ValueError(f"its unknown token {unknown!r} is not in its vocabulary")


def patterns(value: Any) -> Iterator[str]:
    """The regular expressions in a tokenizer.json, or in a part of it."""
    if isinstance(value, dict):
        if isinstance(value.get("Regex"), str):
            yield value["Regex"]
        for name, inner in value.items():
            if name != "vocab" and name != "merges":
                yield from patterns(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from patterns(inner)


_SKIPPED = re.compile(r"\\.|\[(?:\\.|\[[^\]]*\]|[^\]\\])+\]", re.DOTALL)  # an escape, or a set of characters
_REPEAT = re.compile(r"[*+]|\{\d*,\d*\}")


def nested_repeats(pattern: str) -> bool:
    """Whether a regular expression repeats, without a limit, a group in which something is repeated without a limit.

    That is what makes matching take time exponential in the text's length. Possessive and atomic groups count, too.
    """
    repeats = [False]  # for each open group whether it contains such a repetition
    last = False  # whether what was just closed does
    place = 0
    while place < len(pattern):
        if skipped := _SKIPPED.match(pattern, place):
            place, last = skipped.end(), False
            continue
        character, repeat = pattern[place], _REPEAT.match(pattern, place)
        if repeat:
            if last and not _limited(repeat[0]):
                return True
            repeats[-1] |= not _limited(repeat[0])
            place, last = repeat.end(), False
            continue
        if character == "(":
            repeats.append(False)
        last = False
        if character == ")" and len(repeats) > 1:
            last = repeats.pop()
            repeats[-1] |= last
        place += 1
    return False


def _limited(repeat: str) -> bool:
    return repeat[0] == "{" and repeat.rstrip("}").split(",")[1] not in ("",) and int(repeat[:-1].split(",")[1]) < 10
