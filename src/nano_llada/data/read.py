"""From whatever the user names (files, folders, patterns, Hugging Face datasets) to a stream of rows."""

from __future__ import annotations

import codecs
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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.data.rows import BadRow, BadRows, Row, Where, bad_byte, parse_row

__all__ = ["BadRow", "BadRows", "Row", "Source", "Where", "read_rows", "resolve"]

SUPPORTED = ".jsonl, .json, .txt and .parquet, each also with .gz or .zst behind it"
DOCUMENT_END = b"<|endoftext|>"
LONG_TEXT, PIECE = 2**20, 2**16  # bytes; from the first on, text without marks is cut, to about the second
_ENDING = re.compile(r"(\.jsonl|\.json|\.txt|\.parquet)(\.gz|\.zst)?$", re.IGNORECASE)
_HF_NAME = re.compile(r"hf:(.+?)(?::([^:@/\\]+))?(?:@([^:@/\\]+))?")


@dataclass(frozen=True)
class Source:
    """One file, or one Hugging Face dataset when `name` starts with ``hf:``; made by `resolve`."""

    name: str

    def fingerprint(self) -> str:
        """Hex sha256 of the file, or of the ``hf:`` name and its data version. UserError if missing."""
        if not self.name.startswith("hf:"):
            with _explained(self.name, OSError), open(self.name, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        datasets, (path, config, split) = _need("datasets", self.name), _hf_parts(self.name)
        with _explained(self.name, Exception):
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


def read_rows(source: Source) -> Iterator[Row | BadRow]:
    """The rows of a source in their order, read as they are asked for; bad ones come as `BadRow`.

    JSON lines and arrays give their objects, parquet and hf their rows, text files ``{"text": document}``.
    A text file's documents end at lines that are ``<|endoftext|>``. Without such lines it is one document,
    or, above 1 MiB, pieces cut at the first blank line after 64 KiB (at any line's end after 1 MiB).
    Only a .json file that is one array is held whole. Raises UserError for a damaged or missing file.
    """
    if source.name.startswith("hf:"):
        return _hf(source.name)
    readers = {".jsonl": _json, ".json": _json, ".txt": _text, ".parquet": _parquet}
    return readers[ending_of(source.name)[0]](source.name)


def _matches(source: str) -> list[str]:
    path = Path(source)
    if source.startswith("hf:"):
        _hf_parts(source)
        return [source]
    if path.is_dir():
        files = (file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        names = [str(file) for file in files if _ENDING.search(file.name)]
    elif path.is_file():
        names = [str(path)]
    else:
        names = [str(Path(file)) for file in glob.glob(source, recursive=True) if Path(file).is_file()]
    if not names:
        raise UserError(
            f"{source}: no data found (working folder: {Path.cwd()}); name a file, a pattern, "
            f"a folder with such files directly in it, or hf:NAME. Supported endings are {SUPPORTED}"
        )
    return [name for name in names if ending_of(name)]


def ending_of(name: str) -> tuple[str, str]:
    match = _ENDING.search(name)
    if match is None:
        raise UserError(f"{name}: cannot read this kind of file; supported endings are {SUPPORTED}")
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
        raise UserError(f"{name}: could not be read, check that it is there and whole ({error})") from error


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
        while data := file.read(PIECE):
            while data:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(data)
                data = frame.unused_data if frame.eof else b""
        if not frame.eof:
            raise EOFError("the compressed data stops in the middle")


def _lines(name: str) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, without a byte order mark and line ends."""
    for number, line in enumerate(_split(_blocks(name)), 1):
        yield number, line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").removesuffix(b"\r")


def _split(blocks: Iterable[bytes]) -> Iterator[bytes]:
    begun: list[bytes] = []  # a long line is joined once, not once per block
    for block in blocks:
        *ends, rest = block.split(b"\n")
        for end in ends:
            yield b"".join([*begun, end])
            begun = []
        begun.append(rest)
    if last := b"".join(begun):
        yield last


def _json(name: str) -> Iterator[Row | BadRow]:
    first = next((line for _, line in _lines(name) if line.strip()), b"")
    if ending_of(name)[0] == ".json" and first.lstrip().startswith(b"["):
        yield from _array(name, b"\n".join(line for _, line in _lines(name)))
    else:
        yield from (parse_row(Where(name, number), line) for number, line in _lines(name) if line.strip())


def _array(name: str, data: bytes) -> Iterator[Row | BadRow]:
    text = data.decode(errors="surrogateescape")  # a bad byte then spoils its own row only
    step, at = re.match(r"\s*\[\s*+(?!\])", text), text.index("[") + 1
    comma, decoder, line, counted = re.compile(r"\s*,\s*"), json.JSONDecoder(), 1, 0
    try:
        while step:
            line, counted = line + text.count("\n", counted, step.end()), step.end()
            at = decoder.raw_decode(text, counted)[1]
            yield parse_row(Where(name, line), text[counted:at].encode(errors="surrogateescape"))
            step = comma.match(text, at)
        if text[at:].strip() != "]":
            raise json.JSONDecodeError("Expecting ',' or the one ']' that ends the file", text, at)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: broken JSON array, no row behind it can be found: {error}") from error


def _text(name: str) -> Iterator[Row | BadRow]:
    size = 0
    for _, line in _lines(name):
        if line.strip() == DOCUMENT_END:
            size = 0
            break
        size += len(line) + 1
    group: list[tuple[int, bytes]] = []
    held = 0
    for number, line in _lines(name):
        end, blank = line.strip() == DOCUMENT_END, not line.strip()
        if not end and (group or not blank):
            group.append((number, line))
            held += len(line) + 1
        if end or (size > LONG_TEXT and held >= (PIECE if blank else LONG_TEXT)):
            yield from _document(name, group)
            group, held = [], 0
    yield from _document(name, group)


def _document(name: str, lines: list[tuple[int, bytes]]) -> Iterator[Row | BadRow]:
    texts = []
    for number, line in lines:
        try:
            texts.append(line.decode())
        except UnicodeDecodeError as error:
            yield BadRow(Where(name, number), bad_byte(error))
            return
    if texts:
        yield Row(Where(name, lines[0][0]), {"text": "\n".join(texts).rstrip("\n")})


def _parquet(name: str) -> Iterator[Row | BadRow]:
    pyarrow, parquet = _need("pyarrow", name), _need("pyarrow.parquet", name)
    packed = bool(ending_of(name)[1])  # parquet is read from its end, so it is unpacked to disk first
    with _explained(name, OSError, pyarrow.ArrowException), tempfile.TemporaryFile() as spool:
        spool.writelines(_blocks(name) if packed else ())
        with parquet.ParquetFile(spool if packed else name) as file:
            batches = file.iter_batches(batch_size=1024)
            singles = (batch.slice(index, 1) for batch in batches for index in range(batch.num_rows))
            for number, single in enumerate(singles, 1):
                try:
                    yield Row(Where(name, number), single.to_pylist()[0])
                except UnicodeDecodeError as error:
                    yield BadRow(Where(name, number), bad_byte(error))


def _hf(name: str) -> Iterator[Row | BadRow]:
    datasets, (path, config, split) = _need("datasets", name), _hf_parts(name)
    with _explained(name, Exception):
        rows = datasets.load_dataset(path, config, split=split, streaming=True)
        for number, value in enumerate(rows, 1):
            yield Row(Where(name, number), dict(value))
