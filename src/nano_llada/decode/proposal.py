"""From logits to a token for each position and how sure the model is of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nano_llada.config.decoding import Autoregressive, Decoding, Diffusion
from nano_llada.core.batch import Vocabulary
from nano_llada.decode.rows import Row, SpeculativeRow
from nano_llada.decode.speculation import drawn, verified

REMOVED = -1e4  # the weight of a token that a filter removes: nothing else is as unlikely
LEAST = 1e-6  # temperatures and penalties below it would leave the range of float32

Proposal = tuple[list[int], list[float]]  # a token for each place, and how sure the model is of it


def propose(logits: Tensor, looks: Sequence[tuple[Row, Sequence[int]]], vocab: Vocabulary) -> list[Proposal]:
    """What rows are to consider at the places whose logits were read, in order; of each row at least one.

    Args:
        logits: (N, V), those of the first row's places, then the next one's.
        looks: rows and their places.

    Rows with equal options are computed together; each draws from its own generator, so the result is that of each row
    alone.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    found: dict[int, Proposal] = {}
    spans, first = [], 0
    for i, (row, places) in enumerate(looks):
        spans.append(range(first, first + len(places)))
        part = logits[first : first + len(places)]
        first += len(places)
        if isinstance(row, SpeculativeRow):
            found[i] = _speculate(part, row, places, vocab)
        else:
            if isinstance(row.config, Autoregressive):
                _restrict(part, row)
            groups.setdefault(_options(row), []).append(i)
    for group in groups.values():
        inside = [place for i in group for place in spans[i]]
        chosen = logits if len(group) == len(looks) else logits[torch.tensor(inside, device=logits.device)]
        tokens, scores = _propose_alike(chosen, [looks[i] for i in group], vocab)
        first = 0
        for i in group:
            mine = slice(first, first + len(spans[i]))
            found[i] = (tokens[mine], scores[mine])
            first += len(spans[i])
    return [found[i] for i in range(len(looks))]


def _options(row: Row) -> tuple[object, ...]:
    """Everything that `_propose_alike` reads of a row's options."""
    config = row.config
    filters = (config.temperature, config.top_k, config.top_p, config.min_p, config.repetition_penalty)
    judged = () if isinstance(config, Autoregressive) else (config.certainty, getattr(config, "end_confidence", 1.0))
    return (*filters, *judged, row.score)


def _propose_alike(logits: Tensor, looks: Sequence[tuple[Row, Sequence[int]]], vocab: Vocabulary) -> Proposal:
    """(N, V) logits of rows with the same options; of a masked place a token that may be drawn, else the likeliest."""
    (row, _), device = looks[0], logits.device
    config = row.config
    early = [row.no_end(place) for row, places in looks for place in places]
    logits = forbid(logits, vocab, no_end=torch.tensor(early, device=device) if any(early) else None)
    if config.repetition_penalty != 1.0:
        logits = penalise(logits, _seen(looks, logits.shape[-1]).to(device), config.repetition_penalty, vocab)
    for span, one, places in _guided(looks):
        _guide(one, places, logits[span], vocab)
    best = logits.argmax(-1)
    tokens = best
    if config.temperature:
        hidden = torch.tensor([row.masked(place) for row, places in looks for place in places], device=device)
        streams = [row.rng for row, places in looks for _ in places]
        tokens = torch.where(hidden, choose(logits, config, streams), best)
    return tokens.tolist(), _scores(row, logits, tokens, best, vocab)


def _scores(row: Row, logits: Tensor, tokens: Tensor, best: Tensor, vocab: Vocabulary) -> list[float]:
    """How sure the model is of tokens (N,), as the options of a row measure it; `best` are the likeliest."""
    config = row.config
    if row.score is None or isinstance(config, Autoregressive):
        return []
    scores = confidence(logits, tokens if config.certainty == "chosen" else best, row.score)
    if isinstance(config, Diffusion) and config.end_confidence < 1:
        is_end = torch.isin(tokens, torch.tensor(vocab.ends, device=logits.device))
        scores = torch.where(is_end, scores * config.end_confidence, scores)
    return scores.tolist()


def _guided(looks: Sequence[tuple[Row, Sequence[int]]]) -> Iterator[tuple[slice, Row, Sequence[int]]]:
    """Rows with masks that are under a constraint, with their part of the logits."""
    first = 0
    for row, places in looks:
        if row.guide is not None and not isinstance(row.config, Autoregressive):
            yield slice(first, first + len(places)), row, places
        first += len(places)


def _guide(row: Row, places: Sequence[int], logits: Tensor, vocab: Vocabulary) -> None:
    """A row with masks may propose anything. What it reads, logits (n, V), is kept: if that cannot be completed, the
    row chooses from it."""
    assert row.guide is not None
    row.guide.reading = LogitReading(row, places, logits[:, : row.guide.vocabulary], vocab)
    logits[:, row.guide.vocabulary :] = -torch.inf  # ids without a token, of a model whose vocabulary is padded


def _restrict(logits: Tensor, row: Row, drafts: Sequence[int] = ()) -> None:
    """Left to right, under a constraint: of logits (n, V), which are changed, only those of tokens stay finite that may
    follow the row's text and some drafts."""
    if row.guide is not None:
        allowed = torch.from_numpy(row.guide.following(row.tokens, drafts)).to(logits.device)
        allowed = torch.nn.functional.pad(allowed, (0, logits.shape[-1] - len(allowed)))
        logits.masked_fill_(~allowed, -torch.inf)


class LogitReading:
    """The logits (n, V) of a pass at some places of a row; see `guide.Reading`."""

    def __init__(self, row: Row, places: Sequence[int], logits: Tensor, vocab: Vocabulary) -> None:
        self.places = places
        self._row, self._logits, self._vocab = row, logits, vocab

    def weights(self) -> NDArray[np.float64]:
        """Log-probabilities (n, V). Where tokens are drawn, those of masked places have Gumbel noise, and what top-k,
        top-p or min-p remove is only taken where nothing else is acceptable."""
        row, logits = self._row, self._logits
        found = logits.log_softmax(-1)
        if row.config.temperature:
            hidden = torch.tensor([row.masked(place) for place in self.places], device=logits.device)
            kept = truncate(logits, row.config)
            drawn = (logits / max(row.config.temperature, LEAST)).log_softmax(-1) + REMOVED * kept.isneginf()
            drawn += gumbel(logits.shape[-1], [row.rng] * len(self.places)).to(logits.device)
            found = torch.where(hidden[:, None], drawn, found)
        weights: NDArray[np.float64] = found.double().cpu().numpy()
        return weights

    def scores(self, places: Sequence[int], tokens: Sequence[int], possible: NDArray[np.bool_]) -> list[float]:
        """How sure the model is of tokens at some of the places, among the `possible` (n, V) ones."""
        if not places:
            return []
        rows, device = torch.tensor([self.places.index(place) for place in places]), self._logits.device
        logits = self._logits[rows].masked_fill(~torch.from_numpy(possible).to(device), -torch.inf)
        return _scores(self._row, logits, torch.tensor(tokens, device=device), logits.argmax(-1), self._vocab)


def _speculate(logits: Tensor, row: SpeculativeRow, places: Sequence[int], vocab: Vocabulary) -> Proposal:
    """Tokens for the outputs (N, V) of one row with drafts: those that verify drafts, then those of masks.

    Of the latter only those are made that are used: behind the last draft that is accepted. Under a constraint every
    token is one that may follow those before it, so the text is that of an autoregressive row.
    """
    config, device, texts = row.config, logits.device, row.texts()
    early = torch.tensor([row.no_end(place) for place in places], device=device)
    logits = forbid(logits, vocab, no_end=early)
    if config.repetition_penalty != 1.0:
        seen = torch.zeros(len(places), vocab.size, dtype=torch.bool)
        for i, text in enumerate(texts):
            seen[i, text] = True
        logits = penalise(logits, seen.to(device), config.repetition_penalty, vocab)
    count = len(row.drafts) + 1
    for i in range(count):
        _restrict(logits[i : i + 1], row, row.drafts[:i])
    if config.temperature == 0:
        tokens = logits[:count].argmax(-1).tolist()
    else:
        wanted = truncate(logits[:count], config).double().softmax(-1)
        tokens = verified(wanted, row.drafts, row.drawn_from, row.rng)
    new = tokens[: row.agreed(tokens) + 1]
    tokens += [vocab.mask] * (len(places) - len(tokens))  # not made: of no use
    row.drawn_from = []
    for i in row.proposed_behind(len(new) - 1, range(len(places))):
        _restrict(logits[i : i + 1], row, new)
        tokens[i] = _drafted(logits[i : i + 1], row)
        new.append(tokens[i])
    return tokens, []


def _drafted(logits: Tensor, row: SpeculativeRow) -> int:
    """A draft from logits (1, V): the likeliest token, or a drawn one, whose distribution is kept."""
    if row.config.temperature == 0:
        return int(logits.argmax())
    chances = truncate(logits, row.config).double().softmax(-1)[0]
    row.drawn_from = [*row.drawn_from, chances]
    return drawn(chances, row.rng)


def _seen(looks: Sequence[tuple[Row, Sequence[int]]], size: int) -> Tensor:
    """(N, V) bool: tokens that the text of a place contains."""
    seen = torch.zeros(len(looks), size, dtype=torch.bool)
    for i, (row, _) in enumerate(looks):
        seen[i, row.tokens] = True
    return seen.repeat_interleave(torch.tensor([len(places) for _, places in looks]), dim=0)


def forbid(logits: Tensor, vocab: Vocabulary, *, no_end: Tensor | None = None) -> Tensor:
    """(N, V) float32 logits in which what must never be written cannot be; rows of `no_end` (N,) cannot end either.

    Done before any softmax, so that neither a token nor a confidence knows of the mask.
    """
    logits = logits.float()
    logits[:, list(vocab.unwritable)] = -torch.inf
    if no_end is not None:
        for end in vocab.ends:
            logits[no_end, end] = -torch.inf
    return logits


def penalise(logits: Tensor, seen: Tensor, penalty: float, vocab: Vocabulary) -> Tensor:
    """Divide positive and multiply negative logits of `seen` (N, V) bool tokens; ends are left alone."""
    if penalty == 1.0:
        return logits
    seen = seen.clone()
    seen[:, list(vocab.ends)] = False
    penalty = max(penalty, LEAST)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def truncate(logits: Tensor, config: Decoding) -> Tensor:
    """Remove tokens outside top-k, top-p and min-p, at the configured temperature; (N, V), scaled."""
    logits = logits / max(config.temperature, LEAST)
    if config.top_k:
        kth = logits.topk(min(config.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if config.min_p:
        floor = logits.max(-1, keepdim=True).values + torch.log(torch.tensor(config.min_p))
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if config.top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # the likeliest is always kept
        late = before >= config.top_p
        late[:, 0] = False  # however small the share
        drop = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, index, late)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


def choose(logits: Tensor, config: Decoding, streams: Sequence[torch.Generator]) -> Tensor:
    """(N,) tokens: the likeliest, or drawn with Gumbel noise in float64; row i draws from `streams[i]`."""
    if config.temperature == 0:
        return logits.argmax(-1)
    noise = gumbel(logits.shape[-1], streams).to(logits.device)
    return (truncate(logits, config).double() + noise).argmax(-1)


def gumbel(size: int, streams: Sequence[torch.Generator]) -> Tensor:
    """(N, V) float64 Gumbel noise, V being `size`; row i is drawn from `streams[i]`."""
    noise = torch.stack([torch.rand(size, dtype=torch.float64, generator=rng) for rng in streams])
    return -(-noise.clamp_(min=1e-300).log()).log()


def confidence(logits: Tensor, tokens: Tensor, strategy: str) -> Tensor:
    """(N,) how sure the model is, always at temperature 1 and over all tokens that may be written.

    `low_confidence`: probability of the chosen token; `margin`: lead of the first over the second; `entropy`: one over
    the number of equally likely tokens that would have the distribution's entropy. All lie in [0, 1].
    """
    if strategy == "margin":
        first, second = logits.softmax(-1).topk(2, dim=-1).values.unbind(-1)
        return first - second
    if strategy == "entropy":
        log_probs = logits.log_softmax(-1)
        return (log_probs.exp() * log_probs.clamp(min=-1e4)).sum(-1).exp()
    return logits.softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
