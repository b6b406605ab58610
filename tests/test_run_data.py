"""Documents of the token store are found again in their files, by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nano_llada.config.data import DataConfig
from nano_llada.core.errors import UserError
from nano_llada.data.read import BadRows, resolve
from nano_llada.data.store import Encoding, documents
from nano_llada.data.tokenizer import MASK, Tokenizer, train_characters
from nano_llada.session.failure import document_places, explain_broken_loss
from nano_llada.training.trainer import BrokenLoss
from tiny import make_place, tiny_run


def text(name: str) -> dict:
    return {"text": f"this is {name}"}


def chat(name: str) -> dict:
    said = [("user", "who?"), ("assistant", name), ("user", "again?"), ("assistant", f"{name} again"), ("user", "?")]
    return {"messages": [{"role": role, "content": content} for role, content in said]}


def write(path: Path, make) -> None:
    """Good rows that name their line, among rows of every kind that is left out."""
    hidden = json.dumps(make(f"a {MASK}"))
    bad = ["", "{broken", "[1]", '{"text": 7, "messages": "no"}', '{"text": " ", "messages": []}', hidden]
    lines = []
    for i, wrong in enumerate([*bad, ""]):
        lines += [json.dumps(make(f"{path.stem}:{2 * i + 1}")), wrong]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "form", "turns", "count"),
    [(text, "text", "all", 14), (chat, "chat", "all", 14), (chat, "chat", "each", 28), (chat, "chat", "last", 14)],
)
def test_places_are_those_of_the_store(tmp_path, make, form, turns, count):
    for name in ("b", "a"):
        write(tmp_path / f"{name}.jsonl", make)
    data = DataConfig(data=(str(tmp_path),), format=form, turns=turns, on_bad_row="skip")
    tokenizer = train_characters(["this is who? again: 0123456789 abcdefghijklmnopqrstuvwxyz\n"])
    encoding = Encoding(form, "text", turns)
    stored = [tokenizer.decode(d.tokens) for d in documents(resolve(data.data), tokenizer, encoding, BadRows("skip"))]
    places = list(document_places(data, tokenizer))
    assert len(places) == len(stored) == count
    for place, document in zip(places, stored, strict=True):
        assert f"{Path(place.file).stem}:{place.line}" in document


def test_without_a_checkpoint_or_the_files_the_message_says_what_it_can(tmp_path):
    config = tiny_run(make_place(tmp_path), name="x")
    error = BrokenLoss(5, float("nan"), 1.0, [[0, 3, 3], *[[row] for row in range(9)]])
    told = str(explain_broken_loss(config, document_places(config.data, Tokenizer.load(config.tokenizer)), error))
    file = tmp_path / "text.jsonl"
    assert (
        f"at step 5 (loss nan, gradient norm 1.0); documents of that batch: row 0: {file}:1, {file}:4; row 1: " in told
    )
    assert f"row 7: {file}:7 ..." in told
    assert told.endswith("start again with a lower --learning-rate")
    file.unlink()
    told = explain_broken_loss(config, document_places(config.data, Tokenizer.load(config.tokenizer)), error)
    assert isinstance(told, UserError)
    assert "documents of that batch: row 0: document 0, document 3; row 1: document 0; " in str(told)
