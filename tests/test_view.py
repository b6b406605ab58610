"""What a terminal shows of a text while it is written."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nano_llada.cli.view import Canvas, watch
from nano_llada.core.terminal import visible
from nano_llada.data.tokenizer import Tokenizer, train_bpe
from nano_llada.decode.types import Edit, Event
from planted import wrote


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Bytes only: a Chinese character is three tokens."""
    return train_bpe(["x"], vocab_size=300)


def opened(count: int) -> Event:
    return Event(0, (Edit(0, (), (None,) * count, final=False),), 1)


def lines(steps, tokenizer) -> list[str]:
    out = io.StringIO()
    list(watch([[event] for event in steps], tokenizer, Console(file=out, width=80)))
    return out.getvalue().splitlines()


def test_a_character_of_several_tokens_is_shown_when_it_is_whole(tokenizer):
    ids = tokenizer.encode("a汤b姆")
    assert len(ids) == 8
    canvas, seen = Canvas(tokenizer), []
    canvas.apply(opened(9))
    order = [1, 0, 3, 2, 4, 7, 5, 6, 8]
    for number, place in enumerate(order, 1):
        token = tokenizer.vocab.turn_end if place == 8 else ids[place]
        canvas.apply(wrote(0, (place,), (token,), last=number == 9, forwards=number))
        seen.append(canvas.segments())
    assert all("\ufffd" not in piece for segments in seen for piece, _ in segments)
    assert seen[3] == [("a", False), ("汤", True)]  # its last token was written now
    assert canvas.plain() == "a汤b姆"
    assert "".join(piece for piece, _ in seen[5]).startswith("a汤b")


def test_what_stays_broken_is_shown_as_such_in_the_end(tokenizer):
    ids = tokenizer.encode("汤")[:2]
    canvas = Canvas(tokenizer)
    canvas.apply(wrote(0, (0, 1), ids, last=False))
    assert canvas.plain() in ("", "░")
    canvas.apply(Event(0, (), 2, "length"))
    assert canvas.plain() == "\ufffd"


def test_passes_in_which_nothing_is_seen_are_one_line(tokenizer):
    ids = tokenizer.encode("a汤b")
    steps = [opened(5)] + [wrote(0, (p,), (ids[p],), last=p == 4, forwards=p + 2) for p in range(5)]
    shown = lines(steps, tokenizer)
    assert shown == ["pass 1: nothing visible", "   2  a", "passes 3-4: nothing visible", "   5  a汤", "   6  a汤b"]


def test_edits_are_shown_and_an_unchanged_text_is_not(tokenizer):
    a, b, x = tokenizer.encode("abx")
    change = Event(0, (Edit(0, (a,), (x,), final=False),), 2)
    same = Event(0, (Edit(0, (x, b), (x, b), final=True),), 3, "length")
    assert lines([wrote(0, (0, 1), (a, b), last=False), change, same], tokenizer) == [
        "   1  ab",
        "   2  xb  [a -> x]",
        "pass 3: nothing visible",
    ]


HOSTILE = "\x1b[2J\x1b]0;title\x07[bold red]x[/]\r\x08\x7f\x9b31m\u202egnp\u2066\u200b\ud800"


def test_control_characters_do_not_reach_a_terminal(tokenizer):
    shown = visible(HOSTILE)
    assert shown == r"\x1b[2J\x1b]0;title\x07[bold red]x[/]\r\x08\x7f\x9b31m\u202egnp\u2066\u200b\ud800"
    for plain in ("汤姆 has\n\ta ball, é, 👩\u200d🚀, نم\u200cی", "[bold]"):
        assert visible(plain) == plain
    ids = tokenizer.encode("\x1b[31m[bold]x[/bold]")
    for terminal in (False, True):
        out = io.StringIO()
        console = Console(file=out, width=80, force_terminal=terminal, color_system=None)
        list(watch([[wrote(0, range(len(ids)), ids, last=True)]], tokenizer, console))
        assert r"\x1b[31m[bold]x[/bold]" in out.getvalue()
        assert "\x1b[31m" not in out.getvalue()
