"""What a row under a constraint may write: its automaton, and where its text is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nano_llada.core.errors import UserError
from nano_llada.decode.constraint.automaton import DEAD, FAR, Bools
from nano_llada.decode.constraint.tokens import Floats, Path, TokenAutomaton


class Reading(Protocol):
    """What a pass says about places of a row."""

    places: Sequence[int]

    def weights(self) -> Floats:
        """(n, V) what each token is worth at each place: log-probabilities, or with noise where tokens are drawn."""
        ...

    def scores(self, places: Sequence[int], tokens: Sequence[int], possible: Bools) -> list[float]:
        """How sure the model is of a token at each of some places, among the `possible` (n, V)."""
        ...


@dataclass(frozen=True)
class Choice:
    """What the best acceptable text has in places of a row."""

    tokens: dict[int, int]  # in those that are masked and were read
    scores: list[float]  # how sure the model is of each of these
    changes: dict[int, int]  # in those that may change and do


class Guide:
    """Keeps the text of a row acceptable.

    Args:
        automaton: what is accepted.
        mask: the token of a masked place.
        first: the place of the row's first written token.
        count: the most tokens of its text.
        exact: whether the text is exactly as long, and without an end token (a gap that is filled).

    Attributes:
        reading: what the last pass says, from which `best` chooses.
    """

    def __init__(self, automaton: TokenAutomaton, mask: int, first: int, count: int, *, exact: bool) -> None:
        self.automaton, self._mask, self._first, self._count, self._exact = automaton, mask, first, count, exact
        self.reading: Reading | None = None
        self._walked: list[int] = []  # tokens that led to
        self._state = 0

    @property
    def vocabulary(self) -> int:
        """Token ids that the automaton knows."""
        return len(self.automaton.classes)

    def check(self, tokens: Sequence[int]) -> None:
        """Refuse what cannot be completed.

        Raises:
            UserError: naming the shortest valid length.
        """
        shortest = self.automaton.shortest
        if shortest >= FAR:
            raise UserError("no text of this tokenizer's tokens satisfies the constraint")
        if shortest > self._count:
            raise UserError(
                f"the shortest text that satisfies the constraint has {shortest} tokens, the room is {self._count}: "
                "raise max_new_tokens, or shorten the prompt if it fills the context"
            )
        if not self.allows(tokens, {}):
            raise UserError(
                f"no text of {self._count} tokens satisfies the constraint with the given ones in their places"
            )

    def following(self, tokens: Sequence[int], drafts: Sequence[int] = ()) -> Bools:
        """(V,) the tokens that may be appended, after some drafts, so that the text can still be completed in time.

        Behind the last place, where a draft may already be, only an end may follow.
        """
        text = tokens[self._first :]
        state = self.automaton.walk(self._after(text), drafts)
        return self.automaton.following(state, max(self._count - len(text) - len(drafts) - 1, 0))

    def allows(self, tokens: Sequence[int], plan: Mapping[int, int]) -> bool:
        """Whether the text with some tokens in their places can be completed."""
        text = self._text(tokens, plan)
        begin = min([*plan, self._first + (text.index(None) if None in text else len(text))]) - self._first
        state = self._after([token for token in text[:begin] if token is not None])
        last = max((i + 1 for i, token in enumerate(text) if token is not None), default=0)
        end = len(text) if self._exact else max(last, begin)
        while begin < end and (token := text[begin]) is not None and state != DEAD:
            state = self.automaton.step(state, token)
            begin += 1
        states = np.array([] if state == DEAD else [state], dtype=np.int32)
        for token in text[begin:end]:
            states = self.automaton.spread(states, token)
        return bool(self.automaton.final(states, None if self._exact else self._count - end).any())

    def best(self, tokens: Sequence[int], changes: Mapping[int, int]) -> Choice:
        """The most probable acceptable text, given what stands and what the last reading says.

        A text that ends before its last place counts as if end tokens followed, so that ending early has its price.

        Args:
            tokens: of the row.
            changes: tokens that may replace those which stand in their places.
        """
        reading, text = self._read(), self._text(tokens, {})
        row_of = {place - self._first: i for i, place in enumerate(reading.places)}
        hidden = [place for place in row_of if text[place] is None]
        either = {place - self._first: (tokens[place], token) for place, token in changes.items()}
        worth, automaton = reading.weights(), self.automaton
        of_hidden = worth[[row_of[place] for place in hidden]]
        choices = dict(zip(hidden, automaton.label_weights(of_hidden), strict=True))
        options = {place: {token: worth[row_of[place], token] for token in pair} for place, pair in either.items()}
        begin, path = self._search(text, choices | {place: automaton.only(pair) for place, pair in options.items()})
        inside = [place - begin for place in hidden]
        fitting = automaton.writable[path.labels[inside]][:, automaton.classes]
        chosen = np.where(fitting, of_hidden, -np.inf).argmax(1).tolist()
        found = {self._first + place: token for place, token in zip(hidden, chosen, strict=True)}
        possible = (path.possible[inside] @ automaton.writable)[:, automaton.classes]
        kept = {}
        for place, pair in options.items():
            allowed = automaton.members[path.labels[place - begin]]
            best = max((token for token in pair if allowed[automaton.classes[token]]), key=pair.__getitem__)
            if best == either[place][1]:
                kept[self._first + place] = best
        return Choice(found, reading.scores(list(found), chosen, possible), kept)

    def _search(self, text: Sequence[int | None], choices: Mapping[int, Floats]) -> tuple[int, Path]:
        """The best string of labels from the first open place on, given the weights (L,) of those that were read."""
        begin = next((i for i, token in enumerate(text) if token is None or i in choices), len(text))
        known = [i + 1 for i, token in enumerate(text) if token is not None or i in choices]
        end = len(text) if self._exact else max([begin, *known])
        weights = np.zeros((end - begin, len(self.automaton.members)))  # what was not read may be anything
        for i, row in enumerate(weights, begin):
            token = text[i]
            if i in choices:
                row[:] = choices[i]
            elif token is not None:
                row[:] = self.automaton.only({token: 0.0})
        start = self._after([token for token in text[:begin] if token is not None])
        path = self.automaton.best(weights, start, None if self._exact else self._count - end)
        if path is None:  # `check` and `allows` see to it that the text can always be completed
            raise RuntimeError("the constraint has come to a dead end")
        return begin, path

    def _read(self) -> Reading:
        if self.reading is None:
            raise RuntimeError("no pass has been read")
        return self.reading

    def _text(self, tokens: Sequence[int], plan: Mapping[int, int]) -> list[int | None]:
        """The row's text so far; None for a masked place."""
        part = tokens[self._first : self._first + self._count]
        planned = [plan.get(self._first + i, token) for i, token in enumerate(part)] if plan else part
        return [None if token == self._mask else token for token in planned]

    def _after(self, tokens: Sequence[int]) -> int:
        """The state after some tokens from the start; what was walked last time is not walked again."""
        count = len(self._walked)
        if list(tokens[:count]) != self._walked:
            self._walked, self._state, count = [], 0, 0
        self._state = self.automaton.walk(self._state, tokens[count:])
        self._walked = list(tokens)
        return self._state
