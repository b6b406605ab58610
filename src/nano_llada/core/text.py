"""Text from users: the one place that deals with byte-order marks, encodings, line ends and lines without end."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from nano_llada.core.errors import UserError

MAX_LINE = 32 * 2**20  # bytes; a longer line is refused, so that no file decides how much memory is used

# the four bytes of UTF-32-LE begin with the two of UTF-16-LE, so the order matters
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def mark_of(head: bytes) -> tuple[str, int]:
    """Encoding that the byte-order mark at the start of `head` names, and the length of the mark; UTF-8 without one."""
    return next(((name, len(mark)) for mark, name in _MARKS if head.startswith(mark)), ("utf-8", 0))


def unify_line_ends(text: str) -> str:
    """The text with `\\n` as its only line end: `\\r\\n` and a lone `\\r` are replaced."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def utf8_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a text as UTF-8 without a byte-order mark and with `\\n` as the only line end.

    UTF-16 and UTF-32 are recognised by their mark. What cannot be decoded stays invalid UTF-8, so that whoever decodes
    a line finds it there.
    """
    late = False  # a `\r` at the end of the block before, whose `\n` may still come
    for block in filter(None, _transcoded(blocks)):
        if late and not block.startswith(b"\n"):
            block = b"\n" + block
        late = block.endswith(b"\r")
        if late:
            block = block[:-1]
        yield block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block
    if late:
        yield b"\n"


def split_lines(blocks: Iterable[bytes], longest: int = MAX_LINE) -> Iterator[bytes | None]:
    """The lines of a text as UTF-8 without their ends; None for a line of more than `longest` bytes.

    A line is joined once, not once per block, and what is over the limit is never held.
    """
    begun: list[bytes] = []
    size = 0
    for block in utf8_blocks(blocks):
        *ends, rest = block.split(b"\n")
        for end in ends:
            yield b"".join([*begun, end]) if size + len(end) <= longest else None
            begun, size = [], 0
        size += len(rest)
        begun.append(rest)
        if size > longest:
            begun = []
    if size:
        yield b"".join(begun) if size <= longest else None


def decode_text(data: bytes, name: str) -> str:
    """A whole text. Raises UserError with file and line for bytes that cannot be decoded."""
    plain = b"".join(utf8_blocks([data]))
    try:
        return plain.decode()
    except UnicodeDecodeError as error:
        line = plain.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{printable(name)}:{line}: not valid {mark_of(data)[0].upper()}; save the file as UTF-8"
        ) from error


def read_text(path: Path, what: str = "") -> str:
    """The text of a file, called `what` in messages. Raises UserError if it cannot be read or decoded."""
    try:
        return decode_text(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"cannot read {what}{printable(str(path))}: {error.strerror}") from error


def printable(text: str) -> str:
    """Text from a file, made safe for a terminal: control and direction characters are written as escapes.

    Line feeds and tabs stay; bytes of a file name that are not text become `\\udc..` escapes.
    """
    text = _INVISIBLE.sub(lambda found: _escaped(found[0]), text)
    return text.encode("utf-8", "backslashreplace").decode()


def escape_markdown(value: object) -> str:
    """Text as one line that Markdown shows as it is: no markup, no raw HTML, nothing that ends a cell of a table."""
    text = printable(" ⏎ ".join(str(value).splitlines()))
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)
    # what would begin a heading, quote, list or rule: a backslash before its last character
    return re.sub(r"^(\s*(?:[#+=-]*|\d+))(?=[#+=.)-](?:\s|$)|>)", r"\g<1>\\", text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _transcoded(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """UTF-8 without a mark, whatever the mark says."""
    some = iter(blocks)
    head = b""
    while len(head) < 4 and (block := next(some, None)) is not None:
        head += block
    encoding, skipped = mark_of(head)
    if encoding == "utf-8":
        yield head[skipped:]
        yield from some
        return
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    yield _again(decoder, head[skipped:])
    for block in some:
        yield _again(decoder, block)
    if decoder.getstate()[0]:  # half a character
        yield b"\xff"


def _again(decoder: codecs.IncrementalDecoder, block: bytes) -> bytes:
    try:
        return decoder.decode(block).encode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # UTF-32 beyond Unicode
        return b"\xff"
