"""Tests of the verifier of stories: what it finds, what it leaves alone, and that no text makes it fail."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_llada.world.splits import LANGUAGES, Language
from nano_llada.world.stories.check import Wanted, check, faithful_summary, fulfils, same_story
from nano_llada.world.stories.events import FAULTS, Fault
from nano_llada.world.stories.lexicon import people
from nano_llada.world.stories.plant import plant
from nano_llada.world.stories.simulate import simulate, stories
from nano_llada.world.stories.story import tell
from nano_llada.world.stories.tasks import summarised


@pytest.mark.untraced
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", FAULTS)
def test_planted_contradictions_are_found_where_they_are(kind: Fault, language: Language) -> None:
    rng = Random(11)
    tried = found = named = clean = 0
    while tried < 30:
        story = simulate(rng)
        planted = plant(story, language, rng, kind)
        if planted is None:
            continue
        tried += 1
        assert planted.telling.text != planted.original.text
        report = check(planted.telling.text, language)
        found += bool(report.problems) and report.problems[0].sentence == planted.sentence
        named += bool(report.problems) and report.problems[0].kind == kind
        clean += check(planted.original.text, language).coherent
    assert found >= 29
    assert named >= 27
    assert clean == 30


@pytest.mark.parametrize(
    ("text", "sentence", "kind"),
    [
        ("There was a girl named Lily. Lily had a red kite. Lily had a blue kite.", 3, "property"),
        ("There once was a girl named Lily. Tom went home.", 2, "name"),
        ("There once was a girl named Lily. Lily went to the park. Lily went to the park.", 3, "place"),
        ("There once was a girl named Lily. He was sad.", 2, "name"),
        ("There once was a girl named Lily. Flumph the zebra sang.", 2, "unknown"),
        ("There once was a girl named Lily. She was sad because she had quarrelled with Grandma.", 2, "cause"),
        ("There once was a girl named Lily. She had a sweet apple. She ate the apple. She ate the apple.", 4, "lost"),
    ],
)
def test_contradictions_written_by_hand(text: str, sentence: int, kind: str) -> None:
    text = text.replace("There was a girl", "There once was a girl")
    report = check(text, "en")
    assert (report.problems[0].sentence, report.problems[0].kind) == (sentence, kind)
    assert str(sentence) in report.describe()


@pytest.mark.parametrize(
    ("text", "language", "sentence"),
    [
        ("There once was a girl named Lily. Her best friend was called Lily.", "en", 2),
        ("There once was a girl named Lily. One day, she went to the park. She met a girl called Lily.", "en", 3),
        ("There once was a girl named Lily. Lily was the friend Lily liked best.", "en", 2),
        ("There once was a boy named Hao. Hao and Hao went to the park.", "en", 2),
        ("从前有一个叫莉莉的女孩。她有一个要好的朋友，叫莉莉。", "zh", 2),
        ("从前有一个叫莉莉的女孩。一天，她来到公园。她遇见了一个叫莉莉的女孩。", "zh", 3),
        ("从前有一个叫莉莉的女孩。莉莉和莉莉一起去了公园。", "zh", 2),
    ],
)
def test_nobody_is_their_own_friend(text: str, language: Language, sentence: int) -> None:
    report = check(text, language)
    assert not report.coherent
    assert report.problems[0].sentence == sentence, report.describe()
    assert report.problems[0].kind in ("name", "unknown")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_friend_with_the_name_of_the_hero_is_found(language: Language) -> None:
    """The friend of a simulated story takes the name of its hero, everywhere: the text stays grammatical."""
    known = people()
    tried = found = 0
    for seed, story in enumerate(stories(None, 400, 21)):
        text = tell(story, language, Random(seed)).text
        friends = [event for event in check(text, language).events if event[0] == "friend"]
        if not friends or known[friends[0][1][0]].sex != known[friends[0][1][1]].sex:
            continue
        first, second = (name if language == "en" else known[name].zh for name in friends[0][1])
        tried += 1
        found += not check(text.replace(second, first), language).coherent
    assert tried > 20
    assert found == tried


def test_a_story_written_by_hand_is_coherent() -> None:
    text = (
        "There once was a girl named Lily. She had a red kite. One day, she went to the park with her kite. There she "
        'met a boy called Tom. "Have" he'
    )
    assert check(text, "en").verdict == "not understood"
    good = text[: text.index('"')] + "She gave the kite to him. He thanked her."
    assert check(good, "en").coherent, check(good, "en").describe()
    assert check(good.replace("He thanked her", "She gave the kite to him"), "en").problems[0].kind == "holder"
    chinese = (
        "从前有一个叫莉莉的女孩。她有一只红色的风筝。一天，她带着风筝来到公园。"
        "她遇见了一个叫汤姆的男孩。她把风筝给了汤姆。"
    )
    assert check(chinese, "zh").coherent
    assert check(chinese + "她把风筝给了汤姆。", "zh").problems[0].kind == "holder"


def test_nothing_is_not_a_story() -> None:
    for text in ("", " ", "\n", "。"):
        assert not check(text, "zh").coherent
        assert not fulfils(Wanted("zh"), text)


@pytest.mark.untraced
@given(st.text(max_size=200), st.sampled_from(LANGUAGES))
@settings(max_examples=200, deadline=None)
def test_any_text_may_be_checked(text: str, language: Language) -> None:
    report = check(text, language)
    assert report.verdict in ("coherent", "contradiction", "not understood", "empty")


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.sampled_from(LANGUAGES))
@settings(max_examples=150, deadline=None)
def test_damaged_stories_may_be_checked(seed: int, place: int, language: Language) -> None:
    """A model's text is often nearly right: words missing, doubled or mixed with those of another story."""
    rng = Random(seed)
    first, second = (tell(simulate(rng), language, rng).text for _ in range(2))
    cut = place % len(first)
    for text in (first[:cut], first[:cut] + second[cut:], first[:cut] + first[cut // 2 :], first[cut:]):
        assert check(text, language).verdict


@pytest.mark.parametrize("language", LANGUAGES)
def test_shuffled_sentences_are_rarely_coherent(language: Language) -> None:
    coherent = 0
    for seed, story in enumerate(stories(None, 100, 9)):
        telling = tell(story, language, Random(seed))
        shuffled = telling.sentences[:]
        Random(seed).shuffle(shuffled)
        coherent += check(" ".join(shuffled), language).coherent
    assert coherent < 10


@pytest.mark.parametrize("language", LANGUAGES)
def test_summaries_are_faithful_to_their_own_story_only(language: Language) -> None:
    found = list(stories(None, 120, 3))
    wrong = 0
    for seed, (story, other) in enumerate(zip(found, found[1:] + found[:1], strict=True)):
        rng = Random(seed)
        report = check(tell(story, language, rng).text, language)
        summary = summarised(story, language, rng)
        assert faithful_summary(summary, report, language), summary
        wrong += faithful_summary(summarised(other, language, rng), report, language)
        assert not faithful_summary(summary + " " + summary, report, language)
        assert not faithful_summary(tell(story, language, rng).sentences[0], report, language)
    assert wrong == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_changed_story_is_not_the_same(language: Language) -> None:
    changed = 0
    for seed, story in enumerate(stories(None, 80, 5)):
        rng = Random(seed)
        planted = plant(story, language, rng)
        if planted is None:
            continue
        changed += 1
        right, wrong = check(planted.original.text, language), check(planted.telling.text, language)
        assert same_story(right, check(tell(story, language, rng).text, language))
        assert not same_story(right, wrong)
    assert changed > 60


def test_requirements_are_checked() -> None:
    story = next(stories(None, 1, 2))
    telling = tell(story, "en", Random(0))
    count, hero = len(telling.sentences), story.key[-3]
    assert fulfils(Wanted("en", sentences=count, about=(hero,), words=(hero,)), telling.text)
    assert not fulfils(Wanted("en", sentences=count + 1), telling.text)
    assert not fulfils(Wanted("en", words=("xylophone",)), telling.text)
    assert not fulfils(Wanted("en", about=("Nobody",)), telling.text)
    start, middle, tail = telling.part(0, 3), telling.part(3, 5), telling.part(5, count)
    assert fulfils(Wanted("en", starts=start, tail=tail), middle)
    assert not fulfils(Wanted("en", starts=start, tail=tail), "Tom had a red kite. Zed went home.")
    assert fulfils(Wanted("en", starts=start), telling.part(3, count))
    assert not fulfils(Wanted("zh"), telling.text)
