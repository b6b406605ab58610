"""Tests of the small bilingual world: right answers, honest splits, and the same data for the same seed."""

from __future__ import annotations

import calendar
import hashlib
import json
import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.session.run import BUNDLED_TOKENIZER
from nano_llada.world import (
    DEMO_SKILLS,
    SKILLS,
    SPLITS,
    Example,
    Verifier,
    chats,
    documents,
    examples,
    verify,
)
from nano_llada.world.skills_sudoku import solved_grids

STEPWISE = ("counting", "addition", "subtraction", "time")


def english(skill: str, split: str = "train", count: int = 60, seed: int = 0) -> list[Example]:
    return [example for example in examples(skill, split, count, seed) if example.language == "en"]


def result_of(example: Example) -> str:
    """What counts of an answer."""
    return example.answer.rpartition(": ")[2] if example.verifier.kind == "final" else example.answer


def worked_out(example: Example) -> tuple[list[str], str]:
    """What is named in an answer with steps 1, 2, 3 and so on, and the result behind the colon."""
    steps, _, result = example.answer.rpartition(": ")
    assert re.findall(r" (\d+)(?: |$)", steps) == [str(n + 1) for n in range(len(steps.split()) // 2)]
    return steps.split()[::2], result


@pytest.mark.parametrize("skill", SKILLS)
def test_the_seed_decides_everything(skill: str) -> None:
    first = list(examples(skill, "train", 30, 5))
    assert first == list(examples(skill, "train", 30, 5))
    assert first != list(examples(skill, "train", 30, 6))
    # A longer stream begins with the shorter one.
    assert first == list(examples(skill, "train", 40, 5))[:60]


def test_chats_and_documents_follow_their_seed() -> None:
    assert list(chats(SKILLS, "test", 64, 1)) == list(chats(SKILLS, "test", 64, 1))
    assert list(chats(SKILLS, "test", 64, 1)) != list(chats(SKILLS, "test", 64, 2))
    assert list(documents("train", 50, 1)) == list(documents("train", 50, 1))
    assert list(documents("train", 50, 1)) != list(documents("train", 50, 2))


@pytest.mark.parametrize("skill", SKILLS)
def test_both_languages_share_one_item(skill: str) -> None:
    found = list(examples(skill, "train", 50, 3))
    assert len(found) == 100
    for zh, en in zip(found[::2], found[1::2], strict=True):
        assert (zh.language, en.language) == ("zh", "en")
        assert (zh.pair, zh.key) == (en.pair, en.key)
        assert re.search(r"[\u4e00-\u9fff]", zh.prompt)
        if skill != "translation":
            assert not re.search(r"[\u4e00-\u9fff]", en.prompt + en.answer)
    assert found[0].pair == f"{skill}-train-000000"
    assert len({example.pair for example in found}) == 50


@pytest.mark.parametrize("skill", SKILLS)
@pytest.mark.parametrize("split", SPLITS)
def test_right_answers_pass_and_wrong_ones_fail(skill: str, split: str) -> None:
    found = list(examples(skill, split, 60, 1))
    for example, other in zip(found, found[6:] + found[:6], strict=True):
        assert verify(example.verifier, example.answer), example
        assert verify(example.verifier, f"  {example.answer.rstrip('.。')} 。")
        for garbage in ("", " ", ".", "xyz", example.answer + " xyz", example.prompt):
            assert not verify(example.verifier, garbage), (example, garbage)
        words_too = example.verifier.kind == other.verifier.kind == "words"
        if result_of(other) != result_of(example) and not words_too:
            assert not verify(example.verifier, other.answer), (example, other)


@pytest.mark.untraced
@pytest.mark.parametrize("skill", SKILLS)
def test_there_are_enough_training_items(skill: str) -> None:
    prompts = {example.prompt for example in english(skill, count=500)}
    assert len(prompts) >= (80 if skill == "identity" else 200)  # few people can ask who one is
    assert all(len(prompt.split()) < 30 for prompt in prompts)


def test_small_worlds_repeat_for_large_counts() -> None:
    assert len(english("addition", "test", 2000)) == 2000
    assert len({example.key for example in english("addition", "train", 2000)}) > 80
    few = english("recall", "test", 100)
    assert len({example.prompt for example in few}) == 100


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_json_and_round_trip(split: str) -> None:
    for example in chats(SKILLS, split, 128, 0):
        row = json.loads(json.dumps(example.to_row(), ensure_ascii=False))
        assert Example.from_row(row) == example
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]


def test_broken_rows_and_requests_are_refused() -> None:
    row = next(chats(SKILLS, "train", 1, 0)).to_row()
    with pytest.raises(UserError, match="not an example"):
        Example.from_row({name: value for name, value in row.items() if name != "pair"})
    with pytest.raises(UserError, match="not an example"):
        Example.from_row({**row, "messages": row["messages"][:1]})
    with pytest.raises(UserError, match="cannot be read"):
        Example.from_row({**row, "verifier": {"kind": "exact"}})
    with pytest.raises(UserError, match="Unknown kind"):
        Verifier.from_json({"kind": "guess", "expected": ["a"], "count": 0})
    with pytest.raises(UserError, match="expects nothing"):
        Verifier.from_json({"kind": "exact", "expected": [], "count": 0})
    with pytest.raises(UserError, match="expects '3：00' behind a colon"):
        Verifier.from_json({"kind": "final", "expected": ["3", "3：00"], "count": 0})
    with pytest.raises(UserError, match="no skill 'juggling'"):
        examples("juggling", "train", 1, 0)
    with pytest.raises(UserError, match="no split 'dev'"):
        documents("dev", 1, 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="-1 items"):
        examples("recall", "train", -1, 0)
    with pytest.raises(UserError, match="at least one skill"):
        chats((), "train", 1, 0)


def test_chats_are_even_over_skills_and_languages() -> None:
    found = list(chats(DEMO_SKILLS, "train", 10 * 2 * len(DEMO_SKILLS), 0))
    counts = [sum(e.skill == s and e.language == lg for e in found) for s in DEMO_SKILLS for lg in ("zh", "en")]
    assert counts == [10] * 2 * len(DEMO_SKILLS)
    assert [e.skill for e in found[:14]] != [e.skill for e in found[14:28]]


def kinds_of_verifier() -> list[Verifier]:
    return [
        Verifier("exact", ("a blue cup", "blue cup")),
        Verifier("json", ('{"name": "Tom", "age": 7}',)),
        Verifier("words", ("cat", "dog", "bird", "cow"), 3),
        Verifier("sudoku", ("1 0 3 0 / 0 4 1 2 / 2 1 4 3 / 4 3 2 1",)),
        Verifier("final", ("3", "3 cats")),
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(),
        st.text(alphabet='[]{}":,0123456789.e-tfn \ud800'),
        st.text(alphabet="1234 ."),
        st.lists(st.sampled_from(["cat", "dog", "bird", ",", "and", "和"])).map(" ".join),
    )
)
def test_no_text_makes_a_verifier_raise(text: str) -> None:
    for verifier in kinds_of_verifier():
        assert verify(verifier, text) in (True, False)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 10_000, "{" * 5000 + "}" * 5000, "٣" * 16, "NaN", "\x00"])
def test_hostile_text_is_simply_wrong(text: str) -> None:
    assert not any(verify(verifier, text) for verifier in kinds_of_verifier())


@given(st.lists(st.text(), min_size=1), st.integers(0, 9))
def test_verifiers_round_trip_through_json(expected: list[str], count: int) -> None:
    verifier = Verifier("words", tuple(expected), count)
    assert Verifier.from_json(json.loads(json.dumps(verifier.to_json()))) == verifier


@pytest.mark.parametrize(
    ("place", "text", "right"),
    [
        (0, " blue\ncup. ", True),
        (0, "blue cup..", False),
        (1, '{"age":7,"name":"Tom"}', True),
        (1, '{"age": 7.0, "name": "Tom"}', False),
        (1, '{"age": 8, "age": 7, "name": "Tom"}', False),
        (1, '{"age": 7}', False),
        (2, "dog, bird and cow.", True),
        (2, "dog、bird和cow。", True),
        (2, "dog dog cow", False),
        (2, "dog cow", False),
        (2, "dog cow bird cat", False),
        (2, "dog cow pear", False),
        (3, "1 2 3 4 / 3 4 1 2 / 2 1 4 3 / 4 3 2 1", True),
        (3, "1 2 3 4 / 3 4 1 2 / 2 1 4 3 / 4 3 1 2", False),
        (3, "1234341221434321", False),
        (3, "3 4 1 2 / 1 2 3 4 / 2 1 4 3 / 4 3 2 1", False),
        (4, "3", True),
        (4, " 3  cats. ", True),
        (4, "10 1 11 2 12 3: 3", True),
        (4, "no steps that lead there:3。", True),
        (4, "猫 1：狗：3", True),
        (4, "3: 4", False),
        (4, "10 1 11 2 12 3", False),
        (4, "3:", False),
        (4, "10 1: 3..", False),
        (4, "4: 3 3", False),
    ],
)
def test_verifiers_draw_the_line_where_they_say(place: int, text: str, right: bool) -> None:
    assert verify(kinds_of_verifier()[place], text) is right


def test_answers_agree_with_a_second_way_of_working_them_out() -> None:
    for skill, sign in (("addition", 1), ("subtraction", -1)):
        for example in english(skill, count=200):
            first, second = map(int, re.findall(r"\d+", example.prompt))
            assert int(result_of(example)) == first + sign * second
            assert 0 <= int(result_of(example)) <= 20
    for example in english("comparison", count=100):
        facts = re.findall(r"(\w+) has (\d+) ", example.prompt)
        winner = max(facts, key=lambda pair: int(pair[1]))
        assert example.answer in winner
    for example in english("reversal"):
        words_asked = example.prompt.split(": ")[1].rstrip(".").split()
        assert example.answer.split() == words_asked[::-1]


def test_counting_walks_through_the_words() -> None:
    for example in english("counting", count=100):
        words = re.search(r": ([a-z ]+)\.|\? ([a-z ]+)\.", example.prompt)
        assert words is not None
        listed = (words[1] or words[2]).split()
        steps, _, result = example.answer.rpartition(": ")
        assert re.sub(r" \d+", "", steps).split() == listed
        numbered = re.findall(r"([a-z]+) (\d+)", steps)
        assert numbered == [(example.key[1], str(n + 1)) for n in range(listed.count(example.key[1]))]
        assert result == numbered[-1][1]
        assert 3 <= len(listed) <= 8


def test_sums_are_counted_on_from_the_larger_and_differences_by_whether_the_second_number_has_one_digit() -> None:
    for example in examples("addition", "train", 200, 0):
        smaller, larger = sorted(map(int, example.key[1:]))
        names, _ = worked_out(example)
        assert names == [str(n) for n in range(larger + 1, larger + smaller + 1)]
    ways = set()
    for example in examples("subtraction", "train", 300, 0):
        first, second = map(int, example.key[1:])
        names, _ = worked_out(example)
        back = second < 10
        wanted = range(first - 1, first - second - 1, -1) if back else range(second + 1, first + 1)
        assert names == list(map(str, wanted))
        ways.add((back, bool(names)))
    assert ways == {(True, True), (True, False), (False, True), (False, False)}


def test_time_names_every_day_month_or_hour_on_the_way() -> None:
    cycles = {"day": list(calendar.day_name), "month": list(calendar.month_name)[1:]}
    for example in english("time", count=300):
        _, unit, start, side, number = example.key
        cycle = cycles.get(unit) or [str(hour + 1) for hour in range(12)]
        step = 1 if side == "after" else -1
        wanted = [cycle[(cycle.index(start) + step * n) % len(cycle)] for n in range(1, int(number) + 1)]
        assert worked_out(example) == (wanted, wanted[-1] + (" o'clock" if unit == "hour" else ""))


def test_steps_read_the_same_in_both_languages() -> None:
    for skill in ("addition", "subtraction"):
        found = list(examples(skill, "train", 100, 0))
        assert [zh.answer for zh in found[::2]] == [en.answer for en in found[1::2]]
    for skill in ("counting", "time"):
        found = list(examples(skill, "train", 100, 0))
        for zh, en in zip(found[::2], found[1::2], strict=True):
            steps = [answer.rpartition(": ")[0].split() for answer in (zh.answer, en.answer)]
            numbered = [[place for place, step in enumerate(one) if step.isdigit()] for one in steps]
            assert numbered[0] == numbered[1] != []
            assert len(steps[0]) == len(steps[1])


@pytest.mark.parametrize("skill", STEPWISE)
def test_results_without_steps_are_right_too(skill: str) -> None:
    for example in examples(skill, "test", 60, 0):
        result = result_of(example)
        assert verify(example.verifier, result)
        assert verify(example.verifier, f"答案：{result}。")
        assert not verify(example.verifier, example.answer.rpartition(": ")[0])


def test_recall_answers_in_the_words_of_the_text_and_takes_short_answers() -> None:
    for example in examples("recall", "train", 200, 0):
        assert example.answer in example.prompt
        short = example.answer.rstrip(".。")
        assert verify(example.verifier, short)
        whole, *parts = example.verifier.expected
        assert whole == example.answer
        assert parts
        assert all(part in whole for part in parts)
    (who, *_) = (e for e in english("recall") if "Who" in e.prompt)
    (what, *_) = (e for e in english("recall") if "What does" in e.prompt)
    assert verify(who.verifier, who.answer.split()[0])
    assert not verify(what.verifier, what.answer.split()[0])
    assert verify(what.verifier, " ".join(what.answer.rstrip(".").split()[-3:]))


@pytest.mark.parametrize("skill", SKILLS)
def test_answers_are_short(skill: str) -> None:
    """With the end of the turn they fit into 24 tokens; a number in the steps is one token."""
    tokenizer = Tokenizer.load(BUNDLED_TOKENIZER)
    answers = {example.answer for example in examples(skill, "train", 300, 0)}
    assert max(len(tokenizer.encode(answer)) for answer in answers) <= 23
    if skill in ("addition", "subtraction"):
        assert all(len(tokenizer.encode(answer)) == len(re.findall(r"\d+|:", answer)) for answer in answers)


RECORDED = {
    "reading": "88507ca1b0c0",
    "copy": "897706af801b",
    "reversal": "4d3adfd442d0",
    "translation": "c1a933c47b91",
    "format": "fdc5523ab46d",
    "ordering": "be081b45bd48",
}


@pytest.mark.parametrize("skill", RECORDED)
def test_the_questions_behind_recorded_results_stay_as_they_were(skill: str) -> None:
    found = [f"{e.prompt}\n{e.answer}" for split in SPLITS for e in examples(skill, split, 40, 0)]
    assert hashlib.sha256("\n".join(found).encode()).hexdigest()[:12] == RECORDED[skill]


def test_the_documents_behind_recorded_results_stay_as_they_were() -> None:
    found = "\n".join(row["text"] for row in documents("train", 300, 0, tuple(RECORDED)))
    assert hashlib.sha256(found.encode()).hexdigest()[:12] == "4bdbd338fd1d"


def solve(cells: list[int]) -> int:
    """The number of solutions, by trying every digit in every blank."""
    if 0 not in cells:
        return 1
    place = cells.index(0)
    row, column = divmod(place, 4)
    total = 0
    for digit in range(1, 5):
        clash = any(
            value == digit and (r == row or c == column or (r // 2, c // 2) == (row // 2, column // 2))
            for (r, c), value in zip(product(range(4), repeat=2), cells, strict=True)
        )
        if not clash:
            total += solve([*cells[:place], digit, *cells[place + 1 :]])
    return total


def test_every_sudoku_has_one_solution() -> None:
    assert len(solved_grids()) == len(set(solved_grids())) == 288
    for example in english("sudoku", count=120):
        cells = [int(digit) for digit in example.verifier.expected[0] if digit.isdigit()]
        assert len(cells) == 16
        assert 4 <= cells.count(0) <= 8
        assert solve(cells) == 1


def test_the_plainest_identity_questions_are_for_training() -> None:
    prompts = {example.prompt for example in examples("identity", "train", 600, 0)}
    assert {"你是谁？", "Who are you?", "What is your name?", "Are you a person?"} <= prompts


def test_easy_skills_use_few_words() -> None:
    words: set[str] = set()
    for skill in DEMO_SKILLS:
        for example in english(skill, count=300):
            words.update(re.findall(r"[A-Za-z]+", f"{example.prompt} {example.answer}"))
    assert len(words) <= 350
