"""The Chinese words that a tokenizer for the stories keeps whole."""

from __future__ import annotations

from importlib.resources import files

from nano_llada.world.stories import lexicon


def chinese_words() -> list[str]:
    """Every Chinese word to keep whole, longest first.

    `words.txt` holds the words of the sentence forms and of small talk, and the commonest ones of ordinary text.
    """
    text = (files("nano_llada.world.stories") / "words.txt").read_text(encoding="utf-8")
    words: set[str] = set(text.split())
    words |= {person.zh for person in lexicon.people().values()}
    words |= {person.kind_zh for person in lexicon.people().values() if person.kind_zh}
    words |= {thing.zh for thing in lexicon.things().values()}
    words |= {word.zh for word in lexicon.ADJECTIVES.values()}
    words |= {place.zh for place in lexicon.PLACES.values()} | set(lexicon.NEAR_ZH.values())
    words |= {word.zh for word in (*lexicon.SPOTS.values(), *lexicon.SKILLS.values())}
    return sorted((word for word in words if len(word) > 1), key=lambda word: (-len(word), word))
