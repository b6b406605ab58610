"""Free text: a model continues real passages; a judge scores how likely the text is, counts measure its variety."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.config.checks import at_least
from nano_llada.config.decoding import Autoregressive, Block
from nano_llada.core.batch import TokenBatch
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.types import Completion, Request, collect
from nano_llada.evaluation.items import Passage, passages
from nano_llada.evaluation.likelihood import ScoredRow, row_batches
from nano_llada.evaluation.metric import Metric, Ratio, Share
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import Subject, Suite
from nano_llada.objectives.likelihood import exact_nll
from nano_llada.training import parallel

BROKEN = "\ufffd"  # what a tokenizer writes for bytes that are not a whole character


@dataclass(frozen=True)
class _Start:
    """The start of a passage and its real continuation, in the subject's tokens."""

    passage: Passage
    ids: list[int]
    rest: list[int]
    room: int  # most tokens that can be written after it

    def request(self, tokenizer: Tokenizer, seed: int) -> Request:
        """What a sampler is asked for; drawn numbers depend on the passage alone."""
        number = derive_seed(seed, "quality", self.passage.file, self.passage.item)
        return Request((tokenizer.vocab.eos, *self.ids), seed=number)


@dataclass(frozen=True)
class QualityOptions:
    """Free text."""

    judge: Path | None = None
    """The autoregressive model that judges generated text, for quality."""
    prompt_tokens: int = 32
    """Tokens of a text given as the prompt that is to be continued, for quality."""


@dataclass(frozen=True)
class Quality(Suite):
    """Continuations of real texts, by base and chat models alike.

    Perplexity under the judge is not a measure of quality by itself: a text that repeats itself is likely. Read it
    together with the entropy and the distinct n-grams, and compare each with the passages' own continuation of the
    same length. N-grams and entropy are over the subject's tokens: compare them only between models with one
    tokenizer. No figure but `wasted` is better high or low: the aim is to be like the real texts.

    Raises:
        ValueError: if the judge is not autoregressive, or an option is out of range.
    """

    prompts: tuple[Passage, ...]
    judge: Checkpoint  # may have another tokenizer: it is given text
    judge_name: str
    prompt_tokens: int = 32
    """Tokens of each passage that the model is given; fewer where a character would be cut, or of a short one all."""
    seed: int = 0
    batch_size: int = 16

    name: ClassVar[str] = "quality"
    title: ClassVar[str] = "Quality of free text"
    explanation: ClassVar[str] = "Scored by another model and by counts; no single figure says much by itself."
    writes: ClassVar[bool] = True
    metrics: ClassVar[tuple[Metric, ...]] = (
        Ratio("generative_perplexity", "judge_nats", "judge_tokens", "", exponential=True, unit="per judge token"),
        Ratio(
            "reference_perplexity", "reference_nats", "reference_tokens", "", exponential=True, unit="per judge token"
        ),
        Ratio("judge_bits_per_byte", "judge_nats", "judge_bytes", "", 1 / math.log(2), unit="bits/byte"),
        Ratio("entropy", "entropy", better="", unit="nats"),
        Ratio("reference_entropy", "reference_entropy", better="", unit="nats"),
        *(Ratio(f"distinct_{n}", f"distinct_{n}", f"ngrams_{n}", "", unit=f"fraction of {n}-grams") for n in (1, 2, 3)),
        Ratio("repetition", "repeated_4grams", "ngrams_4", "", unit="fraction of 4-grams"),
        Ratio("length", "tokens", better="", unit="tokens/text"),
        Share("ended", "ended", ""),
        Ratio("wasted", "wasted", "canvas", "low", unit="fraction of positions"),
    )
    meanings: ClassVar[Mapping[str, str]] = {
        "generative_perplexity": "perplexity of the text under the judge; dull repetition has a low one too",
        "reference_perplexity": "the same of the real continuations",
        "entropy": "entropy of the tokens of a text: how evenly it uses its vocabulary",
        "repetition": "share of the text's 4-grams that occurred in it before",
        "ended": "share of texts that the model ended itself",
        "wasted": "share of the computed positions that are behind the end of the text",
    }
    Options: ClassVar[type] = QualityOptions
    reads: ClassVar[tuple[str, ...]] = ("text",)

    def __post_init__(self) -> None:
        if not self.judge.card.autoregressive:
            raise ValueError(
                f"the judge {self.judge_name!r} is a {self.judge.card.track} model: only an autoregressive one "
                "knows how likely a text is"
            )
        if not self.prompts:
            raise ValueError("there are no passages to continue")
        at_least(self, 1, "prompt_tokens", "batch_size")

    @classmethod
    def build(cls, shared: SuiteOptions, own: QualityOptions, context: int, device: torch.device | str) -> Quality:
        prompts = passages(shared, cls.name)
        if own.judge is None:
            raise UserError("the suite quality needs --judge: an autoregressive model")
        judge = load_checkpoint(own.judge, device)
        sizes = (own.prompt_tokens, shared.noise_seed, shared.batch_size)
        return cls(prompts, judge, own.judge.name, *sizes)

    def run(self, subject: Subject) -> Iterator[Record]:
        """A record a passage, in their order. Raises UserError if the prompts do not fit into the model's context."""
        sampler, tokenizer = subject.sampler(), subject.checkpoint.tokenizer
        for first in range(0, len(self.prompts), self.batch_size):
            some = [self._start(subject, passage) for passage in self.prompts[first : first + self.batch_size]]
            requests = [start.request(tokenizer, self.seed) for start in some]
            done = collect(sampler.stream(requests), len(some), sampler.ends)
            yield from self._records(subject, some, done)

    def _start(self, subject: Subject, passage: Passage) -> _Start:
        ids = subject.checkpoint.tokenizer.encode(passage.text)
        count = whole_start(subject.checkpoint.tokenizer, ids, self.prompt_tokens)
        context = subject.checkpoint.model.config.max_length
        return _Start(passage, ids[:count], ids[count:], min(subject.decoding.max_new_tokens, context - 1 - count))

    def _records(self, subject: Subject, some: Sequence[_Start], done: Sequence[Completion]) -> Iterator[Record]:
        tokenizer = subject.checkpoint.tokenizer
        prompts = [tokenizer.decode(start.ids) for start in some]
        real = [start.rest[: len(completion.tokens)] for start, completion in zip(some, done, strict=True)]
        texts = [_text(tokenizer, c.tokens, cut=c.finish == "length") for c in done]
        texts += [_text(tokenizer, tokens, cut=True) for tokens in real]
        scores = judge_texts(self.judge, list(zip(prompts * 2, texts, strict=True)), self.batch_size)
        for i, (start, completion) in enumerate(zip(some, done, strict=True)):
            ended, other = completion.finish == "stop", i + len(some)
            canvas = _canvas(subject, start, completion.reached)
            values: dict[str, float] = {
                "judge_nats": scores[i][0],
                "judge_tokens": scores[i][1],
                "judge_bytes": len(texts[i].encode()),
                "reference_nats": scores[other][0],
                "reference_tokens": scores[other][1],
                "tokens": len(completion.tokens),
                "ended": ended,
                "canvas": canvas,
                "wasted": canvas - len(completion.tokens) - ended,  # the end itself is needed
                "forwards": completion.forwards,
            }
            values |= variety(completion.tokens) | _entropy(completion.tokens, "entropy")
            values |= _entropy(real[i], "reference_entropy")
            detail = {"judge": self.judge_name, "prompt": prompts[i], "text": texts[i], "reference": texts[other]}
            passage = start.passage
            item = f"{passage.item}@{tokenizer.hash[:6]}"  # another tokenizer cuts another prompt
            task = f"{passage.file}, judged by {self.judge_name}"
            yield subject.record(self, task, passage.language, item, values, **detail)


def whole_start(tokenizer: Tokenizer, ids: Sequence[int], count: int) -> int:
    """How many of the first `count` tokens of a text to take so that no character is cut in two."""
    count = min(count, len(ids))
    while 0 < count < len(ids) and tokenizer.decode(ids[:count]).endswith(BROKEN):
        count -= 1
    return count


def variety(tokens: Sequence[int]) -> dict[str, float]:
    """Different n-grams and all n-grams of a text, n up to 3; and how many of its 4-grams occurred in it before."""
    values: dict[str, float] = {}
    for n in (1, 2, 3, 4):
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        values[f"ngrams_{n}"] = len(grams)
        values["repeated_4grams" if n == 4 else f"distinct_{n}"] = (
            len(grams) - len(set(grams)) if n == 4 else len(set(grams))
        )
    return values


def judge_texts(judge: Checkpoint, pairs: Sequence[tuple[str, str]], batch_size: int) -> list[tuple[float, int]]:
    """For each (prompt, text): nats of the text after the prompt, and its tokens; each is encoded by itself.

    What is longer than the judge's context is read in windows that overlap by half: every token is scored once.
    """
    context, tokenizer = judge.model.config.max_length, judge.tokenizer
    scores = [(0.0, 0)] * len(pairs)
    rows: list[ScoredRow] = []  # numbered by the pair they are of
    for number, (prompt, text) in enumerate(pairs):
        before = [tokenizer.vocab.eos, *tokenizer.encode(prompt)]
        tokens = [*before, *tokenizer.encode(text)]
        scored = len(before)
        while scored < len(tokens):
            last = min(len(tokens), max(context, scored + context // 2))
            begin = max(0, last - context)
            rows.append(ScoredRow(tokens[begin:last], scored - begin, number))
            scored = last

    def score(part: tuple[list[int], TokenBatch]) -> tuple[list[float], list[int]]:
        nll = exact_nll(judge.model, part[1])
        return nll.mean.tolist(), nll.tokens.tolist()

    for (_, batch), (costs, counts) in parallel.shared_out(row_batches(judge, rows, batch_size), score):
        for number, nats, count in zip(batch.rows.tolist(), costs, counts, strict=True):
            scores[number] = (scores[number][0] + nats, scores[number][1] + count)
    return scores


def _canvas(subject: Subject, start: _Start, reached: int) -> int:
    """Places that were computed for a text: what was written, its last block to the end, or all that it had room for.

    Block diffusion counts its blocks from the start of the text, the token in front of the prompt included.
    """
    if isinstance(subject.decoding, Autoregressive):
        return reached
    if isinstance(subject.decoding, Block):
        size, before = subject.decoding.block_size, 1 + len(start.ids)
        return min(start.room, -(-(before + reached) // size) * size - before)
    return start.room


def _text(tokenizer: Tokenizer, tokens: Sequence[int], *, cut: bool) -> str:
    """The text of the tokens, without a character that was cut in two (up to three bytes of it are left)."""
    text = tokenizer.decode(tokens, specials=False)
    return re.sub(f"{BROKEN}{{1,3}}$", "", text) if cut else text


def _entropy(tokens: Sequence[int], name: str) -> dict[str, float]:
    """Nats of drawing a token of the text; a text without tokens has none."""
    shares = [count / len(tokens) for count in Counter(tokens).values()]
    return {name: sum(share * math.log(1 / share) for share in shares)} if shares else {}
