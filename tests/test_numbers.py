"""Every number of every record has a range: what is outside is refused by name, and nothing ends in a traceback."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
import typing
from typing import Any

import pytest

import nano_llada.config
from nano_llada.cli import (
    bench_command,
    chat_command,
    drafts_command,
    generate_command,
    infill_command,
    merge_command,
    resume_command,
    serve_command,
)
from nano_llada.cli.fields import Option, flatten
from nano_llada.cli.options import parse
from nano_llada.cli.training import ABOUT, _parsed
from nano_llada.config.checks import Range, check_numbers
from nano_llada.config.run import RunConfig, default_run
from nano_llada.config.train import TrainConfig
from nano_llada.core.errors import UserError
from nano_llada.demo.options import DemoConfig

VALUES = ("nan", "inf", "-inf", "0", "-1", "1e300", "9" * 24, "9" * 5000)
COMMANDS: dict[str, tuple[type, tuple[str, ...]]] = {
    "generate": (generate_command.Options, ("run", "prompt")),
    "chat": (chat_command.Options, ("run",)),
    "infill": (infill_command.Options, ("run", "a ___")),
    "bench": (bench_command.Options, ("run",)),
    "drafts": (drafts_command.Options, ("run", "prompt")),
    "merge": (merge_command.Options, ("run", "--out", "x")),
    "resume": (resume_command.Options, ("run",)),
    "serve": (serve_command.Options, ("run",)),
    "demo": (DemoConfig, ()),
}


def numeric(option: Option) -> bool:
    def within(hint: Any) -> bool:
        return hint in (int, float) or any(within(part) for part in typing.get_args(hint))

    return within(option.hint)


def offers() -> list[tuple[str, str, str]]:
    """Command, option and value."""
    found = []
    for stage, track in ABOUT:
        options = flatten(RunConfig, default_run(stage, track))
        found += [(f"{stage} {track}", o.name, value) for o in options if numeric(o) for value in VALUES]
    for command, (cls, _) in COMMANDS.items():
        found += [(command, o.name, value) for o in flatten(cls) if numeric(o) for value in VALUES]
    return found


def read(command: str, words: list[str]) -> Any:
    if " " in command:
        stage, track = command.split()
        return _parsed(stage, track, words, default_run(stage, track))
    cls, before = COMMANDS[command]
    leading = {name: ("checkpoint", "prompt") for name in ("generate", "drafts")}
    leading |= {"infill": ("checkpoint", "text"), "resume": ("run",), "serve": ("models",)}
    places = leading.get(command, ("checkpoints",) if command == "merge" else ("checkpoint",) if before else ())
    return parse(cls, [*before, *words], command=command, about="", leading=places)


def numbers(record: Any) -> list[float]:
    values = [getattr(record, f.name) for f in dataclasses.fields(record)]
    inner = [number for value in values if dataclasses.is_dataclass(value) for number in numbers(value)]
    flat = [x for value in values for x in (value if isinstance(value, tuple) else (value,))]
    return inner + [x for x in flat if isinstance(x, (int, float))]


@pytest.mark.untraced
def test_every_number_on_every_command_line_is_refused_by_name_or_usable():
    refused = accepted = 0
    for command, name, value in offers():
        try:
            record = read(command, [f"--{name.replace('_', '-')}={value}"])
        except UserError as error:
            told = str(error).replace("-", "_")
            assert name.removeprefix("yarn_").removeprefix("long_rope_") in told, (command, name, value, told)
            assert len(told) < 1000
            refused += 1
        else:
            assert value in ("0", "-1", "1e300") or len(value) == 24, (command, name, value)
            assert all(math.isfinite(number) and 0 <= number < 1e31 for number in numbers(record)), (
                command,
                name,
                value,
            )
            accepted += 1
    assert refused + accepted >= 1200
    assert refused > 6 * accepted > 0


def records() -> list[type]:
    modules = [
        importlib.import_module(f"nano_llada.config.{info.name}")
        for info in pkgutil.iter_modules(nano_llada.config.__path__)
    ]
    found = {cls for module in modules for _, cls in inspect.getmembers(module, inspect.isclass)}
    return sorted(
        (c for c in found if dataclasses.is_dataclass(c) and c.__module__.startswith("nano_llada.config")),
        key=lambda cls: cls.__name__,
    )


# not given by people: written by the program and read back
WRITTEN = {"ModelCard", "MergedPart", "Outcome", "Range"}


@pytest.mark.parametrize("cls", [cls for cls in records() if cls.__name__ not in WRITTEN], ids=lambda cls: cls.__name__)
def test_a_record_refuses_numbers_that_are_not_finite(cls):
    made = [f for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING]
    hints = typing.get_type_hints(cls)
    for field in made:
        if not numeric(Option(field.name, (field.name,), hints[field.name], None, "", "")):
            continue
        wrong: Any = float("nan")
        many = typing.get_origin(hints[field.name]) is tuple
        with pytest.raises(ValueError, match=field.name):
            cls(**{field.name: (wrong,) if many else wrong})


@dataclasses.dataclass(frozen=True)
class Plain:
    count: int = 1
    share: typing.Annotated[float, Range(0, 1, above=True)] = 0.5
    some: tuple[typing.Annotated[int, Range(1, 3)], ...] | None = None
    word: str | int = "7"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": -1}, "count must be at least 0, got -1"),
        ({"count": 10**13}, "count must be at most 1,000,000,000,000, got 10000000000000"),
        ({"count": 10**5000}, "count must be at most 1,000,000,000,000, got a number of more than 30 digits"),
        ({"count": 1.5}, "count must be a whole number, got 1.5"),
        ({"count": True}, "count must be a whole number, got True"),
        ({"share": 0}, "share must be in (0, 1], got 0"),
        ({"share": float("inf")}, "share must be a finite number, got inf"),
        ({"share": [1]}, r"share must be a number, got [1]"),
        ({"some": (1, 4)}, "some must be at most 3, got 4"),
    ],
)
def test_what_is_wrong_with_a_number(values, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        check_numbers(Plain(**values))
    assert str(caught.value) == message


def test_numbers_within_their_ranges_pass():
    check_numbers(Plain(count=0, share=1, some=(1, 3)))
    check_numbers(Plain(some=None, word="text"))
    assert TrainConfig(learning_rate=1).learning_rate == 1


def test_a_batch_of_terabytes_and_a_model_of_terabytes_are_refused():
    with pytest.raises(
        UserError, match="batch_size 1048576 times sequence_length 2048 is 2,147,483,648 tokens in a step"
    ):
        read("pretrain ar", ["--batch-size", "1048576", "--sequence-length", "2048"])
    with pytest.raises(UserError, match=r"hidden_size 65536.* parameters; at most 2e\+11 are possible"):
        read("pretrain ar", ["--hidden-size", "65536", "--num-layers", "512"])
