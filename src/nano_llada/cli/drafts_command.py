"""`nano-llada drafts`: how many tokens a tri-mode model should draft in a pass, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from nano_llada.cli import stdin
from nano_llada.cli.options import WRITING, parse
from nano_llada.config.checks import Range, Threads, check_numbers
from nano_llada.config.decoding import DecodingOptions, Speculative, decoding_for
from nano_llada.core.errors import UserError


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoint: Path
    """Run folder or checkpoint folder of a tri-mode model."""
    prompt: tuple[str, ...] = ()
    """Texts to continue or questions to answer, such as the model will be given; default: the lines of standard
    input."""
    most: Annotated[int, Range(1, 16)] = 4
    """The largest number of drafts to try."""
    out: Path | None = None
    """Folder to write the model to, with the best number in its card; it must not exist yet. Default: only print."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """CPU threads; default: PyTorch's choice."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    """How to write."""

    def __post_init__(self) -> None:
        check_numbers(self)


SHOWN = {"options": "most out device threads", "writing": WRITING["writing"]}


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="drafts",
        about="Measure how many tokens a tri-mode model should draft in a pass: tokens per pass against its cost.",
        leading=("checkpoint", "prompt"),
        shown=SHOWN,
        hidden=("decode", "drafts"),
    )
    if options.decoding.drafts is not None or options.decoding.decode is not None:
        raise UserError("drafts and decode have no effect here: numbers of drafts up to --most are measured")
    prompts = options.prompt or tuple(stdin.prompts())
    if not prompts:
        raise UserError("no prompt: give some after the run, or lines on standard input")
    from nano_llada.cli.tables import print_table
    from nano_llada.core.device import choose_machine, use_threads
    from nano_llada.decode.types import Request
    from nano_llada.evaluation.drafting import best_drafts, draft_costs
    from nano_llada.language_model import LanguageModel

    use_threads(options.threads)
    if options.out is not None and options.out.exists():
        raise UserError(f"{options.out} exists already; give the name of a new folder")
    writer = LanguageModel.load(options.checkpoint, choose_machine(options.device).device)
    decoding = decoding_for(writer.card, replace(options.decoding, decode="speculative"), default_length=64)
    assert isinstance(decoding, Speculative)
    requests = [Request(writer.encode(prompt, chat=writer.card.answers), seed=i) for i, prompt in enumerate(prompts)]
    costs = draft_costs(writer.model, writer.tokenizer.vocab, requests, decoding, range(options.most + 1))
    rows = [
        [str(one.drafts), f"{one.tokens_per_pass:.2f}", f"{one.pass_milliseconds:.2f}", f"{one.rate:.0f}"]
        for one in costs
    ]
    print_table([["drafts", "tokens per pass", "ms per pass", "tokens/s"], *rows])
    best = best_drafts(costs)
    print(f"best: {best} drafts, {costs[best].rate / costs[0].rate:.2f} times the tokens/s of none")
    if options.out is not None:
        LanguageModel(replace(writer.checkpoint, card=replace(writer.card, drafts=best))).save(options.out)
        print(f"the model is in {options.out}; it drafts {best} tokens by default")
    return 0
