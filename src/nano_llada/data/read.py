"""From whatever the user names (files, folders, patterns, Hugging Face datasets) to a stream of rows."""

from __future__ import annotations

import contextlib
import glob
import gzip
import hashlib
import importlib
import itertools
import json
import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from nano_llada.core.errors import UserError
from nano_llada.core.text import MAX_LINE, printable, split_lines
from nano_llada.data.array import array_rows
from nano_llada.data.bad_rows import BadRow, BadRows, Row, Where, bad_byte, parse_row

__all__ = ["BadRow", "BadRows", "Row", "Source", "TextSplit", "Where", "read_rows", "resolve"]

TextSplit: TypeAlias = Literal["file", "paragraph", "line"]

SUPPORTED = ".jsonl, .json, .txt and .parquet, each also with .gz or .zst behind it"
TOO_LONG = f"the line is longer than {MAX_LINE // 2**20} MiB"
DOCUMENT_END = b"<|endoftext|>"
PART = 2**24  # bytes of a source that are tokenised at once, by one process
LONG_TEXT, PIECE = 2**20, 2**16  # bytes; from the first on, text without marks is cut, to about the second
_ENDING = re.compile(r"(\.jsonl|\.json|\.txt|\.parquet)(\.gz|\.zst)?$", re.IGNORECASE)
_SAVED = ("state.json", "dataset_dict.json")  # what `save_to_disk` of datasets writes
_HF_NAME = re.compile(r"hf:(.+?)(?::([^:@/\\]+))?(?:@([^:@/\\]+))?")


@dataclass(frozen=True)
class Source:
    """One file, or one Hugging Face dataset when `name` starts with ``hf:``; made by `resolve`. Or a part of it.

    `start` and `stop` of a part (see `parts`) are bytes of JSON lines, row groups of parquet, or shards of a dataset.
    """

    name: str
    start: int = 0
    stop: int | None = None  # None: the whole
    before: int = 0  # lines before it, to name places

    def stamp(self) -> str:
        """Hex sha256 of the size, the first and the last MiB of a file, or of the ``hf:`` name and its data version:
        enough to notice another corpus without reading all of it. UserError if missing.
        """
        if self.name.startswith("hf:"):
            return self.fingerprint()
        with _explained(self.name, OSError), open(self.name, "rb") as file:
            size = file.seek(0, 2)
            ends = [file.read(2**20) for place in (0, max(0, size - 2**20)) if file.seek(place) >= 0]
        return hashlib.sha256(b"".join([str(size).encode(), *ends])).hexdigest()

    def fingerprint(self) -> str:
        """Hex sha256 of the file, or of the ``hf:`` name and its data version. UserError if missing."""
        if not self.name.startswith("hf:"):
            with _explained(self.name, OSError):
                return _digest(Path(self.name))
        datasets, (path, config, split) = _need("datasets", self.name), _hf_parts(self.name)
        with _explained(self.name, Exception):
            if _is_saved(path):
                files = sorted(file for file in Path(path).rglob("*") if file.is_file())
                return hashlib.sha256(json.dumps([split, *map(_digest, files)]).encode()).hexdigest()
            version = datasets.load_dataset_builder(path, config).hash
        return hashlib.sha256(json.dumps([path, config, split, version]).encode()).hexdigest()


def resolve(sources: Sequence[str]) -> list[Source]:
    """All that the user meant, sorted by name, each once, however often and in whatever order named.

    A source is a file, a pattern (``**`` reaches into sub-folders), a folder (the supported files directly
    in it) or ``hf:NAME[:CONFIG][@SPLIT]``: NAME may be a local folder, SPLIT is ``train`` unless given.
    Raises UserError for a source that matches nothing and for a file with an ending that is not supported.
    """
    found: dict[str, str] = {}
    for name in sorted(itertools.chain.from_iterable(map(_matches, sources))):
        found.setdefault(name if name.startswith("hf:") else str(Path(name).resolve()), name)
    return [Source(name) for name in found.values()]


def read_rows(source: Source, txt_split: TextSplit = "file") -> Iterator[Row | BadRow]:
    """The rows of a source in their order, read as they are asked for; bad ones come as `BadRow`.

    JSON lines and arrays give their objects, parquet and hf their rows, text files ``{"text": document}``.
    A text file's documents end at lines that are ``<|endoftext|>``. Between such lines, `paragraph` and `line` make a
    document of every paragraph (blank lines are between them) or line that is not blank. With `file` a text without
    such lines is one document, or, above 1 MiB, pieces cut at the first blank line after 64 KiB (at any line's end
    after 1 MiB). A line of more than MAX_LINE bytes is a bad row. Raises UserError for a damaged or missing file.
    """
    if source.name.startswith("hf:"):
        return _hf(source)
    if ending_of(source.name)[0] == ".txt":
        return _text(source.name, txt_split)
    if ending_of(source.name)[0] == ".parquet":
        return _parquet(source)
    return _json(source.name) if source.stop is None else _json_part(source)


def parts(source: Source, size: int = PART, *, count_lines: bool = True) -> list[Source]:
    """A source in parts of about `size` bytes that can be read each by itself; [source] if it cannot be divided.

    Plain JSON lines are cut at line ends, parquet files between row groups, Hugging Face datasets between shards.
    Without `count_lines` a file is not read through, and places in it are lines of a part. UserError if it is missing.
    """
    if source.name.startswith("hf:"):
        return [replace(source, start=i, stop=i + 1) for i in range(_shards(source.name))] or [source]
    kind, packing = ending_of(source.name)
    if packing or kind not in (".jsonl", ".parquet"):
        return [source]
    if kind == ".parquet":
        parquet, pyarrow = _need("pyarrow.parquet", source.name), _need("pyarrow", source.name)
        with _explained(source.name, OSError, pyarrow.ArrowException), parquet.ParquetFile(source.name) as file:
            sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
        return [replace(source, start=a, stop=b) for a, b in _grouped(sizes, size)] or [source]
    with _explained(source.name, OSError), open(source.name, "rb") as file:
        return _line_parts(source, file, size, count_lines=count_lines)


def _grouped(sizes: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Stretches of numbers of at least `size` together; the last one may be less."""
    start, held = 0, 0
    for i, one in enumerate(sizes):
        held += one
        if held >= size or i + 1 == len(sizes):
            yield start, i + 1
            start, held = i + 1, 0


def _line_parts(source: Source, file: BinaryIO, size: int, *, count_lines: bool) -> list[Source]:
    end = file.seek(0, 2)
    file.seek(0)
    if end <= size or file.read(4).startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):  # UTF-16 and UTF-32
        return [source]
    found, start, before = [], 0, 0
    while start < end:
        file.seek(min(start + size, end))
        file.readline()
        stop = file.tell()
        found.append(replace(source, start=start, stop=stop, before=before))
        before += _count_lines(file, start, stop) if count_lines else 0
        start = stop
    return found


def _count_lines(file: BinaryIO, start: int, stop: int) -> int:
    """Line ends (\\n, \\r\\n or \\r) in a stretch of a file that ends with one."""
    file.seek(start)
    lines, left, returned = 0, stop - start, False
    while left and (block := file.read(min(left, 2**20))):
        left -= len(block)
        lines += block.count(b"\n") - (returned and block[:1] == b"\n")
        if b"\r" in block:
            lines += block.count(b"\r") - block.count(b"\r\n")
        returned = block[-1:] == b"\r"
    return lines


def _matches(source: str) -> list[str]:
    path = Path(source)
    if source.startswith("hf:"):
        _hf_parts(source)
        return [source]
    if _is_saved(source):
        return [f"hf:{source}"]
    if path.is_dir():
        files = (file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        names = [str(file) for file in files if _ENDING.search(file.name)]
    elif path.is_file():
        names = [str(path)]
    else:
        names = [str(Path(file)) for file in glob.glob(source, recursive=True) if Path(file).is_file()]
    if not names:
        raise UserError(
            f"{printable(source)}: no data found (working folder: {Path.cwd()}); name a file, a pattern, "
            f"a folder with such files directly in it, or hf:NAME. Supported endings are {SUPPORTED}"
        )
    return [name for name in names if ending_of(name)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_saved(folder: str) -> bool:
    """Whether `save_to_disk` of datasets wrote a folder, whose .json files are not data."""
    return any((Path(folder) / name).is_file() for name in _SAVED)


def ending_of(name: str) -> tuple[str, str]:
    match = _ENDING.search(name)
    if match is None:
        raise UserError(f"{printable(name)}: cannot read this kind of file; supported endings are {SUPPORTED}")
    return match[1].lower(), (match[2] or "").lower()


def _hf_parts(name: str) -> tuple[str, str | None, str]:
    if Path(name.removeprefix("hf:")).is_dir() and name != "hf:":
        return name.removeprefix("hf:"), None, "train"
    match = _HF_NAME.fullmatch(name)
    if match is None:
        raise UserError(f"{name}: expected hf:NAME, hf:NAME:CONFIG, hf:NAME@SPLIT or hf:NAME:CONFIG@SPLIT")
    return match[1], match[2], match[3] or "train"


def _need(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{name}: reading this needs {module}: pip install 'nano-llada[data]'") from error


@contextlib.contextmanager
def _explained(name: str, *kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        what = "permission denied" if isinstance(error, PermissionError) else printable(str(error))
        raise UserError(f"{printable(name)}: could not be read, check that it is there and whole ({what})") from error


def _blocks(name: str) -> Iterator[bytes]:
    """The unpacked bytes of a file."""
    packing = ending_of(name)[1]
    if packing == ".zst":
        yield from _zstd_blocks(name)
        return
    with (
        _explained(name, OSError, EOFError, zlib.error),
        (gzip.open if packing else open)(name, "rb") as file,
    ):
        while block := file.read1(PIECE):
            yield block


def _zstd_blocks(name: str) -> Iterator[bytes]:
    zstandard = _need("zstandard", name)
    frame = zstandard.ZstdDecompressor().decompressobj()
    with _explained(name, OSError, EOFError, zstandard.ZstdError), open(name, "rb") as file:
        while data := file.read(PIECE // 16):  # a few bytes may stand for thousands of times as many
            while data:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(data)
                data = frame.unused_data if frame.eof else b""
        if not frame.eof:
            raise EOFError("the compressed data stops in the middle")


def _lines(name: str) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers, as UTF-8 without line ends; None for one that is too long."""
    return enumerate(split_lines(_blocks(name)), 1)


def _json(name: str) -> Iterator[Row | BadRow]:
    first = next((line for _, line in _lines(name) if line is None or line.strip()), None) or b""
    if ending_of(name)[0] == ".json" and first.lstrip().startswith(b"["):
        yield from array_rows(name, _blocks(name))
        return
    for number, line in _lines(name):
        if line is None:
            yield BadRow(Where(name, number), TOO_LONG)
        elif line.strip():
            yield parse_row(Where(name, number), line)


def _json_part(source: Source) -> Iterator[Row | BadRow]:
    name, place = source.name, source.name
    if not source.before and source.start:  # its lines were not counted
        place = f"{source.name} from byte {source.start:,}"
    for number, line in enumerate(split_lines(_stretch(source)), source.before + 1):
        if line is None:
            yield BadRow(Where(place, number), TOO_LONG)
        elif line.strip():
            yield parse_row(Where(place if source.start else name, number), line)


def _stretch(source: Source) -> Iterator[bytes]:
    assert source.stop is not None
    with _explained(source.name, OSError), open(source.name, "rb") as file:
        file.seek(source.start)
        left = source.stop - source.start
        while left and (block := file.read(min(left, PIECE))):
            left -= len(block)
            yield block
    if left:
        raise UserError(f"{printable(source.name)} has become shorter while it was read")


def _text(name: str, split: TextSplit) -> Iterator[Row | BadRow]:
    limit = {"file": _limit(name), "paragraph": 0, "line": 0}[split]
    group: list[tuple[int, bytes | None]] = []
    held = 0
    for number, line in _lines(name):
        end, blank = line is not None and line.strip() == DOCUMENT_END, line is not None and not line.strip()
        if not end and (group or not blank) and held <= MAX_LINE:
            group.append((number, line))
            held += len(line or b"") + 1
        if end or split == "line" or (limit is not None and held >= (limit if blank else LONG_TEXT)):
            yield from _document(name, group)
            group, held = [], 0
    yield from _document(name, group)


def _limit(name: str) -> int | None:
    """Bytes after which a text is cut at a blank line: None for one with marks, or shorter than LONG_TEXT."""
    size = 0
    for _, line in _lines(name):
        if line is not None and line.strip() == DOCUMENT_END:
            return None
        size += len(line or b"") + 1
    return PIECE if size > LONG_TEXT else None


def _document(name: str, lines: list[tuple[int, bytes | None]]) -> Iterator[Row | BadRow]:
    texts, size = [], 0
    for number, line in lines:
        reason = TOO_LONG
        try:
            if line is not None and b"\0" not in line:
                texts.append(line.decode())
                size += len(line) + 1
                continue
            if line is not None:
                reason = "the line contains zero bytes; UTF-16 needs a byte-order mark, or save the file as UTF-8"
        except UnicodeDecodeError as error:
            reason = bad_byte(error)
        yield BadRow(Where(name, number), reason)
        return
    if size > MAX_LINE:
        yield BadRow(Where(name, lines[0][0]), f"the document is longer than {MAX_LINE // 2**20} MiB")
    elif texts and (text := "\n".join(texts).rstrip("\n")):
        yield Row(Where(name, lines[0][0]), {"text": text})


def _parquet(source: Source) -> Iterator[Row | BadRow]:
    name = source.name
    pyarrow, parquet = _need("pyarrow", name), _need("pyarrow.parquet", name)
    packed = bool(ending_of(name)[1])  # parquet is read from its end, so it is unpacked to disk first
    with _explained(name, OSError, pyarrow.ArrowException), tempfile.TemporaryFile() as spool:
        spool.writelines(_blocks(name) if packed else ())
        with parquet.ParquetFile(spool if packed else name) as file:
            groups = range(source.start, file.num_row_groups if source.stop is None else source.stop)
            before = sum(file.metadata.row_group(i).num_rows for i in range(source.start))
            batches = file.iter_batches(batch_size=1024, row_groups=list(groups))
            singles = (batch.slice(index, 1) for batch in batches for index in range(batch.num_rows))
            for number, single in enumerate(singles, before + 1):
                try:
                    yield Row(Where(name, number), single.to_pylist()[0])
                except UnicodeDecodeError as error:
                    yield BadRow(Where(name, number), bad_byte(error))


def _hf(source: Source) -> Iterator[Row | BadRow]:
    name, place = source.name, source.name
    _need("datasets", name)
    with _explained(name, Exception):
        rows = _hf_rows(name)
        if source.stop is not None:
            rows, place = _shard(rows, source.start), f"{name} shard {source.start}"
        for number, value in enumerate(rows, 1):
            yield Row(Where(place, number), dict(value))


def _hf_rows(name: str) -> Any:
    """A Hugging Face dataset that can be read from its beginning, nothing of it in memory."""
    datasets, (path, config, split) = _need("datasets", name), _hf_parts(name)
    if _is_saved(path):
        found = datasets.load_from_disk(path)
        rows = found[split] if (Path(path) / "dataset_dict.json").is_file() else found
        return rows.to_iterable_dataset(num_shards=max(1, min(len(rows), -(-rows.data.nbytes // PART))))
    return datasets.load_dataset(path, config, split=split, streaming=True)


def _shards(name: str) -> int:
    _need("datasets", name)
    with _explained(name, Exception):
        return int(_hf_rows(name).num_shards)


def _shard(rows: Any, index: int) -> Any:
    return rows.shard(num_shards=rows.num_shards, index=index)
