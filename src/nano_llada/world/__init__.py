"""A small made-up world in Chinese and English whose every question has an answer a program can check."""

from __future__ import annotations

from nano_llada.world.documents import DOCUMENT_KINDS, documents
from nano_llada.world.generate import Example, chats, examples
from nano_llada.world.preferences import preferences
from nano_llada.world.skills import DEMO_SKILLS, SKILLS
from nano_llada.world.splits import LANGUAGES, SPLITS, Key, Language, Split, split_of
from nano_llada.world.verifier import Verifier, verify

__all__ = [
    "DEMO_SKILLS",
    "DOCUMENT_KINDS",
    "LANGUAGES",
    "SKILLS",
    "SPLITS",
    "Example",
    "Key",
    "Language",
    "Split",
    "Verifier",
    "chats",
    "documents",
    "examples",
    "preferences",
    "split_of",
    "verify",
]
