"""How the plots of a report are drawn: one look, and SVG that a page in light or dark can hold."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from nano_llada.evaluation.figures import Way
from nano_llada.evaluation.page_parts import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

# told apart with any eyes, and on light and dark paper
COLOURS = ("#1f83c4", "#d55e00", "#0a9b73", "#c8649a", "#d39200", "#56b4e9", "#8c6bb1", "#999933")
MARKERS, LINES = "osD^vPX*", ("-", "--", ":", "-.")


def canvas(panels: int = 1, height: float = 4.0) -> tuple[Canvas, list[Any]]:
    """An empty figure and its axes, side by side."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(7.2, height), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False).flat)
    for each in axes:
        each.grid(alpha=0.3)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def style(ways: Sequence[Way], way: Way) -> dict[str, Any]:
    """The looks of a model (colour) and its decoder (line and marker), the same in all plots."""
    models = list(dict.fromkeys(model for model, _ in ways))
    decoders = dict.fromkeys(other for model, other in ways if model == way[0] and other)
    decoder = list(decoders).index(way[1]) if way[1] else 0
    number = models.index(way[0])
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[decoder % len(LINES)],
        "marker": MARKERS[(number + decoder) % len(MARKERS)],
    }


def label(text: str) -> str:
    """A name as matplotlib shows it: no formula, and never hidden for its first letter."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def legend(figure: Canvas, axes: Sequence[Any]) -> None:
    """The names of what is drawn, each once, above the plots."""
    named: dict[str, Any] = {}
    for each in axes:
        named |= {text: handle for handle, text in zip(*each.get_legend_handles_labels(), strict=True)}
    columns = max(1, min(len(named), 80 // (max(map(len, named), default=1) + 6)))
    figure.legend(list(named.values()), list(named), loc="outside upper left", ncols=columns, frameon=False)


def picture(figure: Canvas, name: str, caption: str, alt: str) -> Plot:
    """A figure as PNG, and as SVG that takes its colour from the page and knows no address."""
    import matplotlib

    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=110)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    opening, _, body = svg.getvalue().partition("<svg")[2].partition(">")
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = body.replace("#000000", "currentColor").replace("xlink:href=", "href=")
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)  # several pictures stand in a page
    box = re.search(r'viewBox="[^"]*"', opening)
    head = f'<svg role="img" aria-label="{escape(alt)}" {box[0] if box else ""}>'
    return Plot(name, caption, alt, head + body.strip(), png.getvalue())
