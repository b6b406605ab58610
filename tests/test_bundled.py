"""Models that come with the package: found by name, and what a lone word on the command line means."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nano_llada.api import load
from nano_llada.checkpoint import files
from nano_llada.checkpoint.files import find_checkpoint
from nano_llada.cli.default_model import DEFAULT
from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import NAMED, Tokenizer
from tiny import family, run_cli


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return family(tmp_path_factory.getbasetemp())


@pytest.fixture
def package(done, tmp_path, monkeypatch):
    """A package with one model, called as the default one, and an empty current folder."""
    models = tmp_path / "assets"
    shutil.copytree(find_checkpoint(done.runs / "diffusion-sft"), models / str(DEFAULT))
    monkeypatch.setattr(files, "BUNDLED", models)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return models


def test_a_model_is_found_by_its_name_and_a_folder_of_that_name_comes_first(package, done):
    assert load("story", "cpu").checkpoint.folder == package / "story"
    shutil.copytree(find_checkpoint(done.runs / "ar"), Path("story"))
    assert load("story", "cpu").card.track == "ar"
    with pytest.raises(UserError, match=r"no checkpoint at stroy.*models in this package: story"):
        load("stroy", "cpu")


def test_a_sentence_is_a_prompt_for_it_and_a_misspelt_run_is_not(package, capsys, monkeypatch):
    assert run_cli(["generate", "Tom has a ball.", "--max-new-tokens", 3]) == 0
    assert "taken as a text for the bundled model story" in capsys.readouterr().err
    assert run_cli(["generate", "story", "Tom has a ball.", "--max-new-tokens", 3]) == 0
    assert "taken as" not in capsys.readouterr().err
    assert run_cli(["generate", "汤姆有", "Tom has", "--max-new-tokens", 3]) == 0
    assert "汤姆有 -> " in capsys.readouterr().out
    assert run_cli(["generate", "stroy", "Tom has", "--max-new-tokens", 3]) == 2
    assert "no checkpoint at stroy" in capsys.readouterr().err


def test_gaps_are_filled_by_it(package, capsys):
    assert run_cli(["infill", "Tom has a ___ ball."]) == 0
    assert capsys.readouterr().out.startswith("Tom has a ")
    assert run_cli(["infill", "story", "Tom has a ___ ball."]) == 0
    assert run_cli(["infill"]) == 2
    assert "no text" in capsys.readouterr().err
    assert run_cli(["infill", "a ___ b", "c ___ d"]) == 2
    assert "no model at a ___ b" in capsys.readouterr().err


def test_chat_needs_no_model_to_be_named(package, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: (_ for _ in ()).throw(EOFError))
    assert run_cli(["chat"]) == 0


@pytest.mark.parametrize("name", NAMED)
def test_tokenizers_have_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Tokenizer.load(Path(name)).hash == Tokenizer.load(NAMED[name]).hash
    with pytest.raises(UserError, match="tokenizers in this package: world, story"):
        Tokenizer.load(Path("word"))
