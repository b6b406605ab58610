"""Pairs made from the small world: the right answer is right, the wrong one wrong, and it does not look wrong."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest

from nano_llada.core.errors import UserError
from nano_llada.data.rows import to_preference
from nano_llada.world import LANGUAGES, SKILLS, SPLITS, chats, preferences, verify
from nano_llada.world.files import write_preferences, write_world
from tiny import read_lines

SAME_WORDS = ("copy", "reversal", "ordering")
NUMERIC = ("addition", "subtraction", "counting")


def rows_of(skill: str, split: str = "train", count: int = 120, seed: int = 0) -> list[dict[str, str]]:
    return list(preferences((skill,), split, count, seed))


@pytest.mark.parametrize("skill", SKILLS)
@pytest.mark.parametrize("split", SPLITS)
def test_the_chosen_answer_is_right_and_the_rejected_one_wrong(skill, split):
    found = rows_of(skill, split)
    assert len(found) == 120
    for row, example in zip(found, chats((skill,), split, 120, 0), strict=True):
        assert set(row) == {"prompt", "chosen", "rejected", "skill", "language"}
        assert (row["prompt"], row["skill"], row["language"]) == (example.prompt, skill, example.language)
        assert verify(example.verifier, row["chosen"])
        assert not verify(example.verifier, row["rejected"]), row
        assert row["rejected"].strip() == row["rejected"] != ""
        assert to_preference(row).rejected == row["rejected"]
    for one, other in zip(found[::2], found[1::2], strict=True):
        assert {one["language"], other["language"]} == set(LANGUAGES)


@pytest.mark.untraced
@pytest.mark.parametrize("skill", SKILLS)
def test_the_seed_decides_everything(skill):
    first = rows_of(skill, count=40)
    assert first == rows_of(skill, count=40) == rows_of(skill)[:40]
    assert first != rows_of(skill, count=40, seed=1)


def shape(text: str) -> str:
    """A text without what its words are: Chinese as 字, English as w, numbers as 9, and steps as +."""
    steps, colon, result = text.rpartition(": ")
    if steps:
        return f"+{colon}{shape(result)}"
    return re.sub(r"[A-Za-z]+", "w", re.sub(r"[\u4e00-\u9fff]+", "字", re.sub(r"\d+", "9", text)))


@pytest.mark.untraced
@pytest.mark.parametrize("skill", sorted(set(SKILLS) - {"translation", "format", "identity"}))
def test_a_rejected_answer_has_the_form_of_a_right_one(skill):
    assert [row for row in rows_of(skill, count=200) if shape(row["rejected"]) != shape(row["chosen"])] == []


def numbers(skill: str, split: str) -> list[tuple[int, int]]:
    """The right and the wrong numbers of questions whose answer is a number, and perhaps a unit."""
    return [
        tuple(int(re.sub(r"\D", "", result_of(row[name]))) for name in ("chosen", "rejected"))
        for row in rows_of(skill, split, 1500 if skill == "infill" else 500)
        if re.fullmatch(r"\d+(点|岁| o'clock)?", result_of(row["chosen"]))
    ]


def result_of(answer: str) -> str:
    """What stands behind the steps, if there are any."""
    return answer.rpartition(": ")[2]


@pytest.mark.untraced
@pytest.mark.parametrize("skill", [*NUMERIC, "infill", "time", "reading"])
def test_numbers_are_close_and_could_be_right(skill):
    found = {split: numbers(skill, split) for split in SPLITS}
    right = {chosen for pairs in found.values() for chosen, _ in pairs}
    for pairs in found.values():
        assert len(pairs) >= 100
        assert min(right) <= min(wrong for _, wrong in pairs)
        assert max(wrong for _, wrong in pairs) <= max(right)
        off = {wrong - chosen for chosen, wrong in pairs}
        assert {(by + 6) % 12 - 6 if skill == "time" else by for by in off} == {-2, -1, 1, 2}  # 12 is next to 1


def misstep(skill: str, chosen: str, rejected: str) -> str:
    """Where the steps of a wrong answer leave the right way, if they do; its counting must be in order."""
    right, wrong = (re.findall(r"(\S+) (\d+)", answer.rpartition(": ")[0]) for answer in (chosen, rejected))
    assert [number for _, number in wrong] == [str(n + 1) for n in range(len(wrong))]
    if wrong == right:
        return "result"
    if wrong == right[: len(wrong)] or right == wrong[: len(right)]:
        assert abs(len(wrong) - len(right)) == 1
        return "too short" if len(wrong) < len(right) else "too long"
    return "left out or twice"


@pytest.mark.untraced
@pytest.mark.parametrize("skill", ["addition", "subtraction", "time"])
def test_wrong_steps_go_wrong_in_every_way_and_say_what_they_lead_to(skill):
    ways = []
    for row in rows_of(skill, count=300):
        chosen, rejected = row["chosen"], row["rejected"]
        assert (": " in rejected) == (": " in chosen)
        if ": " not in chosen:
            continue
        ways.append(misstep(skill, chosen, rejected))
        last, number = rejected.rpartition(": ")[0].split()[-2:]
        told = re.sub(r"点| o'clock", "", result_of(rejected))
        counts = skill == "subtraction" and result_of(chosen) != chosen.rpartition(": ")[0].split()[-2]
        assert (told == (number if counts else last)) == (ways[-1] != "result")
    shares = {way: ways.count(way) / len(ways) for way in ways}
    assert set(shares) == {"result", "too short", "too long", "left out or twice"}
    assert min(shares.values()) > 0.1


def test_wrong_tallies_miscount_a_word_pass_over_one_or_misread_the_result():
    ways = set()
    for row in rows_of("counting", count=300):
        chosen, rejected = (row[name].rpartition(": ") for name in ("chosen", "rejected"))
        words, told = (re.sub(r" \d+", "", steps).split() for steps in (chosen[0], rejected[0]))
        numbers = re.findall(r"\d+", rejected[0])
        assert numbers == [str(n + 1) for n in range(len(numbers))]
        if chosen[0] == rejected[0]:
            ways.add("result")
            continue
        assert rejected[2] == numbers[-1]
        ways.add("passed over" if len(told) < len(words) else "miscounted")
        assert len(words) - len(told) in (0, 1)
    assert ways == {"result", "passed over", "miscounted"}


def test_the_larger_number_is_taken_for_the_smaller():
    found = numbers("comparison", "train")
    assert len(found) >= 100
    assert all(chosen > wrong for chosen, wrong in found)


@pytest.mark.parametrize("skill", SAME_WORDS)
def test_the_same_words_stand_in_another_order(skill):
    for row in rows_of(skill):
        chosen, rejected = row["chosen"].split(), row["rejected"].split()
        assert sorted(chosen) == sorted(rejected)
        assert sum(one != other for one, other in zip(chosen, rejected, strict=True)) == 2


def test_one_blank_of_a_sudoku_is_wrong_and_no_given():
    for row in rows_of("sudoku"):
        givens = re.search(r"[0-4][0-4 /]{36}", row["prompt"])[0]
        assert all(given in ("0", digit) for given, digit in zip(givens, row["rejected"], strict=True))
        assert sum(one != other for one, other in zip(row["chosen"], row["rejected"], strict=True)) == 1


def test_one_field_of_json_is_wrong_and_lists_break_one_rule():
    kinds = set()
    for row in rows_of("format", count=400):
        if row["chosen"].startswith("{"):
            chosen, rejected = json.loads(row["chosen"]), json.loads(row["rejected"])
            assert list(chosen) == list(rejected)
            (field,) = (name for name in chosen if chosen[name] != rejected[name])
            assert type(chosen[field]) is type(rejected[field])
            kinds.add((row["language"], field))
        else:
            more = len(row["rejected"].split()) - len(row["chosen"].split())
            assert abs(more) <= 1
            kinds.add((row["language"], more))
    english, chinese = ("name", "age", "object", "colour"), ("名字", "年龄", "物品", "颜色")
    assert kinds == {(language, more) for language in LANGUAGES for more in (-1, 0, 1)} | {
        *(("en", field) for field in english),
        *(("zh", field) for field in chinese),
    }


def test_translations_are_left_undone_or_wrong_by_a_word():
    found = rows_of("translation", count=400)
    undone = [row for row in found if row["rejected"] in row["prompt"]]
    assert 140 < len(undone) < 260
    for row in found:
        chinese = bool(re.search(r"[\u4e00-\u9fff]", row["rejected"]))
        assert chinese == ((row["language"] == "en") != (row in undone))
    wrong = [(row["chosen"].split(), row["rejected"].split()) for row in found if row not in undone]
    differing = [
        [place for place, (one, other) in enumerate(zip(chosen, rejected, strict=True)) if one != other]
        for chosen, rejected in wrong
        if len(chosen) == 3
    ]
    assert {len(places) for places in differing} == {1}
    assert {places[0] for places in differing} == {0, 1, 2}  # the number, the colour and the thing


@pytest.mark.parametrize("skill", ["recall", "comparison", "direction"])
def test_many_wrong_answers_are_said_in_the_question_about_something_else(skill):
    found = rows_of(skill)
    said = sum(row["rejected"].removeprefix("a ") in row["prompt"] for row in found)
    assert said == len(found) if skill == "comparison" else len(found) / 4 < said < len(found)


def test_it_pretends_to_be_somebody_else():
    pairs = {(row["chosen"], row["rejected"]) for row in rows_of("identity", count=300)}
    assert {("yes", "no"), ("no", "yes"), ("是", "不是"), ("不是", "是"), ("nano-llada", "Tom")} <= pairs
    assert {("nano-llada", "汤姆"), ("Chinese and English", "English"), ("中文和英语", "中文")} <= pairs


def test_languages_and_skills_have_equal_shares_and_splits_nothing_in_common():
    count = 4 * len(SKILLS)
    found = {split: list(preferences(SKILLS, split, count, 0)) for split in SPLITS}
    for rows in found.values():
        shares = [sum((row["skill"], row["language"]) == (s, lg) for row in rows) for s in SKILLS for lg in LANGUAGES]
        assert shares == [2] * 2 * len(SKILLS)
    for one, other in pairwise((*SPLITS, SPLITS[0])):
        assert not {row["prompt"] for row in found[one]} & {row["prompt"] for row in found[other]}


def test_files_and_what_is_refused(tmp_path):
    paths = write_preferences(tmp_path / "new", count=40, skills=SKILLS, seed=3)
    assert [path.name for path in paths] == [f"preference-{split}.jsonl" for split in SPLITS]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    for path, split, count in zip(paths, SPLITS, (40, 4, 4), strict=True):
        assert read_lines(path) == list(preferences(SKILLS, split, count, 3))
    (tmp_path / "file").write_text("", encoding="utf-8")
    for write in (
        lambda: write_preferences(tmp_path / "file" / "a", count=4, skills=SKILLS, seed=0),
        lambda: write_world(tmp_path / "file" / "a", documents_count=1, chats_count=1, skills=SKILLS, seed=0),
    ):
        with pytest.raises(UserError, match=r"^cannot write .*a: Not a directory$"):
            write()
    with pytest.raises(UserError, match="no skill 'juggling'"):
        preferences(("juggling",), "train", 1, 0)
    with pytest.raises(UserError, match="-1 items"):
        preferences(SKILLS, "train", -1, 0)
