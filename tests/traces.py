"""Saved traces for tests, made from the scripts of the studio's test server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from studio_server import ANSWERS, END, MODELS, Script, frame

SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def token(text: str | None, confidence: float | None = 0.9, id: int | None = 7, **more: Any) -> dict[str, Any]:
    return {"id": None if text is None else id, "text": text, "confidence": confidence, "alternatives": []} | more


def edit(start: int, removed: int, *inserted: dict[str, Any]) -> dict[str, Any]:
    return {"start": start, "removed": removed, "inserted": list(inserted), "final": False}


def of_frames(*edits: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A trace with one frame for each list of edits."""
    frames = [frame(i, 0, 0, list(some)) | {"ms": 10.0 * i} for i, some in enumerate(edits)]
    return {"format": "nano-llada-trace", "version": 1, "ends": [END], "frames": frames} | more


def scripted(key: str = "kite", model: int = 0, mode: str = "", **more: Any) -> dict[str, Any]:
    """The trace of a scripted answer."""
    answer, first = ANSWERS[key]
    script = Script(answer, first, MODELS[model], mode)
    frames = [shown | {"ms": 10.0 * i} for i, (_, shown, _) in enumerate(script.frames())]
    about = {"model": MODELS[model]["id"], "kind": "editing", "prompt": f"Tell me about a {key}.", "text": answer}
    measured = {
        "seconds": 0.25,
        "finish_reason": "stop",
        "decoding": {"threshold": 0.7},
        "created": "2026-12-01T15:00:00Z",
    }
    return of_frames() | about | measured | {"frames": frames} | more


def hostile() -> dict[str, Any]:
    """A trace whose every text is a script."""
    other = {"id": 8, "text": SCRIPT, "probability": 0.4}
    opening = [edit(0, 0, token(None, None), token(None, None))]
    written = [edit(0, 1, token("was " + SCRIPT, 0.3)), edit(1, 1, token("end"))]
    changed = [edit(0, 1, token(SCRIPT, 0.5, alternatives=[other]))]
    named = dict.fromkeys(("model", "kind", "created", "prompt", "before", "after", "finish_reason"), SCRIPT)
    return of_frames(opening, written, changed, **named, decoding={SCRIPT: SCRIPT})


# what is wrong with a trace, and what an error about it names
WRONG: dict[str, tuple[Any, str]] = {
    "another format": ({"format": "something"}, "format"),
    "a list": ([], "format"),
    "a later version": (of_frames() | {"version": 2}, "version"),
    "a version that is a text": (of_frames() | {"version": "1"}, "version"),
    "no frames": ({"format": "nano-llada-trace", "version": 1}, "frames"),
    "a frame that is a number": (of_frames() | {"frames": [3]}, "frames[0]"),
    "a pass that is a text": (of_frames() | {"frames": [{"pass": "1", "edits": []}]}, "frames[0].pass"),
    "a pass that is true": (of_frames() | {"frames": [{"pass": True, "edits": []}]}, "frames[0].pass"),
    "passes in no order": (of_frames() | {"frames": [frame(2, 0, 0, []), frame(1, 0, 0, [])]}, "frames[1].pass"),
    "a negative start": (of_frames([edit(-1, 0)]), "frames[0].edits[0].start"),
    "a start beyond all bounds": (of_frames([edit(10**9, 0)]), "frames[0].edits[0].start"),
    "more removed than there can be": (of_frames([edit(99_999, 99_999)]), "frames[0].edits[0].removed"),
    "a token that is null": (of_frames([edit(0, 0, None)]), "frames[0].edits[0].inserted[0]"),  # type: ignore[arg-type]
    "a text that is a number": (of_frames([edit(0, 0, token("a") | {"text": 5})]), "inserted[0].text"),
    "a confidence above one": (of_frames([edit(0, 0, token("a", 1.5))]), "inserted[0].confidence"),
    "an alternative without text": (of_frames([edit(0, 0, token("a", alternatives=[{}]))]), "alternatives[0].text"),
    "a prompt that is a list": (of_frames(prompt=["a"]), "prompt"),
    "an option that is an object": (of_frames(decoding={"rule": {}}), "decoding.rule"),
    "an end that is a text": (of_frames(ends=["x"]), "ends[0]"),
    "a text that grows beyond all bounds": (of_frames([edit(99_999, 0, token("a"), token("b"))]), "frames[0]"),
    "more tokens than there can be": (
        of_frames([edit(0, 0)] * 3) | {"frames": [frame(0, 0, 0, [])] * 100_001},
        "frames",
    ),
}


def write(path: Path, trace: Any) -> Path:
    path.write_text(json.dumps(trace, ensure_ascii=False), encoding="utf-8")
    return path
