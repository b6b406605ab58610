"""Every row shape of docs/data.md is read alike by each command, and no text of a row is lost without a word."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_llada.data.bad_rows import BadRows, Row, Unread, Where
from nano_llada.data.documents import Encoding, Notes, _encode, _prepare, documents
from nano_llada.data.messages import REASONING, without_reasoning
from nano_llada.data.messages import ROLES as ROLE_OF
from nano_llada.data.read import resolve
from nano_llada.data.rows import ANSWERS, LABELS, QUESTIONS, to_messages, to_preference, to_question
from nano_llada.data.tokenizer import Tokenizer, train_characters
from nano_llada.evaluation.questions import read_questions
from nano_llada.verify.answer import judge_of
from nano_llada.verify.pattern import Matcher
from nano_llada.verify.reward import load_reward
from tiny import Place, family, read_lines, run_cli, tiny_arguments, write_rows

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data.md"


def rows_under(heading: str) -> list[tuple[dict, list[str]]]:
    """The example rows of the tables in a section, and the quoted texts of each further column."""
    section = PAGE.read_text(encoding="utf-8").split(f"### {heading}")[1].split("\n## ")[0].split("\n### ")[0]
    found = []
    for line in section.splitlines():
        if line.startswith("| `{"):
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
            found.append((json.loads(cells[0].strip("`")), [re.findall("`([^`]*)`", cell) for cell in cells[1:]]))
    return found


TEXTS, CHATS = rows_under("Texts"), rows_under("Questions and conversations")
RIGHT, PAIRS = rows_under("Right answers"), rows_under("Preferences")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_characters(["".join(map(chr, range(32, 127))), "\n"])


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Place:
    return family(tmp_path_factory.getbasetemp())


def seen(path: Path, tokenizer: Tokenizer, form: str) -> list[tuple[str, str]]:
    """What is shown and what is learnt of each document of a file."""
    found = []
    for document in documents(resolve([str(path)]), tokenizer, Encoding(form), BadRows("stop")):
        pairs = list(zip(document.tokens, document.scored, strict=True))
        found.append(tuple(tokenizer.decode([t for t, s in pairs if s is learnt]) for learnt in (False, True)))
    return found


def test_the_page_has_its_tables():
    assert [len(rows) for rows in (TEXTS, CHATS, RIGHT, PAIRS)] == [1, 23, 10, 6]
    told = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in told for name in (*QUESTIONS, *ANSWERS, *LABELS))


@pytest.mark.parametrize(("row", "cells"), [*TEXTS, *CHATS], ids=lambda value: str(value)[:60])
def test_a_row_is_shown_and_learnt_as_the_page_says(row, cells, tokenizer, tmp_path, capsys):
    shown, learnt = cells
    form = "text" if "text" in row else "chat"
    path = write_rows(tmp_path / "a.jsonl", [row])
    ((before, taught),) = seen(path, tokenizer, form)
    assert all(text in before and text not in taught for text in shown)
    assert all(text in taught and text not in before for text in learnt)
    words = ("data", "show", path, "--format", form, "--cache", tmp_path / "cache", "--on-bad-row", "stop")
    assert run_cli(words) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in (*shown, *learnt))
    assert "not read" not in printed


@pytest.mark.parametrize(("row", "cells"), CHATS, ids=lambda value: str(value)[:60])
def test_what_is_asked_is_what_training_shows(row, cells):
    asked, taught = to_question(row), to_messages(row)
    assert [message.content for message in asked.messages] == [message.content for message in taught[:-1]]
    assert asked.references == (without_reasoning(taught[-1].content),)


@pytest.mark.parametrize(("row", "cells"), RIGHT, ids=lambda value: str(value)[:60])
def test_right_answers_are_judged_alike_in_rl_and_eval(row, cells, tmp_path):
    (asked,), (right,) = cells
    (question,) = read_questions([str(write_rows(tmp_path / "a.jsonl", [row]))])
    assert asked in question.prompt
    reward = load_reward("verifier")
    for answer, wanted in ((right, True), ("not at all", False), ("6", False)):
        assert question.judge(answer) is wanted
        assert reward(question.prompt, answer, row) == float(wanted)


@pytest.mark.parametrize(("row", "cells"), PAIRS, ids=lambda value: str(value)[:60])
def test_pairs_are_read_as_the_page_says(row, cells, tokenizer, tmp_path, capsys):
    shown, chosen, rejected = cells
    path = write_rows(tmp_path / "a.jsonl", [row])
    for (before, taught), answer in zip(seen(path, tokenizer, "preference"), (chosen, rejected), strict=True):
        assert all(text in before for text in shown)
        assert taught == answer[0] + "<|im_end|>"
    assert run_cli(("data", "show", path, "--format", "preference", "--cache", tmp_path / "cache")) == 0
    assert "not read" not in capsys.readouterr().out


def test_every_shape_goes_through_every_command(done, tmp_path, capsys):
    """One file of all shapes each; figures are of no interest, that each row is used is."""
    text = write_rows(tmp_path / "text.jsonl", [row for row, _ in TEXTS] * 8)
    chats = write_rows(tmp_path / "chats.jsonl", [row for row, _ in CHATS])
    pairs = write_rows(tmp_path / "pairs.jsonl", [row for row, _ in PAIRS])
    asked = write_rows(tmp_path / "asked.jsonl", [row | {"id": str(i)} for i, (row, _) in enumerate([*RIGHT, *CHATS])])
    common = {"steps": 1, "sequence_length": 256, "validation_share": 0, "eval_rows": 1}
    start = done.runs / "ar-sft"
    sizes = {"data": (text,), "sequence_length": 16}
    assert run_cli(tiny_arguments(done, "pretrain", "ar", name="shape-text", **(common | sizes))) == 0
    tuned = common | {"init_from": done.runs / "ar", "data": (chats,)}
    assert run_cli(tiny_arguments(done, "sft", "ar", name="shape-sft", **tuned)) == 0
    words = ["dpo", "ar", "--name", "shape-dpo", "--runs", done.runs, "--init-from", start, "--data", pairs]
    words += ["--cache", done.cache, "--steps", 1, "--batch-size", 4, "--sequence-length", 256, "--validation-share", 0]
    assert run_cli([*words, "--device", "cpu", "--threads", 1]) == 0
    words = ["rl", "ar", "--name", "shape-rl", "--runs", done.runs, "--init-from", start, "--data", asked, "--steps", 1]
    words += ["--batch-size", 2 * (len(RIGHT) + len(CHATS)), "--group-size", 2, "--max-new-tokens", 2]
    assert run_cli([*words, "--sequence-length", 250, "--device", "cpu", "--threads", 1]) == 0
    rolled = read_lines(done.runs / "shape-rl" / "rollouts.jsonl")
    assert len({line["question"] for line in rolled}) == len(RIGHT) + len(CHATS)
    words = ["eval", start, "--questions", asked, "--out", tmp_path / "eval", "--max-new-tokens", 1, "--device", "cpu"]
    capsys.readouterr()
    assert run_cli(words) == 2  # a turn of a tool is a question for RL alone
    assert "no user turn at its end" in capsys.readouterr().err
    users = [row | {"id": str(i)} for i, (row, _) in enumerate([*RIGHT, *CHATS]) if 'five"}' not in json.dumps(row)]
    write_rows(asked, users)
    assert len(users) == len(RIGHT) + len(CHATS) - 2
    assert run_cli(words) == 0


# no text of a row is lost

WORD = st.integers(0, 10**9).map(lambda number: f"w{number:09d}x")
FLAT = ("prompt", "instruction", "question", "query", "input", "context", "system", "system_prompt", "response")
FLAT += (
    "output",
    "answer",
    "target",
    "completion",
    "text",
    "notes",
    "title",
    "thinking",
    "reasoning_content",
    "ground_truth",
)
ROLES = ("user", "assistant", "human", "gpt", "chatgpt", "bing", "bard", "model", "system", "tool", "function")


@st.composite
def turns(draw) -> list[dict]:
    found = []
    for role in [
        "user",
        *draw(st.lists(st.sampled_from(ROLES), max_size=4)),
        "assistant",
        *draw(st.lists(st.sampled_from(ROLES), max_size=1)),
    ]:
        keys = draw(st.sampled_from([("role", "content"), ("from", "value")]))
        turn = {keys[0]: role, keys[1]: draw(WORD)}
        for name in draw(
            st.lists(st.sampled_from(["name", "reasoning_content", "thinking", "notes", "tool_call_id"]), max_size=2)
        ):
            turn[name] = draw(WORD)
        if draw(st.booleans()):
            turn["tool_calls"] = [{"function": {"name": draw(WORD), "arguments": json.dumps({"a": draw(WORD)})}}]
        if draw(st.booleans()):
            turn["weight"] = draw(st.sampled_from([0, 1]))
        found.append(turn)
    return found


@st.composite
def rows(draw) -> dict:
    row: dict = {name: draw(WORD) for name in draw(st.lists(st.sampled_from(FLAT), max_size=8, unique=True))}
    for name in draw(st.lists(st.sampled_from(["messages", "conversations", "prompt", "completion"]), max_size=2)):
        row[name] = draw(turns())
    if draw(st.booleans()):
        row["history"] = [[draw(WORD), draw(WORD)] for _ in range(draw(st.integers(0, 2)))]
    if draw(st.booleans()):
        row["tools"] = [{"name": draw(WORD)}]
    if draw(st.integers(0, 2)) == 0:
        row |= {"chosen": draw(st.one_of(WORD, turns())), "rejected": draw(st.one_of(WORD, turns()))}
    numbers = itertools.count()  # no word twice, or one could stand in for another
    return json.loads(re.sub(r"w\d{9}x", lambda _: f"w{next(numbers):09d}x", json.dumps(row)))


def words_of(value: object) -> set[str]:
    return set(re.findall(r"w\d{9}x", json.dumps(value)))


def lost(row: dict, used: list[str], unread: Unread) -> set[str]:
    """The words that nothing uses and nothing reports."""
    words = words_of(row) - words_of(used)
    for name in unread.counts:
        field, _, inner = name.partition("[]")
        value = row.get(field)
        if inner.startswith(".") and isinstance(value, list):
            value = [turn.get(inner[1:]) for turn in value]
        elif inner.startswith("."):
            value = value.get(inner[1:])
        words -= words_of(value)
    return words


UNLEARNT = [{"role": "user", "content": "w6x"}, {"role": "assistant", "content": "w7x", "weight": 0}]


def test_what_is_shown_beside_a_question_that_is_cut_off_is_reported():
    """Only the history has an answer that is learnt: the question behind it is cut, and what stands beside it too."""
    for question in ({"messages": UNLEARNT}, {"prompt": "w6x", "input": "w2x", "completion": UNLEARNT}):
        unread = Unread()
        found = to_messages(question | {"context": "w5x", "history": [["w8x", "w9x"]]}, unread)
        assert [message.content for message in found] == ["w8x", "w9x"]
        assert {"context"} | ({"input"} & question.keys()) <= set(unread.counts)
    learnt = [UNLEARNT[0], {"role": "assistant", "content": "w7x"}]
    unread = Unread()
    assert to_messages({"messages": learnt, "context": "w5x"}, unread)[0].content == "w6x\nw5x"
    assert not unread.counts


def test_an_answer_that_is_not_learnt_is_no_preference():
    row = {"prompt": "w1x", "history": [["w8x", "w9x"]], "chosen": UNLEARNT[1:], "rejected": UNLEARNT[1:]}
    with pytest.raises(ValueError, match="no assistant turn that is to be learnt"):
        to_preference(row)


@given(row=rows())
@settings(max_examples=200, deadline=None)
def test_every_text_is_learnt_shown_or_reported(row):
    for read in (to_messages, to_question, to_preference):
        unread = Unread()
        try:
            found = read(row, unread)
        except ValueError:
            continue  # the row is refused by its place and the reason
        if read is to_messages:
            used = [message.content for message in found]
        elif read is to_question:
            used = [*(message.content for message in found.messages), *found.references]
            if "the reasoning of the right answer" in unread.counts:
                used += reasoning(row)
        else:
            used = [*(message.content for message in found.prompt), found.chosen, found.rejected]
        assert lost(row, used, unread) == set(), read.__name__


def reasoning(value: object) -> list[str]:
    """Every text under a name of reasoning, however deep."""
    if isinstance(value, list):
        return [text for item in value for text in reasoning(item)]
    if not isinstance(value, dict):
        return []
    own = [str(text) for name, text in value.items() if name in REASONING]
    return own + [text for item in value.values() for text in reasoning(item)]


@given(row=rows())
@settings(max_examples=100, deadline=None)
def test_what_must_not_be_learnt_is_not(row):
    """Only the assistant's turns are learnt, and none of weight 0."""
    try:
        split = _prepare(Row(Where("a", 1), row), Encoding("chat"), Notes())
    except ValueError:
        return
    tokenizer = train_characters(["w0123456789x"])
    (document,) = _encode([split], tokenizer, BadRows("stop"))
    taught = tokenizer.decode([t for t, s in zip(document.tokens, document.scored, strict=True) if s])
    lists = [value for value in row.values() if isinstance(value, list)]
    given = [turn for value in lists for turn in value if isinstance(turn, dict)]
    others = [t for t in given if t.get("weight") == 0 or ROLE_OF.get(t.get("role", t.get("from"))) != "assistant"]
    assert not words_of(taught) & words_of([others, [row.get(name) for name in ("system", "question", "context")]])


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(allow_nan=True)
    | st.sampled_from(["", "a", "user", "x.py:f"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "text", "weight", "tool_calls"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
KNOWN = sorted(
    {*FLAT, "messages", "conversations", "history", "tools", "chosen", "rejected", "references", "verifier", "answers"}
)


@given(row=st.dictionaries(st.sampled_from(KNOWN), ANY, max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_values_in_the_known_fields_are_read_or_refused_with_a_reason(row):
    reasons: list[str] = []
    for read in (to_messages, to_question, to_preference):
        try:
            found = read(row, Unread())
        except ValueError as error:
            reasons.append(str(error))
            continue
        if read is to_question:
            with contextlib.suppress(ValueError):
                judge, references = judge_of(row, found.references, Matcher())
                assert judge("a") in (True, False)
                assert all(isinstance(one, str) for one in references)
    assert all(reasons)


def test_unread_fields_are_reported_once_for_all_files(done, tmp_path, capsys):
    row = {"prompt": "2+3?", "response": "5", "notes": "x", "empty": "", "id": 3, "deep": {"a": [1]}}
    one, two = (write_rows(tmp_path / f"{name}.jsonl", [row] * 6) for name in "ab")
    words = ("data", "show", one, two, "--format", "chat", "--cache", tmp_path / "cache")
    for _ in range(2):  # also when it is found in the cache
        assert run_cli(words) == 0
        assert "note             fields not read: deep (12 rows), notes (12 rows)\n" in capsys.readouterr().out
    tuned = {"steps": 1, "init_from": done.runs / "ar", "data": (one, two), "name": "unread"}
    assert run_cli(tiny_arguments(done, "sft", "ar", **tuned)) == 0
    assert capsys.readouterr().out.count("fields not read: deep (12 rows), notes (12 rows)") == 1
    assert run_cli(("eval", done.runs / "ar-sft", "--questions", write_rows(one, [row]), "--out", tmp_path / "e")) == 0
    assert "fields not read: deep (1 row), notes (1 row)" in capsys.readouterr().out
