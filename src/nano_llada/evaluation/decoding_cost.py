"""What decoding costs on a machine: passes by width and batch, texts by mode and batch, beside the machine's limits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import torch

from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Decoding, DecodingOptions, Speculative, decoding_for
from nano_llada.config.model import ModelConfig
from nano_llada.core.batch import Vocabulary
from nano_llada.core.device import Machine, matmul_rate, synchronize
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.lean import LeanPasses
from nano_llada.decode.types import Request, collect
from nano_llada.model.lean import LeanModel, Precision, full
from nano_llada.model.transformer import Transformer

BUFFER = 2**26  # float32 numbers that are read to measure the bandwidth: more than caches hold
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}  # of a weight
FEWEST = 3  # measurements of which a median is taken


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    precisions: Sequence[Precision] = ("fp32", "int8")
    widths: Sequence[int] = (1, 2, 4, 8, 16, 32)  # tokens of a row that a pass computes
    batches: Sequence[int] = (1, 4, 16, 32)  # rows of a pass
    drafts: Sequence[int] = (1, 2, 4)  # of self-speculation
    new: int = 64  # tokens of a text
    held: int = 64  # tokens of each row before a pass
    seconds: float = 0.3  # to spend on each kind of pass


@dataclass(frozen=True)
class Limits:
    """What the machine can do."""

    bandwidth: float  # bytes read per second
    products: float  # floating-point operations per second of matrix products

    def seconds(self, config: ModelConfig, tokens: int, precision: Precision) -> float:
        """Least time of a pass over so many tokens: to read all weights once, or to multiply, whichever is longer."""
        weights = config.num_layers * config.block_parameters + config.vocab_size * config.hidden_size
        return max(weights * BYTES[precision] / self.bandwidth, 2.0 * weights * tokens / self.products)


def measure_limits(machine: Machine, seconds: float = 0.3) -> Limits:
    """Read a large buffer, and multiply large matrices; the best of several tries."""
    buffer, times = torch.ones(BUFFER, device=machine.device), [float("inf")]
    buffer.sum()
    while len(times) <= FEWEST or sum(times[1:]) < seconds:
        synchronize(machine.device)
        begin = time.perf_counter()
        buffer.sum()
        synchronize(machine.device)
        times.append(time.perf_counter() - begin)
    return Limits(BUFFER * 4 / min(times), matmul_rate(replace(machine, dtype=torch.float32), seconds))


@dataclass(frozen=True)
class PassCost:
    """A forward pass over `width` tokens in each of `batch` rows, all of whose logits are read."""

    precision: Precision
    batch: int
    width: int
    milliseconds: float
    share_of_limit: float  # the least possible time over the measured one


@dataclass(frozen=True)
class TextCost:
    """Texts written together, in one way."""

    precision: Precision
    mode: str
    batch: int
    tokens_per_second: float
    tokens_per_pass: float  # of one text


def ways(card: ModelCard, plan: Plan, context: int) -> dict[str, Decoding]:
    """Every way in which a model can be decoded, by name; texts have the same length whatever they say."""
    length = max(1, min(plan.new, context // 2))
    exact = DecodingOptions(max_new_tokens=length, min_new_tokens=length)
    found: dict[str, Decoding] = {way: decoding_for(card, replace(exact, decode=way)) for way in card.decodes}
    quick = found.pop("speculative", None)
    if isinstance(quick, Speculative):
        found |= {f"speculative, {count} drafts": replace(quick, drafts=count) for count in plan.drafts}
    return found or {"canvas": decoding_for(card, exact)}


def pass_costs(model: Transformer, plan: Plan, limits: Limits) -> Iterator[PassCost]:
    """Time passes in every precision, batch and width of a plan."""
    for precision, batch, width in product(plan.precisions, plan.batches, plan.widths):
        lean = LeanPasses(precision).prepared(model)
        seconds = _pass_seconds(lean, batch, width, plan)
        least = limits.seconds(model.config, batch * width, precision)
        yield PassCost(precision, batch, width, 1e3 * seconds, least / seconds)


def text_costs(
    model: Transformer,
    vocab: Vocabulary,
    decodings: Mapping[str, Decoding],
    prompts: Sequence[Sequence[int]],
    plan: Plan,
) -> Iterator[TextCost]:
    """Time texts in every precision, way and batch of a plan. Rows continue the prompts in turn."""
    for precision, (mode, decoding), batch in product(plan.precisions, decodings.items(), plan.batches):
        sampler = BatchSampler(model, vocab, decoding, backend=LeanPasses(precision))
        requests = [Request(tuple(prompts[i % len(prompts)]), seed=i) for i in range(batch)]
        collect(sampler.stream(requests[:1]), 1, vocab.ends)  # warm up
        begin = time.perf_counter()
        done = collect(sampler.stream(requests), batch, vocab.ends)
        seconds = time.perf_counter() - begin
        tokens = sum(len(one.tokens) + (one.end is not None) for one in done)
        yield TextCost(precision, mode, batch, tokens / seconds, tokens / sum(one.forwards for one in done))


def _pass_seconds(lean: LeanModel, batch: int, width: int, plan: Plan) -> float:
    """Median time of a pass over masks that see each other and what is held."""
    held = max(0, min(plan.held, lean.config.max_length - width))
    store, tokens = lean.new_store(batch, held + width), [0] * width
    windows = [full(row, held, tokens, range(width)) for row in range(batch)]
    lean.forward(windows, store)  # warm up
    times: list[float] = []
    while len(times) < FEWEST or sum(times) < plan.seconds:
        synchronize(lean.device)
        begin = time.perf_counter()
        lean.forward(windows, store)
        synchronize(lean.device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def cost_at(passes: Sequence[PassCost], precision: Precision, width: int) -> float | None:
    """Milliseconds of a pass of one row, between measured widths on a straight line; None beyond them."""
    known = sorted((one.width, one.milliseconds) for one in passes if (one.precision, one.batch) == (precision, 1))
    for (low, cheap), (high, dear) in pairwise(known):
        if low <= width <= high:
            return cheap + (dear - cheap) * (width - low) / (high - low)
    return None


@dataclass(frozen=True)
class BreakEven:
    """How many tokens a pass must write to be no slower than a token at a time."""

    precision: Precision
    what: str
    width: int
    tokens_per_pass: float
    most: int  # tokens that such a pass can write


def break_even(
    passes: Sequence[PassCost], precision: Precision, drafts: Sequence[int] = (1, 2, 3, 4)
) -> list[BreakEven]:
    """For self-speculation with k drafts, whose pass computes (k + 1)^2 places, and for blocks of each width."""
    single = cost_at(passes, precision, 1)
    if single is None:
        return []
    widths = sorted({one.width for one in passes if one.precision == precision and one.width > 1})
    asked = [(f"self-speculation, k = {k}", (k + 1) ** 2, k + 1) for k in drafts]
    asked += [(f"a block of {width}", width, width) for width in widths]
    found = [(what, width, most, cost_at(passes, precision, width)) for what, width, most in asked]
    return [
        BreakEven(precision, what, width, cost / single, most) for what, width, most, cost in found if cost is not None
    ]
