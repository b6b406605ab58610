"""Is block diffusion faster than left to right? Both decoders with their caches, in turns, on the same questions."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from experiments import llada2_ablation
from experiments.block_speed_report import write_report
from experiments.grid import Cell, run_grid
from experiments.options import BlockSpeed, Llada2Ablation
from experiments.shared_questions import Shares, told
from nano_llada.checkpoint.files import Checkpoint, load_checkpoint
from nano_llada.config.decoding import Autoregressive, Block
from nano_llada.config.objectives import BlockSizeSchedule, Denoising
from nano_llada.config.run import RunConfig
from nano_llada.core import device as hardware
from nano_llada.core.errors import UserError
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.types import Completion, Request, Sampler, collect
from nano_llada.demo.run import held_out_questions
from nano_llada.evaluation.answers import Answer, exact_match
from nano_llada.language_model import make_sampler
from nano_llada.session.run import complete
from nano_llada.world import Example, verify

NAME = "block-speed"
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
BATCH_SIZES = (1, 16)
SIZES = (32, 16, 8, 4)  # of blocks
SEED = 0  # of the models


@dataclass(frozen=True)
class Exam:
    """Questions by the length of their prompts, so that a batch holds similar ones, and the prompts as tokens."""

    tokenizer: Tokenizer
    questions: list[Example]
    requests: list[Request]

    @classmethod
    def of(cls, tokenizer: Tokenizer, questions: Sequence[Example]) -> Exam:
        """Put questions into order."""
        prompts = [tuple(encode_prompt(tokenizer, [Message("user", question.prompt)])) for question in questions]
        order = sorted(range(len(questions)), key=lambda i: len(prompts[i]))
        return cls(tokenizer, [questions[i] for i in order], [Request(prompts[i]) for i in order])

    def answers(self, completions: Sequence[Completion]) -> list[Answer]:
        """What was written for each question, and whether it is right."""
        texts = [self.tokenizer.decode(completion.tokens, specials=False) for completion in completions]
        return [
            Answer(question, text, verify(question.verifier, text), completion)
            for question, text, completion in zip(self.questions, texts, completions, strict=True)
        ]


@dataclass(frozen=True)
class Round:
    """All questions answered once by one decoder."""

    completions: list[Completion]
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens a second; those up to the end count."""
        return sum(len(completion.tokens) for completion in self.completions) / self.seconds

    @property
    def tokens_per_forward(self) -> float:
        """Tokens up to the end over forward passes, of each answer by itself."""
        forwards = sum(completion.forwards for completion in self.completions)
        return sum(len(completion.tokens) for completion in self.completions) / forwards


def run(options: BlockSpeed) -> bool:
    """Make or go on with the experiment; True when it is complete.

    Raises:
        UserError: for numbers of which nothing can be made.
    """
    if options.repeats < 1:
        raise UserError(f"repeats must be at least 1, got {options.repeats}")
    if options.threads:
        torch.set_num_threads(options.threads)
    hardware.keep_freed_memory()
    autoregressive, in_blocks = stages(options)
    if not complete([*autoregressive, *in_blocks]):
        return False
    if options.train_only:
        return True
    ar = load_checkpoint(autoregressive[-1].folder, prefer="last")
    blocks = {size: load_checkpoint(_folder(options, size), prefer="last") for size in sorted(SIZES)}
    exam = Exam.of(ar.tokenizer, held_out_questions(llada2_ablation.SKILLS, options.items))
    cells = []
    for batch, size, threshold in itertools.product(BATCH_SIZES, blocks, THRESHOLDS):
        decoding = Block(llada2_ablation.ANSWER, block_size=size, threshold=threshold)
        measure = functools.partial(_measure, exam, ar, blocks[size], decoding, batch, options.repeats)
        cells.append(Cell(f"block-{size}-threshold-{threshold:g}-batch-{batch}", SEED, measure))
    command = (
        f"nano-llada experiment {NAME} --steps {options.steps} --ar-steps {options.ar_steps} "
        f"--items {options.items} --repeats {options.repeats} --threads {torch.get_num_threads()}"
    )
    results = run_grid(NAME, cells, options.docs / NAME, command)
    if results is None:
        return False
    write_report(results, options.docs / NAME, len(exam.questions), options)
    return True


def stages(options: BlockSpeed) -> tuple[list[RunConfig], list[RunConfig]]:
    """The runs that end in the AR model, and those that end in the block models.

    Both go on from the ablation's fine-tuned models of the first seed, until neither gets much better: the AR model in
    fewer steps. The model with blocks of 32 is then taught each size.
    """
    base = llada2_ablation.stages(Llada2Ablation(runs=options.models), llada2_ablation.VARIANTS[0], SEED)
    ar = _longer(options, base[1], "ar", options.ar_steps)
    first = _longer(options, base[3], "blocks", options.steps)
    sizes = []
    for size in SIZES:
        objective = replace(cast(Denoising, first.objective), blocks=BlockSizeSchedule(size))
        last = _longer(options, first, f"block-{size}", max(1, options.steps // 6))
        sizes.append(replace(last, objective=objective))
    return [*base[:2], ar], [*base, first, *sizes]


def _longer(options: BlockSpeed, start: RunConfig, name: str, steps: int) -> RunConfig:
    train = replace(start.train, steps=steps, eval_every=max(1, steps // 6), threads=options.threads)
    train = replace(train, keep_best=0, merge_best=0)
    return replace(start, name=name, runs=options.runs, init_from=start.folder, train=train)


def _folder(options: BlockSpeed, size: int) -> Path:
    return options.runs / f"block-{size}"


def _measure(
    exam: Exam, ar: Checkpoint, block: Checkpoint, decoding: Block, batch_size: int, repeats: int
) -> Mapping[str, Any]:
    """Both decoders in turns; speeds are those of the repeat whose ratio is in the middle."""
    vocab = exam.tokenizer.vocab
    left_to_right = make_sampler(ar.model, vocab, Autoregressive(decoding.max_new_tokens))
    in_blocks = make_sampler(block.model, vocab, decoding)
    rounds = take_turns(left_to_right, in_blocks, exam.requests, batch_size, repeats)
    if not all(theirs.rate for theirs, _ in rounds):
        raise UserError(f"the AR model {ar.folder} answers every question with nothing: train it for longer")
    by_ratio = sorted(rounds, key=lambda pair: pair[1].rate / pair[0].rate)
    theirs, ours = by_ratio[(len(by_ratio) - 1) // 2]
    right_ar, right = (exam.answers(turn.completions) for turn in (theirs, ours))
    low, high = Shares.of([told(right)]).less(Shares.of([told(right_ar)])).interval
    return {
        "tokens_per_second": ours.rate,
        "tokens_per_second_ar": theirs.rate,
        "ratio_low": by_ratio[0][1].rate / by_ratio[0][0].rate,
        "ratio_high": by_ratio[-1][1].rate / by_ratio[-1][0].rate,
        "exact_match": exact_match(right),
        "exact_match_ar": exact_match(right_ar),
        "difference_low": low,
        "difference_high": high,
        "tpf": ours.tokens_per_forward,
        "threshold": decoding.threshold,
        "block_size": decoding.block_size,
        "batch_size": batch_size,
    }


def take_turns(
    first: Sampler, second: Sampler, requests: Sequence[Request], batch_size: int, repeats: int
) -> list[tuple[Round, Round]]:
    """All requests with the one, then with the other, and again; after one batch each to warm up."""
    for sampler in (first, second):
        answer_all(sampler, requests[:batch_size], batch_size)
    return [(answer_all(first, requests, batch_size), answer_all(second, requests, batch_size)) for _ in range(repeats)]


def answer_all(sampler: Sampler, requests: Sequence[Request], batch_size: int) -> Round:
    """Write requests in batches, against the clock."""
    completions: list[Completion] = []
    begin = time.perf_counter()
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        completions += collect(sampler.stream(batch), len(batch), sampler.ends)
    return Round(completions, time.perf_counter() - begin)
