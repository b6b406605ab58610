"""Files to rows, and rows to texts, conversations and preferences: every shape and every complaint."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
import sys
from pathlib import Path

import pytest

from nano_llada.core.errors import UserError
from nano_llada.data.read import BadRow, BadRows, Row, Source, Where, read_rows, resolve
from nano_llada.data.rows import Message, Preference, find_special, to_messages, to_preference, to_text

LINES = b'{"text": "one"}\n{"text": "two"}\n'
BOTH = [(1, "one"), (2, "two")]
SHORT = {
    "$S": '{"role": "system", "content": "Be"}',
    "$U": '{"role": "user", "content": "Hi"}',
    "$A": '{"role": "assistant", "content": "Yo"}',
    "$B": '{"role": "assistant", "content": "No"}',
    "$ROLES": "system, user, assistant, tool",
    "$NO_PROMPT": "no prompt (messages, or one of prompt, instruction, question, input)",
    "$EARLY": "differ before the last answer",
    "$ANSWERED": "ends with an assistant turn, expected a turn to be answered",
    "$NONE": "no conversations, no messages, no prompt with a response",
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def zst(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


def parquet(texts: list[bytes]) -> bytes:
    arrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    unchecked = arrow.Array.from_buffers(arrow.string(), len(texts), arrow.array(texts).buffers())
    files.write_table(arrow.table({"text": unchecked}), "made.tmp")
    return Path("made.tmp").read_bytes()


def short(rows) -> list[tuple[int, object]]:
    """Each row as (line, text) or (line, reason)."""
    return [(row.where.line, row.value["text"] if isinstance(row, Row) else row.reason) for row in rows]


def read(name: str, data: bytes) -> list[tuple[int, object]]:
    Path(name).write_bytes(data)
    return short(read_rows(Source(name)))


def complaint(call, *args) -> str:
    with pytest.raises((UserError, ValueError)) as error:
        call(*args)
    return str(error.value)


def table(text: str) -> list[tuple[str, str]]:
    """Lines of ``row => what comes of it`` (``!`` marks a complaint), in words from `SHORT`."""
    full = re.sub(r"\$[A-Z_]+", lambda word: SHORT[word[0]], text)
    return [(row, result) for row, _, result in (line.partition(" => ") for line in full.strip().splitlines())]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_every_ending_is_read_plain_and_packed(packing):
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zst}[packing]
    array = b'\n[{"text": "one"},\n {"text": "two"}]\n'
    assert read("a.jsonl" + packing, pack(LINES)) == read("a.json" + packing, pack(LINES)) == BOTH
    assert read("b.json" + packing, pack(array)) == [(2, "one"), (3, "two")]
    assert read("a.txt" + packing, pack(b"one\n<|endoftext|>\ntwo")) == [(1, "one"), (3, "two")]
    bad = (2, "byte 2 (0xff) is not valid UTF-8")
    assert read("a.parquet" + packing, pack(parquet([b"one", b"a\xff", b"3"]))) == [(1, "one"), bad, (3, "3")]
    assert read("a.JSONL" + packing.upper(), pack(LINES[:16]) + pack(LINES[16:])) == BOTH  # two packed parts


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_byte_order_mark_windows_line_ends_and_blank_lines_are_no_matter(name):
    data = b'\xef\xbb\xbf{"text": "one"}\r\n\r\n  \r\n{"text": "a\xe2\x80\xa8b"}'
    assert read(name, data) == [(1, "one"), (4, "a\u2028b")]
    assert read("a.txt", b"\xef\xbb\xbfone\r\n\r\ntwo\r\n") == [(1, "one\n\ntwo")]
    assert read("b.json", b'\xef\xbb\xbf[\r\n{"text": "one"}]') == [(2, "one")]
    assert read(name, b"") == read(name, b"\n \n") == read("a.txt", b"\n \n") == read("b.json", b" [ ] ") == []


BAD_LINES = r"""
{"text": } => broken JSON: Expecting value (column 10)
{"text": "a => broken JSON: Unterminated string starting at (column 10)
{"text": "äÿ"} => byte 13 (0xff) is not valid UTF-8
{"text": "\ud83d"} => the escape \ud83d is half a character
[1] => the row is a list, expected an object
null => the row is null, expected an object
"""


@pytest.mark.parametrize(("line", "reason"), table(BAD_LINES))
def test_a_bad_line_is_named_and_the_rows_behind_it_are_read(line, reason):
    data = line.encode().replace("ÿ".encode(), b"\xff")
    assert read("a.jsonl", LINES + data + b"\n" + LINES) == [*BOTH, (3, reason), (4, "one"), (5, "two")]
    Path("a.jsonl").write_bytes(data)
    assert list(read_rows(Source("a.jsonl"))) == [BadRow(Where("a.jsonl", 1), reason)]
    assert [str(why)[:24] for _, why in read("a.jsonl", b"[" * 200_000)] == ["JSON that cannot be read"]


def test_bad_elements_of_an_array_are_named_and_a_broken_array_is_refused():
    data = b'[{"text": "one"},\n{"text": "\xff"},\n3,\n{"text":\n"two"}, {"text": "three"}]'
    bad = [(2, "byte 11 (0xff) is not valid UTF-8"), (3, "the row is a number, expected an object")]
    assert read("a.json", data) == [(1, "one"), *bad, (4, "two"), (5, "three")]
    broken = "a.json: broken JSON array, no row behind it can be found: Expecting"
    end = f"{broken} ',' or the one ']' that ends the file"
    colon = complaint(read, "a.json", b'[{"text": "one"},\n{"text" 1}]')
    assert colon == f"{broken} ':' delimiter: line 2 column 9 (char 26)"
    assert complaint(read, "a.json", b'[{"text": ""}') == f"{end}: line 1 column 14 (char 13)"
    assert complaint(read, "a.json", b"[]\n[]") == f"{end}: line 1 column 2 (char 1)"
    assert complaint(read, "a.json", b"[") == f"{broken} value: line 1 column 2 (char 1)"


def test_text_files_are_split_at_their_marks_or_when_long_at_blank_lines():
    mark, bad = b"<|endoftext|>\r\n", (9, "byte 4 (0xff) is not valid UTF-8")
    data = b"\n\none\n\n1\n " + mark + mark + b"\ntwo\xff\n" + mark + b"a <|endoftext|> b\n" + mark
    assert read("a.txt", data) == [(3, "one\n\n1"), bad, (11, "a <|endoftext|> b")]
    paragraph, line = b"x" * 999 + b"\n\n", b"x" * 1023 + b"\n"
    assert [number for number, _ in read("a.txt", paragraph * 1000)] == [1]
    rows = read("a.txt", paragraph * 1100)
    assert [number for number, _ in rows[:3]] == [1, 133, 265]
    assert {len(text) for _, text in rows[:-1]} == {66 * 1001 - 2}
    assert "\n\n".join(text for _, text in rows).encode() == (paragraph * 1100).strip()
    assert [len(text) for _, text in read("a.txt", line * 1500)] == [2**20 - 1, 476 * 1024 - 1]


@pytest.mark.parametrize("kind", ["jsonl.gz", "txt.gz", "jsonl.zst", "parquet", "parquet.gz", "parquet.zst"])
def test_damaged_files_are_named(kind):
    noise = random.Random(0).randbytes(9000).hex().encode()
    whole = parquet([noise]) if "parquet" in kind else noise
    data = gzip.compress(whole) if kind.endswith("gz") else zst(whole) if kind.endswith("zst") else whole
    for bad in (data[: len(data) // 2], b"junk" + data[:-1]):
        start = f"a.{kind}: could not be read, check that it is there and whole ("
        assert complaint(read, f"a.{kind}", bad).startswith(start)


def test_rows_are_read_only_as_they_are_asked_for():
    Path("a.jsonl").write_bytes(LINES * 100_000)
    rows = read_rows(Source("a.jsonl"))
    assert short([next(rows), next(rows)]) == BOTH
    os.truncate("a.jsonl", 2**17)
    assert sum(1 for _ in rows) < 2**17 // 16


def test_a_hugging_face_folder_is_read_by_its_name():
    pytest.importorskip("datasets")
    Path("set").mkdir()
    Path("set/train.jsonl").write_bytes(LINES)
    Path("set/test.jsonl").write_bytes(LINES[:16])
    (test, train) = resolve(["hf:./set", "hf:./set", "hf:./set:default@test"])[::-1]
    assert (short(read_rows(train)), short(read_rows(test))) == (BOTH, BOTH[:1])
    assert str(next(read_rows(train)).where) == "hf:./set:1"
    assert train.fingerprint() == train.fingerprint() != test.fingerprint()
    gone = complaint(lambda: list(read_rows(Source("hf:./set@gone"))))
    assert gone.startswith("hf:./set@gone: could not be read, check that it is there and whole (Bad split: gone")
    expected = "hf:NAME, hf:NAME:CONFIG, hf:NAME@SPLIT or hf:NAME:CONFIG@SPLIT"
    assert complaint(resolve, ["hf:"]) == f"hf:: expected {expected}"


@pytest.mark.parametrize("case", ["a.jsonl.zst zstandard", "a.parquet pyarrow", "hf:a/b datasets"])
def test_a_missing_package_is_named_with_the_way_to_get_it(case, monkeypatch):
    name, module = case.split()
    monkeypatch.setitem(sys.modules, module, None)
    said = complaint(lambda: list(read_rows(Source(name))))
    assert said == f"{name}: reading this needs {module}: pip install 'nano-llada[data]'"


def test_sources_are_found_sorted_and_once_and_known_by_their_bytes():
    for name in ("b.jsonl", "a.txt", "deep/c.json", "deep/.d.jsonl", "deep/e[1].txt.gz", "notes/readme.md"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(LINES)

    def names(*sources):
        return " ".join(source.name for source in resolve(sources))

    assert names("b.jsonl", "a.txt") == names("a.txt", "./b.jsonl", "b.jsonl") == names(".") == "a.txt b.jsonl"
    assert names("a.txt", str(Path("a.txt").resolve())).count("a.txt") == 1
    assert names("deep") == "deep/c.json deep/e[1].txt.gz"
    assert names("**/*.j*", "hf:x", "deep/e[1].txt.gz", "hf:x") == "b.jsonl deep/c.json deep/e[1].txt.gz hf:x"
    for nothing in ("gone.jsonl", "*.parquet", "notes"):
        start = f"{nothing}: no data found (working folder: {Path.cwd()}); name a file, a pattern"
        assert complaint(resolve, [nothing]).startswith(start)
    supported = "supported endings are .jsonl, .json, .txt and .parquet, each also with .gz or .zst behind it"
    wrong = f"notes/readme.md: cannot read this kind of file; {supported}"
    assert complaint(resolve, ["notes/*"]) == complaint(resolve, ["notes/readme.md"]) == wrong
    assert Source("a.txt").fingerprint() == hashlib.sha256(LINES).hexdigest()
    assert "No such file" in complaint(Source("gone.txt").fingerprint)


def test_bad_rows_stop_or_are_counted():
    hint = "With `--on-bad-row skip` such rows are skipped and counted."
    said = complaint(BadRows("stop").report, Where("a.jsonl", 3), "text is empty")
    assert said == f"a.jsonl:3: text is empty\n{hint}"
    bad = BadRows("skip")
    assert (bad.summary(), bad.count) == ("", 0)
    bad.report(Where("b", 1), "text is empty")
    for line in range(1, 8):
        bad.report(Where("a", line), f"messages[{line}].content is null, byte 0x{line}f, \\ud83{line}")
    kind = "messages[#].content is null, byte #, # (a:1, a:2, a:3, a:4, a:5, ...)"
    assert bad.summary() == f"bad rows skipped: 8\n  7 x {kind}\n  1 x text is empty (b:1)"
    assert bad.count == 8


CONVERSATIONS = """
{"conversations": [$U, $A]} => user Hi|assistant Yo
{"conversations": null, "messages": [$S, $U, $A, $U]} => system Be|user Hi|assistant Yo
{"messages": [$U, $A, {"role": "tool", "content": ""}, $B]} => user Hi|assistant Yo|tool |assistant No
{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]} => user a|assistant b
{"conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]} => user a|assistant b
{"conversations": [{"from": "system", "value": "s"}, $U, $A]} => system s|user Hi|assistant Yo
{"prompt": "a", "response": "b", "system": "s"} => system s|user a|assistant b
{"instruction": "a", "input": "i", "output": "b", "system": ""} => user a+i|assistant b
{"instruction": "a", "input": "", "answer": "b"} => user a|assistant b
{"instruction": "", "input": "i", "target": "b"} => user i|assistant b
{"question": "a", "completion": "b"} => user a|assistant b
{"input": "a", "output": "b"} => user a|assistant b
{"a": 1, "b": 2} => ! $NONE; the fields are: a, b
{"prompt": "a"} => ! $NONE; the fields are: prompt
{} => ! $NONE; the fields are: none
{"messages": "x"} => ! messages is text, expected a list
{"messages": [$U, true]} => ! messages[1] is true or false, expected an object
{"messages": [{"content": "x"}]} => ! messages[0] has no role; the fields are: content
{"conversations": [{"from": "gpt"}]} => ! conversations[0] has no value; the fields are: from
{"messages": [$U, {"role": "assistant", "content": 3}]} => ! messages[1].content is a number, expected text
{"messages": [{"role": null, "content": "x"}]} => ! messages[0].role is null, expected text
{"messages": [{"role": "gpt", "content": ""}]} => ! messages[0].role is 'gpt', expected one of $ROLES
{"messages": [{"from": "x", "value": ""}]} => ! messages[0].from is 'x', expected one of $ROLES, human, gpt
{"messages": [$U, {"role": "assistant", "content": " "}]} => ! messages[1].content is empty
{"messages": [{"role": "user", "content": ""}]} => ! messages[0].content is empty
{"messages": []} => ! messages has no assistant turn
{"conversations": [$S, $U]} => ! conversations has no assistant turn
{"messages": [$S, $A, $U]} => ! messages[1] is the first turn and from assistant, expected user
{"prompt": {}, "response": "b"} => ! prompt is an object, expected text
{"instruction": "", "input": " ", "output": "b"} => ! instruction is empty
{"prompt": "a", "output": " "} => ! output is empty
{"prompt": "a", "output": "b", "system": 1} => ! system is a number, expected text
"""
PREFERENCES = """
{"prompt": "a", "chosen": "b", "rejected": "c"} => user a > b > c
{"system": "s", "instruction": "a", "input": "i", "chosen": "b", "rejected": "c"} => system s|user a+i > b > c
{"messages": [$S, $U], "chosen": "b", "rejected": "c"} => system Be|user Hi > b > c
{"prompt": "x", "chosen": [$S, $U, $A], "rejected": [$S, $U, $B]} => system Be|user Hi > Yo > No
{"chosen": [$U, $A, $U, $A], "rejected": [$U, $A, $U, $B, $U]} => user Hi|assistant Yo|user Hi > Yo > No
{"prompt": "a", "chosen": "b"} => ! no rejected; the fields are: prompt, chosen
{"prompt": "a"} => ! no chosen and no rejected; the fields are: prompt
{"a": 1, "chosen": "b", "rejected": "c"} => ! $NO_PROMPT; the fields are: a, chosen, rejected
{"prompt": "a", "chosen": " ", "rejected": "c"} => ! chosen is empty
{"prompt": "a", "chosen": "b", "rejected": [$U]} => ! rejected is a list, expected text
{"chosen": [$U, $A], "rejected": "c"} => ! rejected is text, expected a list
{"chosen": [$U, $A], "rejected": [$U]} => ! rejected has no assistant turn
{"chosen": [$A], "rejected": [$B]} => ! chosen[0] is the first turn and from assistant, expected user
{"chosen": [$U, $A, $U, $A], "rejected": [$U, $B, $U, $A]} => ! chosen[1] and rejected[1] $EARLY
{"chosen": [$U, $A], "rejected": [$U, $U, $A]} => ! chosen[1] and rejected[1] $EARLY
{"messages": [$U, $A], "chosen": "b", "rejected": "c"} => ! messages $ANSWERED
{"messages": [$S], "chosen": "b", "rejected": "c"} => ! messages has no user turn
"""


def spoken(messages: list[Message]) -> str:
    return "|".join(f"{message.role} {message.content}" for message in messages).replace("\n", "+")


def outcome(make, row: str) -> str:
    """What becomes of a row, as the tables write it."""
    try:
        made = make(json.loads(row))
    except ValueError as error:
        return f"! {error}"
    if isinstance(made, Preference):
        return f"{spoken(made.prompt)} > {made.chosen} > {made.rejected}"
    return spoken(made)


@pytest.mark.parametrize(("row", "result"), table(CONVERSATIONS))
def test_conversations(row, result):
    assert outcome(to_messages, row) == result


@pytest.mark.parametrize(("row", "result"), table(PREFERENCES))
def test_preferences(row, result):
    assert outcome(to_preference, row) == result


def test_texts_and_special_tokens():
    assert (to_text({"text": " a\n"}), to_text({"body": "b"}, "body")) == (" a\n", "b")
    assert complaint(to_text, {"a": 1, "b": 2}) == "no field text; the fields are: a, b"
    assert complaint(to_text, {"text": ["x"]}) == "text is a list, expected text"
    assert complaint(to_text, {"text": b"x"}) == "text is a bytes, expected text"
    assert complaint(to_text, {"body": " \n"}, "body") == "body is empty"
    specials = ["<|mask|>", "<|im_end|>"]
    assert find_special("a <|im_end|> b <|mask|>", specials) == "<|im_end|>"
    assert find_special("a < |mask|> <|im_end>", specials) is None
