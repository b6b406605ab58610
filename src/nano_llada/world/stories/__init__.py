"""Stories from a simulated world, in Chinese and English, whose coherence a program can check."""

from __future__ import annotations

from nano_llada.world.stories.answers import passes
from nano_llada.world.stories.check import Report, check, faithful_summary, fulfils, same_story
from nano_llada.world.stories.files import documents, write_stories
from nano_llada.world.stories.plant import Planted, plant
from nano_llada.world.stories.simulate import simulate, stories
from nano_llada.world.stories.story import Story, Telling, tell
from nano_llada.world.stories.tasks import Conversation, conversations
from nano_llada.world.stories.words import chinese_words

__all__ = [
    "Conversation",
    "Planted",
    "Report",
    "Story",
    "Telling",
    "check",
    "chinese_words",
    "conversations",
    "documents",
    "faithful_summary",
    "fulfils",
    "passes",
    "plant",
    "same_story",
    "simulate",
    "stories",
    "tell",
    "write_stories",
]
