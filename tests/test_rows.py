"""Rows to texts, conversations and preferences: every shape and every complaint; and what becomes of bad rows."""

from __future__ import annotations

import json
import re

import pytest

from nano_llada.core.errors import UserError
from nano_llada.data.messages import ROLES
from nano_llada.data.rows import BadRows, Message, Preference, Where, find_special, to_messages, to_preference, to_text

SHORT = {
    "$S": '{"role": "system", "content": "Be"}',
    "$U": '{"role": "user", "content": "Hi"}',
    "$A": '{"role": "assistant", "content": "Yo"}',
    "$B": '{"role": "assistant", "content": "No"}',
    "$ROLES": ", ".join(ROLES),
    "$NO_PROMPT": "no prompt (messages, or one of prompt, instruction, question, query, input)",
    "$EARLY": "differ before the last answer",
    "$ANSWERED": "ends with an assistant turn, expected a turn to be answered",
    "$NONE": "no conversations, no messages, no prompt with a response",
}


def complaint(call, *args) -> str:
    with pytest.raises((UserError, ValueError)) as error:
        call(*args)
    return str(error.value)


def table(text: str) -> list[tuple[str, str]]:
    """Lines of ``row => what comes of it`` (``!`` marks a complaint), in words from `SHORT`."""
    full = re.sub(r"\$[A-Z_]+", lambda word: SHORT[word[0]], text)
    return [(row, result) for row, _, result in (line.partition(" => ") for line in full.strip().splitlines())]


def test_bad_rows_stop_or_are_counted():
    hint = "With `--on-bad-row skip` such rows are skipped and counted."
    said = complaint(BadRows("stop").report, Where("a.jsonl", 3), "text is empty")
    assert said == f"a.jsonl:3: text is empty\n{hint}"
    bad = BadRows("skip")
    assert (bad.summary(), bad.count) == ("", 0)
    bad.report(Where("b", 1), "text is empty")
    for line in range(1, 8):
        bad.report(Where("a", line), f"messages[{line}].content is null, byte 0x{line}f, \\ud83{line}")
    kind = "messages[1].content is null, byte 0x1f, \\ud831 (a:1, a:2, a:3, a:4, a:5, ...)"
    assert bad.summary() == f"bad rows skipped: 8\n  7 x {kind}\n  1 x text is empty (b:1)"
    assert bad.count == 8


CONVERSATIONS = """
{"conversations": [$U, $A]} => user Hi|assistant Yo
{"conversations": null, "messages": [$S, $U, $A, $U]} => system Be|user Hi|assistant Yo
{"messages": [$U, $A, {"role": "tool", "content": ""}, $B]} => user Hi|assistant Yo|tool |assistant No
{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]} => user a|assistant b
{"conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]} => user a|assistant b
{"conversations": [{"from": "system", "value": "s"}, $U, $A]} => system s|user Hi|assistant Yo
{"prompt": "a", "response": "b", "system": "s"} => system s|user a|assistant b
{"instruction": "a", "input": "i", "output": "b", "system": ""} => user a+i|assistant b
{"instruction": "a", "input": "", "answer": "b"} => user a|assistant b
{"instruction": "", "input": "i", "target": "b"} => user i|assistant b
{"question": "a", "completion": "b"} => user a|assistant b
{"input": "a", "output": "b"} => user a|assistant b
{"a": 1, "b": 2} => ! $NONE; the fields are: a, b
{"prompt": "a"} => ! $NONE; the fields are: prompt
{} => ! $NONE; the fields are: none
{"messages": "x"} => ! messages is text, expected a list
{"messages": [$U, true]} => ! messages[1] is true or false, expected an object
{"messages": [{"content": "x"}]} => ! messages[0] has no role; the fields are: content
{"conversations": [{"from": "gpt"}]} => ! conversations[0] has no value; the fields are: from
{"messages": [$U, {"role": "assistant", "content": 3}]} => ! messages[1].content is a number, expected text
{"messages": [{"role": null, "content": "x"}]} => ! messages[0].role is null, expected text
{"messages": [{"role": "me", "content": ""}]} => ! messages[0].role is 'me', expected one of $ROLES
{"messages": [{"from": "x", "value": ""}]} => ! messages[0].from is 'x', expected one of $ROLES
{"messages": [$U, {"role": "assistant", "content": " "}]} => ! messages[1].content is empty
{"messages": [{"role": "user", "content": ""}]} => ! messages[0].content is empty
{"messages": []} => ! messages has no assistant turn
{"conversations": [$S, $U]} => ! conversations has no assistant turn
{"messages": [$S, $A, $U]} => ! messages[1] is the first turn and from assistant, expected user
{"prompt": {}, "response": "b"} => ! prompt is an object, expected text
{"instruction": "", "input": " ", "output": "b"} => ! instruction is empty
{"prompt": "a", "output": " "} => ! output is empty
{"prompt": "a", "output": "b", "system": 1} => ! system is a number, expected text
"""
PREFERENCES = """
{"prompt": "a", "chosen": "b", "rejected": "c"} => user a > b > c
{"system": "s", "instruction": "a", "input": "i", "chosen": "b", "rejected": "c"} => system s|user a+i > b > c
{"messages": [$S, $U], "chosen": "b", "rejected": "c"} => system Be|user Hi > b > c
{"prompt": "x", "chosen": [$S, $U, $A], "rejected": [$S, $U, $B]} => system Be|user Hi > Yo > No
{"chosen": [$U, $A, $U, $A], "rejected": [$U, $A, $U, $B, $U]} => user Hi|assistant Yo|user Hi > Yo > No
{"prompt": "a", "chosen": "b"} => ! no rejected; the fields are: prompt, chosen
{"prompt": "a"} => ! no chosen and no rejected; the fields are: prompt
{"a": 1, "chosen": "b", "rejected": "c"} => ! $NO_PROMPT; the fields are: a, chosen, rejected
{"prompt": "a", "chosen": " ", "rejected": "c"} => ! chosen is empty
{"prompt": "a", "chosen": "b", "rejected": [$U]} => ! rejected is a list, expected text
{"chosen": [$U, $A], "rejected": "c"} => ! rejected is text, expected a list
{"chosen": [$U, $A], "rejected": [$U]} => ! rejected has no assistant turn
{"chosen": [$A], "rejected": [$B]} => ! chosen[0] is the first turn and from assistant, expected user
{"chosen": [$U, $A, $U, $A], "rejected": [$U, $B, $U, $A]} => ! chosen[1] and rejected[1] $EARLY
{"chosen": [$U, $A], "rejected": [$U, $U, $A]} => ! chosen[1] and rejected[1] $EARLY
{"messages": [$U, $A], "chosen": "b", "rejected": "c"} => ! messages $ANSWERED
{"messages": [$S], "chosen": "b", "rejected": "c"} => ! messages has no user turn
"""


def spoken(messages: list[Message]) -> str:
    return "|".join(f"{message.role} {message.content}" for message in messages).replace("\n", "+")


def outcome(make, row: str) -> str:
    """What becomes of a row, as the tables write it."""
    try:
        made = make(json.loads(row))
    except ValueError as error:
        return f"! {error}"
    if isinstance(made, Preference):
        return f"{spoken(made.prompt)} > {made.chosen} > {made.rejected}"
    return spoken(made)


@pytest.mark.parametrize(("row", "result"), table(CONVERSATIONS))
def test_conversations(row, result):
    assert outcome(to_messages, row) == result


@pytest.mark.parametrize(("row", "result"), table(PREFERENCES))
def test_preferences(row, result):
    assert outcome(to_preference, row) == result


def test_texts_and_special_tokens():
    assert (to_text({"text": " a\n"}), to_text({"body": "b"}, "body")) == (" a\n", "b")
    assert complaint(to_text, {"a": 1, "b": 2}) == "no field text; the fields are: a, b"
    assert complaint(to_text, {"text": ["x"]}) == "text is a list, expected text"
    assert complaint(to_text, {"text": b"x"}) == "text is a bytes, expected text"
    assert complaint(to_text, {"body": " \n"}, "body") == "body is empty"
    specials = ["<|mask|>", "<|im_end|>"]
    assert find_special("a <|im_end|> b <|mask|>", specials) == "<|im_end|>"
    assert find_special("a < |mask|> <|im_end>", specials) is None
