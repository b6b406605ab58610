"""Configs to plain values and back, from files of people, and what is said about each kind of slip in them."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from nano_llada.config.model import ModelConfig, YarnScaling
from nano_llada.config.objectives import Denoising, Masking, NextToken
from nano_llada.config.record import from_plain, read_config, to_plain
from nano_llada.config.run import RunConfig, default_run
from nano_llada.core.errors import UserError
from nano_llada.core.own import type_name

RUNS = [(stage, track) for stage in ("pretrain", "sft") for track in ("ar", "diffusion")]


@dataclass(frozen=True)
class Round:
    radius: float = 1.0


@dataclass(frozen=True)
class Square:
    side: int = 1
    name: str = "square"


@dataclass(frozen=True)
class Box:
    lid: Round | Square
    sizes: tuple[int, ...] = ()
    colour: Literal["red", 7] = "red"
    place: Path | None = None
    label: str | int | None = None
    open: bool = False


def complaint(call, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def class_names(value: Any) -> dict[str, str]:
    """The class of each dataclass in a value, by its dotted place."""
    found = {"": type(value).__name__}
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            found |= {f"{field.name}.{place}".rstrip("."): name for place, name in class_names(inner).items()}
    return found


@pytest.mark.parametrize(("stage", "track"), RUNS)
def test_every_default_run_survives_a_json_file(tmp_path, stage, track):
    run = replace(
        default_run(stage, track), sample_prompts=("你好", "a\nb"), init_from=Path("a/b"), tokenizer=Path("c")
    )
    run = replace(run, data=replace(run.data, data=("x.jsonl", "hf:y@z")), model=replace(run.model, yarn=YarnScaling()))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_plain(run)), encoding="utf-8")
    back = from_plain(RunConfig, read_config(path))
    assert back == run
    assert (back.stage, back.track) == (stage, track)
    assert class_names(back) == class_names(run)
    assert to_plain(back) == to_plain(run)
    assert isinstance(back.data.cache, Path)
    assert from_plain(RunConfig, {}, base=run) == run


def test_plain_values_are_json_and_carry_the_names_of_classes():
    plain = to_plain(Box(Round(), (1, 2), place=Path("a") / "b"))
    assert plain == {
        "type": type_name(Box),
        "lid": {"type": type_name(Round), "radius": 1.0},
        "sizes": [1, 2],
        "colour": "red",
        "place": "a/b",
        "label": None,
        "open": False,
    }
    assert json.loads(json.dumps(plain)) == plain
    assert to_plain({"x": (Path("a"), [Round(2.0)])}) == {"x": ["a", [{"type": type_name(Round), "radius": 2.0}]]}


def test_a_union_is_told_apart_by_the_name_under_type():
    assert from_plain(Box, {"lid": {"type": "Square", "side": 3}}) == Box(Square(3))
    assert from_plain(Box, {"lid": {"type": "Round"}}) == Box(Round())
    base = Box(Square(3, "mine"), (4,))
    assert from_plain(Box, {"lid": {"name": "yours"}}, base=base) == Box(Square(3, "yours"), (4,))
    assert from_plain(Box, {"lid": {"type": "Round"}}, base=base) == Box(Round(), (4,))  # another class starts afresh
    assert complaint(from_plain, Box, {"lid": {"side": 3}}) == "lid.type: '' is not one of Round, Square"
    assert complaint(from_plain, Box, {"lid": {"type": "Star"}}) == "lid.type: 'Star' is not one of Round, Square"
    denoising = {"objective": {"type": "Denoising", "normalise_by": "document"}}
    run = from_plain(RunConfig, denoising, base=default_run("pretrain", "ar"))
    assert run.objective == Denoising(Masking(), normalise_by="document")
    assert isinstance(from_plain(RunConfig, {}).objective, NextToken)


def test_values_become_what_the_class_asks_for():
    box = from_plain(Box, {"lid": {"type": "Round", "radius": 2}, "place": "a/b", "sizes": [1], "label": 3})
    assert box == Box(Round(2.0), (1,), place=Path("a/b"), label=3)
    assert isinstance(box.lid.radius, float)
    assert from_plain(Box, {"lid": {"type": "Round"}, "colour": 7, "place": None, "label": "x", "open": True}).open


SLIPS = [
    ({"trian": {}}, "trian: unknown option; did you mean 'train'?"),
    ({"train": {"learning_rat": 1}}, "train.learning_rat: unknown option; did you mean 'learning_rate'?"),
    ({"model": {"yarn": {"type": "YarnScaling", "beta": 1}}}, "model.yarn.beta: unknown option; did you mean 'beta_"),
    (
        {"objective": {"zzz": 1}},
        "objective.zzz: unknown option; known: corruption, blocks, editing, loss_weight",
    ),
    ({"train": 3}, "train: expected an object, got 3"),
    ({"train": None}, "train: expected an object, got null"),
    ({"train": {"batch_size": "8"}}, "train.batch_size: expected int, got '8'"),
    ({"train": {"batch_size": 8.5}}, "train.batch_size: expected int, got 8.5"),
    ({"train": {"batch_size": True}}, "train.batch_size: expected int, got True"),
    ({"train": {"batch_size": None}}, "train.batch_size: expected int, got null"),
    ({"train": {"steps": "x"}}, "train.steps: expected int, got 'x'"),
    ({"train": {"learning_rate": "fast"}}, "train.learning_rate: expected float, got 'fast'"),
    ({"train": {"learning_rate": False}}, "train.learning_rate: expected float, got False"),
    ({"train": {"compile": 1}}, "train.compile: expected bool, got 1"),
    ({"train": {"optimizer": "adam"}}, "train.optimizer: 'adam' is not one of adamw, muon"),
    ({"data": {"data": "a.jsonl"}}, "data.data: expected a list, got 'a.jsonl'"),
    ({"data": {"data": ["a", 3]}}, "data.data[1]: expected str, got 3"),
    ({"runs": 3}, "runs: expected Path, got 3"),
    ({"type": type_name(Box)}, "type: expected RunConfig, got "),
    ({"model": {"type": "Masking"}}, "model.type: expected ModelConfig, got 'Masking'"),
]


@pytest.mark.parametrize(("plain", "message"), SLIPS)
def test_slips_are_named_with_their_place(plain, message):
    base = default_run("pretrain", "diffusion")
    assert complaint(from_plain, RunConfig, plain, base=base).startswith(message)


def test_an_absent_value_without_a_default_and_a_value_that_is_no_object():
    assert complaint(from_plain, Box, {}) == "Box: Box.__init__() missing 1 required positional argument: 'lid'"
    assert complaint(from_plain, Box, [1]) == "Box: expected an object, got [1]"
    assert complaint(from_plain, Box, "x", where="boxes[2]") == "boxes[2]: expected an object, got 'x'"


def test_values_that_contradict_each_other_are_refused_by_their_class():
    with pytest.raises(ValueError, match=r"^hidden_size 10 is not a multiple of num_heads 4$"):
        from_plain(RunConfig, {"model": {"hidden_size": 10, "num_heads": 4}})
    with pytest.raises(ValueError, match=r"^num_layers must be at least 1, got 0$"):
        from_plain(ModelConfig, {"num_layers": 0})


TOML = """
name = "mine"
sample_prompts = ["你好"]
[train]
learning_rate = 1
steps = 20
[objective]
type = "Denoising"
random_length = 0.5
"""


def test_toml_and_json_say_the_same(tmp_path):
    toml, same = tmp_path / "run.toml", tmp_path / "run.json"
    toml.write_text(TOML, encoding="utf-8")
    same.write_text(json.dumps(read_config(toml), ensure_ascii=False), encoding="utf-8")
    run = from_plain(RunConfig, read_config(toml), base=default_run("pretrain", "ar"))
    assert run == from_plain(RunConfig, read_config(same), base=default_run("pretrain", "ar"))
    assert (run.name, run.sample_prompts, run.train.learning_rate) == ("mine", ("你好",), 1.0)
    assert run.objective == Denoising(random_length=0.5)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{\n "train": {\n "steps": 3,,}}', "F/a.json: not valid JSON: "),
        ("a.json", "", "F/a.json: not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        ("a.toml", "name = 'x'\nsteps 3\n", "F/a.toml: not valid TOML: "),
        ("a.json", "[1, 2]", "F/a.json: expected an object of options"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    said = complaint(read_config, tmp_path / name).replace(str(tmp_path), "F")
    assert said.startswith(message)
    if "\n" in text:
        assert f"line {3 if name.endswith('json') else 2}" in said


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    path = tmp_path / "gone.toml"
    assert complaint(read_config, path) == f"cannot read the config file {path}: No such file or directory"
    assert complaint(read_config, tmp_path) == f"cannot read the config file {tmp_path}: Is a directory"
    path.write_bytes(b"name = '\xff'")
    assert complaint(read_config, path) == f"{path}:1: not valid UTF-8; save the file as UTF-8"
