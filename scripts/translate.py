"""Turns the options of an old script into a `nano-llada` command, shows that command, and runs it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nano_llada.cli.main import main as nano_llada
from nano_llada.core.errors import UserError

OLD_ENDINGS = ("_state_dict", "_best")
CANVAS = "no effect here: the canvas is as long as --max-new-tokens, after the whole prompt"
FOREIGN_TOKENIZER = "no effect here: a checkpoint carries its own tokenizer"
ROPE_SCALING = (
    "no effect here: RoPE scaling belongs to the checkpoint, so that every use of it agrees; it is off unless the "
    "model's config sets yarn"
)


@dataclass(frozen=True)
class Option:
    """An option of an old script and what becomes of it: other options, a remark, or both."""

    name: str
    becomes: str = ""
    """The nano-llada options that get the value; none: the script decides, or the option has no effect."""
    note: str = ""
    """What to tell whoever uses the option."""
    flag: bool = False
    checkpoint: bool = False
    """The value is a path that may mean a run folder (see `run_folder`)."""
    required: bool = False
    default: Any = None
    type: Callable[[str], Any] = str
    needs: tuple[str, ...] = ()
    """What it has no effect without, each as it is written; `--a or --b 3` asks for one of the two."""
    choices: tuple[str, ...] | None = None


RUN_OPTIONS = (
    Option("--data", "--data", required=True),
    Option("--tokenizer-dir", "--tokenizer"),
    Option("--batch-size", "--batch-size"),
    Option("--inference-rope-scaling", note=ROPE_SCALING, flag=True),
)


class Translation:
    """One call of an old script on its way to a `nano-llada` command.

    Raises:
        SystemExit: 2 for options that are unknown, missing or broken; 0 after --help.
    """

    def __init__(self, module: str, about: str, options: Sequence[Option], argv: Sequence[str] | None) -> None:
        self._parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about, allow_abbrev=False)
        for option in options:
            self._declare(option)
        given = vars(self._parser.parse_args(argv))
        self._given = {option.name: given[option.name.removeprefix("--").replace("-", "_")] for option in options}
        self._options = {option.name: option for option in options}
        self._words: list[str] = []
        self._notes: list[str] = []

    def _declare(self, option: Option) -> None:
        meaning = option.note or f"becomes {option.becomes}" * bool(option.becomes)
        if option.flag:
            self._parser.add_argument(option.name, action="store_true", help=meaning)
            return
        self._parser.add_argument(
            option.name,
            help=meaning,
            metavar=None if option.choices else "VALUE",
            required=option.required,
            type=option.type,
            choices=option.choices,
        )

    def value(self, name: str) -> Any:
        """What was given for an option, or its default; None (a flag: False) without either."""
        given = self._given[name]
        return self._options[name].default if given is None else given

    def has(self, need: str) -> bool:
        """Whether an option, or one of several, is as it is written: `--a`, `--b 3`, `--a or --b 3`."""
        for words in need.split(" or "):
            name, _, wanted = words.partition(" ")
            value = self.value(name)
            if value == wanted if wanted else value:
                return True
        return False

    def lacks(self, name: str) -> str:
        """The first of the options that this one has no effect without and that is not there; or nothing."""
        return next((need for need in self._options[name].needs if not self.has(need)), "")

    def checkpoint(self, name: str) -> str:
        """The checkpoint that an option's value means, with a remark where it is not where the value says."""
        path: str = self.value(name)
        found = run_folder(path)
        if found != path:
            self.note(f"{name} {path}: this is the run folder {found} here; its best checkpoint is used")
        return found

    def add(self, *words: str) -> None:
        """More of the command."""
        self._words += words

    def note(self, text: str) -> None:
        """A line for the user, shown under the command."""
        self._notes.append(text)

    def fail(self, text: str) -> NoReturn:
        """Stop with the usage and a message."""
        self._parser.error(text)

    def run(self) -> int:
        """Print the command and the remarks on standard error, run it, and give its exit status."""
        for option in self._options.values():
            self._translate(option)
        print(f"runs: nano-llada {shlex.join(self._words)}", file=sys.stderr)
        for text in self._notes:
            print(f"note: {text}", file=sys.stderr)
        sys.stderr.flush()
        status: int = nano_llada(self._words)
        return status

    def _translate(self, option: Option) -> None:
        value = self.value(option.name)
        if value is None or value is False:
            return
        words = [] if option.flag else [str(word) for word in (value if isinstance(value, tuple) else (value,))]
        written = f"{option.name} {','.join(words)}".strip()
        if lacking := self.lacks(option.name):
            if self._given[option.name]:
                self.note(f"{written}: no effect without {lacking}, as in the old script")
            return
        if option.becomes == "--tokenizer" and not (Path(value) / "tokenizer.json").is_file():
            self.note(f"{written}: no tokenizer.json there, so the bundled one (or the checkpoint's) is used")
            return
        for name in option.becomes.split():
            self.add(name, *([self.checkpoint(option.name)] if option.checkpoint else words))
        if option.note:
            self.note(f"{written}: {option.note}")


def run_folder(path: str) -> str:
    """The path itself if it exists; else the run folder that took the place of an old `weights/NAME[_best].pt`.

    If neither exists it is the path again, about which the command will complain.
    """
    place = Path(path)
    if place.exists():
        return path
    name = place.name.removesuffix(".pt")
    for candidate in (name, *(name.removesuffix(ending) for ending in OLD_ENDINGS)):
        if (place.parent / candidate).is_dir():
            return str(place.parent / candidate)
    return path


def trained_block_size(path: str) -> int | None:
    """Tokens in a block of the model that an old path means; None: it knows whole rows, or there is none to look at."""
    from nano_llada.checkpoint.files import find_checkpoint, read_description

    try:
        size: int | None = read_description(find_checkpoint(Path(run_folder(path)))).card.block_size
    except UserError:
        return None  # the command will say what is wrong
    return size
