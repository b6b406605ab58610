"""Tests that nothing kept back for validation or test is given away by the small world's training text."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product

import pytest

from nano_llada.core.errors import UserError
from nano_llada.world import (
    DOCUMENT_KINDS,
    LANGUAGES,
    SKILLS,
    SPLITS,
    Language,
    chats,
    documents,
    examples,
    split_of,
)
from nano_llada.world.skills_world import LANDMARKS
from nano_llada.world.vocabulary import COLOURS, DIRECTIONS, NAMES, OBJECTS, PEOPLE, PLACES, Word

HELD_OUT = ("validation", "test")


def test_the_splits_are_the_same_for_ever() -> None:
    keys = [("recall", person.en, "red", "ball") for person in PEOPLE]
    assert " ".join(split_of(key)[:2] for key in keys) == "tr te tr tr tr tr te tr"
    shares = [split_of(("addition", str(a), str(b))) for a, b in product(range(200), repeat=2)]
    assert [round(shares.count(split) / len(shares), 2) for split in SPLITS] == [0.8, 0.1, 0.1]


@pytest.mark.untraced
@pytest.mark.parametrize("skill", SKILLS)
def test_splits_share_neither_keys_nor_prompts(skill: str) -> None:
    seen = {split: list(examples(skill, split, 150, 0)) for split in SPLITS}
    for split, found in seen.items():
        assert found
        assert all(split_of(example.key) == split == example.split for example in found)
        for other in SPLITS:
            if other != split:
                assert not {e.key for e in found} & {e.key for e in seen[other]}
                assert not {e.prompt for e in found} & {e.prompt for e in seen[other]}


def stated_in(text: str) -> set[tuple[str, ...]]:
    """The recall combinations that a text states, in either language, in whatever tense."""
    found: set[tuple[str, ...]] = set()
    names = {word.zh: word.en for word in NAMES + COLOURS + OBJECTS + PLACES}

    def one_of(words: tuple[Word, ...]) -> str:
        return "(" + "|".join(word.en for word in words) + "|" + "|".join(word.zh for word in words) + ")"

    who, colour, thing, place = map(one_of, (NAMES, COLOURS, OBJECTS, PLACES))
    for pattern in (
        rf"{who} ha[sd] (?:a|the) {colour} {thing}\b",
        rf"{who}有(?:一.)?{colour}的{thing}",
        rf"{who} (?:is|was) at the {place}\b",
        rf"{who}(?:刚才)?在{place}",
    ):
        found |= {("recall", *(names.get(part, part) for part in match)) for match in re.findall(pattern, text)}
    return found


def test_training_text_states_no_held_out_fact() -> None:
    texts = [row["text"] for row in documents("train", 6000, 0)]
    texts += [e.prompt for skill in ("recall", "reading", "infill") for e in examples(skill, "train", 600, 0)]
    stated = set().union(*map(stated_in, texts))
    assert len(stated) > 400
    assert {split_of(key) for key in stated} == {"train"}


@pytest.mark.parametrize("split", SPLITS)
def test_recall_holds_out_combinations_of_facts_that_are_all_told_in_training(split: str) -> None:
    """Else a model could learn by heart which facts never occur, and mistrust those when it is told them."""
    found = list(examples("recall", split, 200, 0))
    stated = set().union(*(stated_in(example.prompt) for example in found))
    assert len(stated) > 100
    assert {split_of(key) for key in stated} == {"train"}
    assert {len(example.key) for example in found} == {3, 4}  # two or three facts


def test_held_out_text_states_only_its_own_split_and_training_facts() -> None:
    for split, other in (("test", "validation"), ("validation", "test")):
        texts = [e.prompt for skill in ("reading", "infill") for e in examples(skill, split, 200, 0)]
        texts += [row["text"] for row in documents(split, 300, 0)]
        splits = {split_of(key) for text in texts for key in stated_in(text)}
        assert split in splits
        assert other not in splits


def test_documents_are_half_and_half_and_of_every_kind() -> None:
    rows = list(documents("train", 2000, 0))
    assert [row["language"] for row in rows[:4]] == ["zh", "en", "zh", "en"]
    assert {row["kind"] for row in rows} == set(DOCUMENT_KINDS)
    assert {row["skill"] for row in rows} == {"", *SKILLS}
    assert all(set(row) == {"text", "language", "kind", "skill"} and row["text"] for row in rows)
    assert all((row["kind"] == "questions") == bool(row["skill"]) for row in rows)
    half = [row["text"] for row in rows if row["language"] == "zh"]
    assert all(re.search(r"[\u4e00-\u9fff]", text) for text in half if re.search(r"[A-Za-z]{2}", text))


@pytest.mark.parametrize("mirrored", [False, True])
def test_training_documents_hold_no_held_out_prompt(mirrored: bool) -> None:
    text = "\n".join(row["text"] for row in documents("train", 4000, 0, mirrored=mirrored))
    for skill, split in product(SKILLS, HELD_OUT):
        for example in examples(skill, split, 40, 0):
            assert example.prompt not in text, example


PLUS = ("+", "plus", "buys", "加", "又买了")
MINUS = ("-", "minus", "eats", "减", "吃了")


def sums_in(text: str) -> set[tuple[str, ...]]:
    """The combinations of numbers that a text adds or takes away, in whatever words."""
    signs = "|".join(map(re.escape, PLUS + MINUS))
    found = set()
    for first, sign, second in re.findall(rf"(\d+)(?: | \w+ and |[^\d，。]+，)?({signs}) ?(\d+)", text):
        operands = sorted((first, second), key=int) if sign in PLUS else (first, second)
        found.add(("addition" if sign in PLUS else "subtraction", *operands))
    return found


def test_training_text_adds_and_takes_away_no_held_out_numbers() -> None:
    for skill, split in product(("addition", "subtraction"), SPLITS):
        for example in examples(skill, split, 60, 0):
            assert sums_in(example.prompt) == {example.key}
            assert not sums_in(example.answer)
    stated = set().union(*(sums_in(row["text"]) for row in documents("train", 6000, 0)))
    assert len(stated) > 250
    assert {split_of(key) for key in stated} == {"train"}


def test_sums_and_tallies_of_documents_are_right() -> None:
    counts = {"sums": 0, "tally": 0}
    for row in documents("train", 2000, 0):
        text = row["text"]
        if row["kind"] == "sums":
            for first, sign, second, result in re.findall(r"(\d+) ([+-]) (\d+) = \? (?:[\d ]+: )?(\d+)[,，.。]", text):
                assert int(result) == (int(first) + int(second) if sign == "+" else int(first) - int(second))
                counts["sums"] += 1
        elif row["kind"] == "tally" and row["language"] == "en":
            words, *asked = text.removeprefix("Look: ").split(". ")
            for question in asked:
                one, steps, result = re.fullmatch(
                    r"How many times do you see (\w+)\? (.*): (\d+)\.?", question
                ).groups()
                assert re.sub(r" \d+", "", steps) == words
                assert int(result) == words.split().count(one)
                assert split_of(("counting", one, *words.split())) == "train"
                counts["tally"] += 1
    assert min(counts.values()) > 100


def test_the_landmarks_between_which_directions_are_asked_are_held_out_whatever_the_way() -> None:
    ways, landmarks = ("|".join(word.en for word in words) for words in (DIRECTIONS, LANDMARKS))
    fact = re.compile(rf"The ({landmarks}) is ({ways}) of the ({landmarks})\.")
    told = {split: " ".join(e.prompt for e in examples("direction", split, 3000, 0)) for split in SPLITS}
    told["train"] += " ".join(row["text"] for row in documents("train", 4000, 0))
    pairs = {split: {frozenset((a, b)) for a, _, b in fact.findall(text)} for split, text in told.items()}
    assert [len(pairs[split]) for split in SPLITS] == [259, 26, 40]
    assert len(set().union(*pairs.values())) == 26 * 25 / 2
    for split in SPLITS:
        assert {way for _, way, _ in fact.findall(told[split])} == {word.en for word in DIRECTIONS}


def test_one_kind_of_text_alone_and_a_kind_that_there_is_not() -> None:
    assert {row["kind"] for row in documents("train", 50, 0, kinds=("lookup", "sums"))} == {"lookup", "sums"}
    with pytest.raises(UserError, match="no kind of text poem, rhyme; there are questions, facts, "):
        documents("train", 1, 0, kinds=("rhyme", "lookup", "poem"))


def test_what_is_looked_up_was_told_and_may_be_looked_up_again() -> None:
    rows = [row for row in documents("train", 3000, 0) if row["kind"] == "lookup"]
    assert len(rows) > 100
    again = colons = 0
    for row in rows:
        comma, stop = ("，", "。") if row["language"] == "zh" else (", ", ".")
        first, asked = ([pair.strip() for pair in part.split(comma)] for part in row["text"].split(stop)[:2])
        told = first[1:]  # behind "Look"
        between = re.search("[:：]", row["text"])
        assert set(asked) <= set(told)
        assert 2 <= len(told) <= 5
        assert len(asked) == 6
        if row["language"] == "en" or between:  # side by side in Chinese, nothing tells where the key ends
            assert len({re.split("[:： ]", pair)[0] for pair in told}) == len(told)
        again += len(set(asked)) < len(told)
        colons += bool(between)
    assert again > 0.2 * len(rows)  # what has been said does not tell what comes
    assert 0.4 < colons / len(rows) < 0.6


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_told_again_was_told_before(language: Language) -> None:
    rows = [row for row in documents("train", 3000, 0) if row["kind"] == "retold" and row["language"] == language]
    left_out = 0
    for row in rows:
        sentences = [sentence.strip() for sentence in re.findall(r"[^.?。？]+[.?。？]", row["text"])]
        told, again = sentences[:3], [sentence for sentence in sentences[3:] if sentence[-1] in ".。"]
        assert len(again) == 4
        assert set(again) <= set(told)
        left_out += len(set(again)) < 3
    assert left_out > 0.3 * len(rows)


def test_a_skill_named_twice_has_two_shares() -> None:
    found = Counter(e.skill for e in chats(("copy", "recall", "recall"), "train", 600, 0))
    assert found == {"copy": 200, "recall": 400}
    assert (
        len({e.prompt for e in chats(("recall", "recall"), "train", 400, 0)}) == 400
    )  # one stream, not the same twice
    asked = Counter(row["skill"] for row in documents("train", 4000, 0, ("copy", "recall", "recall")))
    assert 1.6 < asked["recall"] / asked["copy"] < 2.5
