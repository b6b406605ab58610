"""Command lines: positionals, values, suggestions, old names, and a help that a person can read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from nano_llada.cli.main import COMMANDS
from nano_llada.cli.options import parse
from nano_llada.cli.training import ABOUT
from nano_llada.config.checks import Range
from nano_llada.core.errors import UserError
from tiny import run_cli


@dataclass(frozen=True)
class Wheel:
    spokes: int = 32
    """How many spokes."""
    rubber: bool = True
    """A tyre on the rim."""


@dataclass(frozen=True)
class Engine:
    power: float = 1.0
    """Kilowatts."""


@dataclass(frozen=True)
class Bike:
    rider: str
    """Who rides."""
    places: tuple[Path, ...]
    """Where to, in order."""
    colour: Literal["red", "blue"] = "red"
    """Colour of the frame."""
    speeds: tuple[int, ...] = (3,)
    """Gears."""
    weight: Annotated[float, Range(-9, 9)] | None = None
    """Kilograms; default: not known."""
    light: bool = False
    """Switch the light on."""
    bell: bool | None = None
    """Ring."""
    wheel: Wheel = field(default_factory=Wheel)
    motor: Engine | None = None

    def __post_init__(self) -> None:
        if self.light and self.colour == "blue":
            raise ValueError("a blue bike has no light")


def ride(*words: str, **options) -> Bike:
    return parse(Bike, words, command="ride", about="Ride a bike.", leading=("rider", "places"), **options)


def complaint(*words: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        ride(*words, **options)
    return str(caught.value)


A, B = Path("a"), Path("b")


@pytest.mark.parametrize(
    ("words", "bike"),
    [
        ("Eve a", Bike("Eve", (A,))),
        ("Eve a b --colour blue", Bike("Eve", (A, B), "blue")),
        ("--colour=blue Eve a b", Bike("Eve", (A, B), "blue")),
        ("Eve --colour blue a b", Bike("Eve", (A, B), "blue")),
        ("--rider Eve a", Bike("Eve", (A,))),
        ("--places a b --rider Eve", Bike("Eve", (A, B))),
        ("Eve a --speeds 1 2 --speeds 3", Bike("Eve", (A,), speeds=(1, 2, 3))),
        ("Eve a --speeds 1 2 --light", Bike("Eve", (A,), speeds=(1, 2), light=True)),
        ("Eve a --weight -1.5", Bike("Eve", (A,), weight=-1.5)),
        ("Eve a --weight None", Bike("Eve", (A,))),
        ("Eve a --light --no-light", Bike("Eve", (A,))),
        ("Eve a --light=true", Bike("Eve", (A,), light=True)),
        ("Eve a --bell True --colour blue", Bike("Eve", (A,), "blue", bell=True)),
        ("Eve --bell a", Bike("Eve", (A,), bell=True)),
        ("Eve a --no-rubber --spokes 8", Bike("Eve", (A,), wheel=Wheel(8, False))),
        ("Eve a --motor-power 2", Bike("Eve", (A,), motor=Engine(2.0))),
        ("Eve --light -- --a", Bike("Eve", (Path("--a"),), light=True)),
        ("Eve --weight 1 --weight 2 a", Bike("Eve", (A,), weight=2.0)),
    ],
)
def test_words_become_values(words, bike):
    assert ride(*words.split()) == bike


def test_a_text_with_blanks_is_no_option():
    assert ride("- a list - of things", "a").rider == "- a list - of things"
    assert ride("--rider=--loud", "a").rider == "--loud"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("Eve a --wieght 3", "unknown option --wieght; did you mean --weight?"),
        ("Eve a --spoke 3", "unknown option --spoke; did you mean --spokes?"),
        ("Eve a --xyz", "unknown option --xyz; nano-llada ride --help lists them"),
        ("Eve a --colour green", "--colour green: expected one of red, blue"),
        ("Eve a --colour bleu", "--colour bleu: expected one of red, blue; did you mean 'blue'?"),
        ("Eve a --spokes 3.5", "--spokes 3.5: expected a whole number"),
        ("Eve a --speeds 1 x", "--speeds x: expected a whole number"),
        ("Eve a --weight", "--weight needs a value (X)"),
        (
            "Eve a --weight --light",
            "--weight needs a value (X); write --weight=VALUE for a value that begins with a dash",
        ),
        ("Eve a --light --colour blue", "a blue bike has no light"),
        ("Eve a --light=perhaps", "--light perhaps: expected true or false"),
        ("Eve a --spokes -1", "spokes must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_read_is_named(words, message):
    assert complaint(*words.split()).split("\n")[0] == message


def test_what_is_missing_is_named_with_the_usage():
    told = complaint("--light")
    assert told.startswith("RIDER, PLACES is missing\n\nusage: nano-llada ride RIDER PLACES [PLACES ...] [options]")
    one = parse(Wheel, ("--spokes", "3"), command="wheel", about="")
    assert one == Wheel(3)
    with pytest.raises(UserError, match="unexpected 'extra'"):
        parse(Wheel, ("extra",), command="wheel", about="")


def test_old_names_work_and_say_so_once(capsys):
    old = {"color": "colour", "night": "light", "fast": "speeds 21"}
    assert ride("Eve", "a", "--color", "blue", old=old).colour == "blue"
    assert capsys.readouterr().err == "note: --color is the old form of --colour\n"
    assert ride("Eve", "a", "--fast", old=old).speeds == (21,)
    assert capsys.readouterr().err == "note: --fast is the old form of --speeds 21\n"
    assert ride("Eve", "a", "--night", old=old).light
    assert capsys.readouterr().err.count("note:") == 1


def test_a_config_file_is_below_the_command_line(tmp_path):
    path = tmp_path / "bike.json"
    path.write_text(json.dumps({"rider": "Tom", "places": ["x"], "wheel": {"spokes": 5}, "motor": {"power": 9}}))
    assert ride("--config", str(path)) == Bike("Tom", (Path("x"),), wheel=Wheel(5), motor=Engine(9.0))
    assert ride("Eve", f"--config={path}", "--no-rubber", "--motor-power", "1") == Bike(
        "Eve", (Path("x"),), wheel=Wheel(5, False), motor=Engine(1.0)
    )
    path.write_text('{"wheel": {"spoke": 5}}')
    assert complaint("--config", str(path)) == f"{path}: wheel.spoke: unknown option; did you mean 'spokes'?"
    path.write_text('{"spokes": 5}')
    assert complaint("--config", str(path)) == f"{path}: spokes: unknown option; did you mean 'wheel.spokes'?"


def helped(capsys, *words: str, **options) -> str:
    with pytest.raises(SystemExit) as caught:
        ride(*words, **options)
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_the_short_help_shows_what_is_chosen_and_the_long_one_the_rest(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    layout = {"shown": {"frame": "colour weight"}, "hidden": ("speeds",), "extra": {"frame": [("--bell", "Ring it.")]}}
    short, full = helped(capsys, "--help", **layout), helped(capsys, "Eve", "--help-all", **layout)
    assert short.startswith("usage: nano-llada ride RIDER PLACES [PLACES ...] [options]\n\nRide a bike.\n")
    assert re.search(r"\nframe:\n  --colour \{red,blue\} +Colour of the frame. \(default: red\)\n  --weight X ", short)
    assert re.search(r"\n  --bell +Ring it.\n", short)
    assert "Show 5 more options." in short
    assert not any(name in short for name in ("--spokes", "--light", "--speeds"))
    assert all(name in full for name in ("--spokes N", "--no-rubber", "--motor-power X", "--light", "--colour"))
    assert "--speeds" not in full
    assert "Switch off: a tyre on the rim." in full


PAIRS = ("data world", "tokenizer train", "bench decode")
WORDS = [name.split() for name in (*COMMANDS, *(" ".join(kind) for kind in ABOUT), *PAIRS)]
GROUPS = ("pretrain", "sft", "dpo", "rl", "data", "tokenizer", "experiment", "bench")


@pytest.mark.parametrize("words", [w for w in WORDS if len(w) == 2 or w[0] not in GROUPS], ids=" ".join)
def test_a_help_shows_at_most_25_options_and_the_usage_its_positionals(capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "100")
    assert run_cli([*words, "--help"]) == 0
    short = capsys.readouterr().out
    assert sum(line.startswith("  -") for line in short.splitlines()) <= 25
    usage = short.splitlines()[0]
    assert usage.startswith(f"usage: nano-llada {' '.join(words)}")
    if words[0] not in ("demo", "doctor"):
        assert usage.removeprefix(f"usage: nano-llada {' '.join(words)} ").split()[0].strip("[]").isupper()
    assert run_cli([*words, "--help-all"]) == 0
    assert len(capsys.readouterr().out) >= len(short) - 200


FOREIGN = {
    "pretrain ar": ("block-size", "replace-rate", "eos-fill", "beta", "reference", "group-size", "turns", "noise"),
    "pretrain diffusion": ("eos-fill", "beta", "reference", "group-size", "turns"),
    "sft ar": ("block-size", "mask-count", "eos-fill", "beta", "reward", "hidden-size", "text-field"),
    "sft diffusion": ("beta", "reward", "hidden-size", "text-field"),
    "dpo ar": ("draws", "mask-rate-min", "reward", "packing", "turns", "shared-noise", "hidden-size"),
    "dpo diffusion": ("reward", "packing", "turns", "random-length"),
    "rl ar": ("draws", "threshold", "beta", "eval-every", "packing", "validation"),
    "rl diffusion": ("beta", "eval-every", "packing", "validation", "eos-fill"),
}


@pytest.mark.parametrize("command", FOREIGN)
def test_options_of_other_stages_and_tracks_are_in_no_help(capsys, command):
    assert run_cli([*command.split(), "--help-all"]) == 0
    shown = {word.strip(",") for word in capsys.readouterr().out.split() if word.startswith("--")}
    assert {"--data", "--learning-rate", "--device", "--threads", "--out"} & shown >= {"--device", "--threads"}
    assert shown & {f"--{sign}{name}" for name in FOREIGN[command] for sign in ("", "no-")} == set()


@pytest.mark.parametrize("command", ["generate", "chat", "infill", "eval", "compare", "demo", "doctor", "resume"])
def test_what_runs_a_model_has_device_and_threads(capsys, command):
    assert run_cli([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--threads N" in shown
    assert "--device DEVICE" in shown


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from nano_llada.cli.main import main\n"
        "try: main(['pretrain', 'diffusion', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'rich', 'tyro', 'matplotlib', 'tokenizers'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"
