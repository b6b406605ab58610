"""`nano-llada tokenizer train|show`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from nano_llada.cli.options import choose_word, parse
from nano_llada.core.errors import UserError
from nano_llada.core.text import printable, read_text

DEFAULT_SIZE = 6400
WORDS = {"train": "train a tokenizer on files", "show": "print a tokenizer's specials, and how it cuts a text"}


@dataclass(frozen=True)
class Train:
    """Options of `tokenizer train`."""

    data: tuple[str, ...]
    """Files, folders, globs, or hf:NAME; text or conversations."""
    out: Path
    """Folder for tokenizer.json."""
    kind: Literal["bpe", "characters"] = "bpe"
    """Byte-level BPE, or a token for each character."""
    vocab_size: int | None = None
    """BPE: entries, special tokens included; default: 6400."""
    chinese_words: Path | None = None
    """BPE: file with one word a line; Chinese text is cut into these words and single characters, which helps very
    small models."""
    text_field: str = "text"
    """The field of a text row."""
    txt_split: Literal["file", "paragraph", "line"] = "file"
    """What a document is in a .txt file."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """Stop at a row that cannot be used, or skip, count and report it."""


@dataclass(frozen=True)
class Show:
    """Options of `tokenizer show`."""

    tokenizer: Path
    """Folder with tokenizer.json."""
    text: str = "Tom has a red ball. 汤姆有一个红色的球。"
    """The text to cut."""


def read(arguments: Sequence[str]) -> Train:
    """The options of `tokenizer train`. Raises UserError for those that have no effect."""
    options = parse(Train, arguments, command="tokenizer train", about="Train a tokenizer on files.", leading="data")
    for name in ("vocab_size", "chinese_words"):
        if options.kind == "characters" and getattr(options, name) is not None:
            raise UserError(f"{name} has no effect with kind 'characters': every character becomes a token")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    word, rest = choose_word(arguments, WORDS, "tokenizer")
    from nano_llada.data.bad_rows import BadRows, Unread
    from nano_llada.data.texts import read_texts
    from nano_llada.data.tokenizer import Tokenizer, train_bpe, train_characters

    if word == "train":
        options = read(rest)
        _check(options)
        bad = BadRows(options.on_bad_row)
        unread = Unread()
        texts = read_texts(options.data, options.text_field, bad, txt_split=options.txt_split, unread=unread)
        if (first := next(texts, None)) is None:
            raise UserError(f"no text in {', '.join(options.data)}" + (f": {bad.summary()}" if bad.count else ""))
        texts = chain([first], texts)
        if options.kind == "bpe":
            size = DEFAULT_SIZE if options.vocab_size is None else options.vocab_size
            tokenizer = train_bpe(texts, size, chinese_words=_words(options.chinese_words))
        else:
            tokenizer = train_characters(texts)
        try:
            tokenizer.save(options.out)
        except OSError as error:
            raise UserError(f"cannot write {printable(str(options.out))}: {error.strerror}") from error
        if unread.counts:
            print(unread.summary())
        if bad.count:
            print(f"skipped rows: {bad.summary()}")
        print(f"{tokenizer.vocab.size} tokens, hash {tokenizer.hash}, in {options.out}")
        return 0
    shown = parse(Show, rest, command="tokenizer show", about="Inspect a tokenizer.", leading=("tokenizer", "text"))
    tokenizer = Tokenizer.load(shown.tokenizer)
    print(f"tokens    {tokenizer.vocab.size}\nhash      {tokenizer.hash}")
    for name in ("eos", "turn_start", "turn_end", "mask"):
        index = getattr(tokenizer.vocab, name)
        print(f"{name:<11}{index} {tokenizer.token(index)}")
    ids = tokenizer.encode(shown.text)
    size = len(shown.text.encode())
    print(f"{len(ids)} tokens for {size} bytes ({size / max(len(ids), 1):.2f} bytes a token)")
    print(" | ".join(tokenizer.token(index) for index in ids))
    return 0


def _check(options: Train) -> None:
    if (options.out / "tokenizer.json").exists():
        raise UserError(
            f"{options.out} holds a tokenizer already, which models may have been trained with: "
            "delete it, or give another --out"
        )


def _words(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    return read_text(path).split()
