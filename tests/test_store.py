"""Tokenised documents on disk: built once for what they are made of, never half, and what stands in them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nano_llada.core.errors import UserError
from nano_llada.data import store as store_module
from nano_llada.data.chat import encode_conversation, encode_prompt
from nano_llada.data.read import BadRows, resolve
from nano_llada.data.rows import Message
from nano_llada.data.store import Encoding, TokenStore, documents, open_store
from nano_llada.data.texts import read_texts
from nano_llada.data.tokenizer import Tokenizer, train_bpe, train_characters

TEXTS = ["one two", "世界 é", "three\n\nfour", "<|im_end|> is text"]
TALK = [("user", "Hi"), ("assistant", "你好"), ("user", "one?"), ("assistant", "two")]
TEXT, CHAT = Encoding("text"), Encoding("chat")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_characters([*TEXTS, "user assistant system Hi你好?"])


def write(name: str, rows) -> None:
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    Path(name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def texts(*some: str) -> list[dict[str, str]]:
    return [{"text": text} for text in some]


def talk(turns=TALK) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def make(
    tokenizer: Tokenizer, *names: str, encoding: Encoding = TEXT, policy="stop", cache="cache", **more
) -> TokenStore:
    return open_store(
        resolve(names or ("a.jsonl",)), tokenizer, encoding, cache=Path(cache), bad_rows=BadRows(policy), **more
    )


def content(store: TokenStore) -> list[tuple[list[int], list[bool]]]:
    """Tokens and flags of each document."""
    stretches = zip(store.starts[:-1], store.starts[1:], strict=True)
    return [tuple(part.tolist() for part in store.slice(first, last)) for first, last in stretches]


def complaint(call, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_texts_stand_between_ends_and_the_first_is_not_scored(tokenizer):
    write("a.jsonl", texts(*TEXTS))
    store = make(tokenizer)
    eos = tokenizer.vocab.eos
    expected = [[eos, *tokenizer.encode(text), eos] for text in TEXTS]
    assert content(store) == [(tokens, [False] + [True] * (len(tokens) - 1)) for tokens in expected]
    assert len(store) == 4
    assert store.lengths.tolist() == [len(tokens) for tokens in expected]
    assert store.scored_counts.tolist() == [len(tokens) - 1 for tokens in expected]
    assert store.text_bytes.tolist() == [7, 9, 11, 18]
    meta = {name: store.meta[name] for name in ("documents", "tokens", "text_bytes", "skipped", "sources")}
    total = sum(map(len, expected))
    assert meta == {"documents": 4, "tokens": total, "text_bytes": 45, "skipped": "", "sources": ["a.jsonl"]}


@pytest.mark.parametrize(
    ("turns", "ends", "learnt", "sizes"),
    [("all", [4], [7], [9]), ("each", [2, 4], [3, 4], [6, 3]), ("last", [4], [4], [3])],
)
def test_conversations(tokenizer, turns, ends, learnt, sizes):
    write("a.jsonl", [talk([*TALK, ("user", "not answered")])])
    store = make(tokenizer, encoding=Encoding("chat", turns=turns))
    messages = [Message(role, text) for role, text in TALK]
    assert [tokens for tokens, _ in content(store)] == [
        encode_conversation(tokenizer, messages[:end])[0] for end in ends
    ]
    assert store.scored_counts.tolist() == learnt
    assert [sum(scored) for _, scored in content(store)] == learnt
    assert all(scored[-1] for _, scored in content(store))
    assert store.text_bytes.tolist() == sizes


def test_sources_follow_each_other_and_another_field_can_be_read(tokenizer):
    write("b.jsonl", [{"body": "two"}])
    write("a.jsonl", [{"body": "one"}, {"body": " "}])
    store = make(tokenizer, "b.jsonl", "a.jsonl", encoding=Encoding("text", "body"), policy="skip")
    assert [tokenizer.decode(tokens, specials=False) for tokens, _ in content(store)] == ["one", "two"]
    assert store.meta["sources"] == ["a.jsonl", "b.jsonl"]
    assert store.meta["skipped"] == "bad rows skipped: 1\n  1 x body is empty (a.jsonl:2)"
    assert list(read_texts(["b.jsonl"], "body", BadRows("stop"))) == ["two"]


def test_it_is_built_once(tokenizer, monkeypatch):
    write("a.jsonl", texts(*TEXTS))
    first = make(tokenizer)
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    monkeypatch.setattr(store_module, "documents", None)  # whoever builds again fails
    again = make(tokenizer)
    assert again.folder == first.folder
    assert content(again) == content(first)
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before
    Path("a.jsonl").rename("other.jsonl")
    assert make(tokenizer, "other.jsonl").folder == first.folder  # the content counts, not the name


def test_what_it_is_made_of_decides_which_store_it_is(tokenizer):
    both = [{"text": "one", "body": "two"} | talk()]
    write("a.jsonl", both)
    write("b.jsonl", both * 2)
    other = train_bpe(TEXTS, 300)
    encodings = [TEXT, replace(TEXT, text_field="body"), CHAT, *(Encoding("chat", turns=t) for t in ("each", "last"))]
    stores = [make(tokenizer, encoding=encoding) for encoding in encodings]
    stores += [make(tokenizer, "b.jsonl"), make(tokenizer, "a.jsonl", "b.jsonl"), make(other)]
    assert len({store.folder for store in stores}) == len(stores)
    write("a.jsonl", [{"text": "changed"}])
    changed = make(tokenizer)
    assert changed.folder not in {store.folder for store in stores}
    assert tokenizer.decode(content(changed)[0][0], specials=False) == "changed"
    assert make(tokenizer, cache="elsewhere").folder == Path("elsewhere") / changed.folder.name


def test_the_same_bytes_read_in_another_way_are_another_store(tokenizer):
    write("a.jsonl", texts("one", "two"))
    Path("a.txt").write_bytes(Path("a.jsonl").read_bytes())
    assert len(make(tokenizer, "a.jsonl")) == 2
    assert len(make(tokenizer, "a.txt")) == 1  # a text file is one document


def test_a_bad_row_stops_or_is_skipped_and_counted(tokenizer):
    write("a.jsonl", [{"text": "one"}, "{broken", {"text": 3}, {"text": "two"}])
    said = complaint(make, tokenizer)
    assert said.startswith("a.jsonl:2: broken JSON: ")
    assert said.endswith("With `--on-bad-row skip` such rows are skipped and counted.")
    assert list(Path("cache").iterdir()) == []
    for store in (make(tokenizer, policy="skip"), make(tokenizer, policy="skip")):  # also when it is found, not built
        assert len(store) == 2
        assert str(store.meta["skipped"]).startswith("bad rows skipped: 2\n")
        assert "(a.jsonl:2)" in str(store.meta["skipped"])
        assert "1 x text is a number, expected text (a.jsonl:3)" in str(store.meta["skipped"])
    assert complaint(make, tokenizer).startswith("a.jsonl:2: ")  # skipping does not make it right


MASKED = [
    (TEXT, {"text": "a <|mask|> b"}),
    (CHAT, talk([("user", "<|mask|>"), ("assistant", "x")])),
    (CHAT, talk([("user", "x"), ("assistant", "x<|mask|>")])),
    (CHAT, talk([("system", "<|mask|>"), ("user", "x"), ("assistant", "x")])),
    (Encoding("chat", turns="last"), talk([("user", "x"), ("assistant", "<|mask|>"), *TALK])),
]


@pytest.mark.parametrize(("encoding", "row"), MASKED)
def test_a_literal_mask_token_is_refused(tokenizer, encoding, row):
    write("a.jsonl", [{"text": "fine"} | talk(), row])
    reason = "a.jsonl:2: the text contains the literal mask token <|mask|>"
    assert complaint(make, tokenizer, encoding=encoding).splitlines()[0] == reason
    skipped = make(tokenizer, encoding=encoding, policy="skip")
    assert len(skipped) == 1
    assert tokenizer.vocab.mask not in skipped.slice(0, 1000)[0]


PREFERENCE = Encoding("preference")
ASKED = {"prompt": "Hi", "chosen": "two", "rejected": "one"}
TURNS = [Message("system", "user"), Message("user", "Hi"), Message("assistant", "one?"), Message("user", "你好")]
LISTED = [vars(message) for message in TURNS]
FORMATS = [  # a row, and the messages before the two answers
    (ASKED, TURNS[1:2]),
    ({"system": "user", "instruction": "Hi", "chosen": "two", "rejected": "one"}, TURNS[:2]),
    ({"messages": LISTED, "chosen": "two", "rejected": "one"}, TURNS),
    (
        {
            "chosen": [*LISTED, {"role": "assistant", "content": "two"}],
            "rejected": [*LISTED, {"role": "assistant", "content": "one"}],
        },
        TURNS,
    ),
]


@pytest.mark.parametrize(("row", "prompt"), FORMATS)
def test_a_preference_is_two_documents_with_the_chosen_first(tokenizer, row, prompt):
    write("a.jsonl", [row, ASKED | {"chosen": "three", "rejected": "世界"}])
    store = make(tokenizer, encoding=PREFERENCE)
    opening = encode_prompt(tokenizer, prompt)  # what generation is given
    pieces = [[*tokenizer.encode(answer), tokenizer.vocab.turn_end] for answer in ("two", "one")]
    expected = [([*opening, *piece], [False] * len(opening) + [True] * len(piece)) for piece in pieces]
    assert content(store)[:2] == expected
    assert len(store) == 4
    assert store.text_bytes.tolist() == [3, 3, 5, 6]
    assert store.first_scored[:2].tolist() == [len(opening)] * 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": "<|mask|>"}, "the text contains the literal mask token <|mask|>"),
        ({"chosen": "two<|mask|>"}, "the text contains the literal mask token <|mask|>"),
        ({"rejected": "<|mask|>"}, "the text contains the literal mask token <|mask|>"),
        ({"system": "<|mask|>"}, "the text contains the literal mask token <|mask|>"),
        ({"rejected": "two"}, "chosen and rejected are the same answer"),
        ({"chosen": " "}, "chosen is empty"),
        ({"rejected": ""}, "rejected is empty"),
        ({"prompt": "\n"}, "prompt is empty"),
        ({"rejected": None}, "no rejected; the fields are: prompt, chosen, rejected"),
    ],
)
def test_a_bad_preference_is_left_out_as_a_whole(tokenizer, change, reason):
    write("a.jsonl", [ASKED, ASKED | change, ASKED | {"chosen": "three"}])
    assert complaint(make, tokenizer, encoding=PREFERENCE).splitlines()[0] == f"a.jsonl:2: {reason}"
    store = make(tokenizer, encoding=PREFERENCE, policy="skip")
    answers = [
        tokenizer.decode([token for token, learnt in zip(*document, strict=True) if learnt], specials=False)
        for document in content(store)
    ]
    assert answers == ["two", "one", "three", "one"]
    assert "(a.jsonl:2)" in str(store.meta["skipped"])


def test_no_documents_at_all(tokenizer):
    write("a.jsonl", [])
    assert complaint(make, tokenizer) == "no documents in a.jsonl"
    write("a.jsonl", ["3"])
    said = complaint(make, tokenizer, policy="skip")
    assert said.startswith("no documents in a.jsonl: bad rows skipped: 1\n")
    assert list(Path("cache").iterdir()) == []


@pytest.mark.parametrize("end", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_build_leaves_nothing(tokenizer, monkeypatch, end):
    write("a.jsonl", texts(*TEXTS))

    def some(*arguments):
        yield from list(documents(*arguments))[:2]
        assert len(list(Path("cache").iterdir())) == 1
        raise end

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "documents", some)
        with pytest.raises(end):
            make(tokenizer)
    assert list(Path("cache").iterdir()) == []
    assert len(make(tokenizer)) == 4


def test_what_a_killed_build_left_is_no_store(tokenizer):
    write("a.jsonl", texts(*TEXTS))
    store = make(tokenizer)
    wanted = content(store)
    (store.folder / "meta.json").unlink()
    (store.folder / "tokens.bin").write_bytes(b"")
    Path("cache/.building-xyz").mkdir()
    assert content(make(tokenizer)) == wanted


def test_two_builders_at_once_do_not_disturb_each_other(tokenizer, monkeypatch):
    write("a.jsonl", texts(*TEXTS))
    others = []

    def slowly(*arguments):
        made = list(documents(*arguments))
        monkeypatch.setattr(store_module, "documents", documents)
        others.append(make(tokenizer))  # somebody else starts later and is done earlier
        yield from made

    monkeypatch.setattr(store_module, "documents", slowly)
    ours = make(tokenizer)
    assert content(ours) == content(others[0]) == content(make(tokenizer))
    assert [path.name for path in Path("cache").iterdir()] == [ours.folder.name]


def test_a_cache_that_cannot_be_written(tokenizer, monkeypatch):
    write("a.jsonl", texts(*TEXTS))
    Path("file").write_text("", encoding="utf-8")
    said = complaint(make, tokenizer, cache="file/cache")
    assert said == "cannot write the data cache file/cache: Not a directory; choose another with --cache"

    def refuse(number: int):
        def call(*arguments, **options):
            raise OSError(number, os.strerror(number))

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse(errno.EACCES))
        said = complaint(make, tokenizer)
        assert said == "cannot write the data cache cache: Permission denied; choose another with --cache"
    for module, name in ((np, "save"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse(errno.ENOSPC))
            assert complaint(make, tokenizer).startswith("cannot write the data cache cache: No space left on device")
        assert list(Path("cache").iterdir()) == []
    assert len(make(tokenizer)) == 4


@pytest.mark.parametrize(("extra", "dtype"), [(0, "uint16"), (1, "uint32")])
def test_tokens_take_two_bytes_while_they_fit(extra, dtype):
    first, count = 0x10000, 65536 - 272 + extra
    large = train_characters(["".join(map(chr, range(first, first + count)))])
    assert large.vocab.size == 65536 + extra
    last = chr(first + count - 1)
    write("a.jsonl", texts(last))
    store = make(large)
    assert store.meta["dtype"] == dtype
    assert store.slice(0, 3)[0].tolist() == [0, 65535 + extra, 0]
    assert (store.folder / "tokens.bin").stat().st_size == 3 * np.dtype(dtype).itemsize


def test_progress_is_told_every_thousand_documents(tokenizer):
    write("a.jsonl", texts("a") * 2500)
    told: list[int] = []
    make(tokenizer, progress=told.append)
    assert told == [1000, 2000]
    make(tokenizer, progress=told.append)
    assert told == [1000, 2000]


def test_a_file_that_changes_while_it_is_read_is_not_stored(tokenizer, monkeypatch):
    write("a.jsonl", texts(*TEXTS))

    def slowly(*arguments):
        for number, document in enumerate(documents(*arguments)):
            if number == 1:
                with Path("a.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"text": "late"}) + "\n")
            yield document

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "documents", slowly)
        assert complaint(make, tokenizer).startswith("a.jsonl changed while it was being read")
    assert list(Path("cache").iterdir()) == []
    assert len(make(tokenizer)) == len(TEXTS) + 1


def test_who_skips_bad_rows_and_who_stops_share_a_store(tokenizer, monkeypatch):
    write("a.jsonl", texts(*TEXTS))
    store = make(tokenizer, policy="skip")  # data show
    monkeypatch.setattr(store_module, "documents", None)  # nothing is tokenised again
    assert make(tokenizer, policy="stop").folder == store.folder  # training


def test_what_a_dead_builder_left_is_swept_at_once_and_a_living_ones_is_not(tokenizer):
    write("a.jsonl", texts(*TEXTS))
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    host, dead = store_module._host(), int(child.stdout)
    names = [f".building-{host}-{dead}-0a", f".building-{host}-{os.getpid()}-0a", f".building-elsewhere-{dead}-0a"]
    for name in names:
        (Path("cache") / name).mkdir(parents=True)
    make(tokenizer)
    assert sorted(path.name for path in Path("cache").glob(".building-*")) == sorted(names[1:])


def test_a_slice_is_a_stretch_of_the_whole(tokenizer):
    write("a.jsonl", texts(*TEXTS))
    store = make(tokenizer)
    everything = [token for tokens, _ in content(store) for token in tokens]
    tokens, scored = store.slice(5, 20)
    assert tokens.tolist() == everything[5:20]
    assert (tokens.dtype, scored.dtype) == (np.int64, np.bool_)
    assert store.slice(7, 7)[0].tolist() == []
