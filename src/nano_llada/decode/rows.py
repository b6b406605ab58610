"""One request while it is written: its text, which tokens to compute next, and what a forward pass changes in it.

A row knows nothing of other rows, of slots or of the model. The engine asks for its `window`, computes logits, and
hands the proposed tokens to `update`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from nano_llada.config.decoding import Autoregressive, Block, Decoding, Diffusion, Speculative
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.random import generator
from nano_llada.decode.constraint.guide import Guide
from nano_llada.decode.rules import Progress, Rule, make_rule, pick
from nano_llada.decode.types import Edit, Request

T = TypeVar("T")

CAUSAL = 1  # attention in blocks of one token
FULL = 0
NO_GAPS: Mapping[type, str] = {
    Autoregressive: "an autoregressive model cannot see what follows the gap: infilling needs a diffusion model",
    Speculative: "left to right a model cannot see what follows a gap: give it what follows in front of the prompt",
    Block: "a block model cannot see what follows a gap: infilling needs one trained on whole rows",
}


@dataclass(frozen=True)
class Window:
    """The tokens of a row that a pass computes.

    Attributes:
        start: place of the first token in the row; keys and values of the places before it were computed earlier.
        tokens: the tokens.
        wanted: indices into `tokens` whose logits are read.
        block_size: a token sees its own block and earlier ones, blocks counted from the row's start: `CAUSAL`, a
            number of tokens, or `FULL`, everything.
        visible: at least this many places of the row are seen, as they were computed last.
        keeps: whether a later pass reads the keys and values of these tokens.
        blind: the tokens of a second pass for classifier-free guidance, empty without.
        predicted: for each wanted token the place of the row that its output is a prediction of; default: its own.
        reach: for each token how many of the row's first places it sees, instead of by `block_size`.
        groups: with `reach`, for each token its group, from 1: tokens of a group see each other, too; 0: none.
        positions: with `reach`, for each token its position in the text, where that is not its place.
    """

    start: int
    tokens: Sequence[int]
    wanted: Sequence[int]
    block_size: int
    visible: int = 0
    keeps: bool = True
    blind: Sequence[int] = ()
    predicted: Sequence[int] = ()
    reach: Sequence[int] = ()
    groups: Sequence[int] = ()
    positions: Sequence[int] = ()

    @property
    def end(self) -> int:
        """Places that are seen or computed."""
        return max(self.start + len(self.tokens), self.visible)

    @property
    def places(self) -> list[int]:
        """For each wanted token the place that its output is a prediction of."""
        return list(self.predicted) or [self.start + i for i in self.wanted]

    @property
    def reaches(self) -> Sequence[int]:
        """For each token how many of the row's first places it sees."""
        if self.reach:
            return self.reach
        places, size = range(self.start, self.start + len(self.tokens)), self.block_size or self.end
        return [min((place // size + 1) * size, self.end) for place in places]

    def begin(self, count: int) -> Window:
        """The first tokens alone, of which nothing is read: a part of a prompt."""
        parts = {name: getattr(self, name)[:count] for name in ("tokens", "reach", "groups", "positions")}
        return replace(self, wanted=(), predicted=(), **parts)


@dataclass(frozen=True)
class Proposed:
    """Tokens for masked places of a row, and how sure the model is of each."""

    places: Sequence[int]
    tokens: Sequence[int]
    scores: Sequence[float]

    def picked(self, rule: Rule, progress: Progress) -> dict[int, int]:
        """What a rule picks of them, by place."""
        chosen = pick(rule, self.scores, progress) if self.places else []
        return {self.places[i]: self.tokens[i] for i in chosen}


NO_CHANGES: Mapping[int, int] = {}


class Row:
    """What all kinds of row share. `update` is called with a proposal for every wanted token of the last window.

    Attributes:
        tokens: prompt, text so far with masks, and suffix.
        first: place of the first token after the prompt.
        held: tokens, from the row's start, whose keys and values are final and computed.
        grain: keys and values of a prefix of this many tokens, or a multiple, depend on nothing behind it; None: such a
            prefix does not exist. Then nothing can be computed in advance or reused.
        score: the confidence that `update` needs, None for none.
        finished, ended: whether nothing is left to do, and whether that is because of an end token.
        guide: keeps the text acceptable; None without a constraint.
        ahead: the output at a place is about the place that many tokens later.
        watched: alternatives to report of each place that is read; None: nothing is reported.
    """

    grain: int | None = None
    score: str | None = None
    ahead: int = 0

    def __init__(self, request: Request, count: int, vocab: Vocabulary, config: Decoding) -> None:
        self.vocab, self.config, self.count = vocab, config, count
        self.tokens, self.first = list(request.prompt), len(request.prompt)
        self.rng = generator(config.seed, "decode", request.seed)
        self.held = 0
        self.finished = self.ended = False
        self.guide: Guide | None = None
        if request.automaton is not None:
            self.guide = Guide(request.automaton, vocab.mask, self.first, count, exact=request.fill)
        self.watched = request.watch

    @property
    def size(self) -> int:
        """The most places this row will need."""
        return self.first + self.count

    @property
    def known(self) -> int:
        """Tokens of the prompt that may be held before anything is written."""
        return 0

    @property
    def written(self) -> list[int | None]:
        """The text after the prompt so far."""
        answer = self.tokens[self.first : self.first + self.count]
        return [None if token == self.vocab.mask else token for token in answer]

    def opening(self) -> list[Edit]:
        """The edits that give the row its first masks."""
        answer = tuple(self.written)
        return [Edit(0, (), answer, final=None not in answer)] if answer else []

    def window(self) -> Window:
        """What to compute next."""
        raise NotImplementedError

    def update(self, tokens: Sequence[int], scores: Sequence[float]) -> list[Edit]:
        """Take over what was proposed for the wanted tokens; gives what changed. `scores` is empty without `score`."""
        raise NotImplementedError

    def judging(self, tokens: Sequence[int]) -> int:
        """How many of the wanted outputs, from the first, are about the text itself, if these tokens are proposed."""
        return len(tokens)

    def masked(self, place: int) -> bool:
        """Whether a place of the row is masked."""
        return self.tokens[place] == self.vocab.mask

    def no_end(self, place: int) -> bool:
        """Whether a place of the row must not be an end token."""
        return place - self.first < self.config.min_new_tokens

    def _write(self, place: int, token: int, *, final: bool) -> Edit:
        before = None if self.masked(place) else self.tokens[place]
        self.tokens[place] = token
        now = None if token == self.vocab.mask else token
        return Edit(place - self.first, (before,), (now,), final)

    def _unmask(
        self, rule: Rule, proposed: Proposed, progress: Progress, changes: Mapping[int, int] = NO_CHANGES
    ) -> dict[int, int]:
        """What the rule picks of the tokens proposed for masked places, by place, and the changes of written ones.

        Under a constraint, if that would leave no acceptable text: what the rule picks of the best acceptable one.
        """
        picked = {**proposed.picked(rule, progress), **changes}
        if self.guide is None or not picked or self.guide.allows(self.tokens, picked):
            return picked
        best = self.guide.best(self.tokens, changes)
        return {
            **Proposed(list(best.tokens), list(best.tokens.values()), best.scores).picked(rule, progress),
            **best.changes,
        }

    def _ends(self) -> bool | None:
        """Whether the text has an end with nothing masked before it; None while something masked comes first."""
        for token in self.tokens[self.first : self.first + self.count]:
            if token == self.vocab.mask:
                return None
            if token in self.vocab.ends:
                return True
        return False


class AutoregressiveRow(Row):
    """Left to right, a token per pass."""

    grain = CAUSAL
    ahead = 1

    @property
    def known(self) -> int:
        """All but the last token, whose logits are read."""
        return self.first - 1

    def window(self) -> Window:
        """The prompt, later the last token."""
        tokens = self.tokens[self.held :]
        return Window(self.held, tokens, (len(tokens) - 1,), CAUSAL)

    def update(self, tokens: Sequence[int], scores: Sequence[float]) -> list[Edit]:
        """Append the token."""
        (token,) = tokens
        self.held = len(self.tokens)
        self.tokens.append(token)
        self.ended = token in self.vocab.ends
        self.finished = self.ended or len(self.tokens) == self.size
        return [Edit(self.held - self.first, (), (token,), final=True)]

    def masked(self, place: int) -> bool:
        """The token after `place` is not yet known, so it may be drawn."""
        return True

    def no_end(self, place: int) -> bool:
        """As for the place that follows: the output at a place is a prediction of the next."""
        return super().no_end(place + 1)


class CanvasRow(Row):
    """A canvas of masks under full attention, filled in block by block or all at once (LLaDA 1.0).

    Approximate caches (Fast-dLLM): when a block begins the whole canvas is computed, later only the block (`dual`), or
    everything from it on (`prefix`); what is outside is seen as it was when the block began.
    """

    config: Diffusion

    def __init__(self, request: Request, count: int, vocab: Vocabulary, config: Diffusion) -> None:
        super().__init__(request, count, vocab, config)
        if any(not 0 <= place < count for place, _ in request.given):
            raise UserError(f"given tokens must be in the {count} places between prompt and suffix")
        self._back = int(config.predicts == "next")  # how far before a place the output is that predicts it
        self.tokens += [vocab.mask] * count + list(request.suffix)
        for place, token in request.given:
            self.tokens[self.first + place] = token
        self._fill = request.fill
        hidden = [place for place in range(self.first, self.first + count) if self.masked(place)]
        size = config.block_length or max(len(hidden), 1)
        self._blocks = [hidden[left : left + size] for left in range(0, len(hidden), size)]
        self._quota = spread(config.steps or len(hidden), [len(block) for block in self._blocks])
        self._block, self._step = 0, 0
        self._sure: dict[int, float] = {}  # how sure the model was of written places
        self._rule = make_rule(config)
        self.score = self._rule.score
        self.finished = not self._blocks

    @property
    def size(self) -> int:
        """The canvas."""
        return len(self.tokens)

    def window(self) -> Window:
        """The canvas, or what is computed of it while a block is written."""
        cache, block = self.config.cache, self._blocks[self._block]
        start, end = 0, len(self.tokens)
        if cache != "none" and self._step:
            start, end = block[0] - self._back, end if cache == "prefix" else block[-1] + 1
        hidden = self._hidden()
        wanted = [place - self._back - start for place in hidden]
        blind = [self.vocab.mask] * self.first + self.tokens[self.first :] if self.config.guidance else []
        return Window(start, self.tokens[start:end], wanted, FULL, len(self.tokens), cache != "none", blind, hidden)

    def update(self, tokens: Sequence[int], scores: Sequence[float]) -> list[Edit]:
        """Unmask what the rule picks."""
        hidden, plan = self._hidden(), self._quota[self._block]
        # a rule that ignores the plan may take more passes; the plan's last quota then repeats
        quota = plan[min(self._step, len(plan) - 1)]
        block, progress = self._blocks[self._block], Progress(self._step, len(plan), quota, self.rng)
        written = [place for place in block if not self.masked(place)]
        sure = dict(zip(hidden, scores, strict=True)) if scores else {}
        again = self._rule.remask([self._sure.get(place, 1.0) for place in written], progress, len(hidden))
        progress = replace(progress, quota=quota + len(again))
        picked = self._unmask(self._rule, Proposed(hidden, tokens, scores), progress)
        self._sure |= {place: sure[place] for place in picked if place in sure}
        final = not self.config.remask
        edits = [self._write(place, token, final=final) for place, token in picked.items()]
        edits += [self._write(written[i], self.vocab.mask, final=False) for i in again]
        self._step += 1
        self.ended = not self._fill and bool(self._ends())
        while self._block < len(self._blocks) and not self._hidden():
            self._block, self._step = self._block + 1, 0
        self.finished = self.ended or self._block == len(self._blocks)
        return edits if final or not self.finished else [*edits, self._final()]

    def _final(self) -> Edit:
        """Say that the text will not change any more."""
        text = tuple(self.written)
        return Edit(0, text, text, final=True)

    def no_end(self, place: int) -> bool:
        """An end inside a gap would cut the text in two."""
        return self._fill or super().no_end(place)

    def _hidden(self) -> list[int]:
        return [place for place in self._blocks[self._block] if self.masked(place)]


class BlockRow(Row):
    """Block after block from masks, with exact keys and values of finished blocks (LLaDA 2.0).

    The keys and values of a finished block are those of its final tokens. They are computed in the first pass over the
    next block, whose window begins with the finished one.

    If outputs predict the next token, the first token of a block is predicted by the last one before it, which is
    computed once more for that. If finished text is causal, the prompt is finished text, and blocks begin behind it.
    """

    config: Block

    def __init__(self, request: Request, count: int, vocab: Vocabulary, config: Block) -> None:
        super().__init__(request, count, vocab, config)
        self.grain = (CAUSAL if config.causal else config.block_size) if config.cached else None
        self._back = int(config.predicts == "next")  # how far before a place the output is that predicts it
        self._rule = make_rule(config)
        self.score = self._rule.score
        self._open(self.known)

    @property
    def known(self) -> int:
        """The prompt, or its finished blocks."""
        return self.first if self.config.causal else self.first // self.config.block_size * self.config.block_size

    def _open(self, begin: int) -> list[Edit]:
        """Start the block at `begin`; a prompt that ends inside it is its first part."""
        self.begin = begin
        end = min(begin + self.config.block_size, self.size)
        count, place = end - len(self.tokens), len(self.tokens) - self.first
        self.tokens += [self.vocab.mask] * count
        self._step, self._passes = 0, count
        return [Edit(place, (), (None,) * count, final=False)]

    def window(self) -> Window:
        """Everything that is not held: the block, and before it the last one if that has just been finished."""
        places = self._wanted()
        start = min([self.held, *(place - self._back for place in places)]) if self.config.cached else 0
        return Window(
            start,
            self.tokens[start:],
            [place - self._back - start for place in places],
            self.config.block_size,
            keeps=self.config.cached,
            predicted=places,
            reach=self._reach(start) if self.config.causal else (),
        )

    def _reach(self, start: int) -> list[int]:
        """What tokens from `start` on see: finished text what comes before, the block all of itself, too."""
        end = len(self.tokens)
        return [place + 1 if place < self.begin else end for place in range(start, end)]

    def update(self, tokens: Sequence[int], scores: Sequence[float]) -> list[Edit]:
        """Unmask what the rule picks; open the next block when this one is full."""
        picked = self._pick(Proposed(self._wanted(), tokens, scores))
        edits = [self._write(place, token, final=True) for place, token in picked.items()]
        self.held = self.begin
        return edits + self._proceed()

    def _wanted(self) -> list[int]:
        """Places whose logits the next pass reads."""
        return self._hidden()

    def _hidden(self) -> list[int]:
        """Places of the current block that are still masked."""
        return [i for i in range(max(self.begin, self.first), len(self.tokens)) if self.masked(i)]

    def _pick(self, proposed: Proposed, changes: Mapping[int, int] = NO_CHANGES) -> dict[int, int]:
        picked = self._unmask(self._rule, proposed, Progress(self._step, self._passes, 1, self.rng), changes)
        self._step += bool(proposed.places)
        return picked

    def _proceed(self) -> list[Edit]:
        """Continue with this block, or open the next one, or be finished."""
        ended = self._ends()
        if ended is None or not self._settled():
            return []
        self.ended = ended
        self.finished = ended or len(self.tokens) == self.size
        return [] if self.finished else self._open(len(self.tokens))

    def _settled(self) -> bool:
        """Whether a block without masks is finished."""
        return True


class EditingRow(BlockRow):
    """Blocks whose written tokens may change (LLaDA 2.1, eq. 1-3).

    A pass also changes every written place of the block where another token is likelier than the edit threshold. Once
    nothing is masked, passes continue until one changes nothing, the text returns to an earlier state, or
    `max_post_steps` are made; with a `reread_threshold`, until the last pass was sure of everything. The prompt never
    changes. Tokens are final once no later pass can change them.
    """

    def __init__(self, request: Request, count: int, vocab: Vocabulary, config: Block) -> None:
        super().__init__(request, count, vocab, config)
        if self.score != "low_confidence":
            raise UserError(
                f"rule {config.rule} scores by {self.score}: editing compares probabilities, so it needs a rule that "
                "scores by low_confidence"
            )
        self._final = self.first  # places before are final

    def _open(self, begin: int) -> list[Edit]:
        edits = super()._open(begin)
        self._post_steps, self._states = 0, {tuple(self.tokens[begin:])}
        self._certain: set[int] = set()  # places of whose token the last pass was surer than `reread_threshold`
        self._changed, self._was_full = False, False
        # the last finished blocks are read once more (multi-block editing), so they must be computed again
        window = self.config.edit_blocks * self.config.block_size
        self._again = max(begin - window, self.first) if window else begin
        self.held = min(self.held, self._again)
        return edits

    def _wanted(self) -> list[int]:
        return list(range(max(self._again, self.first), len(self.tokens)))

    def update(self, tokens: Sequence[int], scores: Sequence[float]) -> list[Edit]:
        """Unmask and edit in one step, both judged by the text before it."""
        look = {place: (token, score) for place, token, score in zip(self._wanted(), tokens, scores, strict=True)}
        hidden = self._hidden()
        proposed = Proposed(hidden, [look[place][0] for place in hidden], [look[place][1] for place in hidden])
        changes = {place: look[place][0] for place in look if self._disagrees(place, *look[place])}
        written = self._pick(proposed, changes)
        changed = [place for place in written if not self.masked(place)]
        edits = [self._write(place, token, final=False) for place, token in written.items()]
        limit = self.config.reread_threshold
        self._certain = {i for i, (token, score) in look.items() if self.tokens[i] == token and score > limit}
        # an earlier block that changed is computed again, and with it everything after it
        size = self.config.block_size
        self.held = min([self.begin, *(place // size * size for place in changed)])
        self._again = self.begin
        self._changed, self._was_full = bool(changed), not hidden
        edits += self._proceed()
        return edits + self._finalise()

    def _finalise(self) -> list[Edit]:
        """Say that what no later pass can change is final."""
        start, end = self._final, len(self.tokens) if self.finished else self._again
        if end <= start:
            return []
        self._final = end
        tokens = tuple(self.written[start - self.first : end - self.first])
        return [Edit(start - self.first, tokens, tokens, final=True)]

    def _disagrees(self, place: int, token: int, score: float) -> bool:
        limit = self.config.edit_threshold
        return limit is not None and self.tokens[place] not in (self.vocab.mask, token) and score > limit

    def _settled(self) -> bool:
        """Whether further passes could change nothing, or are not to be made."""
        state = tuple(self.tokens[self.begin :])
        repeated = state in self._states
        self._states.add(state)
        self._post_steps += 1
        # the pass that wrote the last token could not judge it, but may have been sure
        judged = self._was_full or self._post_steps > 1 or self._confirmed()
        return (judged and (not self._changed or repeated)) or self._post_steps > self.config.max_post_steps

    def _confirmed(self) -> bool:
        """Whether the last pass was sure of all tokens of the block, up to the end."""
        for place in range(max(self.begin, self.first), len(self.tokens)):
            if place not in self._certain:
                return False
            if self.tokens[place] in self.vocab.ends:
                break
        return True


class SpeculativeRow(AutoregressiveRow):
    """Left to right, with drafts: lossless self-speculation of a model of track `both`.

    A pass reads the last token and the drafts behind it, causally, and behind the text and each draft a group of masks,
    which sees the text up to there and itself. The outputs of the text verify the drafts: the longest prefix that
    agrees is taken over, and one more token; the masks behind that prefix give the drafts of the next pass. So a pass
    writes 1 to `drafts` + 1 tokens. Keys and values of masks are never held.

    Attributes:
        drafts: tokens behind the text that are to be verified.
        drawn_from: of each draft the distribution (V,) that it was drawn from; empty for greedy ones.
    """

    config: Speculative
    ahead = 0  # its windows say which places they predict

    def __init__(self, request: Request, count: int, vocab: Vocabulary, config: Speculative) -> None:
        super().__init__(request, count, vocab, config)
        self.drafts: list[int] = []
        self.drawn_from: Sequence[Tensor] = ()
        self._limit = self.first + count
        # with `self` a group's first mask predicts the token that the text before it predicts anyway
        self._spare = int(config.predicts == "self")

    @property
    def size(self) -> int:
        """The longest text, and the masks behind it."""
        drafts = self.config.drafts
        return self._limit + (drafts + 1) * (drafts + self._spare)

    def window(self) -> Window:
        """What is new of the text, the drafts, and a group of masks behind the text and each draft."""
        text = [*self.tokens[self.held :], *self.drafts]
        end = len(self.tokens)
        # indices of the outputs that verify, the places they predict, and how many drafts each of them has seen
        seen = list(range(len(self.drafts) + 1))
        wanted, predicted = [end - 1 - self.held + n for n in seen], [end + n for n in seen]
        places = list(range(self.held, self.held + len(text)))
        tokens, reach, groups = list(text), [place + 1 for place in places], [0] * len(text)
        for number in range(len(self.drafts) + 1):
            behind = end + number
            count = self._room(behind)
            size = count + self._spare if count else 0
            wanted += range(len(tokens) + size - count, len(tokens) + size)
            predicted += range(behind + 1, behind + 1 + count)
            seen += [number] * count
            tokens += [self.vocab.mask] * size
            places += range(behind, behind + size)
            reach += [behind] * size
            groups += [number + 1] * size
        self._seen = seen
        if len(tokens) == len(text):  # no masks: an autoregressive pass
            return Window(self.held, tokens, wanted, CAUSAL, predicted=predicted)
        return Window(
            self.held, tokens, wanted, CAUSAL, predicted=predicted, reach=reach, groups=groups, positions=places
        )

    def update(self, tokens: Sequence[int], scores: Sequence[float]) -> list[Edit]:
        """Take over the drafts that agree and one more token; what was proposed behind them is drafted next."""
        agreed = self.agreed(tokens)
        new = list(tokens[: agreed + 1])[: self._limit - len(self.tokens)]
        for i, token in enumerate(new):
            if token in self.vocab.ends:
                new, self.ended = new[: i + 1], True
                break
        place = len(self.tokens) - self.first
        self.drafts = self.proposed_behind(agreed, tokens)
        self.tokens += new
        self.held = len(self.tokens) - 1
        self.finished = self.ended or len(self.tokens) == self._limit
        return [Edit(place, (), tuple(new), final=True)]

    def agreed(self, tokens: Sequence[int]) -> int:
        """How many of the drafts equal what is proposed in their place."""
        pairs = zip(self.drafts, tokens, strict=False)
        return next((i for i, (draft, token) in enumerate(pairs) if draft != token), len(self.drafts))

    def judging(self, tokens: Sequence[int]) -> int:
        """Those that verify: what is thought of later places depends on drafts, and may come to nothing."""
        return self.agreed(tokens) + 1

    def proposed_behind(self, agreed: int, values: Sequence[T]) -> list[T]:
        """Of values of all wanted outputs those of the masks behind the first `agreed` drafts."""
        first = len(self.drafts) + 1
        return [value for value, seen in zip(values[first:], self._seen[first:], strict=True) if seen == agreed]

    def texts(self) -> list[list[int]]:
        """For each wanted output the text that it has seen, without masks."""
        return [self.tokens + self.drafts[:seen] for seen in self._seen]

    def no_end(self, place: int) -> bool:
        """Places are those that are predicted."""
        return Row.no_end(self, place)

    def _room(self, place: int) -> int:
        """How many tokens may be drafted behind the one at `place`."""
        return max(min(self.config.drafts, self._limit - 1 - place), 0)


def make_row(request: Request, vocab: Vocabulary, config: Decoding, context: int) -> Row:
    """The row of a request.

    Raises:
        UserError: for a request that cannot be written: see `check_room`, or one that its kind of decoding cannot do.
    """
    if (request.suffix or request.given or request.fill) and not isinstance(config, Diffusion):
        raise UserError(NO_GAPS[type(config)])
    if request.automaton is not None and config.min_new_tokens:
        raise UserError("a constraint says where a text may end: leave out min_new_tokens")
    count = check_room(request, context, config.max_new_tokens)
    row = _row_class(config, request)(request, count, vocab, config)
    if row.guide is not None:
        row.guide.check(row.tokens)
    return row


def _row_class(config: Decoding, request: Request) -> Callable[[Request, int, Vocabulary, Any], Row]:
    if isinstance(config, Speculative):
        # drafts know nothing of constraints, and left to right the text is the same
        return SpeculativeRow if request.automaton is None else AutoregressiveRow
    if isinstance(config, Autoregressive):
        return AutoregressiveRow
    if isinstance(config, Diffusion):
        return CanvasRow
    return EditingRow if config.edits else BlockRow


def check_room(request: Request, context: int, default: int) -> int:
    """How many tokens to write for a request: as many as were asked for and the context has room for.

    Raises:
        UserError: if there is no room, or no prompt.
    """
    wanted = default if request.max_new_tokens is None else request.max_new_tokens
    used = len(request.prompt) + len(request.suffix)
    if wanted < 1:
        raise UserError(f"max_new_tokens must be at least 1, got {wanted}: there is nothing to write")
    if not request.prompt:
        raise UserError("the prompt is empty: give at least one token")
    if used >= context:
        raise UserError(
            f"the prompt has {used} tokens, the model's context is {context}: nothing can be written after it"
        )
    if (request.suffix or request.fill) and used + wanted > context:
        raise UserError(f"prompt, gap and suffix need {used + wanted} tokens, the model's context is {context}")
    return min(wanted, context - used)


def spread(steps: int, sizes: Sequence[int]) -> list[list[int]]:
    """How many tokens each pass of each block writes.

    Passes are shared out over the blocks in proportion to their size, at least one each and no more than a block has
    tokens; within a block every pass writes ``size // passes`` and the first ``size % passes`` one more. Nothing has to
    divide anything.
    """
    total, done, used = sum(sizes), 0, 0
    plan: list[list[int]] = []
    for size in sizes:
        done += size
        later = len(sizes) - len(plan) - 1  # each of which needs a pass
        passes = min(size, max(1, min(round(steps * done / total), steps - later) - used))
        used += passes
        plan.append([size // passes + (step < size % passes) for step in range(passes)])
    return plan
