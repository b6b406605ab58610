"""Saved traces: what they say about a text, `nano-llada trace`, and files that are none."""

from __future__ import annotations

import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nano_llada.cli.trace_view import show_trace
from nano_llada.core.errors import UserError
from nano_llada.decode.types import Edit, Event, Trace
from nano_llada.serve.replay import write_replay
from nano_llada.serve.trace import Writing, passes, read_trace, spelled
from studio_server import ANSWERS
from tiny import run_cli
from traces import SCRIPT, WRONG, edit, hostile, of_frames, scripted, token, write


def read(tmp_path: Path, trace: Any):
    return read_trace(write(tmp_path / "some.trace.json", trace))


def texts(writing: Writing) -> list[str | None]:
    return [None if place.token is None else place.token.text for place in writing.shown]


def test_the_last_pass_is_the_answer_and_every_change_is_remembered(tmp_path):
    trace = read(tmp_path, scripted())
    writing = list(passes(trace))[-1]
    assert "".join(text or "" for text in texts(writing)) == ANSWERS["kite"][0]
    earlier = {place.token.text: place.earlier for place in writing.shown if place.earlier and place.token}
    assert earlier == {now: (before,) for now, before in ANSWERS["kite"][1].items()}
    assert writing.edits == 4
    assert writing.written == len(writing.shown) == 64


def test_random_edits_give_the_text_that_the_engine_gives(tmp_path):
    rng, seen = random.Random(5), set()
    for _ in range(60):
        ours, frames, length, text = Trace(), [], 0, []
        for number in range(12):
            edits, kept = [], []
            for _ in range(rng.randint(0, 3)):
                start = rng.randint(0, length)
                removed = rng.randint(0, min(3, length - start))
                inserted = [rng.choice([None, *range(4, 9)]) for _ in range(rng.randint(0, 3))]
                edits.append(Edit(start, tuple(text[start : start + removed]), tuple(inserted), final=False))
                kept.append(edit(start, removed, *(token(None if i is None else f"w{i}", id=i) for i in inserted)))
                text[start : start + removed] = inserted
                length = len(text)
                seen.add((removed > 0, len(inserted) > removed, None in inserted))
            ours.apply(Event(0, tuple(edits), number))
            frames.append(kept)
        writing = list(passes(read(tmp_path, of_frames(*frames, ends=[]))))[-1]
        assert texts(writing) == [None if cell.token is None else f"w{cell.token}" for cell in ours.cells]
    assert len(seen) == 7  # a deletion that grows is impossible without an insertion


def test_known_text_between_gaps_is_not_counted_as_written(tmp_path):
    opening = [edit(0, 0, token(None), token(" a "), token(None))]
    trace = read(tmp_path, of_frames(opening, [edit(0, 1, token("x"))], [edit(2, 1, token("y"))]))
    writing = list(passes(trace))[-1]
    assert (texts(writing), writing.written, writing.edits) == (["x", " a ", "y"], 2, 0)


def test_nothing_after_an_end_token_is_shown(tmp_path):
    trace = read(tmp_path, of_frames([edit(0, 0, token("a"), token("<end>", id=3), token("b"))]))
    assert texts(list(passes(trace))[-1]) == ["a"]


@pytest.mark.parametrize(
    ("parts", "answer", "shown"),
    [
        (["a", "\ufffd", "\ufffd", "b"], "a汤b", ["a", "汤", "", "b"]),
        (["\ufffd", "\ufffd\ufffd"], "汤姆", ["汤姆", ""]),
        (["a", "\ufffd"], "b汤", ["a", "\ufffd"]),  # the answer of another text
        (["a", "\ufffd"], "", ["a", "\ufffd"]),  # unknown
    ],
)
def test_characters_of_several_tokens_are_spelled_once_the_answer_is_known(tmp_path, parts, answer, shown):
    trace = read(tmp_path, of_frames([edit(0, 0, *map(token, parts))], text=answer))
    assert spelled(list(passes(trace))[-1].shown, trace.text) == shown


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_trace_is_refused_by_its_place(tmp_path, case):
    value, place = WRONG[case]
    with pytest.raises(UserError, match=re.escape(place)) as caught:
        read(tmp_path, value)
    assert "some.trace.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"\x80\x81", "not valid UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"format":"nano-llada-trace","version":1,"frames":[{"pass":NaN,"edits":[]}]}', "NaN"),
        (b'{"format":"nano-llada-trace","version":1,"frames":[{"pass":' + b"9" * 9000 + b',"edits":[]}]}', "JSON"),
    ],
)
def test_hostile_files_end_in_a_message(tmp_path, content, words, capsys):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    assert run_cli(["trace", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_large_or_missing_file_is_refused_before_it_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nano_llada.serve.trace.MAX_BYTES", 100)
    assert run_cli(["trace", str(write(tmp_path / "large.json", scripted()))]) == 2
    assert "too large" in capsys.readouterr().err
    assert run_cli(["trace", str(tmp_path / "none.json")]) == 2
    assert "cannot read the trace" in capsys.readouterr().err


def test_the_command_prints_a_line_for_each_pass(tmp_path, capsys):
    assert run_cli(["trace", str(write(tmp_path / "kite.json", scripted()))]) == 0
    lines = capsys.readouterr().out.splitlines()
    numbers = [int(line.split()[0]) for line in lines if re.match(r" +\d+  ", line)]
    assert numbers == list(range(23))
    assert lines[:3] == ["story-block · editing · 2026-12-01", "threshold 0.7", "Tell me about a kite."]
    assert "[ river ->  hill]" in "".join(lines)
    assert lines[-1] == "64 tokens · 22 passes · 2.91 tokens per pass · 4 edits · 256 tokens/s · stop"


def test_one_pass_alone_and_a_pass_that_there_is_not(tmp_path, capsys):
    path = str(write(tmp_path / "kite.json", scripted()))
    assert run_cli(["trace", path, "--at", "6"]) == 0
    shown = capsys.readouterr().out
    assert "over the river." in shown
    assert "░" in shown
    assert run_cli(["trace", path, "--at", "99"]) == 2
    assert "the last pass is 22" in capsys.readouterr().err


def test_on_a_terminal_the_text_is_drawn_in_place(tmp_path):
    out = io.StringIO()
    trace = read(tmp_path, scripted("ball"))
    show_trace(trace, Console(file=out, force_terminal=True, width=100), speed=1000)
    assert "\x1b[1A" in out.getvalue() or "\r" in out.getvalue()
    assert "Mia has the ball." in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())


def test_a_text_moves_no_cursor(tmp_path, capsys):
    hidden = "a\x1b[2Jb\u202e[bold]c"
    assert (
        run_cli(["trace", str(write(tmp_path / "x.json", of_frames([edit(0, 0, token(hidden))], model=hidden)))]) == 0
    )
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert shown.count(r"a\x1b[2Jb\u202e[bold]c") == 2


def test_an_empty_trace_and_one_with_lone_surrogates_are_shown(tmp_path, capsys):
    assert run_cli(["trace", str(write(tmp_path / "empty.json", of_frames()))]) == 0
    assert "0 tokens" in capsys.readouterr().out
    path = tmp_path / "lone.json"
    path.write_text(json.dumps(of_frames([edit(0, 0, token("\ud800"))])), encoding="utf-8")
    assert run_cli(["trace", str(path)]) == 0
    assert run_cli(["trace", str(path), "--html", str(tmp_path / "lone.html")]) == 0


def test_a_replay_holds_its_trace_and_no_way_out_of_it(tmp_path, capsys):
    path, page = write(tmp_path / "x.json", hostile()), tmp_path / "x.html"
    assert run_cli(["trace", str(path), "--html", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    held = re.search(r'<script type="application/json" id="trace">(.*?)</script>', text, re.DOTALL)
    assert held is not None
    assert json.loads(held[1]) == hostile()
    assert SCRIPT not in text
    assert len(re.findall("</script", text, re.IGNORECASE)) == 2
    assert re.search(r"https?://(?!www\.w3\.org/)", text) is None
    assert not re.search(r"^(import|export) ", text, re.MULTILINE)
    nonces = re.findall(r"nonce[=-]['\"]?([0-9a-f]{32})", write_replay({}))
    assert len(nonces) == 4
    assert set(nonces).isdisjoint(re.findall(r"nonce[=-]['\"]?([0-9a-f]{32})", text))
