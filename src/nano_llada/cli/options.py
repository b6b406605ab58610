"""Command lines from records: their fields are the options, the strings below the fields are the help.

A small parser of our own, since none at hand gives what a person needs here: positionals in the usage line, a short
help grouped by headings with the rest under --help-all, `did you mean`, old names that keep working, and no import
beyond the standard library.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import TypeVar

from nano_llada.cli.fields import Option, build, convert, flatten, metavar
from nano_llada.cli.help import Layout, full_help, short_help, usage
from nano_llada.config.checks import check_numbers
from nano_llada.config.record import from_plain, read_config, read_record
from nano_llada.core.errors import UserError
from nano_llada.core.words import nearest

T = TypeVar("T")

# positionals that earlier versions had as options alone
OLD_OPTIONS = ("checkpoint", "checkpoints", "sources", "source", "file")

# headings of the decoding options in the short help of every command that writes
WRITING: Mapping[str, str] = {
    "writing": "max_new_tokens temperature top_k top_p seed",
    "diffusion models": "steps threshold block_length",
    "block diffusion models": "block_size edit_threshold preset",
    "tri-mode models": "decode drafts",
}


def parse(  # noqa: PLR0913 - what a command line is made of
    cls: type[T],
    arguments: Sequence[str],
    *,
    command: str,
    about: str,
    default: T | None = None,
    leading: str | Sequence[str] = (),
    shown: Mapping[str, str] | None = None,
    hidden: Collection[str] = (),
    old: Mapping[str, str] | None = None,
    extra: Mapping[str, list[tuple[str, str]]] | None = None,
    elsewhere: Callable[[str], str | None] = lambda name: None,
) -> T:
    """Options of a command as a value of `cls`. `--config FILE` (JSON or TOML) is read first, options override it.

    Args:
        default: values of options that are not given; without it those of the record.
        leading: options that are positionals too, in order; the last one may take several words.
        shown: heading -> names of the options that --help shows; default: all of them.
        hidden: options that no help shows, since they belong to other uses of the record. They still work.
        elsewhere: the command that has an option which this one lacks, if there is one.
        extra: heading -> lines of the help for words that the caller has read itself.
        old: old name -> name of an option, or option with a fixed value (`--name VALUE`).

    Raises:
        UserError: for an unknown option, a missing or wrong value, or values that contradict each other.
        SystemExit: 0 after --help or --help-all.
    """
    leading = (leading,) if isinstance(leading, str) else tuple(leading)
    words, path = take_option(list(arguments), "--config")
    asked = _help_asked(words)
    base, refused = default, None
    if path is not None and asked is None:
        try:
            default = read_record(cls, Path(path), base=base)
        except UserError as error:  # alone; what the command line says may be what is missing
            refused = error
    options = flatten(cls, default)
    layout = Layout(command, about, options, leading, shown, frozenset(hidden), extra or {})
    if asked is not None:
        print(full_help(layout) if asked == "--help-all" else short_help(layout), end="")
        sys.exit(0)
    given = _Words(layout, old or {}, elsewhere).read(words)
    values = {option.path: convert(option, texts) for option, texts in given}
    if refused is not None:
        return _together(cls, Path(str(path)), values, base, refused)
    missing = [option for option in options if option.default is MISSING and option.path not in values]
    if missing:
        named = ", ".join(metavar(o) if o.name in leading else o.flag for o in missing)
        raise UserError(f"{named} is missing\n\n{usage(layout)}\nnano-llada {command} --help explains the options")
    try:
        return build(cls, default, values)
    except ValueError as error:
        raise UserError(str(error)) from error


def _together(
    cls: type[T], path: Path, values: Mapping[tuple[str, ...], object], base: T | None, refused: UserError
) -> T:
    """A config that is refused by itself, with the options of the command line in it.

    Raises:
        UserError: as without the command line, if that does not help.
    """
    if not values:
        raise refused
    plain = read_config(path)
    for (*above, name), value in values.items():
        table = plain
        for part in above:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise refused
        table[name] = value
    try:
        made = from_plain(cls, plain, base=base)
        check_numbers(made)
    except (UserError, ValueError):
        raise refused from None
    return made


def _help_asked(words: Sequence[str]) -> str | None:
    asked = [word for word in itertools.takewhile(lambda word: word != "--", words) if word in _HELP]
    return max(asked, key=len) if asked else None


_HELP = ("-h", "--help", "--help-all")


@dataclass
class _Words:
    """One pass over the words of a command line."""

    layout: Layout
    old: Mapping[str, str]
    elsewhere: Callable[[str], str | None]
    given: dict[tuple[str, ...], tuple[Option, list[str]]] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)  # words that belong to no option
    ends: list[tuple[Option, int]] = field(default_factory=list)  # where options that take several words stopped taking

    def read(self, words: Sequence[str]) -> list[tuple[Option, list[str]]]:
        """The options that are given, and their texts; positionals are assigned last."""
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                self.loose += rest
                break
            if _is_option(word):
                rest = self._option(word, rest)
            else:
                self.loose.append(word)
        self._assign_positionals()
        return list(self.given.values())

    def _option(self, word: str, rest: list[str]) -> list[str]:
        """Take one option and its values; gives the words after them."""
        name, equals, inline = word.partition("=")
        option, fixed = self._find(name)
        if fixed:
            self._keep(option, fixed, name)
            return rest
        if option.flag_only and option.optional and not equals and rest and rest[0].lower() in ("true", "false"):
            self._keep(option, rest[:1], name)
            return rest[1:]
        if option.flag_only:
            self._keep(
                option, [inline] if equals else ["false" if _plain(name) == f"no_{option.name}" else "true"], name
            )
            return rest
        if equals:
            self._keep(option, [inline], name)
            return rest
        if option.many:
            taken = list(itertools.takewhile(lambda text: not _is_option(text) and text != "--", rest))
            self._keep(option, taken, name)
            if len(taken) > 1:  # the last of them may have been meant for something else
                self.ends.append((option, len(self.given[option.path][1]) - 1))
            return rest[len(taken) :]
        if not rest or _is_option(rest[0]):
            hint = f"; write {name}=VALUE for a value that begins with a dash" if rest else ""
            raise UserError(f"{name} needs a value ({metavar(option)}){hint}")
        self._keep(option, rest[:1], name)
        return rest[1:]

    def _find(self, word: str) -> tuple[Option, list[str]]:
        """The option of a word, and the values that an old name of it means."""
        name = _plain(word)
        if name in self.old:
            target, *fixed = self.old[name].split()
            _note_old(word, " ".join([f"--{_kebab(target)}", *fixed]))
            return self._find(f"--{target}")[0], fixed
        for option in self.layout.options:
            if name == option.name or (option.flag_only and name == f"no_{option.name}"):
                if name in self.layout.leading and name in OLD_OPTIONS:
                    _note_old(word, f"{metavar(option)} alone ({usage(self.layout).strip()})")
                return option, []
        raise UserError(self._unknown(word))

    def _unknown(self, word: str) -> str:
        if (command := self.elsewhere(_plain(word))) is not None:
            return f"{word} is an option of `nano-llada {command}`, not of `nano-llada {self.layout.command}`"
        names = [option.name for option in self.layout.options if option.name not in self.layout.hidden]
        near = nearest(_plain(word), [*names, "config", "help", "help_all"])
        hint = f"did you mean --{_kebab(near)}?" if near else f"nano-llada {self.layout.command} --help lists them"
        return f"unknown option {word}; {hint}"

    def _keep(self, option: Option, texts: list[str], name: str) -> None:
        """Remember texts of an option; one that takes several collects them, one that takes one keeps the last."""
        if not option.many and len(texts) != 1:
            raise UserError(f"{name} takes one value, got {' '.join(texts) or 'none'}")
        before = self.given[option.path][1] if option.many and option.path in self.given else []
        self.given[option.path] = (option, [*before, *texts])

    def _assign_positionals(self) -> None:
        known = {option.name: option for option in self.layout.options}
        self._leave_needed(known)
        for name in self.layout.leading:
            option = known[name]
            if not self.loose:
                return
            if option.path in self.given and not option.many:
                continue
            texts = self.loose if option.many else self.loose[:1]
            self._keep(option, list(texts), metavar(option))
            self.loose = self.loose[len(texts) :]
        if self.loose:
            hint = f"\n\n{usage(self.layout)}"
            raise UserError(f"unexpected {' '.join(map(repr, self.loose))}{hint}")

    def _leave_needed(self, known: Mapping[str, Option]) -> None:
        """`--prompt A B RUN --stop X Y`: the last word of an option is the positional that is not given, if there is
        such a file.
        """
        needed = known[self.layout.leading[0]] if self.layout.leading else None
        if needed is None or needed.many or self.loose or needed.path in self.given:
            return
        for option, place in reversed(self.ends):
            texts = self.given[option.path][1]
            if os.path.exists(texts[place]):
                self.loose.append(texts.pop(place))
                return


def _is_option(word: str) -> bool:
    """Whether a word names an option: not a negative number, a text with blanks or a dash alone."""
    if not word.startswith("-") or word == "-" or word == "--" or any(mark.isspace() for mark in word.split("=")[0]):
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _plain(word: str) -> str:
    return word.lstrip("-").split("=")[0].replace("-", "_")


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _note_old(name: str, new: str) -> None:
    print(f"note: {name.split('=')[0]} is the old form of {new}", file=sys.stderr)


def short_names(paths: Sequence[Path], least: int = 1) -> list[str]:
    """The shortest ends of paths, of `least` parts or more, that distinguish them.

    Raises:
        UserError: for a path that is given twice.
    """
    places = [path.resolve() for path in paths]
    if twice := [str(path) for path, place in zip(paths, places, strict=True) if places.count(place) > 1]:
        raise UserError(f"given twice: {', '.join(twice)}")
    found = []
    for place in places:
        length = least
        while sum(other.parts[-length:] == place.parts[-length:] for other in places) > 1:
            length += 1
        found.append("/".join(place.parts[-length:]))
    return found


def named_folders(given: Sequence[str], least: int = 1) -> list[tuple[str, Path]]:
    """NAME=FOLDER as it is; folders alone by the shortest ends of their paths that distinguish them.

    Raises:
        UserError: for a folder given twice.
    """
    pairs = [(word.partition("=")[0], Path(word.partition("=")[2])) for word in given]
    pairs = [
        ("", Path(word)) if Path(word).exists() or "=" not in word else p for word, p in zip(given, pairs, strict=True)
    ]
    ends = short_names([path for _, path in pairs], least)
    return [(name or end, path) for (name, path), end in zip(pairs, ends, strict=True)]


def default_folder(given: Path | None, usual: Path) -> Path:
    """Where a report goes: where the user says, or to the first of `usual`, `usual-2`, ... that does not exist."""
    if given is not None:
        if any(given.glob("report.*")):
            print(f"note: the report in {given} is replaced", file=sys.stderr)
        return given
    names = itertools.chain([usual], (usual.with_name(f"{usual.name}-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def take_option(arguments: Sequence[str], name: str) -> tuple[list[str], str | None]:
    """Remove `name VALUE` or `name=VALUE` from a command line; gives what is left, and the value.

    Raises:
        UserError: if the value is missing.
    """
    for i, argument in enumerate(arguments):
        if argument == name:
            if i + 1 == len(arguments):
                raise UserError(f"{name} needs a value")
            return [*arguments[:i], *arguments[i + 2 :]], arguments[i + 1]
        if argument.startswith(f"{name}="):
            return [*arguments[:i], *arguments[i + 1 :]], argument.split("=", 1)[1]
    return list(arguments), None


def take_flag(arguments: Sequence[str], name: str) -> tuple[list[str], bool]:
    """Remove a flag from a command line; gives what is left, and whether it was there."""
    return [argument for argument in arguments if argument != name], name in arguments


def choose_word(arguments: Sequence[str], words: Mapping[str, str], command: str) -> tuple[str, list[str]]:
    """The second word of a command such as `pretrain ar`, and what follows it.

    Raises:
        UserError: if it is missing or unknown.
        SystemExit: 0 after printing help.
    """
    width = max(map(len, words))
    listing = "\n".join(f"  {word:<{width}}   {text}" for word, text in words.items())
    usage = (
        f"usage: nano-llada {command} {{{','.join(words)}}} [options]\n\n{listing}\n\n"
        f"nano-llada {command} {next(iter(words))} --help lists the options.\n"
    )
    if arguments and arguments[0] in _HELP:
        print(usage, end="")
        sys.exit(0)
    if not arguments or arguments[0] not in words:
        got = f", not {arguments[0]!r}" if arguments else ""
        near = nearest(arguments[0], words) if arguments else None
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(f"nano-llada {command} needs one of {', '.join(words)}{got}{hint}\n\n{usage}")
    return arguments[0], list(arguments[1:])
