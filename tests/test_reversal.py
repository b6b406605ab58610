"""The reversal curse: who is asked what, how answers are read, and the experiment from nothing to its README."""

from __future__ import annotations

import functools
from random import Random
from types import SimpleNamespace

import pytest
from experiments import reversal
from experiments.options_measuring import Reversal

from nano_llada.config.card import ModelCard
from nano_llada.config.data import DataConfig
from nano_llada.config.decoding import Autoregressive, Diffusion
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.types import Completion
from nano_llada.session.observer import RunObserver
from nano_llada.session.run import BUNDLED_TOKENIZER
from nano_llada.world import LANGUAGES
from nano_llada.world.files import write_world
from nano_llada.world.skills_family import PARENT_EN, families, relation_question
from tiny import read_lines

pytestmark = pytest.mark.untraced  # experiments/ is not in the package whose coverage is measured

NAMES = {
    f"{d}_{g}_{lang}" for d in ("backward", "forward", "stated") for g in ("held_out", "asked") for lang in LANGUAGES
}


@pytest.fixture
def options(tmp_path, monkeypatch) -> Reversal:
    monkeypatch.setattr(reversal, "DataConfig", functools.partial(DataConfig, cache=tmp_path / "cache"))
    world = tmp_path / "runs" / "world-200"
    write_world(world, documents_count=200, chats_count=0, skills=("backward_relation",), seed=0)
    folders = {"runs": tmp_path / "runs", "docs": tmp_path / "docs"}
    return Reversal(**folders, seeds=(0, 1), steps=2, documents=200, hidden_size=32, num_layers=1, threads=1)


def test_from_nothing_to_a_readme_stopped_in_between(options, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.config.name == "diffusion")
        assert reversal.run(options) is False
    assert reversal.run(options) is True
    folder = options.docs / "reversal"
    rows = read_lines(folder / "results.jsonl")
    assert [(row["variant"], row["seed"]) for row in rows] == [("ar", 0), ("diffusion", 0), ("ar", 1), ("diffusion", 1)]
    for row in rows:
        assert row["metrics"].keys() == NAMES | {"parameters", "train_tokens"}
        assert row["command"].endswith("--steps 2 --documents 200 --hidden-size 32 --num-layers 1")
    assert len({row["metrics"]["train_tokens"] for row in rows if row["seed"] == 0}) == 1
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "112 families" in text
    assert "the other 40 (the validation and the test split) none" in text
    assert text.count("\n| backward | ") == text.count("\n| forward | ") == text.count("\n| stated | ") == 4
    assert (folder / "exact_match.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("track", "decoding"), [("ar", Autoregressive), ("diffusion", Diffusion)])
def test_answers_are_read_up_to_the_end_of_their_line(monkeypatch, track, decoding):
    """A model that knows who the parent is, in English, and how Chinese statements go on, and goes on writing."""
    tokenizer = Tokenizer.load(BUNDLED_TOKENIZER)
    known, decodings = {}, []
    for family in families():
        for question in PARENT_EN:
            asked = question.format(child=family.child.en, role=family.role.en)
            known[tokenizer.vocab.eos, *tokenizer.encode(f"{asked}\n")] = f"{family.parent.en}\nWho"
        known[tokenizer.vocab.eos, *tokenizer.encode(f"{family.parent.zh}是")] = f"{family.child.zh}的妈妈。"

    def writes(sampler, requests, batch_size):
        for i, request in enumerate(requests):
            yield i, Completion(list(tokenizer.encode(known.get(request.prompt, "nobody\n"))), "stop", 1, 0.1, 0.1)

    monkeypatch.setattr(reversal, "answered", writes)
    monkeypatch.setattr(reversal, "make_sampler", lambda *words: decodings.append(words[-1]))
    found = reversal.ask_all(SimpleNamespace(tokenizer=tokenizer, model=None, card=ModelCard(track)))
    right = {f"{what}_{group}" for group in ("held_out", "asked") for what in ("backward", "stated")}
    right = {f"{name}_{'en' if name.startswith('back') else 'zh'}" for name in right}
    assert found == {name: float(name in right) for name in NAMES}
    assert {type(given) for given in decodings} == {decoding}
    assert {given.max_new_tokens for given in decodings} == {3, 4, 8}


def test_a_canvas_holds_every_name_and_the_end_of_its_line():
    tokenizer = Tokenizer.load(BUNDLED_TOKENIZER)
    for language in LANGUAGES:
        people = [person.text(language) for family in families() for person in (family.parent, family.child)]
        assert {len(tokenizer.encode(f"{name}\n")) for name in people} == {reversal.NAME_AND_END[language]}


def test_a_question_names_one_of_the_two_and_asks_for_the_other():
    for number, family in enumerate(families()):
        for language in LANGUAGES:
            parent, child = family.parent.text(language), family.child.text(language)
            back = relation_question(family, language, backwards=True, rng=Random(number))
            forth = relation_question(family, language, backwards=False, rng=Random(number))
            assert (child in back.prompt, parent in back.prompt, back.answer) == (True, False, parent)
            assert (parent in forth.prompt, child in forth.prompt, forth.answer) == (True, False, child)
            assert family.role.text(language) in back.prompt
