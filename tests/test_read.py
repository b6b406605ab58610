"""Files to rows: every kind of file, every way to name one, and every complaint."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import sys
from pathlib import Path

import pytest

from nano_llada.core.errors import UserError
from nano_llada.data.read import BadRow, Row, Source, Where, read_rows, resolve

LINES = b'{"text": "one"}\n{"text": "two"}\n'
BOTH = [(1, "one"), (2, "two")]


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
    """Lines of ``row => what is wrong with it``."""
    return [(row, result) for row, _, result in (line.partition(" => ") for line in text.strip().splitlines())]


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
    broken = "a.json: broken JSON array, the rows after this place cannot be read: Expecting"
    end = f"{broken} ',' or the one ']' that ends the file"
    colon = complaint(read, "a.json", b'[{"text": "one"},\n{"text" 1}]')
    assert colon == f"{broken} ':' delimiter: line 2 column 9"
    assert complaint(read, "a.json", b'[{"text": ""}') == f"{end}: line 1 column 14"
    nothing = f"{broken} nothing after the ']' that ends the file"
    assert complaint(read, "a.json", b"[]\n[]") == f"{nothing}: line 2 column 1"
    assert complaint(read, "a.json", b"[") == f"{broken} value: line 1 column 2"


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
