"""The bytes that each token stands for, so that a text can be judged before its characters are complete."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nano_llada.core.errors import UserError

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def token_bytes(plain: Mapping[str, Any], size: int) -> tuple[bytes | None, ...]:
    """By token id, the bytes of a `tokenizer.json`'s tokens; None for added tokens and ids without a token.

    Raises:
        UserError: for a decoder that makes a token's text depend on its neighbours.
    """
    decoder = plain.get("decoder") or {"type": "none"}
    kinds = [part["type"] for part in decoder.get("decoders", [decoder])]
    if kinds == ["ByteLevel"]:
        read = _byte_level
    elif kinds in (["ByteFallback", "Fuse"], ["ByteFallback"]):
        read = _byte_fallback
    else:
        raise UserError(
            f"the tokenizer's decoder ({' + '.join(kinds)}) is not one of bytes, so texts cannot be constrained"
        )
    added = {token["id"] for token in plain.get("added_tokens", [])}
    found: list[bytes | None] = [None] * size
    for text, index in plain["model"]["vocab"].items():
        if index not in added:
            found[index] = read(text)
    return tuple(found)


def byte_alphabet() -> dict[str, int]:
    """The byte of each character that byte-level BPE writes in its place: printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


_ALPHABET = byte_alphabet()


def _byte_level(text: str) -> bytes:
    return bytes(_ALPHABET[mark] for mark in text)


def _byte_fallback(text: str) -> bytes:
    byte = _BYTE.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text.encode()
