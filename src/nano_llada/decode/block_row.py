"""One text that is written in blocks: what stands, what is looked at next, and the rule that writes and edits."""

from __future__ import annotations

from collections.abc import Sequence

from nano_llada.config.decoding import Block
from nano_llada.core.batch import Vocabulary
from nano_llada.core.random import generator
from nano_llada.decode.types import Request

Committed = tuple[tuple[int, ...], tuple[int, ...]]


class BlockRow:
    """A request's text so far, which ends with the block that is being written.

    A look at the current block writes every hidden place whose token is likelier than the threshold (at least the
    likeliest), and, with editing (LLaDA 2.1, eq. 1-3), changes every written place where another token is likelier than
    the edit threshold. Once nothing is hidden, looks go on until one changes nothing, the text comes back to a state it
    was in, or `max_post_steps` are spent; or, with a `reread_threshold`, until the last look was sure of everything.
    The prompt never changes.
    """

    def __init__(self, number: int, request: Request, count: int, vocab: Vocabulary, config: Block) -> None:
        self.number, self.vocab, self.config = number, vocab, config
        self.tokens, self.first = list(request.prompt), len(request.prompt)
        self.limit = self.first + count
        self.rng = generator(config.seed, "decode", request.seed)
        self.held = 0  # tokens whose keys and values are final
        self.edited: tuple[tuple[int, int, int], ...] = ()  # by the last look
        self.finished = False
        self._open(self.first // config.block_size * config.block_size)

    def _open(self, begin: int) -> None:
        """Start the block at `begin`; a prompt that ends within it stands there already."""
        size = self.config.block_size
        self.begin = begin
        end = min(begin + size, self.limit)
        self.tokens += [self.vocab.mask] * (end - len(self.tokens))
        self._post_steps, self._states = 0, {tuple(self.tokens[begin:])}
        self._certain: set[int] = set()  # places whose token the last look was surer of than the threshold of rereading
        # the last finished blocks are looked at once more, and so must be computed again
        self._again = max(begin - self.config.edit_blocks * size, self.first) if self.config.edit_blocks else begin
        self.held = min(self.held, self._again)

    @property
    def places(self) -> list[int]:
        """Indices of the tokens that the next look is about."""
        if not self.config.edits:
            return self._hidden()
        return list(range(max(self._again, self.first), len(self.tokens)))

    @property
    def written(self) -> list[int | None]:
        """The answer so far."""
        return [None if token == self.vocab.mask else token for token in self.tokens[self.first :]]

    def update(self, tokens: Sequence[int], scores: Sequence[float]) -> Committed:
        """Apply a look at `places`: what was newly written, as places of the answer and tokens; see also `edited`."""
        look = {place: (token, score) for place, token, score in zip(self.places, tokens, scores, strict=True)}
        hidden = self._hidden()
        sure = [place for place in hidden if look[place][1] > self.config.threshold]
        best = [max(hidden, key=lambda place: (look[place][1], -place))] if hidden else []
        changed = [place for place in look if self.config.edits and self._disagrees(place, *look[place])]
        before = {place: self.tokens[place] for place in changed}
        write = sure or best
        for place in (*write, *changed):
            self.tokens[place] = look[place][0]
        limit = self.config.reread_threshold
        self._certain = {i for i, (token, score) in look.items() if self.tokens[i] == token and score > limit}
        self.edited = tuple((place - self.first, before[place], self.tokens[place]) for place in changed)
        # an earlier block that changed is computed again, and with it all after it
        self.held = min([self.begin, *(place // self.config.block_size * self.config.block_size for place in changed)])
        self._again = self.begin
        self._go_on(bool(changed), was_full=not hidden)
        return tuple(place - self.first for place in write), tuple(look[place][0] for place in write)

    def _disagrees(self, place: int, token: int, score: float) -> bool:
        limit = self.config.edit_threshold
        standing = self.tokens[place]
        return limit is not None and standing not in (self.vocab.mask, token) and score > limit

    def _hidden(self) -> list[int]:
        """Places of the current block that are still masked."""
        return [i for i in range(max(self.begin, self.first), len(self.tokens)) if self.tokens[i] == self.vocab.mask]

    def _go_on(self, changed: bool, *, was_full: bool) -> None:
        """Look again, open the next block, or be finished."""
        ended = self._ended()
        if ended is None:
            return  # something before the end is still hidden
        if self.config.edits and not self._settled(changed, was_full):
            return
        if ended or len(self.tokens) == self.limit:
            self.finished = True
        else:
            self._open(len(self.tokens))

    def _ended(self) -> bool | None:
        """Whether the answer holds an end with nothing hidden before it; None while something else must come first."""
        for token in self.tokens[self.first :]:
            if token == self.vocab.mask:
                return None
            if token in self.vocab.ends:
                return True
        return False

    def _settled(self, changed: bool, was_full: bool) -> bool:
        """Whether further looks could change nothing, or are not to be taken."""
        state = tuple(self.tokens[self.begin :])
        repeated = state in self._states
        self._states.add(state)
        self._post_steps += 1
        # the look that wrote the last token could not judge it, but may have been sure
        judged = was_full or self._post_steps > 1 or self._confirmed()
        return (judged and (not changed or repeated)) or self._post_steps > self.config.max_post_steps

    def _confirmed(self) -> bool:
        """Whether the last look was sure of all tokens of the block, up to the end."""
        for place in range(max(self.begin, self.first), len(self.tokens)):
            if place not in self._certain:
                return False
            if self.tokens[place] in self.vocab.ends:
                break
        return True
