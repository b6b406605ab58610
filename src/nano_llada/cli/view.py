"""The denoising as it happens: a canvas in the terminal that fills in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.live import Live
from rich.text import Text

from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.types import Write

HIDDEN = "░"


class Canvas:
    """The answer of one request as far as it stands."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: dict[int, int] = {}
        self._fresh: frozenset[int] = frozenset()
        self.edits: list[tuple[str, str]] = []  # of the last pass, text before and now

    def apply(self, write: Write) -> None:
        """Take over what a forward pass wrote."""
        self._tokens |= dict(zip(write.places, write.tokens, strict=True))
        self._tokens |= {place: token for place, _, token in write.edited}
        self._fresh = frozenset((*write.places, *(place for place, _, _ in write.edited)))
        decode = self._tokenizer.decode
        self.edits = [(decode([before]), decode([now])) for _, before, now in write.edited]

    def segments(self) -> list[tuple[str, bool]]:
        """Text and whether it was just written; a gap shows one mark a hidden token. Nothing after the end is shown."""
        ends = self._tokenizer.vocab.ends
        out: list[tuple[str, bool]] = []
        run: list[int] = []
        fresh = False
        for place in range(max(self._tokens, default=-1) + 1):
            token = self._tokens.get(place)
            now = place in self._fresh
            if run and (token is None or now != fresh or token in ends):
                out.append((self._tokenizer.decode(run), fresh))
                run = []
            if token in ends:
                break
            if token is None:
                out.append((HIDDEN, False))
            else:
                run.append(token)
                fresh = now
        if run:
            out.append((self._tokenizer.decode(run), fresh))
        return out

    def text(self) -> Text:
        """The canvas with what was just written set off."""
        text = Text()
        for piece, fresh in self.segments():
            text.append(piece, style="bold green" if fresh else "dim" if piece == HIDDEN else "")
        return text

    def plain(self) -> str:
        """The canvas as plain text."""
        return "".join(piece for piece, _ in self.segments())


def watch(steps: Iterable[list[Write]], tokenizer: Tokenizer, console: Console) -> Iterator[list[Write]]:
    """Pass a stream of one request through, drawing it: in place on a terminal, else a line a forward pass."""
    canvas = Canvas(tokenizer)
    if not console.is_terminal:
        for number, writes in enumerate(steps, 1):
            for write in writes:
                canvas.apply(write)
            edits = "".join(f"  [{before} -> {now}]" for before, now in canvas.edits)
            console.print(f"{number:>4}  {canvas.plain()}{edits}", highlight=False, markup=False, soft_wrap=True)
            yield writes
        return
    with Live(console=console, refresh_per_second=20, transient=True) as live:
        for writes in steps:
            for write in writes:
                canvas.apply(write)
            live.update(canvas.text())
            yield writes
