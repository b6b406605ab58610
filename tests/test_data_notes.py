"""What is said about odd data: marks in texts, one long document, nothing held out, pairs that are equal when cut."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nano_llada.config.record import from_plain, read_config, to_plain
from nano_llada.config.run import RunConfig
from nano_llada.core.errors import UserError
from nano_llada.data import store as store_module
from nano_llada.data.bad_rows import BadRows
from nano_llada.data.documents import Encoding, documents
from nano_llada.data.read import resolve
from nano_llada.data.store import open_store
from nano_llada.data.tokenizer import BUNDLED_TOKENIZER, Tokenizer, train_characters
from nano_llada.session.data import load_data, open_token_store, split
from nano_llada.session.run import execute
from tiny import Place, chats, family, make_place, run_cli, texts, tiny_arguments, tiny_run, write_rows


@pytest.fixture
def place(tmp_path) -> Place:
    return make_place(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Place:
    return family(tmp_path_factory.getbasetemp())


def show(capsys, path: Path, *words: object) -> str:
    capsys.readouterr()
    assert run_cli(("data", "show", path, "--cache", path.parent / "cache", *words)) == 0
    return capsys.readouterr().out


# marks


def test_marks_in_a_text_are_counted_shown_apart_and_read_as_tokens_if_asked(tmp_path, capsys):
    text = "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>"
    path = write_rows(tmp_path / "a.jsonl", [{"text": text}, {"text": "none <|im_star"}, {"text": "none"}])
    told = show(capsys, path)
    assert "note             1 row with a mark (<|endoftext|>, <|im_start|>, <|im_end|>) written out" in told
    assert "<|endoftext|>\\<|im_start|>user\nHi\\<|im_end|>\n\\<|endoftext|><|endoftext|>" in told
    told = show(capsys, path, "--marks", "tokens")
    assert "note" not in told
    assert "<|endoftext|><|im_start|>user\nHi<|im_end|>\n<|endoftext|><|endoftext|>" in told
    tokenizer = train_characters([text])
    vocab = tokenizer.vocab
    first, *_ = documents(resolve([str(path)]), tokenizer, Encoding("text", marks="tokens"), BadRows("stop"))
    user, hi, end = (tokenizer.encode(some) for some in ("user\n", "Hi", "\n"))
    wanted = [vocab.eos, vocab.turn_start, *user, *hi, vocab.turn_end, *end, vocab.eos, vocab.eos]
    assert first.tokens == wanted
    assert first.scored == [False] + [True] * (len(wanted) - 1)
    assert first.text_bytes == len(text)


def test_marks_alone_and_in_conversations(tmp_path, capsys):
    path = write_rows(tmp_path / "a.jsonl", [{"text": "<|im_end|>", "prompt": "a<|im_end|>", "response": "b"}])
    tokenizer = train_characters(["ab"])
    (only,) = documents(resolve([str(path)]), tokenizer, Encoding("text", marks="tokens"), BadRows("stop"))
    assert only.tokens == [tokenizer.vocab.eos, tokenizer.vocab.turn_end, tokenizer.vocab.eos]
    assert "1 row with a mark" in show(capsys, path, "--format", "chat")
    assert run_cli(("data", "show", path, "--format", "chat", "--marks", "tokens")) == 2
    assert "in conversations they are always text" in capsys.readouterr().err


# documents


def test_one_document_is_most_of_the_data(place, capsys):
    book = place.root / "book.txt"
    book.write_text("\n\n".join(f"Paragraph {i} has\ntwo lines." for i in range(40)), encoding="utf-8")
    told = show(capsys, book)
    assert "each .txt file is read as one document (1 in all); --txt-split paragraph or line makes more of it" in told
    assert "documents        40\n" in (told := show(capsys, book, "--txt-split", "paragraph"))
    assert "note" not in told.replace("note             the bundled", "")
    assert "documents        80\n" in show(capsys, book, "--txt-split", "line")
    (place.root / "b.jsonl").write_text(json.dumps({"text": "short"}), encoding="utf-8")
    config = tiny_run(place, name="x", data=(str(book), str(place.root / "b.jsonl")))
    open_token_store(config, config.data.data, Tokenizer.load(config.tokenizer))
    assert "one of 2 documents holds 9" in capsys.readouterr().out
    options = {"name": "book", "data": (book,), "validation_share": 0.01}
    assert run_cli(tiny_arguments(place, **options)) == 0
    assert "nothing is held out, so losses are of training data alone: 0 documents do not" in capsys.readouterr().out
    assert run_cli(tiny_arguments(place, **options | {"name": "lines", "txt_split": "line"})) == 0
    assert "nothing is held out" not in capsys.readouterr().out


def test_the_bundled_tokenizer_is_named_when_it_does_not_fit(place, capsys):
    other = write_rows(place.root / "other.jsonl", [{"text": "Photosynthesis converts electromagnetic energy."}] * 60)
    for path, warned in ((other, True), (place.text, False)):
        config = tiny_run(place, name="x", tokenizer=None, data=(str(path),))
        tokenizer = Tokenizer.load(BUNDLED_TOKENIZER)
        open_token_store(config, config.data.data, tokenizer)
        told = capsys.readouterr().out
        assert ("the bundled tokenizer (1,761 tokens, made for the small world)" in told) is warned
        assert ("nano-llada tokenizer train" in told) is warned


# held out


@pytest.mark.parametrize(("count", "packing"), [(2, False), (30, False), (30, True), (300, True)])
def test_something_is_held_out_of_little_data(place, count, packing, capsys):
    write_rows(place.text, texts(count))
    config = tiny_run(place, name="x", validation_share=0.01, packing=packing)
    _, validation = load_data(config, Tokenizer.load(config.tokenizer))
    assert validation is not None
    assert len(list(validation.once())) >= 1
    assert "nothing is held out" not in capsys.readouterr().out


def test_appended_rows_move_nothing_and_conversations_are_not_torn(place):
    tokenizer, before = Tokenizer.load(place.tokenizer), {}
    for count in (20, 21, 60):
        write_rows(place.chat, chats(count))
        config = tiny_run(place, "sft", "diffusion", name="x", init_from=place.root, validation_share=0.2)
        store = open_token_store(config, config.data.data, tokenizer)
        learnt, held_out = split(store, np.arange(len(store)), config.data)
        assert sorted([*learnt, *held_out]) == list(range(2 * count))  # two answers a conversation, each a document
        side = dict.fromkeys(learnt.tolist(), "learnt") | dict.fromkeys(held_out.tolist(), "held out")
        assert all(side[document] == where for document, where in before.items())
        assert all(side[document] == side[document + 1] for document in range(0, 2 * count, 2))
        assert abs(len(held_out) - 0.4 * count) <= 2
        before = side


def test_a_run_of_the_first_version_is_resumed_with_its_rule(place):
    config = tiny_run(place, name="old", steps=2, save_every=1)
    old = replace(config, data=replace(config.data, held_out="by_count"))
    execute(old)
    saved = config.folder / "config.json"
    plain = json.loads(saved.read_text(encoding="utf-8"))
    del plain["data"]["held_out"], plain["data"]["txt_split"], plain["data"]["marks"]  # as 0.1.0 wrote it
    saved.write_text(json.dumps(plain), encoding="utf-8")
    execute(config, resume=True)
    assert read_config(saved)["data"]["held_out"] == "by_count"
    execute(tiny_run(place, name="new", steps=2))
    assert read_config(place.runs / "new" / "config.json")["data"]["held_out"] == "by_place"
    assert from_plain(RunConfig, to_plain(config)).data.held_out == "by_place"


# pairs


def test_pairs_that_are_equal_after_the_cut_are_left_out_and_counted(done, tmp_path, capsys):
    long = "x" * 300
    rows = [{"prompt": "a", "chosen": f"{long}{i}", "rejected": f"{long}!"} for i in range(3)]
    rows += [{"prompt": "a", "chosen": f"{i}{long}", "rejected": f"!{long}"} for i in range(4)]
    rows += [{"prompt": "a", "chosen": "yes", "rejected": "yes, yes"}]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    words = ["dpo", "ar", "--runs", tmp_path, "--init-from", done.runs / "ar-sft", "--data", path, "--cache", tmp_path]
    words += ["--steps", 1, "--batch-size", 2, "--sequence-length", 128, "--device", "cpu", "--threads", 1]
    assert run_cli([*words, "--name", "some"]) == 0
    assert "3 of 8 pairs have the same answer up to sequence_length 128: left out" in capsys.readouterr().out
    write_rows(path, rows[:3])
    assert run_cli([*words, "--name", "none"]) == 2
    assert "all pairs have the same answer up to sequence_length 128; raise it" in capsys.readouterr().err
    write_rows(path, [{"prompt": "a", "chosen": "y" * 118, "rejected": "y" * 118 + "z"}, *rows[-1:]])
    assert run_cli([*words, "--name", "more", "--sequence-length", 256]) == 0
    assert "same answer" not in capsys.readouterr().out


# the store


def test_a_file_that_changes_while_it_is_read_is_not_stored(place, monkeypatch):
    tokenizer, sources = Tokenizer.load(place.tokenizer), resolve([str(place.text)])

    def changing(*arguments):
        yield from documents(*arguments)
        with place.text.open("a", encoding="utf-8") as file:
            file.write('{"text": "late"}\n')

    def make():
        return open_store(sources, tokenizer, Encoding("text"), cache=place.cache, bad_rows=BadRows("stop"))

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "documents", changing)
        with pytest.raises(UserError, match=r"text\.jsonl changed while it was being read; run again"):
            make()
    assert list(place.cache.iterdir()) == []
    assert len(make()) == 61


def test_show_and_training_share_a_store(place, capsys):
    words = ("--cache", place.cache, "--tokenizer", place.tokenizer)
    assert run_cli(("data", "show", place.text, *words)) == 0  # skips bad rows; training stops at them
    (folder,) = place.cache.iterdir()
    config = tiny_run(place, name="x")
    assert open_token_store(config, config.data.data, Tokenizer.load(config.tokenizer)).folder == folder


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of Unix")
@pytest.mark.parametrize(("mask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_a_cache_has_the_permissions_that_the_umask_leaves(place, mask, folder, file):
    before = os.umask(mask)
    try:
        config = tiny_run(place, name="x")
        made = open_token_store(config, config.data.data, Tokenizer.load(config.tokenizer)).folder
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == folder
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {file}


def test_rows_are_encoded_many_at_a_time(place, monkeypatch):
    """The tokenizer's batch call uses all cores; a call for each row uses one."""
    calls: list[int] = []
    tokenizer = Tokenizer.load(place.tokenizer)
    many = tokenizer.encode_many
    monkeypatch.setattr(tokenizer, "encode_many", lambda texts: calls.append(len(texts)) or many(texts))
    monkeypatch.setattr(tokenizer, "encode", None)
    sources = resolve([str(place.text)])
    assert len(list(documents(sources, tokenizer, Encoding("text"), BadRows("stop")))) == 60
    assert calls == [60]
