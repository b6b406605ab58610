"""API keys: who may use the server. Of a key only its SHA-256 is kept, in memory and on disk."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from nano_llada.core.errors import UserError
from nano_llada.core.text import printable, read_text

VARIABLE = "NANO_LLADA_KEYS"
PREFIX = "nl-"
_NAME = re.compile(r"[\w.@-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Keys:
    """Names and the SHA-256 of their keys. Empty: everybody may use the server."""

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    def __len__(self) -> int:
        return len(self._digests)

    @classmethod
    def read(cls, path: Path | None, environment: str = "") -> Keys:
        """From a file with lines `NAME SHA256`, and from `NAME:KEY` pairs with commas between them.

        Raises:
            UserError: for a line or pair that is wrong, or a file without keys.
        """
        found: dict[str, bytes] = {}
        if path is not None:
            for number, line in enumerate(read_text(path, "the keys in ").splitlines(), 1):
                words = line.partition("#")[0].split()
                if not words:
                    continue
                if len(words) != 2 or not _NAME.fullmatch(words[0]) or not _DIGEST.fullmatch(words[1]):
                    place = f"{printable(str(path))}, line {number}"
                    raise UserError(f"{place}: expected NAME SHA256; `nano-llada serve --make-key NAME` prints one")
                found[words[0]] = bytes.fromhex(words[1])
            if not found:
                raise UserError(f"no key in {printable(str(path))}; `nano-llada serve --make-key NAME` prints one")
        for pair in filter(None, environment.split(",")):
            name, colon, key = pair.strip().partition(":")
            if not colon or not _NAME.fullmatch(name) or len(key) < 16:
                raise UserError(f"{VARIABLE}: expected NAME:KEY pairs with commas between them, keys of 16 or more")
            found[name] = digest(key)
        return cls(found)

    def owner(self, key: str) -> str | None:
        """Whose key it is. Takes the same time whatever is wrong with it."""
        mine, owner = digest(key), None
        for name, known in self._digests.items():
            if hmac.compare_digest(mine, known):
                owner = name
        return owner


def digest(key: str) -> bytes:
    """SHA-256: enough for keys that are drawn at random, unlike passwords."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def make_key(name: str) -> tuple[str, str]:
    """A new key, and its line for the file.

    Raises:
        UserError: for a name that cannot stand in the file.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"a key's name has up to 64 letters, digits and . _ @ -, got {printable(name)!r}")
    key = PREFIX + secrets.token_urlsafe(32)
    return key, f"{name} {digest(key).hex()}"
