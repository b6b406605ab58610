"""Config files and recipes that were edited by hand: whatever is in them, an error names the file and what is wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nano_llada.cli.training import _below, _parsed
from nano_llada.config.record import read_config, to_plain
from nano_llada.config.run import default_run
from nano_llada.core.errors import UserError
from nano_llada.session.recipe import read_recipe
from nano_llada.session.run import check_same_config

DEEP = json.loads("[" * 500 + "]" * 500)
WRONG = [None, True, -1, 1.5, 10**400, float("nan"), "x\0y", "\ud800", "long" * 500, [], [[1]], {}, {"type": []}, DEEP]
KINDS = [("pretrain", "diffusion"), ("dpo", "diffusion")]


def edits(plain: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in nested objects and lists."""
    yield path
    for key, value in plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ():
        yield from edits(value, (*path, key))


def edited(plain: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    found = copy.deepcopy(plain)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


def complaint(read: Callable[[], object]) -> str | None:
    """What a UserError says; None without one. Any other error fails the test."""
    try:
        read()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.untraced
@pytest.mark.parametrize(("stage", "track"), KINDS)
def test_every_field_of_a_config_with_every_wrong_value(tmp_path, stage, track):
    config = default_run(stage, track)
    plain = to_plain(config)
    path = tmp_path / "config.json"
    refused = 0
    for place in edits(plain):
        for value in WRONG:
            path.write_text(json.dumps(edited(plain, place, value)), encoding="utf-8")
            told = complaint(lambda: _parsed(stage, track, [], _below(default_run(stage, track), str(path), None)))
            assert told is None or str(path) in told or "these options describe" in told, (place, value)
            at_resume = complaint(lambda: check_same_config(path, plain))
            assert at_resume is None or str(path.parent) in at_resume, (place, value)
            refused += (told is not None) + (at_resume is not None)
    assert refused > 1000


RECIPE = {
    "runs": "runs",
    "variables": {"data": "text.jsonl"},
    "common": {"tokenizer": "tokenizer", "train": {"steps": 3}},
    "run": [
        {"kind": "pretrain ar", "name": "ar", "data": {"data": ["{data}"]}},
        {"kind": "sft ar", "name": "sft", "start": "ar", "data": {"data": ["chat.jsonl"]}},
    ],
}


def test_every_field_of_a_recipe_with_every_wrong_value(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(RECIPE), encoding="utf-8")
    assert [config.name for config in read_recipe(path, {}).runs] == ["ar", "sft"]
    refused = 0
    for place in edits(RECIPE):
        for value in WRONG:
            path.write_text(json.dumps(edited(RECIPE, place, value)), encoding="utf-8")
            told = complaint(lambda: read_recipe(path, {}))
            assert told is None or told.startswith(f"{path}: "), (place, value)
            refused += told is not None
    assert refused > 150


FILES = {
    "nested too deeply": ("c.json", b"[" * 200_000, "nested too deeply"),
    "an object nested too deeply": ("c.json", b'{"a":' * 200_000, "nested too deeply"),
    "TOML nested too deeply": ("c.toml", b"a = " + b"[" * 20_000, "nested too deeply"),
    "a number of 5,000 digits": (
        "c.json",
        b'{"train": {"steps": ' + b"9" * 5000 + b"}}",
        "a number has too many digits",
    ),
    "the same in TOML": ("c.toml", b"steps = " + b"9" * 5000, "a number has too many digits"),
    "a key given twice": ("c.json", b'{"name": "a", "name": "b"}', "the key 'name' is given twice"),
    "too large": ("c.json", b'{"name": "' + b"a" * 17_000_000 + b'"}', "is larger than 16 MiB"),
    "no text": ("c.json", b"\x89PNG\xff", "not valid UTF-8"),
    "empty": ("c.json", b"", "not valid JSON"),
    "a list": ("c.json", b"[]", "expected an object"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_that_cannot_be_read(tmp_path, name):
    file, content, message = FILES[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_name_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match="cannot read the config file"):
        read_config(Path("a\0b"))


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"learning_rate": 1}, "learning_rate: unknown option; did you mean 'train.learning_rate'?"),
        ({"train": {"num_layers": 1}}, "train.num_layers: unknown option; did you mean 'model.num_layers'?"),
        ({"mask_count": "exact"}, "mask_count: unknown option; did you mean 'objective.corruption.mask_count'?"),
        (
            {"objective": {"corruption": {"nois": 1}}},
            "objective.corruption.nois: unknown option; did you mean 'noise'?",
        ),
        ({"model": {"yarn": {"factr": 1}}}, "model.yarn.factr: unknown option; did you mean 'factor'?"),
        ({"factor": 2}, "factor: unknown option; did you mean 'model.yarn.factor'?"),
        ({"train": {"optimizer": "adam"}}, "train.optimizer: 'adam' is not one of adamw, muon; did you mean 'adamw'?"),
        (
            {"data": {"format": "chats"}},
            "data.format: 'chats' is not one of text, chat, preference, prompts; did you mean",
        ),
        ({"train": {"learning_rate": float("inf")}}, "learning_rate must be a finite number, got inf"),
    ],
)
def test_what_was_probably_meant(tmp_path, plain, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        _below(default_run("pretrain", "diffusion"), str(path), None)
    assert str(caught.value).startswith(f"{path}: {message}")
