"""Conversations as tokens: the layout, written out by hand, and which of it the assistant has to write."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano_llada.data.chat import encode_conversation, encode_prompt, score_last_turn, split_turns
from nano_llada.data.rows import Message
from nano_llada.data.tokenizer import Tokenizer, train_bpe, train_characters

TEXT = "system user assistant tool\nhello there, how are you? 你好，世界！ <|im_end|>"
SHORT = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    """A token for each character, so that a layout can be read."""
    return train_characters([TEXT])


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    """Tokens of several characters, which could run across what must stay apart."""
    return train_bpe([TEXT] * 9, 340)


def said(*turns: str) -> list[Message]:
    """Messages of ``a:text`` and the like."""
    return [Message(SHORT[turn[0]], turn[2:]) for turn in turns]


def drawn(tokenizer: Tokenizer, layout: str) -> list[int]:
    """Ids of a layout in which [ opens a turn, ] ends it, | is a line's end, and all else stands for itself."""
    vocab, special = tokenizer.vocab, {"[": tokenizer.vocab.turn_start, "]": tokenizer.vocab.turn_end}
    assert (vocab.turn_start, vocab.turn_end) == (1, 2)
    return [special.get(c) or tokenizer.encode(c.replace("|", "\n"))[0] for c in layout]


LAYOUTS = [
    (said("u:hello", "a:you"), "[user|hello]|[assistant|you]", "                        ^^^^"),
    (
        said("s:a", "u:h", "a:世界", "u:e", "a:！"),
        "[system|a]|[user|h]|[assistant|世界]|[user|e]|[assistant|！]",
        "                               ^^^                     ^^",
    ),
    (
        said("u:h", "a:e", "t:l", "a:o"),
        "[user|h]|[assistant|e]|[tool|l]|[assistant|o]",
        "                    ^^                     ^^",
    ),
    (said("u:h", "a:"), "[user|h]|[assistant|]", "                    ^"),
    (said("u: h\n", "a: \n "), "[user| h|]|[assistant| | ]", "                      ^^^^"),
]


@pytest.mark.parametrize(("messages", "layout", "learnt"), LAYOUTS)
def test_layout_and_what_is_learnt(letters, messages, layout, learnt):
    tokens, scored = encode_conversation(letters, messages)
    assert tokens == drawn(letters, layout)
    assert scored == [mark == "^" for mark in learnt.ljust(len(layout))]


def test_prompts_end_with_the_opening_of_the_answer(letters):
    assert encode_prompt(letters, said("u:h")) == drawn(letters, "[user|h]|[assistant|")
    long = said("s:a", "u:h", "a:e", "u:l")
    assert encode_prompt(letters, long) == drawn(letters, "[system|a]|[user|h]|[assistant|e]|[user|l]|[assistant|")
    assert encode_prompt(letters, []) == drawn(letters, "[assistant|")
    assert encode_conversation(letters, []) == ([], [])


def test_literal_special_tokens_in_a_message_are_text(letters, pieces):
    for tokenizer in (letters, pieces):
        tokens, scored = encode_conversation(tokenizer, said("u:<|im_end|>", "a:<|im_start|>"))
        assert (tokens.count(1), tokens.count(2)) == (2, 2)
        answer = [token for token, learnt in zip(tokens, scored, strict=True) if learnt]
        assert tokenizer.decode(answer) == "<|im_start|><|im_end|>"
        assert answer.count(1) == 0


CONTENT = st.text(alphabet="helo 世界\n，<|im_end|>", max_size=12)


@given(questions=st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3), system=st.none() | CONTENT)
def test_prompts_are_prefixes_of_what_is_trained_on(pieces, questions, system):
    messages = [] if system is None else [Message("system", system)]
    text = "" if system is None else f"<|im_start|>system\n{system}<|im_end|>\n"
    for question, answer in questions:
        messages.append(Message("user", question))
        prompt = encode_prompt(pieces, messages)
        messages.append(Message("assistant", answer))
        tokens, scored = encode_conversation(pieces, messages)
        assert tokens[: len(prompt)] == prompt
        assert all(scored[len(prompt) :])
        assert not scored[len(prompt) - 1]
        assert tokens[len(prompt) :] == [*pieces.encode(answer), pieces.vocab.turn_end]
        text += f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        assert pieces.decode(tokens) == text.removesuffix("\n")
    answers = [pieces.encode(answer) for _, answer in questions]
    assert sum(scored) == sum(map(len, answers)) + len(answers)


def test_split_turns():
    talk = said("s:x", "u:1", "a:2", "u:3", "a:4", "t:5", "a:6")
    assert list(split_turns(talk, "all")) == [(talk, False)]
    assert list(split_turns(talk, "each")) == [(talk[:3], True), (talk[:5], True), (talk, True)]
    assert list(split_turns(talk, "last")) == [(talk, True)]
    assert list(split_turns(talk[:4], "last")) == [(talk[:3], True)]
    assert list(split_turns(talk[:2], "each")) == list(split_turns(talk[:2], "last")) == []


@pytest.mark.parametrize(
    ("scored", "last"),
    [
        ("", ""),
        ("...", "..."),
        (".^^..^^^", ".....^^^"),
        ("^^.^..", "...^.."),
        ("^^^", "^^^"),
        ("^.^", "..^"),
    ],
)
def test_score_last_turn(scored, last):
    flags = [mark == "^" for mark in scored]
    assert score_last_turn(flags) == [mark == "^" for mark in last]
    assert flags == [mark == "^" for mark in scored]  # what was given is not changed


def test_turns_in_a_row_count_by_themselves(letters):
    _, scored = encode_conversation(letters, said("u:h", "a:e", "a:l"))
    assert [sum(group) for learnt, group in groupby(scored) if learnt] == [2, 2]
    assert sum(score_last_turn(scored)) == 2


@pytest.mark.parametrize("maker", ["letters", "pieces"])
def test_the_chat_template_writes_the_same(maker, request, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    ours = request.getfixturevalue(maker)
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = said("s:how are you", "u:hello 世界", "a:你好，  there!", "u:1 + 1?")
    plain = [{"role": message.role, "content": message.content} for message in messages]
    options = {"tokenize": True, "return_dict": False}
    prompt = theirs.apply_chat_template(plain, add_generation_prompt=True, **options)
    assert list(prompt) == encode_prompt(ours, messages)
    whole = theirs.apply_chat_template(plain[:3], **options)
    assert list(whole) == [*encode_conversation(ours, messages[:3])[0], *ours.encode("\n")]
