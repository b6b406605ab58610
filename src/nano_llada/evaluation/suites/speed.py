"""Speed: tokens a second, tokens a forward pass, how long one text takes, and memory, for batches of several sizes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from nano_llada.config.checks import at_least
from nano_llada.core.device import cpu_name, peak_memory
from nano_llada.core.random import derive_seed
from nano_llada.decode.types import Completion, Request, Sampler, collect
from nano_llada.evaluation.items import Passage, passages
from nano_llada.evaluation.metric import Metric, Quantile, Ratio, separately
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suite import Subject, Suite
from nano_llada.evaluation.suites.generation import asked_questions
from nano_llada.evaluation.suites.quality import whole_start
from nano_llada.training import parallel

TIMED = 64  # questions of each language that speed is measured on, at most


def _machine() -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cpu_name()}, {torch.get_num_threads()} threads, {gpu}"


@dataclass(frozen=True)
class SpeedOptions:
    """Speed."""

    batch_sizes: tuple[int, ...] = (1, 8, 32)
    """Texts decoded at once, for speed."""


@dataclass(frozen=True)
class Speed(Suite):
    """How fast a model generates text. Only tokens up to the end of each text count, whatever else was computed.

    The prompts are user turns for a chat model, and starts of texts for a base model. A batch has one language and is
    always full: the last one is filled up with the first prompts. Latency is that of texts decoded one at a time; the
    first token counts as soon as it is written, even if a diffusion model has written later ones before.

    On a CPU, memory is the peak of the whole process so far: measure one model per process for a meaningful figure. On
    a GPU it is the peak of the batch.

    Raises:
        ValueError: if there are no prompts or batch sizes, or an option is out of range.
    """

    prompts: tuple[Passage, ...]
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    repeats: int = 3
    warm: int = 1
    """Batches of each size and language that are written before the clock starts."""
    prompt_tokens: int = 64
    """Longer prompts are cut to this many tokens."""
    machine: str = field(default_factory=_machine)
    """Where the clock runs: figures of another machine are another measurement."""
    clock: Callable[[], float] = time.perf_counter
    """Seconds since some moment."""

    name: ClassVar[str] = "speed"
    writes: ClassVar[bool] = True
    title: ClassVar[str] = "Speed"
    explanation: ClassVar[str] = "Compare only figures that were measured on one machine."
    metrics: ClassVar[tuple[Metric, ...]] = separately(
        Ratio("tokens_per_second", "tokens", "seconds", unit="tokens/s"),
        Ratio("tpf", "tokens", "forwards", unit="tokens/pass"),
        Quantile("latency_p50", "seconds_text", 0.5, scale=1000, unit="ms"),
        Quantile("latency_p95", "seconds_text", 0.95, scale=1000, unit="ms"),
        Quantile("first_p50", "first_seconds", 0.5, scale=1000, unit="ms"),
        Quantile("first_p95", "first_seconds", 0.95, scale=1000, unit="ms"),
        Quantile("memory_gb", "peak_memory_bytes", 1.0, "", 1e-9, unit="GB"),
    )
    meanings: ClassVar[Mapping[str, str]] = {
        "tokens_per_second": "tokens generated per second on the machine that measured it",
        "tpf": "tokens per forward pass",
        "latency_p50": "median time until a text decoded alone is complete; latency_p95: its 95th percentile",
        "first_p50": "median time until the first token or block of such a text; first_p95: its 95th percentile",
        "memory_gb": "peak memory",
    }
    Options: ClassVar[type] = SpeedOptions
    reads: ClassVar[tuple[str, ...]] = ("text", "skills", "questions")

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("there are no prompts")
        if not self.batch_sizes or min(self.batch_sizes) < 1 or len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise ValueError(f"batch_sizes must be different numbers of at least 1, got {self.batch_sizes}")
        at_least(self, 1, "repeats", "prompt_tokens")
        at_least(self, 0, "warm")

    @classmethod
    def build(cls, shared: SuiteOptions, own: SpeedOptions, context: int, device: torch.device | str) -> Speed:
        """On questions where there are some, evenly from all of them, or else on texts."""
        if shared.skills or shared.questions:
            asked = asked_questions(shared, cls.name)
            prompts = [Passage(q.prompt, q.language, q.task, q.item) for q in asked]
        else:
            prompts = list(passages(shared, cls.name))
        chosen: list[Passage] = []
        for language in dict.fromkeys(passage.language for passage in prompts):
            some = [passage for passage in prompts if passage.language == language]
            chosen += some[:: max(1, -(-len(some) // TIMED))]
        return cls(tuple(chosen), own.batch_sizes)

    def run(self, subject: Subject) -> Iterator[Record]:
        """A record a batch, small batches first.

        Raises:
            UserError: if prompts do not fit into the model's context, or several processes would compete.
        """
        parallel.refuse_several("the suite speed")
        sampler = subject.sampler()
        requests: dict[str, list[Request]] = {}
        for passage in self.prompts:
            requests.setdefault(passage.language, []).append(self._request(subject, passage))
        for size in sorted(self.batch_sizes):
            for language, some in requests.items():
                batches = full_batches(some, size)
                for number in range(self.warm):
                    self._write(sampler, batches[number % len(batches)])
                for repeat in range(self.repeats):
                    for number, batch in enumerate(batches):
                        values, texts = self._time(subject, sampler, batch)
                        item = f"{language}-{number}@{subject.checkpoint.tokenizer.hash[:6]}"  # repeats are one
                        yield subject.record(self, f"batch {size}", language, item, values, repeat=repeat, texts=texts)

    def _request(self, subject: Subject, passage: Passage) -> Request:
        tokenizer = subject.checkpoint.tokenizer
        ids = tokenizer.encode(passage.text)
        count = whole_start(tokenizer, ids, self.prompt_tokens)
        text = passage.text if count == len(ids) else tokenizer.decode(ids[:count])
        return Request(subject.encode_prompt(text), seed=derive_seed("speed", passage.file, passage.item))

    def _write(self, sampler: Sampler, batch: Sequence[Request]) -> list[Completion]:
        return collect(sampler.stream(batch), len(batch), sampler.ends, self.clock)

    def _time(self, subject: Subject, sampler: Sampler, batch: Sequence[Request]) -> tuple[dict[str, float], list[str]]:
        """Values of one batch, and what was written in it."""
        device = subject.checkpoint.model.embed.weight.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        begin = self.clock()
        done = self._write(sampler, batch)
        values: dict[str, float] = {
            "seconds": self.clock() - begin,
            "texts": len(done),
            "tokens": sum(len(completion.tokens) for completion in done),
            "forwards": sum(completion.forwards for completion in done),
        }
        if len(done) == 1:
            values |= {"seconds_text": done[0].seconds, "first_seconds": done[0].first_seconds}
        if not math.isnan(memory := peak_memory(device)):
            values["peak_memory_bytes"] = memory
        tokenizer = subject.checkpoint.tokenizer
        return values, [tokenizer.decode(completion.tokens, specials=False) for completion in done]


def full_batches(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """All requests in batches of `size`; the last is filled up from the first on."""
    starts = range(0, len(requests), size)
    return [[requests[(first + i) % len(requests)] for i in range(size)] for first in starts]
