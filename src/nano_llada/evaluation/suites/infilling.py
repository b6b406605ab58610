"""Infilling: a span is cut out of a text and the model fills it, seeing both sides if its attention allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from nano_llada.config.checks import at_least
from nano_llada.config.decoding import Decoding, Diffusion
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed, generator
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.types import Completion, Request
from nano_llada.diffusion.suffix import suffix_first
from nano_llada.evaluation.answers import complete
from nano_llada.evaluation.items import Passage, passages
from nano_llada.evaluation.metric import Metric, Ratio, Share, separately
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import Subject, Suite

MARGIN = 16  # tokens of the passage on each side of a span, at least


@dataclass(frozen=True)
class _Cut:
    """A passage with a span taken out, as tokens."""

    passage: Passage
    place: int  # of the span's first token
    left: tuple[int, ...]
    span: tuple[int, ...]
    right: tuple[int, ...]

    @property
    def item(self) -> str:
        return f"{self.passage.file}/{self.passage.item}"


@dataclass(frozen=True)
class InfillingOptions:
    """Infilling."""

    spans: tuple[int, ...] = (1, 4, 16)
    """Lengths of the gaps in tokens, for infilling."""


@dataclass(frozen=True)
class Infilling(Suite):
    """Gaps of several lengths, in tokens of the subject's tokenizer: models with another one get other gaps.

    Whole-text diffusion sees both sides, and so does a model that learnt to fill gaps with what follows in front; other
    autoregressive and block models see the left side alone, as `sees` in each record states. All generate exactly as
    many tokens as were cut out, without an end token. Passages too short for a length (the gap and 16 tokens on each
    side) are skipped and counted in `skipped` of its records.
    """

    name: ClassVar[str] = "infilling"
    title: ClassVar[str] = "Infilling"
    explanation: ClassVar[str] = "Tokens are cut out of a text, and the model has to fill the gap."
    metrics: ClassVar[tuple[Metric, ...]] = separately(
        Share("exact_match", "exact"),
        Ratio("token_accuracy", "token_right", "tokens", unit="fraction of tokens"),
        Ratio("tpf", "tokens", "forwards", unit="tokens/pass"),
    )
    meanings: ClassVar[Mapping[str, str]] = {
        "exact_match": "share of gaps filled exactly as in the text",
        "token_accuracy": "share of the hidden tokens that were restored",
        "tpf": "tokens per forward pass",
    }
    writes: ClassVar[bool] = True
    Options: ClassVar[type] = InfillingOptions
    reads: ClassVar[tuple[str, ...]] = ("text",)

    passages: Sequence[Passage]
    spans: tuple[int, ...] = (1, 4, 16)
    per_span: int = 1  # places in each passage for each length; they share an item, as they are not independent
    context: int = 96  # tokens shown on each side, at most
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        at_least(self, 1, "per_span", "batch_size")
        at_least(self, MARGIN, "context")
        if not self.spans or min(self.spans) < 1 or len(set(self.spans)) < len(self.spans):
            raise ValueError(f"spans must be different lengths of at least 1, got {self.spans}")
        if not self.passages:
            raise ValueError("passages must be at least one")
        names = Counter((passage.file, passage.item) for passage in self.passages)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"passages must differ in file or item, but {'/'.join(twice[0])} comes twice")

    @classmethod
    def build(cls, shared: SuiteOptions, own: InfillingOptions, context: int, device: torch.device | str) -> Infilling:
        """With 96 tokens shown on each side, or as many as all models have room for."""
        shown = min(96, (context - 1 - max(own.spans, default=1)) // 2)
        texts = passages(shared, cls.name)
        return cls(texts, own.spans, context=shown, seed=shared.noise_seed, batch_size=shared.batch_size)

    def run(self, subject: Subject) -> Iterator[Record]:
        """A record a span, as they are written.

        Raises:
            UserError: if no passage is long enough for a length, or the model's context is too short for it.
        """
        room, widest = subject.checkpoint.model.config.max_length, 1 + 2 * self.context + max(self.spans)
        if widest > room:
            raise UserError(
                f"infilling shows up to {self.context} tokens on each side of {max(self.spans)}, {widest} with the "
                f"start, but the context of {subject.name} is {room}: lower context or spans"
            )
        texts = subject.checkpoint.tokenizer.encode_many([passage.text for passage in self.passages])
        plan = {span: self._cuts(texts, span) for span in self.spans}
        for span, cuts in plan.items():
            skipped = len(self.passages) - len({cut.item for cut in cuts})
            yield from self._fill(subject, span, cuts, skipped)

    def _cuts(self, texts: Sequence[Sequence[int]], span: int) -> list[_Cut]:
        cuts = []
        for passage, tokens in zip(self.passages, texts, strict=True):
            starts = len(tokens) - span - 2 * MARGIN + 1
            if starts < 1:
                continue
            rng = generator(self.seed, "infilling", passage.file, passage.item, span)
            for start in torch.randperm(starts, generator=rng)[: self.per_span].tolist():
                first, last = MARGIN + start, MARGIN + start + span
                left, right = tokens[max(0, first - self.context) : first], tokens[last : last + self.context]
                cuts.append(_Cut(passage, first, tuple(left), tuple(tokens[first:last]), tuple(right)))
        if not cuts:
            raise UserError(
                f"none of the {len(texts)} passages has the {span + 2 * MARGIN} tokens that a span of {span} with "
                f"{MARGIN} on each side needs: give longer passages or shorter spans"
            )
        return cuts

    def _fill(self, subject: Subject, span: int, cuts: Sequence[_Cut], skipped: int) -> Iterator[Record]:
        tokenizer = subject.checkpoint.tokenizer
        learnt, room = subject.checkpoint.card.infills, subject.checkpoint.model.config.max_length
        requests = [_request(cut, subject.decoding, tokenizer.vocab, self.seed, room if learnt else 0) for cut in cuts]
        # a model that cannot infill is kept from ending early by the minimum length
        most = max(span, subject.decoding.max_new_tokens)  # each request has its own limit
        decoding = replace(subject.decoding, min_new_tokens=span, max_new_tokens=most)
        writer = replace(subject, decoding=decoding).sampler()
        for number, completion in complete(writer, requests, self.batch_size):
            cut, sees = cuts[number], "both" if requests[number].fill or learnt else "left"
            right = sum(a == b for a, b in zip(completion.tokens, cut.span, strict=False))
            values = {"exact": right == span, "token_right": right, "tokens": span, "forwards": completion.forwards}
            detail = _texts(tokenizer, cut, completion) | {"place": cut.place, "sees": sees, "skipped": skipped}
            item = f"{cut.item}@{tokenizer.hash[:6]}"  # another tokenizer cuts other spans
            yield subject.record(self, f"span {span}", cut.passage.language, item, values, **detail)


def _request(cut: _Cut, decoding: Decoding, vocab: Vocabulary, seed: int, room: int) -> Request:
    """With `room` above 0, what follows comes first, as far as it fits into that many tokens."""
    number = derive_seed(seed, "infilling", cut.item, len(cut.span), cut.place)
    prompt = (vocab.eos, *cut.left)
    if isinstance(decoding, Diffusion):
        return Request(prompt, cut.right, seed=number, max_new_tokens=len(cut.span), fill=True)
    if room:
        right = cut.right[: room - len(prompt) - len(cut.span) - 2]
        prompt = tuple(suffix_first(right, prompt, vocab))
    return Request(prompt, seed=number, max_new_tokens=len(cut.span))


def _texts(tokenizer: Tokenizer, cut: _Cut, completion: Completion) -> dict[str, str | int]:
    parts = {"left": cut.left, "expected": cut.span, "written": completion.tokens, "right": cut.right}
    return {name: tokenizer.decode(tokens) for name, tokens in parts.items()}
