"""Text as users have it: line ends, byte-order marks, encodings, lines without end; alike wherever it arrives."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forked import needs_fork, piped, start
from nano_llada.config.data import default_cache
from nano_llada.config.record import read_config
from nano_llada.core.errors import UserError
from nano_llada.core.text import MAX_LINE, decode_text, printable, read_text, split_lines, unify_line_ends
from nano_llada.data.bad_rows import BadRow, Row
from nano_llada.data.read import Source, read_rows, resolve
from nano_llada.data.rows import to_messages
from tiny import Place, family, run_cli

TEXT = "one 世界\ntwo 👩\n\nthree"
CODES = {
    "plain": (b"", "utf-8"),
    "marked": (codecs.BOM_UTF8, "utf-8"),
    "utf-16-le": (codecs.BOM_UTF16_LE, "utf-16-le"),
    "utf-16-be": (codecs.BOM_UTF16_BE, "utf-16-be"),
    "utf-32-le": (codecs.BOM_UTF32_LE, "utf-32-le"),
}
ENDS = {"unix": "\n", "windows": "\r\n", "old mac": "\r"}
WAYS = [(code, end) for code in CODES for end in ENDS]


def written(text: str, code: str, end: str) -> bytes:
    mark, encoding = CODES[code]
    return mark + text.replace("\n", ENDS[end]).encode(encoding)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Place:
    return family(tmp_path_factory.getbasetemp())


def rows(path: Path, **options) -> list[object]:
    """The value of each row, or the reason why it is bad."""
    return [row.value if isinstance(row, Row) else row.reason for row in read_rows(Source(str(path)), **options)]


@pytest.mark.parametrize(("code", "end"), WAYS)
def test_files_of_all_kinds_are_the_same_text_however_they_are_saved(code, end, tmp_path):
    def saved(name: str, text: str) -> Path:
        (tmp_path / name).write_bytes(written(text, code, end))
        return tmp_path / name

    assert rows(saved("a.txt", TEXT + "\n")) == [{"text": TEXT}]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in ("世界", "two")]
    wanted = [{"text": "世界"}, {"text": "two"}]
    assert rows(saved("a.jsonl", "\n".join(lines) + "\n")) == wanted
    assert rows(saved("a.json", "[\n" + ",\n".join(lines) + "]\n")) == wanted
    assert read_config(saved("c.json", '{\n"name": "世界"}')) == {"name": "世界"}
    assert read_config(saved("c.toml", 'name = "世界"\nruns = "x"\n')) == {"name": "世界", "runs": "x"}
    assert read_text(saved("words.txt", "世界\n你好\n")).split() == ["世界", "你好"]


@given(
    text=st.text(alphabet="a世👩\r\n\t ", max_size=40),
    sizes=st.lists(st.integers(1, 7), min_size=1),
    code=st.sampled_from(list(CODES)),
)
@settings(deadline=None)
def test_where_a_file_is_cut_into_blocks_does_not_matter(text, sizes, code):
    mark, encoding = CODES[code]
    data = mark + text.encode(encoding)
    blocks, start = [], 0
    while start < len(data):
        size = sizes[len(blocks) % len(sizes)]
        blocks.append(data[start : start + size])
        start += size
    lines = [line.decode() for line in split_lines(blocks) if line is not None]
    assert "\n".join(lines) == unify_line_ends(text).removesuffix("\n")
    assert decode_text(data, "x") == unify_line_ends(text)


def test_bytes_that_are_no_text_are_named_by_file_and_line(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"a = 1\r\nb = '\xff'\r\n")
    with pytest.raises(UserError, match=r"a\.toml:2: not valid UTF-8; save the file as UTF-8$"):
        read_config(path)
    path.write_bytes(codecs.BOM_UTF16_LE + "a\nb".encode("utf-16-le") + b"\x00\xd8")  # half a pair
    with pytest.raises(UserError, match=r"a\.toml:2: not valid UTF-16-LE"):
        read_text(path)
    text = tmp_path / "a.txt"
    text.write_bytes("a\nb".encode("utf-16-le"))  # without a mark it is ASCII and zero bytes
    assert rows(text) == ["the line contains zero bytes; UTF-16 needs a byte-order mark, or save the file as UTF-8"]
    text.write_bytes(codecs.BOM_UTF16_BE + "a\nb".encode("utf-16-be") + b"\x00")
    assert rows(text) == ["byte 2 (0xff) is not valid UTF-8"]


def test_line_ends_in_the_strings_of_rows_are_line_ends():
    row = {"prompt": "a\r\nb", "history": [["c\rd", "e"]], "messages": None, "response": "f\r\n"}
    assert [message.content for message in to_messages(row)] == ["c\nd", "e", "a\nb", "f\n"]


def test_a_line_without_end_is_a_bad_row_and_takes_no_memory(tmp_path):
    lines = [b'{"text": "one"}', b'{"text": "' + b"a" * (MAX_LINE + 100) + b'"}', b'{"text": "two"}']
    bomb = tmp_path / "a.jsonl.gz"
    bomb.write_bytes(gzip.compress(b"\n".join(lines), 1))
    assert rows(bomb) == [{"text": "one"}, "the line is longer than 32 MiB", {"text": "two"}]
    (tmp_path / "a.txt").write_bytes(b"one\n<|endoftext|>\n" + b"a" * (MAX_LINE + 1) + b"\n<|endoftext|>\ntwo")
    assert rows(tmp_path / "a.txt") == [{"text": "one"}, "the line is longer than 32 MiB", {"text": "two"}]
    (tmp_path / "b.txt").write_bytes(
        b"<|endoftext|>\n" + (b"a" * 999 + b"\n") * (MAX_LINE // 1000 + 9) + b"<|endoftext|>\ntwo"
    )
    assert rows(tmp_path / "b.txt") == ["the document is longer than 32 MiB", {"text": "two"}]
    (tmp_path / "a.json").write_bytes(b"[" + b",\n".join(lines) + b"]")
    with pytest.raises(UserError, match=r"broken JSON array, .* longer than 32 MiB, or broken: line 2 column 1$"):
        rows(tmp_path / "a.json")


# a process of its own, which may use no more memory than this
LIMITED = """
import resource, sys
from pathlib import Path
from nano_llada.data.read import Source, read_rows
resource.setrlimit(resource.RLIMIT_AS, (600 * 2**20,) * 2)
print(sum(1 for _ in read_rows(Source(sys.argv[1]))))
"""


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.txt.gz"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="memory can be limited on Unix only")
def test_a_small_packed_file_cannot_fill_the_memory(name, tmp_path):
    head = {"a.json.gz": b"[[", "a.jsonl.gz": b"", "a.txt.gz": b"<|endoftext|>\n"}[name]
    # more than the process may have
    (tmp_path / name).write_bytes(gzip.compress(head) + gzip.compress(b"1" * 2**20) * 700)
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path / name], capture_output=True, text=True, check=False)
    assert "MemoryError" not in done.stderr
    assert done.stdout == "1\n" or "longer than 32 MiB" in done.stderr


@given(
    values=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5)), max_size=5),
    indent=st.sampled_from([None, 0, 3]),
)
@settings(deadline=None)
def test_arrays_give_their_elements_wherever_they_are_cut(values, indent, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "array.json"
    text = json.dumps(values, ensure_ascii=False, indent=indent)
    path.write_text(text, encoding="utf-8", errors="replace")
    assert rows(path) == json.loads(path.read_text(encoding="utf-8"))


def test_a_long_array_is_read_in_parts(tmp_path):
    values = [{"text": f"{i} " + "世界" * (i % 700)} for i in range(2000)]
    (tmp_path / "a.json").write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")
    found = list(read_rows(Source(str(tmp_path / "a.json"))))
    assert [row.value for row in found] == values
    assert [row.where.line for row in found] == [2 + 3 * i for i in range(2000)]


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("file", ["one\ntwo\n\n three", "four"]),
        ("paragraph", ["one\ntwo", " three", "four"]),
        ("line", ["one", "two", " three", "four"]),
    ],
)
def test_what_a_document_of_a_text_file_is(split, wanted, tmp_path):
    (tmp_path / "a.txt").write_bytes(
        b"\none\r\ntwo\r\n\r\n \r\n three\n<|endoftext|>\nfour".replace(b"\r\n \r\n", b"\r\n")
    )
    assert [row["text"] for row in rows(tmp_path / "a.txt", txt_split=split)] == wanted


def test_what_is_printed_of_files_is_safe_for_a_terminal(tmp_path):
    assert printable("a\x1b[31mb\u202ec\r\x07\udcff 世\n\t") == "a\\x1b[31mb\\u202ec\\x0d\\x07\\udcff 世\n\t"
    path = tmp_path / "a\x1b[2J.jsonl"
    path.write_text('{"text": "\\u001b[31m"}\n{"role\\u001b": 1}\n', encoding="utf-8")
    bad = list(read_rows(Source(str(path))))
    assert "\x1b" not in str(bad[0].where)
    with pytest.raises(UserError) as caught:
        resolve([f"{tmp_path}/gone\x1b[2J"])
    assert "\x1b" not in str(caught.value)


@needs_fork
@pytest.mark.parametrize(("code", "end"), [("plain", "windows"), ("marked", "old mac"), ("utf-16-le", "windows")])
def test_standard_input_is_the_same_text_however_it_is_sent(done, code, end):
    words = ("generate", done.runs / "ar", "--max-new-tokens", 3)
    plain = piped(*words, data="Tom has\n汤姆\n".encode())
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout == piped(*words, data=written("Tom has\n汤姆\n", code, end)).stdout
    assert plain.stdout.decode().splitlines()[1].startswith("汤姆 -> ")
    talk = ("chat", done.runs / "ar-sft", "--max-new-tokens", 3)
    assert piped(*talk, data=b"What has Tom?\r\n").stdout == piped(*talk, data=b"What has Tom?\n").stdout


@needs_fork
def test_json_lines_are_answered_as_they_arrive(done):
    command = ("generate", done.runs / "ar", "--json-lines", "--max-new-tokens", 2)
    process = start(command)
    for prompt in ("Tom has", "汤姆有"):
        process.stdin.write(f"{prompt}\n".encode())
        assert json.loads(process.stdout.readline())["prompt"] == prompt  # the input has not ended
    ended = process.finish()
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    assert (
        piped(*command, data=b"\n \n").stderr
        == b"error: no prompt: give one after the run, or lines on standard input\n"
    )
    late = piped(*command, data=b"Tom\n\xff\n")
    assert (late.returncode, late.stderr) == (2, b"error: line 2 of standard input is not valid utf-8\n")
    assert json.loads(late.stdout)["prompt"] == "Tom"


def test_a_word_list_is_read_like_any_text(tmp_path):
    (tmp_path / "words.txt").write_bytes(codecs.BOM_UTF16_LE + "世界\r\n你好\r\n".encode("utf-16-le"))
    (tmp_path / "a.txt").write_text("世界你好世界你好\n" * 50, encoding="utf-8")
    words = ("tokenizer", "train", "--data", tmp_path / "a.txt", "--vocab-size", 320, "--out", tmp_path / "t")
    assert run_cli([*words, "--chinese-words", tmp_path / "words.txt"]) == 0
    pattern = json.loads((tmp_path / "t" / "tokenizer.json").read_text(encoding="utf-8"))["pre_tokenizer"]
    assert "世界|你好" in json.dumps(pattern, ensure_ascii=False)
    (tmp_path / "words.txt").write_bytes(b"\xff\xff")
    assert run_cli([*words[:-1], tmp_path / "u", "--chinese-words", tmp_path / "words.txt"]) == 2


def test_without_a_home_the_cache_is_a_folder_for_temporary_files(monkeypatch):
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("NANO_LLADA_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    assert default_cache().name.startswith("nano-llada-")
    monkeypatch.setenv("NANO_LLADA_CACHE", "here")
    assert default_cache() == Path("here")


def test_a_dataset_saved_to_disk_is_read_and_never_its_description(tmp_path):
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"text": ["a", "b"]})
    one.save_to_disk(tmp_path / "one.txt")  # a folder, whatever its name looks like
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(tmp_path / "both")
    for name, split, wanted in (("one.txt", "", ["a", "b"]), ("both", "", ["a", "b"]), ("both", "hf:", ["a", "b"])):
        (source,) = resolve([f"{split}{tmp_path / name}"])
        assert [row.value for row in read_rows(source)] == [{"text": text} for text in wanted]
        assert source.fingerprint() == source.fingerprint()
    assert not any(isinstance(row, BadRow) for row in read_rows(source))
