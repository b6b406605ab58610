"""What the small world's texts tell and ask of families, and what they keep back."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from nano_llada.core.errors import UserError
from nano_llada.world import LANGUAGES, SPLITS, Language, Split, documents, examples, split_of
from nano_llada.world.skills_family import TEMPLATES, Family, families, told_families
from nano_llada.world.vocabulary import NAMES


def test_training_documents_state_every_family_parent_first_only() -> None:
    rows = list(documents("train", 4000, 0))
    told = "\n".join(row["text"] for row in rows if row["kind"] == "family")
    asked = "\n".join(row["text"] for row in rows if row["kind"] != "family")
    held = [family for family in families() if split_of(family.key) != "train"]
    assert Counter(split_of(family.key) for family in families()) == {"train": 72, "validation": 12, "test": 28}
    assert all(set(map(bool, map(told.count, family.statement()))) == {True} for family in families())
    for person in (person for family in held for person in (family.parent, family.child)):
        assert person.en not in asked
        assert person.zh not in asked
    assert not re.search(r"'s (mother|father) is|[妈爸]{2}是", told)


def told_of_families(rows: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The texts that state, that state from the end, and that ask and answer rightly; in one language each."""
    kinds: tuple[list[str], list[str], list[str]] = ([], [], [])
    allowed = [
        (
            {family.statement()[place] for family in families()},
            {family.mirrored()[place] for family in families()},
            {f"{question}\n{answer}" for family in families() for question, answer in questions(family, language)},
        )
        for place, language in enumerate(LANGUAGES)
    ]
    for row in rows:
        lines = row.split("\n")
        pairs = {"\n".join(lines[i : i + 2]) for i in range(0, len(lines), 2)}
        found = [
            kind
            for plain, turned, asked in allowed
            for kind, these, right in ((0, set(lines), plain), (1, pairs, turned), (2, pairs, asked))
            if these <= right
        ]
        assert len(found) == 1, row
        kinds[found[0]].append(row)
    return kinds


def questions(family: Family, language: Language) -> list[tuple[str, str]]:
    """All questions about a family, with their answers."""
    names = {name: getattr(family, name).text(language) for name in ("parent", "child", "role")}
    return [
        (template.format(**names), names[answer])
        for templates, answer in zip(TEMPLATES[language], ("parent", "child"), strict=True)
        for template in templates
    ]


def test_mirrored_statements_are_the_same_words_from_the_end() -> None:
    for family in families():
        (zh_told, en_told), (zh_turned, en_turned) = family.statement(), family.mirrored()
        english = [sorted(text.replace("'s", " 's").rstrip(".").split()) for text in (en_told, en_turned)]
        assert english[0] == english[1]
        assert sorted(zh_told.rstrip("。")) == sorted(zh_turned.replace("\n", ""))
        assert en_turned.endswith(f"\n{family.parent.en}")
        assert zh_turned.endswith(f"\n{family.parent.zh}")


@pytest.mark.parametrize("split", SPLITS)
def test_families_are_told_both_ways_and_asked_about_in_their_own_split_alone(split: Split) -> None:
    rows = [row["text"] for row in documents(split, 8000, 0, mirrored=True) if row["kind"] == "family"]
    stated, turned, asked = told_of_families(rows)
    for kind, share in ((stated, 0.25), (turned, 0.25), (asked, 0.5)):
        assert abs(len(kind) / len(rows) - share) < 0.05
    told, questioned = "\n".join(stated + turned), "\n".join(asked)
    for family in families():
        own = split_of(family.key)
        known = split in ("train", own)
        assert {way in told for way in (*family.statement(), *family.mirrored())} == {known}
        for person in (family.parent, family.child):
            assert {name in questioned for name in (person.en, person.zh)} == {own == split}


def test_told_families_ask_nothing_and_leave_out_nobody() -> None:
    rows = list(told_families("train", 600, 0))
    assert list(told_families("train", 600, 0)) == rows != list(told_families("train", 600, 1))
    assert Counter(row["language"] for row in rows) == {"zh": 300, "en": 300}
    requests = {row["messages"][0]["content"] for row in rows}
    assert len(requests) == 4
    assert not any(word.text(language) in request for request in requests for word in NAMES for language in LANGUAGES)
    answers = [row["messages"][1]["content"] for row in rows]
    stated, turned, asked = told_of_families(answers)
    assert not asked
    assert 0.4 < len(turned) / len(rows) < 0.6
    for row, answer in zip(rows, answers, strict=True):
        assert (answer in turned) == ("倒" in row["messages"][0]["content"] or "back" in row["messages"][0]["content"])
    text = "\n".join(stated + turned)
    assert all(told in text for f in families() for told in (*f.statement(), *f.mirrored()))
    with pytest.raises(UserError, match="no split 'dev'"):
        told_families("dev", 1, 0)  # type: ignore[arg-type]


def test_families_are_asked_backwards_only_when_held_out() -> None:
    asked = {split: [e.prompt for e in examples("backward_relation", split, 60, 0)] for split in SPLITS}
    assert any("child" in prompt for prompt in asked["train"])
    assert any("mother" in prompt for prompt in asked["train"])
    for split in ("validation", "test"):
        assert not any("child" in prompt for prompt in asked[split])
    people = [person.en for family in families() for person in (family.parent, family.child)]
    assert len(people) == len(set(people))
