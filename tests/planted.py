"""Events of samplers that tests make up."""

from __future__ import annotations

from collections.abc import Sequence

from nano_llada.decode.types import Edit, Event


def wrote(request: int, places: Sequence[int], tokens: Sequence[int], *, last: bool, forwards: int = 1) -> Event:
    """A pass that wrote tokens to masked places; `last`: and finished the request."""
    edits = tuple(Edit(place, (None,), (token,), final=True) for place, token in zip(places, tokens, strict=True))
    return Event(request, edits, forwards, "length" if last else None)
