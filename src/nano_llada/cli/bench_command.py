"""`nano-llada bench decode`: what decoding costs on this machine, beside its limits, and what follows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from nano_llada.cli.default_model import DEFAULT
from nano_llada.cli.options import choose_word, parse
from nano_llada.config.checks import Range, Threads, Tokens, check_numbers
from nano_llada.core.errors import UserError

if TYPE_CHECKING:
    from nano_llada.evaluation.decoding_cost import Plan

WORDS = {"decode": "time forward passes and texts of a model, beside the limits of the machine"}
PROMPTS = ("Once upon a time", "从前", "Tom has", "今天")
RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoint: Path = DEFAULT
    """Run folder or checkpoint folder, or the name of a bundled model; one in eight bits, too."""
    out: Path | None = None
    """Folder for results.jsonl, a page in Markdown and a plot; it must not exist yet. Default: only print."""
    quick: bool = False
    """Fewer widths and batches, shorter texts: to see the command at work. The figures are rougher."""
    precisions: tuple[Literal["fp32", "bf16", "int8"], ...] = ("fp32", "int8")
    """Types of the weights: fp32, bf16 (where the processor has units for it), int8."""
    prompt: tuple[str, ...] = PROMPTS
    """Texts to continue or questions to answer. How many tokens a pass writes depends on them."""
    max_new_tokens: Tokens | None = None
    """Tokens of each text; default 64, or 16 with --quick."""
    seconds: Annotated[float, Range(0, 60)] | None = None
    """Time to spend on each kind of pass; default 0.3, or 0.05 with --quick."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps, or auto."""
    threads: Threads | None = None
    """CPU threads; default: PyTorch's choice."""

    def __post_init__(self) -> None:
        check_numbers(self)

    def plan(self) -> Plan:
        """What is measured."""
        from nano_llada.evaluation.decoding_cost import Plan

        usual = Plan(widths=(1, 4, 32), batches=(1, 4), drafts=(2,), new=16, seconds=0.05) if self.quick else Plan()
        return Plan(
            tuple(dict.fromkeys(self.precisions)),
            usual.widths,
            usual.batches,
            usual.drafts,
            self.max_new_tokens or usual.new,
            usual.held,
            usual.seconds if self.seconds is None else self.seconds,
        )


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    _, rest = choose_word(arguments, WORDS, "bench")
    options = parse(
        Options,
        rest,
        command="bench decode",
        about="Time forward passes by width and batch, and texts in every way the model decodes, beside the limits of "
        "the machine.",
        leading="checkpoint",
    )
    if not options.precisions:
        raise UserError("precisions is empty: give fp32, bf16 or int8")
    if options.out is not None and options.out.exists():
        raise UserError(f"{options.out} exists already; give the name of a new folder")
    from nano_llada.api import load
    from nano_llada.cli.tables import print_table
    from nano_llada.core.device import choose_machine, keep_freed_memory, use_threads
    from nano_llada.core.progress import Progress
    from nano_llada.evaluation.decoding_cost import measure_limits, pass_costs, text_costs, ways
    from nano_llada.report.decoding_cost import Bench, conclusions, page, plot, tables

    use_threads(options.threads)
    keep_freed_memory()
    machine, plan = choose_machine(options.device), options.plan()
    model = load(options.checkpoint, str(machine.device))
    decodings = ways(model.card, plan, model.model.config.max_length)
    prompts = [model.encode(text, chat=model.card.answers) for text in options.prompt]
    limits = measure_limits(machine, max(plan.seconds, 0.05))
    count = len(plan.precisions) * len(plan.batches)
    progress = Progress("measuring", "cases", lambda: count * (len(plan.widths) + len(decodings)))
    bench = Bench(str(options.checkpoint), model.model.config, machine.name, limits, [], [])
    for one in pass_costs(model.model, plan, limits):
        bench.passes.append(one)
        progress(len(bench.passes))
    for text in text_costs(model.model, model.tokenizer.vocab, decodings, prompts, plan):
        bench.texts.append(text)
        progress(len(bench.passes) + len(bench.texts))
    for title, rows in tables(bench):
        print_table(rows, title=title)
    print("\n".join(conclusions(bench)))
    if options.out is not None:
        options.out.mkdir(parents=True)
        lines = [json.dumps(row, ensure_ascii=False) for row in bench.rows()]
        (options.out / RESULTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        picture = plot(bench)
        (options.out / "passes.png").write_bytes(picture.png)
        (options.out / "README.md").write_text(page(bench, "passes.png", picture.alt), encoding="utf-8")
        print(f"results, plot and page are in {options.out}")
    return 0
