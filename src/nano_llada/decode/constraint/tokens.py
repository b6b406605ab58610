"""From bytes to tokens: which tokens may follow each other, how far an end is, and the best string of some length.

Tokens that lead from every state to the same state form a class. What leads from one state to another is a set of
classes, a *label*; most states share their labels. So a step over all states and the whole vocabulary is a maximum over
the members of each label and then one over the edges, which are a few for each state.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_llada.decode.constraint.automaton import DEAD, Bools, ByteAutomaton, Ints, distances, spans, too_large

MOST_PAIRS = 50_000_000  # of a state and a token that may follow it
KEPT_SETS = 2048  # of states, and those that follow them
_CHUNK = 256  # states whose tokens are found together

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """The best string of labels for some places in a row.

    Attributes:
        labels: (n,) one for each place.
        possible: (n, L) bool, the labels that some accepted string has there.
        total: the sum of the weights.
    """

    labels: Ints
    possible: Bools
    total: float


@dataclass(frozen=True)
class _Step:
    """What the forward half of Viterbi's algorithm keeps of a place."""

    states: Ints  # before it
    edges: NDArray[np.int64]  # taken from these states
    origin: NDArray[np.int64]  # index into `states` of each edge
    winner: NDArray[np.int64]  # for each state after it, the edge of the best string to it


@dataclass(frozen=True, eq=False)
class TokenAutomaton:
    """An automaton over token ids that starts in state 0. Its last state, `ended`, follows an end token.

    Attributes:
        classes: (V,) the class of each token, below C. The last but one is that of end tokens, the last one of tokens
            that no accepted text contains; they may only stand behind an end.
        members: (L, C), the classes of each label: which tokens may stand there.
        writable: (L, C), which of them are written there: behind an end anything may stand, but ends are written.
        first: (S + 1,) the edges of state s are those from ``first[s]`` up to ``first[s + 1]``.
        label, target: (E,) what an edge needs, and where it leads.
        accepting: (S,) whether a text may end there.
        distance: (S,) the fewest tokens to an accepting state; `FAR` if there are none.
    """

    classes: Ints
    members: Bools
    writable: Bools
    first: NDArray[np.int64]
    label: Ints
    target: Ints
    accepting: Bools
    distance: Ints

    @property
    def ended(self) -> int:
        """The state after an end token, from which anything may follow."""
        return len(self.accepting) - 1

    @property
    def shortest(self) -> int:
        """Tokens of the shortest accepted text, without its end; `FAR` if these tokens can write none."""
        return int(self.distance[0])

    def step(self, state: int, token: int) -> int:
        """The state after a token; `DEAD` if it may not follow."""
        edges = slice(int(self.first[state]), int(self.first[state + 1]))
        fitting = np.flatnonzero(self.members[self.label[edges], self.classes[token]])
        return int(self.target[edges][fitting[0]]) if len(fitting) else DEAD

    def walk(self, state: int, tokens: Iterable[int]) -> int:
        """The state after some tokens; `DEAD` if they may not follow."""
        for token in tokens:
            if state == DEAD:
                break
            state = self.step(state, token)
        return state

    def following(self, state: int, left: int) -> Bools:
        """(V,) tokens after which at most `left` more lead to acceptance."""
        edges = slice(int(self.first[state]), int(self.first[state + 1]))
        near = self.label[edges][self.distance[self.target[edges]] <= left]
        known: Bools = np.any(self.members[near], axis=0)
        return known[self.classes]

    def spread(self, states: Ints, token: int | None) -> Ints:
        """The states after a token, or after any one token (None), from any of some states."""
        return self._spread(states.tobytes(), token)

    @cached_property
    def _spread(self) -> Callable[[bytes, int | None], Ints]:
        """`spread`, whose last results are kept: the same few sets come again in every pass."""
        return lru_cache(KEPT_SETS)(self._spread_from)

    def _spread_from(self, packed: bytes, token: int | None) -> Ints:
        states = np.frombuffer(packed, dtype=np.int32)
        edges = spans(self.first[states], self.first[states + 1])
        if token is not None:
            edges = edges[self.members[self.label[edges], self.classes[token]]]
        return self._unique(self.target[edges])

    def label_weights(self, weights: Floats) -> Floats:
        """(n, L) the weight of the best writable token of each label, from weights of tokens (n, V); -inf for none."""
        order, begins, present = self._by_class
        classes = np.full((len(weights), self.members.shape[1]), -np.inf)
        classes[:, present] = np.maximum.reduceat(weights[:, order], begins, axis=1)
        inside, first = self._by_label
        found: Floats = np.maximum.reduceat(classes[:, inside], first, axis=1)
        return found

    def only(self, worth: Mapping[int, float]) -> Floats:
        """(L,) weights of labels where one of these tokens stands, writable or not."""
        found = np.full(len(self.members), -np.inf)
        for token, value in worth.items():
            found = np.where(self.members[:, self.classes[token]], np.maximum(found, value), found)
        return found

    @cached_property
    def _by_class(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Tokens ordered by class, where each class begins, and which classes have tokens."""
        order = np.argsort(self.classes, kind="stable")
        present, begins = np.unique(self.classes[order], return_index=True)
        return order, begins, present

    @cached_property
    def _by_label(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The writable classes of all labels end to end, and where those of each begin; none is empty."""
        label, inside = np.nonzero(self.writable)
        return inside, np.searchsorted(label, np.arange(len(self.members)))

    def best(self, weights: Floats, start: int, left: int | None) -> Path | None:
        """The string of labels of the greatest total weight from a state on (DINGO, arXiv 2505.23061).

        Args:
            weights: (n, L), what each label is worth at each place; -inf where it may not be.
            left: tokens after the last place, in which the text must be able to end; None: it must end there, without
                an end token.

        Returns:
            The best; None if there is no such string.
        """
        count, steps = len(weights), []
        states, values = np.array([start], dtype=np.int32), np.zeros(1)
        winner = np.empty(len(self.accepting), dtype=np.int64)
        for i, weight in enumerate(weights):
            edges = spans(self.first[states], self.first[states + 1])
            origin = np.repeat(np.arange(len(states)), self.first[states + 1] - self.first[states])
            worth = values[origin] + weight[self.label[edges]]
            room = (left or 0) + count - 1 - i
            kept = (worth > -np.inf) & (self.distance[self.target[edges]] <= room)
            edges, origin, worth = edges[kept], origin[kept], worth[kept]
            target = self.target[edges]
            order = np.argsort(worth, kind="stable")
            winner[target[order]] = order  # of several edges to a state the last one written, which is the greatest
            after = self._unique(target)
            steps.append(_Step(states, edges, origin, winner[after]))
            states, values = after, worth[winner[after]]
        final = np.where(self.final(states, left), values, -np.inf)
        if not len(final) or final.max() == -np.inf:
            return None
        return self._trace(steps, states, final)

    def _trace(self, steps: Sequence[_Step], states: Ints, final: Floats) -> Path:
        """Backwards: the edges of the best string, and all those of any accepted one."""
        labels = np.zeros(len(steps), dtype=np.int32)
        possible = np.zeros((len(steps), len(self.members)), dtype=bool)
        alive = np.zeros(len(self.accepting), dtype=bool)
        alive[states[final > -np.inf]] = True
        now = int(final.argmax())
        for i in range(len(steps) - 1, -1, -1):
            step = steps[i]
            used = alive[self.target[step.edges]]
            possible[i, self.label[step.edges[used]]] = True
            alive = np.zeros(len(self.accepting), dtype=bool)
            alive[step.states[step.origin[used]]] = True
            best = step.winner[now]
            labels[i] = self.label[step.edges[best]]
            now = int(step.origin[best])
        return Path(labels, possible, float(final.max()))

    def final(self, states: Ints, left: int | None) -> Bools:
        """(n,) which states a text may end in, with `left` tokens to come or exactly here; see `best`."""
        if left is None:
            found: Bools = self.accepting[states] & (states != self.ended)
            return found
        near: Bools = self.distance[states] <= left
        return near

    def _unique(self, states: Ints) -> Ints:
        mark = np.zeros(len(self.accepting), dtype=bool)
        mark[states] = True
        return np.flatnonzero(mark).astype(np.int32)


def token_automaton(machine: ByteAutomaton, tokens: Sequence[bytes | None], ends: Sequence[int] = ()) -> TokenAutomaton:
    """The automaton over token ids of an automaton over bytes.

    Args:
        tokens: (V,) the bytes of each token; None for one that no text contains.
        ends: ids that end a text, where it may end.

    Raises:
        UserError: if it would have more than `MOST_PAIRS` pairs of a state and a token.
    """
    final = frozenset(ends)
    kinds = {text: i for i, text in enumerate(dict.fromkeys(t for i, t in enumerate(tokens) if t and i not in final))}
    edges = _edges(machine, kinds)
    members = np.zeros((len(edges.labels), len(kinds)), dtype=bool)
    for row, label in zip(members, edges.labels, strict=True):
        row[label] = True
    columns, one, of_kind = np.unique(np.packbits(members, axis=0), axis=1, return_index=True, return_inverse=True)
    never, ending = columns.shape[1] + 1, columns.shape[1]  # a class of kinds in no label is never used
    of_kind = np.where(members.any(0), of_kind, never)
    known = [DEAD if text is None or i in final else kinds.get(text, DEAD) for i, text in enumerate(tokens)]
    of_token = np.append(of_kind, never).astype(np.int32)[known]
    of_token[list(ends)] = ending
    return _assemble(machine.accepting, edges, members[:, one], of_token)


@dataclass(frozen=True)
class _Edges:
    """One edge for all kinds of token that lead from one state to another; a kind is a string of bytes."""

    source: Ints
    target: Ints
    label: Ints
    labels: list[Ints]  # the kinds of each label


def _edges(machine: ByteAutomaton, kinds: Mapping[bytes, int]) -> _Edges:
    """Walk down a tree of the kinds from many states at once, a byte at a time; only what is alive goes on."""
    levels = _tree(kinds)
    numbers: dict[bytes, int] = {}
    found: list[tuple[Ints, Ints, list[int]]] = []
    total = 0
    for begin in range(0, len(machine.table), _CHUNK):
        origin = state = np.arange(begin, min(begin + _CHUNK, len(machine.table)), dtype=np.int32)
        node = np.zeros(len(origin), dtype=np.int64)
        pairs: list[tuple[Ints, ...]] = [(np.zeros(0, np.int32),) * 3]
        for first, byte, kind in levels:
            children, counts = spans(first[node], first[node + 1]), first[node + 1] - first[node]
            state = machine.table[np.repeat(state, counts), byte[children]]
            alive = state != DEAD
            origin, node, state = np.repeat(origin, counts)[alive], children[alive], state[alive]
            whole = kind[node] != DEAD
            pairs.append((origin[whole], state[whole], kind[node[whole]]))
        source, target, kind = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        total += len(kind)
        if total > MOST_PAIRS:
            raise too_large(f"more than {MOST_PAIRS:,} pairs of a state and a token")
        order = np.lexsort((kind, target, source))
        source, target, kind = source[order], target[order], kind[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (source[1:] != source[:-1]) | (target[1:] != target[:-1])
        bounds = [*np.flatnonzero(new).tolist(), len(order)]
        keys = [kind[low:high].tobytes() for low, high in itertools.pairwise(bounds)]
        found.append((source[new], target[new], [numbers.setdefault(key, len(numbers)) for key in keys]))
    source, target, label = (np.concatenate(parts).astype(np.int32) for parts in zip(*found, strict=True))
    return _Edges(source, target, label, [np.frombuffer(key, dtype=np.int32) for key in numbers])


def _tree(kinds: Mapping[bytes, int]) -> list[tuple[NDArray[Any], NDArray[Any], Ints]]:
    """A tree of byte strings, level by level: where the children of each node above begin, their bytes, their kinds."""
    levels = []
    above: dict[bytes, int] = {b"": 0}
    for depth in range(1, max(map(len, kinds), default=0) + 1):
        prefixes = sorted({text[:depth] for text in kinds if len(text) >= depth})
        here = {prefix: i for i, prefix in enumerate(sorted(prefixes, key=lambda p: (above[p[:-1]], p[-1])))}
        parents = np.array([above[prefix[:-1]] for prefix in here])
        first = np.searchsorted(parents, np.arange(len(above) + 1))
        byte = np.array([prefix[-1] for prefix in here])
        levels.append((first, byte, np.array([kinds.get(prefix, DEAD) for prefix in here], dtype=np.int32)))
        above = here
    return levels


def _assemble(accepting: Bools, edges: _Edges, text_members: Bools, of_token: Ints) -> TokenAutomaton:
    """With the state after an end: end tokens lead there from accepting states, and anything from itself."""
    states, stops = len(accepting), np.flatnonzero(accepting)
    end_label, any_label = len(text_members), len(text_members) + 1
    members = np.zeros((any_label + 1, text_members.shape[1] + 2), dtype=bool)
    members[:end_label, :-2] = text_members
    members[end_label, -2] = True
    members[any_label] = True
    writable = members.copy()
    writable[any_label] = members[end_label]
    source = np.concatenate([edges.source, stops, [states]])
    target = np.concatenate([edges.target, np.full(len(stops) + 1, states)])
    label = np.concatenate([edges.label, np.full(len(stops), end_label), [any_label]])
    order = np.argsort(source, kind="stable")
    goals = np.append(accepting, True)
    return TokenAutomaton(
        classes=of_token,
        members=members,
        writable=writable,
        first=np.searchsorted(source[order], np.arange(states + 2)),
        label=label[order].astype(np.int32),
        target=target[order].astype(np.int32),
        accepting=goals,
        distance=distances(source, target, goals),
    )
