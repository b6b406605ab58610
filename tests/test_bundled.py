"""Models that come with the package: found by name, and what a lone word on the command line means."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from nano_llada.api import load
from nano_llada.checkpoint import files
from nano_llada.checkpoint.files import find_checkpoint, load_checkpoint
from nano_llada.cli.default_model import DEFAULT
from nano_llada.config.decoding import Constraint
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
    Path("story").mkdir()  # somebody's own stories
    (Path("story") / "one.txt").write_text("Once upon a time", encoding="utf-8")
    assert load("story", "cpu").checkpoint.folder == package / "story"
    shutil.copytree(find_checkpoint(done.runs / "ar"), Path("story"), dirs_exist_ok=True)
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


# the model that is in the package


@pytest.fixture(scope="module")
def story():
    return load("story", "cpu")


def test_the_package_has_a_model_that_is_small_and_says_what_it_is(story):
    folder = story.checkpoint.folder
    assert sum(path.stat().st_size for path in files.BUNDLED.rglob("*")) < 15_000_000
    assert story.card.decodes == ("speculative", "ar", "block")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("data", "figures", "limits", "licence"))
    load_checkpoint(folder)  # checksums


@pytest.mark.parametrize(("said", "answer"), [("Hello!", "nano-llada|story"), ("你好！", "nano-llada|故事")])
def test_it_answers_a_greeting_in_the_language_of_the_greeting(story, said, answer):
    assert re.search(answer, story.chat(said, max_new_tokens=40).text)


def test_it_tells_the_same_story_in_fewer_passes_by_self_speculation(story):
    for said in ("Tell me a story about a dog.", "讲一个关于小狗的故事。"):
        one, other = (story.chat(said, decode=way, max_new_tokens=80) for way in ("ar", "speculative"))
        assert one.text == other.text
        assert one.tokens > 40
        assert other.forwards < 0.9 * one.forwards


def test_it_writes_in_blocks_fills_gaps_and_takes_a_form(story):
    assert story.chat("Hello!", decode="block", max_new_tokens=32).forwards > 0
    filled = story.infill("Tom went to the ___. He was happy.", length=2)
    assert filled.startswith("Tom went to the ")
    assert filled.endswith(" He was happy.")
    formed = story.chat("Who are you?", constraint=Constraint(regex="I am (a|the) (cat|dog)"), max_new_tokens=20)
    assert re.fullmatch("I am (a|the) (cat|dog)", formed.text)
