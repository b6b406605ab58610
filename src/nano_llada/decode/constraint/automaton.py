"""Automata over bytes: an expression, or several at once, as one table of states."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_llada.core.errors import UserError
from nano_llada.decode.constraint.expression import (
    Both,
    Characters,
    Either,
    Expression,
    Joined,
    Literal,
    Repeated,
    utf8,
)

Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

MOST_STATES = 20_000  # of an automaton over bytes: its table then has 20 MB
MOST_WORK = 2_000_000  # states of the network looked at while it is made: a few seconds
FAR = np.int32(2**30)  # the distance of what cannot be reached
DEAD = -1


def too_large(what: str) -> UserError:
    """The error of an automaton with too many states."""
    return UserError(
        f"the constraint is too large ({what}): give it tighter bounds on lengths and "
        "repetitions, or ask for fewer things at once"
    )


@dataclass(frozen=True, eq=False)
class ByteAutomaton:
    """A deterministic automaton that starts in state 0.

    Attributes:
        table: (S, 256), the state after each byte; `DEAD` where no text continues so.
        accepting: (S,), whether a text may end there. From every state an accepting one can be reached, except from
            state 0 of an automaton that accepts nothing.
    """

    table: Ints
    accepting: Bools

    @property
    def empty(self) -> bool:
        """Whether it accepts no text at all."""
        return not self.accepting.any()

    def accepts(self, text: bytes) -> bool:
        """Whether a text is in the language."""
        state = 0
        for byte in text:
            state = int(self.table[state, byte])
            if state == DEAD:
                return False
        return bool(self.accepting[state])


def automaton(expression: Expression, require: Iterable[str] = (), ban: Iterable[str] = ()) -> ByteAutomaton:
    """Of the texts of an expression that contain all of some words and none of others.

    Raises:
        UserError: if it would have more than `MOST_STATES` states.
    """
    parts = [_determinise(*_network(expression))]
    parts += [_words(word.encode(), contained=True) for word in dict.fromkeys(require)]
    parts += [_words(word.encode(), contained=False) for word in dict.fromkeys(ban)]
    return reduce(intersection, parts)


def intersection(one: ByteAutomaton, other: ByteAutomaton) -> ByteAutomaton:
    """What both accept: the states are the pairs that can be reached.

    Raises:
        UserError: if these are more than `MOST_STATES`.
    """
    width = len(other.table)
    seen = {0: 0}  # a pair, as one number, and its state
    rows: list[NDArray[np.int64]] = []
    pairs = fresh = np.zeros(1, dtype=np.int64)
    while len(fresh):
        first, second = one.table[fresh // width], other.table[fresh % width]
        after = np.where((first >= 0) & (second >= 0), first.astype(np.int64) * width + second, DEAD)
        rows.append(after)
        fresh = np.array([pair for pair in np.unique(after).tolist() if pair != DEAD and pair not in seen], np.int64)
        seen.update({pair: len(seen) + i for i, pair in enumerate(fresh.tolist())})
        pairs = np.concatenate([pairs, fresh])
        if len(pairs) > MOST_STATES:
            raise too_large(f"more than {MOST_STATES} states")
    order = np.argsort(pairs)
    table = np.concatenate(rows)
    found = order[np.searchsorted(pairs[order], np.maximum(table, 0)).clip(max=len(pairs) - 1)]
    accepting = one.accepting[pairs // width] & other.accepting[pairs % width]
    return trimmed(np.where(table == DEAD, DEAD, found).astype(np.int32), accepting)


def trimmed(table: Ints, accepting: Bools) -> ByteAutomaton:
    """Without the states from which no accepting one can be reached."""
    alive = table >= 0
    sources = np.repeat(np.arange(len(table)), alive.sum(1))
    keep = distances(sources, table[alive], accepting) < FAR
    keep[0] = True
    number = np.where(keep, np.cumsum(keep) - 1, DEAD).astype(np.int32)
    return ByteAutomaton(np.append(number, np.int32(DEAD))[table[keep]], accepting[keep])


def distances(sources: NDArray[Any], targets: NDArray[Any], goals: Bools) -> Ints:
    """(S,) the fewest edges from each state to a goal; `FAR` where there is no path."""
    order = np.argsort(targets, kind="stable")
    sources, first = sources[order], np.searchsorted(targets[order], np.arange(len(goals) + 1))
    found = np.where(goals, np.int32(0), FAR)
    frontier, steps = np.flatnonzero(goals), np.int32(0)
    while len(frontier):
        steps += np.int32(1)
        before = sources[spans(first[frontier], first[frontier + 1])]
        frontier = np.unique(before[found[before] == FAR])
        found[frontier] = steps
    return found


def spans(first: NDArray[Any], last: NDArray[Any]) -> NDArray[np.int64]:
    """The whole numbers from each `first` up to `last`, which is not included, end to end."""
    counts = last - first
    ends = np.cumsum(counts)
    found: NDArray[np.int64] = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + counts, counts)
    return found


def _words(word: bytes, *, contained: bool) -> ByteAutomaton:
    """Texts that contain a word, or do not: the state is how much of it the text ends with (Knuth, Morris, Pratt)."""
    count = len(word)
    table = np.zeros((count + 1, 256), dtype=np.int32)
    before = 0  # the state after word[1:i]
    for i, byte in enumerate(word):
        table[i] = table[before]
        table[i, byte] = i + 1
        before = int(table[before, byte]) if i else 0
    table[count] = count
    accepting = np.arange(count + 1) == count
    return trimmed(table, accepting) if contained else trimmed(np.where(table == count, DEAD, table), ~accepting)


class _Network:
    """A non-deterministic automaton (Thompson): moves by ranges of bytes, and silent ones."""

    def __init__(self) -> None:
        self.moves: list[list[tuple[int, int, int]]] = []  # first byte, last byte, state after it
        self.silent: list[list[int]] = []

    def state(self) -> int:
        """A new state."""
        if len(self.moves) > 5 * MOST_STATES:
            raise too_large("its pattern is too long")
        self.moves.append([])
        self.silent.append([])
        return len(self.moves) - 1

    def add(self, expression: Expression, start: int) -> int:
        """Read an expression from a state on; gives the state after it."""
        match expression:
            case Characters(ranges):
                return self._characters(utf8(ranges), start)
            case Literal(text):
                return self._characters([tuple((byte, byte) for byte in text.encode())], start) if text else start
            case Joined(parts):
                return reduce(lambda state, part: self.add(part, state), parts, start)
            case Either(options):
                end = self.state()
                for option in options:
                    inner = self.state()
                    self.silent[start].append(inner)
                    self.silent[self.add(option, inner)].append(end)
                return end
            case Repeated():
                return self._repeated(expression, start)
            case Both(first, second):
                return self._embedded(intersection(automaton(first), automaton(second)), start)

    def _characters(self, sequences: Iterable[Sequence[tuple[int, int]]], start: int) -> int:
        end = self.state()
        behind: dict[tuple[tuple[int, int], ...], int] = {(): end}  # state before these last bytes
        for sequence in sequences:
            after = end
            for i in range(len(sequence) - 1, 0, -1):
                rest = tuple(sequence[i:])
                if rest not in behind:
                    behind[rest] = self.state()
                    self.moves[behind[rest]].append((*rest[0], after))
                after = behind[rest]
            self.moves[start].append((*sequence[0], after))
        return end

    def _repeated(self, repeated: Repeated, start: int) -> int:
        part, end = repeated.part, self.state()
        if not repeated.least:
            self.silent[start].append(end)
        state, count = start, 0
        while repeated.most is None or count < repeated.most:
            begin = self.state()
            joined = self.add(repeated.between, state) if count and repeated.between is not None else state
            self.silent[joined].append(begin)
            state = self.add(part, begin)
            count += 1
            after = self.state()
            self.silent[state].append(after)
            state = after
            if count >= repeated.least:
                self.silent[state].append(end)
            if repeated.most is None and count >= repeated.least:
                again = self.add(repeated.between, state) if repeated.between is not None else state
                self.silent[again].append(begin)
                break
        return end

    def _embedded(self, inner: ByteAutomaton, start: int) -> int:
        states, end = [self.state() for _ in inner.table], self.state()
        self.silent[start].append(states[0])
        for state, row in zip(states, inner.table, strict=True):
            cuts = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), 256]
            for low, high in itertools.pairwise(cuts):
                if row[low] != DEAD:
                    self.moves[state].append((low, high - 1, states[int(row[low])]))
        for i in np.flatnonzero(inner.accepting):
            self.silent[states[int(i)]].append(end)
        return end


def _network(expression: Expression) -> tuple[_Network, int, int]:
    network = _Network()
    start = network.state()
    inner = network.state()
    network.silent[start].append(inner)
    return network, start, network.add(expression, inner)


def _determinise(network: _Network, start: int, end: int) -> ByteAutomaton:
    """The subset construction, over classes of bytes that no move distinguishes.

    Raises:
        UserError: for more than `MOST_STATES` states.
    """
    cuts = sorted({0, 256, *(cut for moves in network.moves for low, high, _ in moves for cut in (low, high + 1))})
    moves = _ByClass(network, end, {cut: i for i, cut in enumerate(cuts)})
    first = moves.closure(start)
    numbers, order, rows = {first: 0}, [first], []
    for states in order:  # which grows on the way
        row = []
        for after in moves.after(states):
            if after and after not in numbers:
                numbers[after] = len(numbers)
                order.append(after)
            row.append(numbers[after] if after else DEAD)
        rows.append(row)
        if len(order) > MOST_STATES:
            raise too_large(f"more than {MOST_STATES} states")
    table = np.repeat(np.array(rows, dtype=np.int32), np.diff(cuts), axis=1)
    return trimmed(table, np.array([end in states for states in order]))


class _ByClass:
    """The moves of a network by class of bytes, from sets of states to sets of states."""

    def __init__(self, network: _Network, end: int, index: Mapping[int, int]) -> None:
        self._network, self._end, self._index = network, end, index
        self._closures: dict[int, frozenset[int]] = {}
        self._work = 0

    def after(self, states: frozenset[int]) -> list[frozenset[int]]:
        """The states after each class of bytes."""
        self._count(len(states))
        found: list[set[int]] = [set() for _ in range(len(self._index) - 1)]
        for state in states:
            for low, high, target in self._network.moves[state]:
                for i in range(self._index[low], self._index[high + 1]):
                    found[i] |= self.closure(target)
        return [frozenset(one) for one in found]

    def closure(self, state: int) -> frozenset[int]:
        """What can be reached in silence: states that bytes leave, and the end."""
        if state not in self._closures:
            found, queue = {state}, [state]
            while queue:
                fresh = set(self._network.silent[queue.pop()]) - found
                found |= fresh
                queue += fresh
            self._count(len(found))
            self._closures[state] = frozenset(s for s in found if self._network.moves[s] or s == self._end)
        return self._closures[state]

    def _count(self, steps: int) -> None:
        self._work += steps
        if self._work > MOST_WORK:
            raise too_large("its repetitions of repetitions can be read in too many ways")
