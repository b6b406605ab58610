"""Decides whether an answer to a task about stories is right. A check is plain JSON, kept with the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.verify.verifier import Verifier, verify
from nano_llada.world.stories.check import Report, Wanted, check, faithful_summary, fulfils, same_story
from nano_llada.world.stories.events import Event, canonical

Check = dict[str, Any]
# What a story says of its teller and not of what happens: it differs between viewpoints.
FRAME = frozenset(("self", "tell_of", "intro", "friend", "friends_both"))


def exact(*answers: str) -> Check:
    """Any of these texts is right (see `Verifier`)."""
    return Verifier("exact", answers).to_json()


def story(language: str, **wanted: object) -> Check:
    """A coherent story that fulfils what is wanted (fields of `Wanted`)."""
    return {"kind": "story", "language": language, **wanted}


def retelling(language: str, source: str, source_language: str, *, viewpoint: bool = False) -> Check:
    """A coherent story that states the same events as `source`, maybe in another language or from another viewpoint."""
    return {
        "kind": "retelling",
        "language": language,
        "source": source,
        "source_language": source_language,
        "viewpoint": viewpoint,
    }


def summary(language: str, source: str) -> Check:
    """One sentence that claims what `source` (in the same language) states."""
    return {"kind": "summary", "language": language, "source": source}


def passes(answer_check: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer is right. Any text may be given. Raises UserError for an unknown kind of check."""
    kind = answer_check.get("kind")
    if kind == "exact":
        return verify(Verifier.from_json(answer_check), answer)
    if kind == "story":
        return fulfils(_wanted(answer_check), answer)
    if kind == "summary":
        language = answer_check["language"]
        return faithful_summary(answer.strip(), check(answer_check["source"], language), language)
    if kind == "retelling":
        told = check(answer, answer_check["language"])
        source = check(answer_check["source"], answer_check["source_language"])
        return _same_but_frame(told, source) if answer_check["viewpoint"] else same_story(told, source)
    raise UserError(f"Unknown kind of check {kind!r}. Use one of: exact, story, summary, retelling.")


def _wanted(answer_check: Mapping[str, Any]) -> Wanted:
    fields = {name: value for name, value in answer_check.items() if name != "kind"}
    for name in ("words", "about"):
        fields[name] = tuple(fields.get(name, ()))
    return Wanted(**fields)


def _same_but_frame(told: Report, source: Report) -> bool:
    def core(report: Report) -> list[Event]:
        return [canonical(event) for event in report.events if event[0] not in FRAME]

    return told.coherent and core(told) == core(source) and told.adjectives == source.adjectives
