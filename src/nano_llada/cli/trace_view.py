"""A saved trace on a terminal: in place, or a line for each pass."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from nano_llada.core.errors import UserError
from nano_llada.core.terminal import visible
from nano_llada.serve.trace import Place, SavedTrace, Writing, passes, spelled

HIDDEN, PART = "░", "◌"
UNSURE = 0.7  # below it a token is shown as one the model was unsure of


def show_trace(trace: SavedTrace, console: Console, speed: float, at: int | None = None) -> None:
    """Print all passes, `speed` a second on a terminal, or the text after pass `at` only.

    Raises:
        UserError: if there is no such pass.
    """
    _print_head(trace, console)
    if at is not None:
        _print(console, _shown(_at(trace, at), trace, last=False))
    elif console.is_terminal and trace.frames:
        _play(trace, console, speed)
    else:
        _list(trace, console)
    _print_figures(trace, console)


def _print(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=not console.is_terminal)


def _print_head(trace: SavedTrace, console: Console) -> None:
    about = " · ".join(visible(word) for word in (trace.model, trace.kind, trace.created[:10]) if word)
    options = ", ".join(f"{visible(name)} {visible(str(value))}" for name, value in trace.decoding.items())
    for line, style in ((about, "bold"), (options, "dim"), (visible(trace.prompt), "italic")):
        if line:
            _print(console, Text(line, style=style))


def _last(trace: SavedTrace) -> int:
    return trace.frames[-1].number if trace.frames else 0


def _at(trace: SavedTrace, number: int) -> Writing:
    """The text after a pass. Raises UserError if there is none with this number."""
    if number > _last(trace):
        raise UserError(f"--at {number}: the last pass is {_last(trace)}")
    found = Writing(trace.ends)
    for frame in trace.frames:
        if frame.number > number:
            break
        found.apply(frame)
    return found


def _play(trace: SavedTrace, console: Console, speed: float) -> None:
    """The passes in place, and in the end the text."""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for writing in passes(trace):
            live.update(_shown(writing, trace, last=False), refresh=True)
            time.sleep(1 / speed)
    _print(console, _shown(_at(trace, _last(trace)), trace, last=True))


def _list(trace: SavedTrace, console: Console) -> None:
    """A line for each pass."""
    for i, writing in enumerate(passes(trace)):
        changed = [
            f"  [{visible(place.earlier[-1])} -> {visible(place.token.text or '')}]"
            for place in writing.shown
            if place.number == writing.number and place.earlier and place.token is not None
        ]
        shown = _shown(writing, trace, last=i == len(trace.frames) - 1).plain.replace("\n", "⏎")
        _print(console, Text(f"{writing.number:>4}  {shown}{''.join(changed)}"))


def _shown(writing: Writing, trace: SavedTrace, *, last: bool) -> Text:
    """The text of a pass: fresh tokens green, unsure ones yellow, changed ones underlined, masks as boxes."""
    places = writing.shown
    text = Text(visible(trace.before), style="")
    for place, spelling in zip(places, spelled(places, trace.text if last else ""), strict=True):
        if spelling is None:
            text.append(HIDDEN, style="dim")
        else:
            text.append(
                visible(spelling.replace("\N{REPLACEMENT CHARACTER}", PART)), style=_style(place, writing.number)
            )
    return text.append(visible(trace.after))


def _style(place: Place, number: int) -> str:
    if place.given or place.token is None:
        return ""
    styles = ["bold green"] if place.number == number else []
    if place.token.confidence is not None and place.token.confidence < UNSURE:
        styles = ["yellow"]
    return " ".join([*styles, *(["underline"] if place.earlier else [])])


def _print_figures(trace: SavedTrace, console: Console) -> None:
    final = _at(trace, _last(trace))
    number, written = final.number, final.written
    words = [_counted(written, "token", "tokens"), _counted(number, "pass", "passes")]
    if number:
        words.append(f"{written / number:.2f} tokens per pass")
    if final.edits:
        words.append(_counted(final.edits, "edit", "edits"))
    if trace.seconds:
        words.append(f"{written / trace.seconds:.0f} tokens/s")
    if trace.finish_reason:
        words.append(visible(trace.finish_reason))
    _print(console, Text(" · ".join(words), style="dim"))


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
