"""Decides whether an answer to a task about stories is right. A check is plain JSON, kept with the task."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.world.splits import LANGUAGES, Language
from nano_llada.world.stories.check import Report, Wanted, check, faithful_summary, fulfils, same_story
from nano_llada.world.stories.events import Event, canonical
from nano_llada.world.verifier import Verifier, verify

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


def judge(answer_check: Mapping[str, Any]) -> Callable[[str], bool]:
    """What decides whether a text is right by this check. The judge takes any text.

    Raises:
        UserError: for an unknown kind of check, or fields that are missing or of another type.
    """
    kind = answer_check.get("kind")
    if not isinstance(kind, str) or kind not in _JUDGES:
        raise UserError(f"Unknown kind of check {kind!r}. Use one of: {', '.join(_JUDGES)}.")
    return _JUDGES[kind](answer_check)


def passes(answer_check: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer is right. Any text may be given. Raises UserError for a check that cannot be read."""
    return judge(answer_check)(answer)


def _exact_judge(data: Mapping[str, Any]) -> Callable[[str], bool]:
    return functools.partial(verify, Verifier.from_json(data))


def _story_judge(data: Mapping[str, Any]) -> Callable[[str], bool]:
    return functools.partial(fulfils, _wanted(data))


def _summary_judge(data: Mapping[str, Any]) -> Callable[[str], bool]:
    language = _language(data, "language")
    source = check(_text(data, "source"), language)
    return lambda answer: faithful_summary(answer.strip(), source, language)


def _retelling_judge(data: Mapping[str, Any]) -> Callable[[str], bool]:
    language, source = _language(data, "language"), check(_text(data, "source"), _language(data, "source_language"))
    same = _same_but_frame if data.get("viewpoint") else same_story
    return lambda answer: same(check(answer, language), source)


_JUDGES: Mapping[str, Callable[[Mapping[str, Any]], Callable[[str], bool]]] = {
    "exact": _exact_judge,
    "story": _story_judge,
    "retelling": _retelling_judge,
    "summary": _summary_judge,
}
KINDS = frozenset(_JUDGES) - {"exact"}  # the kinds that only stories have


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name, "")
    if not isinstance(value, str):
        raise UserError(f"The check's `{name}` must be a text, not {value!r}.")
    return value


def _language(data: Mapping[str, Any], name: str) -> Language:
    for language in LANGUAGES:
        if data.get(name) == language:
            return language
    raise UserError(f"The check's `{name}` must be one of {', '.join(LANGUAGES)}, not {data.get(name)!r}.")


def _names(data: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = data.get(name, ())
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise UserError(f"The check's `{name}` must be a list of texts, not {values!r}.")
    return tuple(values)


def _wanted(data: Mapping[str, Any]) -> Wanted:
    known = {"kind", *(field.name for field in fields(Wanted))}
    if unknown := sorted(set(data) - known):
        raise UserError(f"A check of a story has no field {unknown[0]!r}. Use some of: {', '.join(sorted(known))}.")
    sentences = data.get("sentences", 0)
    if isinstance(sentences, bool) or not isinstance(sentences, int) or sentences < 0:
        raise UserError(f"The check's `sentences` must be a whole number of at least 0, not {sentences!r}.")
    try:
        events = tuple((str(kind), tuple(map(str, args))) for kind, args in data.get("events", ()))
        adjectives = tuple((str(thing), str(word)) for thing, word in data.get("adjectives", ()))
    except (TypeError, ValueError) as error:
        raise UserError(f"The check's `events` or `adjectives` are not lists of pairs: {error}.") from error
    return Wanted(
        _language(data, "language"),
        _names(data, "words"),
        sentences,
        _text(data, "starts"),
        _text(data, "tail"),
        data.get("happy") is True,
        _names(data, "about"),
        events,
        adjectives,
    )


def _same_but_frame(told: Report, source: Report) -> bool:
    def core(report: Report) -> list[Event]:
        return [canonical(event) for event in report.events if event[0] not in FRAME]

    return told.coherent and core(told) == core(source) and told.adjectives == source.adjectives
