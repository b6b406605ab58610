"""What --help and --help-all print: a usage line, and options under headings."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from nano_llada.cli.fields import Option, metavar

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Layout:
    """What the help of a command shows."""

    command: str
    about: str
    options: Sequence[Option]
    leading: Sequence[str]
    shown: Mapping[str, str] | None
    hidden: Collection[str]
    extra: Mapping[str, Rows]
    """Heading -> words and help that are read elsewhere, such as --resume."""

    @property
    def visible(self) -> list[Option]:
        """All options that --help-all shows, positionals included."""
        return [option for option in self.options if option.name not in self.hidden]

    def positionals(self) -> list[Option]:
        """In their order."""
        known = {option.name: option for option in self.options}
        return [known[name] for name in self.leading]

    def headings(self) -> dict[str, list[Option]]:
        """The options of the short help."""
        known = {option.name: option for option in self.visible if option.name not in self.leading}
        if self.shown is None:
            return _by_part(known.values())
        named = {
            heading: [known[name] for name in names.split() if name in known] for heading, names in self.shown.items()
        }
        return {heading: options for heading, options in named.items() if options}

    def others(self) -> dict[str, list[Option]]:
        """The options that only --help-all shows."""
        listed = {option.name for options in self.headings().values() for option in options} | set(self.leading)
        return _by_part(option for option in self.visible if option.name not in listed)


def _by_part(options: Any) -> dict[str, list[Option]]:
    found: dict[str, list[Option]] = {}
    for option in options:
        found.setdefault(option.part or "options", []).append(option)
    return found


def usage(layout: Layout) -> str:
    """The usage line."""
    words = []
    for option in layout.positionals():
        needed, name = option.default is MISSING, metavar(option)
        if option.many:
            words.append(f"{name} [{name} ...]" if needed else f"[{name} ...]")
        else:
            words.append(name if needed else f"[{name}]")
    required = [o for o in layout.options if o.default is MISSING and o.name not in layout.leading]
    words += [_written(option) for option in required]
    return f"usage: nano-llada {' '.join([layout.command, *words, '[options]'])}\n"


def short_help(layout: Layout) -> str:
    """The text of --help."""
    rest = sum(len(options) for options in layout.others().values())
    return _page(layout, layout.headings(), rest)


def full_help(layout: Layout) -> str:
    """The text of --help-all."""
    sections = {heading: list(options) for heading, options in layout.headings().items()}
    for heading, options in layout.others().items():
        sections.setdefault(f"more: {heading}" if heading in sections or heading == "options" else heading, []).extend(
            options
        )
    return _page(layout, sections, 0)


def _page(layout: Layout, sections: Mapping[str, Sequence[Option]], rest: int) -> str:
    width = max(60, min(shutil.get_terminal_size().columns, 120))
    tables: dict[str, Rows] = {}
    if layout.leading:
        tables["arguments"] = [(metavar(option), _described(option)) for option in layout.positionals()]
    tables |= {heading: [(_written(o), _described(o)) for o in options] for heading, options in sections.items()}
    for heading, rows in layout.extra.items():
        tables[heading] = [*tables.get(heading, ()), *rows]
    tables["help"] = [
        ("-h, --help", "Show this help."),
        *([("--help-all", f"Show {rest} more options.")] if rest else []),
        ("--config FILE", "Read options from a JSON or TOML file; options on the command line win."),
    ]
    column = min(30, max(len(name) for rows in tables.values() for name, _ in rows) + 2)
    lines = [usage(layout), *textwrap.wrap(layout.about, width, break_on_hyphens=False)]
    for heading, rows in tables.items():
        lines += ["", f"{heading}:", *(line for row in rows for line in _row(*row, column, width))]
    return "\n".join(lines) + "\n"


def _row(name: str, text: str, column: int, width: int) -> Iterator[str]:
    """One option: its name, and its help beside it or, where the name is too long, below."""
    wrapped = textwrap.wrap(text, width - column - 5, break_on_hyphens=False) or [""]
    if len(name) > column:
        yield f"  {name}"
        name = ""
    yield f"  {name:<{column}}   {wrapped[0]}".rstrip()
    for line in wrapped[1:]:
        yield f"  {'':<{column}}   {line}"


def _written(option: Option) -> str:
    """The option as it is given: --steps N, --packing or --no-packing, --data FILE ..."""
    if option.flag_only:
        return option.flag.replace("--", "--no-", 1) if option.default is True else option.flag
    return f"{option.flag} {metavar(option)}{' ...' if option.many else ''}"


def _described(option: Option) -> str:
    """The help, and the default where the help does not say it."""
    text = " ".join(option.help.split())
    if option.flag_only and option.default is True:
        return f"Switch off: {text[:1].lower()}{text[1:]}" if text else "Switch off."
    if option.default is MISSING or "default" in text.lower():
        return text
    value = option.default
    if value is None or value == () or value is False or value == "":
        return text
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    elif isinstance(value, Path):
        value = value.as_posix()
    elif dataclasses.is_dataclass(value):
        return text
    return f"{text} (default: {value})"
