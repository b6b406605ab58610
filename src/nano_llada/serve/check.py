"""What the program that knows the story world says of a text."""

from __future__ import annotations

import re
from typing import Any

from nano_llada.world.splits import Language
from nano_llada.world.stories.check import check

FEWEST = 3  # sentences of a story; less is an answer


def checked(text: str, language: Language | None = None) -> dict[str, Any]:
    """The answer of /v1/check; `language` None: Chinese if there is a Chinese character."""
    report = check(text, language or ("zh" if re.search("[\u4e00-\u9fff]", text) else "en"))
    if len(report.sentences) < FEWEST:
        return {"object": "check", "verdict": "no_story", "sentence": None, "kind": None}
    first = report.problems[0] if report.problems else None
    return {
        "object": "check",
        "verdict": report.verdict.replace(" ", "_"),
        "sentence": first.sentence if first else None,
        "kind": first.kind if first and first.kind != "unknown" else None,
    }
