"""`nano-llada data world|stories|show`: write generated data, or look at any data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nano_llada.cli.options import choose_word, parse
from nano_llada.config.data import default_cache
from nano_llada.core.errors import UserError

if TYPE_CHECKING:
    from nano_llada.data.read import Source
    from nano_llada.data.tokenizer import Tokenizer

WORDS = {
    "world": "write the small bilingual world as JSONL files, with preference pairs if asked for",
    "stories": "write stories of a simulated world and conversations about them, Chinese and English",
    "show": "read files, report bad rows, lengths and how they pack",
}


@dataclass(frozen=True)
class World:
    """Options of `data world`."""

    out: Path
    """Folder to write to."""
    documents: int = 40_000
    """Training documents for pretraining; the other splits hold a tenth."""
    chats: int = 60_000
    """Training conversations; the other splits hold a tenth."""
    preferences: int = 0
    """Training pairs of a right and a wrong answer, for DPO; the other splits hold a tenth."""
    lookups: int = 0
    """Training texts to look things up in and nothing else, to begin with; the other splits hold a tenth."""
    tellings: int = 0
    """Training conversations that tell of families and ask nothing; the other splits hold a tenth."""
    mirrored: bool = False
    """Tell of families from the end of the statements, too, and ask about them in half of the texts about them."""
    skills: tuple[str, ...] = ()
    """Skills to cover; default: all."""
    seed: int = 0
    """Seed of the world."""


@dataclass(frozen=True)
class Stories:
    """Options of `data stories`."""

    out: Path
    """Folder to write to."""
    documents: int = 40_000
    """Training stories for pretraining, half of them Chinese; the other splits contain a tenth."""
    chats: int = 60_000
    """Training conversations about stories; the other splits contain a tenth."""
    mixed: bool = False
    """Write the 17 skills of `data world`, too (a third as many documents, as many conversations), and all of it
    together as texts in any order, to pretrain a model that is to talk."""
    seed: int = 0
    """Seed of the stories."""


@dataclass(frozen=True)
class Show:
    """Options of `data show`."""

    data: tuple[str, ...]
    """Files, folders, globs, or hf:NAME."""
    format: Literal["auto", "text", "chat", "preference"] = "auto"
    """What rows contain; auto: as the first row that can be read looks."""
    text_field: str = "text"
    """The field of a text row."""
    txt_split: Literal["file", "paragraph", "line"] = "file"
    """What a document is in a .txt file: the whole file, or every paragraph or line."""
    marks: Literal["text", "tokens"] = "text"
    """What <|im_start|> and its like written in a text are: ordinary text, or the tokens of these names."""
    turns: Literal["all", "each", "last"] = "all"
    """Chat: documents made of a conversation."""
    tokenizer: Path | None = None
    """Folder with tokenizer.json; default: the bundled one."""
    sequence_length: int = 256
    """Row length to try packing with."""
    on_bad_row: Literal["stop", "skip"] = "skip"
    """Stop at the first bad row, or count them all."""
    first: int = 2
    """Documents to print."""
    cache: Path = field(default_factory=default_cache)
    """Folder for tokenised data."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    word, rest = choose_word(arguments, WORDS, "data")
    return {"world": _world, "stories": _stories, "show": _show}[word](rest)


def _world(arguments: Sequence[str]) -> int:
    about = "Write the small bilingual world as JSONL files."
    options = parse(World, arguments, command="data world", about=about, leading="out")
    from nano_llada.world import SKILLS
    from nano_llada.world.files import write_lookups, write_preferences, write_tellings, write_world

    _check_new(options.out)
    paths = write_world(
        options.out,
        documents_count=options.documents,
        chats_count=options.chats,
        skills=options.skills or SKILLS,
        seed=options.seed,
        mirrored=options.mirrored,
    )
    if options.lookups:
        paths += write_lookups(options.out, count=options.lookups, seed=options.seed)
    if options.tellings:
        paths += write_tellings(options.out, count=options.tellings, seed=options.seed)
    if options.preferences:
        count, skills = options.preferences, options.skills or SKILLS
        paths += write_preferences(options.out, count=count, skills=skills, seed=options.seed + 1)  # not the chats'
    return _list(paths)


def _stories(arguments: Sequence[str]) -> int:
    about = "Write stories of a simulated world, and conversations about them, as JSONL files."
    options = parse(Stories, arguments, command="data stories", about=about, leading="out")
    from nano_llada.world.stories import write_stories

    _check_new(options.out)
    counts = {"documents_count": options.documents, "chats_count": options.chats}
    paths = write_stories(options.out, **counts, seed=options.seed)
    if options.mixed:
        from nano_llada.world.stories.mixture import write_mixture

        third = options.documents // 3
        paths += write_mixture(options.out, skill_documents=third, skill_chats=options.chats, seed=options.seed)
    return _list(paths)


def _check_new(out: Path) -> None:
    if any((out / name).exists() for name in ("pretrain-train.jsonl", "chat-train.jsonl")):
        raise UserError(f"{out} contains a pretrain-train.jsonl or chat-train.jsonl already; give another --out")


def _list(paths: Sequence[Path]) -> int:
    for path in paths:
        print(path)
    return 0


def _show(arguments: Sequence[str]) -> int:
    about = "Read data, report bad rows, lengths and how it packs."
    show(parse(Show, arguments, command="data show", about=about, leading="data"))
    return 0


def show(options: Show) -> None:
    """Print what the data is like."""
    import numpy as np

    from nano_llada.data.packing import ContinuousPlan, WholePlan
    from nano_llada.data.read import BadRows, resolve
    from nano_llada.data.store import Encoding, open_store
    from nano_llada.data.tokenizer import BUNDLED_TOKENIZER, Tokenizer
    from nano_llada.session.data import tokenizer_warning, warnings

    sources = resolve(options.data)
    form = _format_of(sources, options.text_field) if options.format == "auto" else options.format
    if form != "text" and options.marks != "text":
        raise UserError("marks are for format 'text': in conversations they are always text")
    tokenizer = Tokenizer.load(options.tokenizer or BUNDLED_TOKENIZER)
    encoding = Encoding(form, options.text_field, options.turns, options.txt_split, options.marks)
    store = open_store(sources, tokenizer, encoding, cache=options.cache, bad_rows=BadRows(options.on_bad_row))
    lengths = np.asarray(store.lengths)
    tokens, scored = int(lengths.sum()), int(np.asarray(store.scored_counts).sum())
    order = np.arange(len(store))
    plan: ContinuousPlan | WholePlan
    if form == "text":
        plan = ContinuousPlan(lengths, order, options.sequence_length)
    else:
        plan = WholePlan(lengths, order, options.sequence_length, packing=True)
    print(f"format           {form}")
    print(f"documents        {len(store):,}")
    print(f"tokens           {tokens:,} ({scored:,} learnt), {int(np.asarray(store.text_bytes).sum()):,} bytes of text")
    print("document length  " + ", ".join(f"{p}%: {int(np.percentile(lengths, p))}" for p in (5, 50, 95, 100)))
    print(f"rows of {options.sequence_length:<8} {len(plan):,} packed, against {len(store):,} unpacked")
    if store.meta["skipped"]:
        print(f"bad rows         {store.meta['skipped']}")
    for note in [*store.notes, *warnings(store, sources, encoding), *tokenizer_warning(store, tokenizer)]:
        print(f"note             {note}")
    for number in range(min(options.first, len(store))):
        ids, _ = store.slice(int(store.starts[number]), int(store.starts[number + 1]))
        print(f"--- document {number}\n{readable(tokenizer, ids.tolist())}")


def _format_of(sources: Sequence[Source], text_field: str) -> str:
    """What the first row that can be read looks like."""
    from nano_llada.data.bad_rows import Row
    from nano_llada.data.read import read_rows
    from nano_llada.data.rows import looks_like

    rows = (row for source in sources for row in read_rows(source) if isinstance(row, Row))
    first = next(rows, None)
    return "text" if first is None or text_field in first.value else looks_like(first.value)


def readable(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """A document for a terminal: a mark is written as its name, the same characters as text behind a backslash."""
    from nano_llada.core.text import printable
    from nano_llada.data.tokenizer import MARKS

    vocab = tokenizer.vocab
    parts: list[str] = []
    run: list[int] = []
    marks = {vocab.eos, vocab.turn_start, vocab.turn_end, vocab.mask}

    def text() -> str:
        written = printable(tokenizer.decode(run))
        for mark in MARKS:
            written = written.replace(mark, f"\\{mark}")
        return written

    for index in ids:
        if index in marks:
            parts += [text(), tokenizer.token(index)]
            run = []
        else:
            run.append(index)
    return "".join([*parts, text()])
