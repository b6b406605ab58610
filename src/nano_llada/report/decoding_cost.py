"""What decoding costs, as tables, a page and a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from nano_llada.config.model import ModelConfig
from nano_llada.core.device import environment
from nano_llada.evaluation.decoding_cost import Limits, PassCost, TextCost, break_even
from nano_llada.model.lean import Precision
from nano_llada.report.parts import Plot
from nano_llada.report.plots import COLOURS, MARKERS, canvas, plot_of

Table = tuple[str, list[list[str]]]  # a title, and headings with the rows under them


@dataclass(frozen=True)
class Bench:
    """What was measured of a model."""

    model: str
    config: ModelConfig
    machine: str
    limits: Limits
    passes: list[PassCost]
    texts: list[TextCost]

    @property
    def precisions(self) -> list[Precision]:
        """Types of the weights that were measured."""
        return list(dict.fromkeys(one.precision for one in self.passes))

    def rows(self) -> Iterator[dict[str, object]]:
        """A record of each measurement, and before them one of the model and the machine."""
        yield {"kind": "machine", "model": self.model, "shape": asdict(self.config), "device": self.machine} | {
            "bandwidth": self.limits.bandwidth,
            "products": self.limits.products,
            "environment": environment(),
        }
        yield from ({"kind": "pass"} | asdict(one) for one in self.passes)
        yield from ({"kind": "text"} | asdict(one) for one in self.texts)


def tables(bench: Bench) -> Iterator[Table]:
    """Passes and texts in each precision, and what a pass must write to pay."""
    for precision in bench.precisions:
        passes = {(one.batch, one.width): one for one in bench.passes if one.precision == precision}
        widths, batches = (sorted({key[i] for key in passes}) for i in (1, 0))
        rows = [["rows", *(f"width {width}" for width in widths)]]
        for batch in batches:
            cells = [passes[batch, width] for width in widths]
            rows.append([str(batch), *(f"{one.milliseconds:.2f} ({one.share_of_limit:.0%})" for one in cells)])
        yield f"{precision}: ms per pass (share of the machine's limit)", rows
    for precision in bench.precisions:
        texts = {(one.mode, one.batch): one for one in bench.texts if one.precision == precision}
        modes = list(dict.fromkeys(mode for mode, _ in texts))
        batches = sorted({batch for _, batch in texts})
        rows = [["mode", "tokens per pass", *("1 row" if batch == 1 else f"{batch} rows" for batch in batches)]]
        for mode in modes:
            rates = [f"{texts[mode, batch].tokens_per_second:.0f}" for batch in batches]
            rows.append([mode, f"{texts[mode, batches[0]].tokens_per_pass:.2f}", *rates])
        yield f"{precision}: tokens per second", rows
    for precision in bench.precisions:
        found = break_even(bench.passes, precision)
        rows = [["pass", "places", "tokens it must write", "at most"]]
        rows += [[one.what, str(one.width), f"{one.tokens_per_pass:.2f}", str(one.most)] for one in found]
        if found:
            yield f"{precision}: tokens that a pass must write to be as fast as a token at a time", rows


def conclusions(bench: Bench) -> list[str]:
    """What follows for this model on this machine, a sentence each."""
    limits = bench.limits
    found = [
        f"This machine reads {limits.bandwidth / 1e9:.1f} GB/s and multiplies at {limits.products / 1e9:.0f} GFLOP/s "
        f"({bench.machine})."
    ]
    single = {one.precision: one for one in bench.passes if (one.batch, one.width) == (1, 1)}
    for precision, one in single.items():
        found.append(
            f"{precision}: a pass over one token takes {one.milliseconds:.2f} ms, "
            f"{one.share_of_limit:.0%} of the speed that reading the weights allows."
        )
    for batch in sorted({one.batch for one in bench.texts}):
        best = max((one for one in bench.texts if one.batch == batch), key=lambda one: one.tokens_per_second)
        rows = "one row" if batch == 1 else f"{batch} rows"
        found.append(f"Fastest with {rows}: {best.mode}, {best.precision}, {best.tokens_per_second:.0f} tokens/s.")
    for precision in single:
        pays = [one for one in break_even(bench.passes, precision) if one.tokens_per_pass < one.most]
        blocks = [one for one in pays if one.what.startswith("a block")]
        drafts = [one for one in pays if one not in blocks]
        if drafts:
            costs = ", ".join(f"{one.what.split(', ')[1]}: {one.tokens_per_pass:.2f}" for one in drafts)
            found.append(f"{precision}: self-speculation pays above this many tokens per pass: {costs}.")
        if blocks:
            costs = ", ".join(f"{one.width}: {one.tokens_per_pass:.2f}" for one in blocks)
            found.append(f"{precision}: blocks pay above this many tokens per pass, by block size: {costs}.")
    return found


def plot(bench: Bench) -> Plot:
    """Time of a pass by its width, a line for each precision and batch."""
    figure, (axes,) = canvas()
    names = []
    for i, precision in enumerate(bench.precisions):
        for j, batch in enumerate(sorted({one.batch for one in bench.passes})):
            some = [one for one in bench.passes if (one.precision, one.batch) == (precision, batch)]
            names.append(f"{precision}, rows {batch}")
            looks = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[j % len(MARKERS)]}
            axes.plot([one.width for one in some], [one.milliseconds for one in some], label=names[-1], **looks)
    axes.set(xlabel="tokens of a row in a pass", ylabel="ms per pass", xscale="log", yscale="log")
    widths = sorted({one.width for one in bench.passes})
    axes.set_xticks(widths, [str(width) for width in widths])
    alt = "Milliseconds of a forward pass by width: " + "; ".join(names) + "."
    return plot_of(figure, "passes", "Time of a forward pass by its width.", alt)


def page(bench: Bench, picture: str, alt: str) -> str:
    """All of it in Markdown."""
    lines = [f"# Decoding speed of {bench.model}", "", f"![{alt}]({picture})", ""]
    for title, (head, *rows) in tables(bench):
        lines += [f"## {title}", "", _row(head), "|" + "---|" * len(head), *map(_row, rows), ""]
    return "\n".join([*lines, "## What follows", "", *(f"* {line}" for line in conclusions(bench)), ""])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
