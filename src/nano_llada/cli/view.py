"""The denoising as it happens: a canvas in the terminal that fills in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.live import Live
from rich.text import Text

from nano_llada.core.terminal import visible
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.types import Cell, Event, Trace

HIDDEN = "░"
BROKEN = "\N{REPLACEMENT CHARACTER}"  # what the bytes of an incomplete character decode to


class Canvas:
    """The answer of one request as far as it is written."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._trace = tokenizer, Trace()
        self._before: list[tuple[str, bool]] = []
        self.edits: list[tuple[str, str]] = []  # of the last pass, text before and now

    def apply(self, event: Event) -> None:
        """Take over a forward pass."""
        self._before = self.segments()
        self._trace.apply(event)
        decode = self._tokenizer.decode
        self.edits = [(visible(decode([before])), visible(decode([now]))) for _, before, now in event.changes]

    @property
    def changed(self) -> bool:
        """Whether the last pass changed anything that is seen."""
        return bool(self.edits) or _text(self._before) != self.plain()

    def segments(self) -> list[tuple[str, bool]]:
        """Text and whether the last pass wrote it. Nothing behind the end or the last written token is shown.

        A masked token is one mark; and so are the bytes of a character of which something is still masked.
        """
        out: list[tuple[str, bool]] = []
        run: list[Cell] = []
        for cell in self._trace.cells:
            if cell.token in self._tokenizer.vocab.ends:
                break
            if cell.token is None:
                out += [*self._spans(run), (HIDDEN, False)]
                run = []
            else:
                run.append(cell)
        out += self._spans(run)
        while out and out[-1][0] == HIDDEN:
            out.pop()
        return out

    def _spans(self, run: list[Cell]) -> list[tuple[str, bool]]:
        """Written neighbours as text, cut only between characters."""
        out: list[tuple[str, bool]] = []
        piece: list[Cell] = []
        for cell in run:
            piece.append(cell)
            text = self._decode(piece)
            if text.endswith(BROKEN) and cell is not run[-1]:
                continue
            if self._trace.finish_reason is None:
                text = text.replace(BROKEN, HIDDEN)
            out.append((visible(text), any(cell.forward == self._trace.forwards - 1 for cell in piece)))
            piece = []
        return out

    def _decode(self, piece: list[Cell]) -> str:
        return self._tokenizer.decode([cell.token for cell in piece if cell.token is not None])

    def text(self) -> Text:
        """The canvas with what was just written set off."""
        text = Text()
        for piece, fresh in self.segments():
            text.append(piece, style="bold green" if fresh else "dim" if piece == HIDDEN else "")
        return text

    def plain(self) -> str:
        """The canvas as plain text."""
        return _text(self.segments())


def watch(steps: Iterable[list[Event]], tokenizer: Tokenizer, console: Console) -> Iterator[list[Event]]:
    """Pass a stream of one request through, drawing it: in place on a terminal, else a line a forward pass."""
    canvas = Canvas(tokenizer)
    if not console.is_terminal:
        yield from _lines(steps, canvas, console)
        return
    with Live(console=console, refresh_per_second=20, transient=True) as live:
        for events in steps:
            for event in events:
                canvas.apply(event)
            live.update(canvas.text())
            yield events


def _lines(steps: Iterable[list[Event]], canvas: Canvas, console: Console) -> Iterator[list[Event]]:
    """A line for each pass in which something was seen, and one for each stretch of others."""
    unseen: list[int] = []

    def skipped() -> None:
        if unseen:
            passes = f"pass {unseen[0]}" if len(unseen) == 1 else f"passes {unseen[0]}-{unseen[-1]}"
            console.print(f"{passes}: nothing visible", highlight=False, markup=False, soft_wrap=True)
            unseen.clear()

    for number, events in enumerate(steps, 1):
        for event in events:
            canvas.apply(event)
        if canvas.changed:
            skipped()
            edits = "".join(f"  [{before} -> {now}]" for before, now in canvas.edits)
            console.print(f"{number:>4}  {canvas.plain()}{edits}", highlight=False, markup=False, soft_wrap=True)
        else:
            unseen.append(number)
        yield events
    skipped()


def _text(segments: list[tuple[str, bool]]) -> str:
    return "".join(piece for piece, _ in segments)
