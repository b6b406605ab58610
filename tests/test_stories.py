"""Tests of the stories: the same for the same seed, no two alike, told and read back with one grammar."""

from __future__ import annotations

from random import Random

import pytest

from nano_llada.world.splits import LANGUAGES, SPLITS, Language, split_of
from nano_llada.world.stories import lexicon
from nano_llada.world.stories.check import check, same_story
from nano_llada.world.stories.events import World, canonical
from nano_llada.world.stories.grammar import Slot, grammar, signatures
from nano_llada.world.stories.plots import PLOTS
from nano_llada.world.stories.reader import read, sentences
from nano_llada.world.stories.simulate import simulate, stories
from nano_llada.world.stories.story import Entry, Story, tell


def some_stories(count: int, seed: int = 0) -> list[Story]:
    return list(stories(None, count, seed))


def test_the_seed_decides_everything() -> None:
    first = [tell(story, "en", Random(1)).text for story in some_stories(30, 5)]
    assert first == [tell(story, "en", Random(1)).text for story in some_stories(30, 5)]
    assert first != [tell(story, "en", Random(1)).text for story in some_stories(30, 6)]
    assert first == [tell(story, "en", Random(1)).text for story in some_stories(40, 5)][:30]
    story = some_stories(1)[0]
    assert tell(story, "zh", Random(1)).text != tell(story, "zh", Random(2)).text  # another telling, other words


def test_no_two_stories_are_alike() -> None:
    texts = {tell(story, LANGUAGES[n % 2], Random(n)).text for n, story in enumerate(some_stories(3000))}
    assert len(texts) == 3000


@pytest.mark.parametrize("plot", PLOTS)
def test_every_plot_is_possible_in_its_world(plot: str) -> None:
    for seed in range(40):
        story = simulate(Random(seed), plots=(plot,))
        world = World()
        assert [world.apply(event) for event in story.events()] == [None] * len(story.log)
        assert story.gist[0].startswith("sum.")
        assert story.key[0] == "story"


def test_splits_share_no_skeleton() -> None:
    keys = {split: {story.key for story in stories(split, 300, 2)} for split in SPLITS}
    for split, found in keys.items():
        assert {split_of(key) for key in found} == {split}
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("seed", range(4))
def test_every_sentence_reads_back_as_the_events_it_tells(language: Language, seed: int) -> None:
    for story in some_stories(150, seed):
        telling = tell(story, language, Random(seed))
        found = read(telling.text, language)
        assert [sentence.text for sentence in found] == telling.sentences
        for sentence, entries in zip(found, telling.entries, strict=True):
            told = [canonical(story.log[index].event) for index in entries]
            assert [canonical(event) for event in sentence.events] == told, sentence.text
            assert not sentence.faults, sentence.text
        assert check(telling.text, language).coherent


def _arguments(kind: str, rng: Random) -> tuple[str, ...]:
    """Arguments of the right kinds, all different, for any event."""
    persons = rng.sample([name for name, person in lexicon.people().items() if person.group != "adult"], 3)
    things = rng.sample(sorted(lexicon.things()), 2)
    options = {
        "p": sorted(lexicon.PLACES),
        "s": sorted(lexicon.SPOTS),
        "k": sorted(lexicon.SKILLS),
        "f": sorted(lexicon.FEELINGS),
        "n": sorted(lexicon.NUMBERS),
    }
    found = []
    for letter in signatures()[kind]:
        if letter in "abc":
            found.append(persons.pop())
        elif letter in "tu":
            found.append(things.pop())
        else:
            found.append(rng.choice(options[letter]))
    return tuple(found)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_form_of_the_grammar_reads_back(language: Language) -> None:
    """Each concrete form, whatever it is about, is recognised as its own event and as no other."""
    rng = Random(3)
    compiled = grammar(language)
    tested = 0
    for kind, sources in compiled.forms.items():
        if kind.startswith("why.") or kind == "self":
            continue
        for form in (form for options in sources for form in options if not form.omitted):
            if form.bound:
                continue  # "them" alone means nobody
            args = _arguments(kind, rng)
            entry = Entry(kind, args)
            things = {arg: rng.choice(lexicon.adjectives_for(arg)) for arg in args if arg in lexicon.things()}
            story = Story(("story",), (entry,), things, (), ("", ()))
            telling = _tell_with(story, form, language, rng)
            (sentence,) = read(telling, language)
            assert sentence.understood, telling
            assert [canonical(event) for event in sentence.events] == [canonical((kind, args))], telling
            tested += 1
    assert tested > 400


def _tell_with(story: Story, form: object, language: Language, rng: Random) -> str:
    from nano_llada.world.stories.grammar import Form
    from nano_llada.world.stories.teller import ChineseTeller, EnglishTeller

    assert isinstance(form, Form)
    teller = (EnglishTeller if language == "en" else ChineseTeller)(rng, story.adjectives)
    text = teller.fill(form, story.log[0].args)
    return text if text[-1] in '"”' else text + ("." if language == "en" else "。")


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_sentence_has_two_meanings(language: Language) -> None:
    """Forms with one skeleton differ in their literal words, or state the same kind of event."""
    for shape, forms in grammar(language).sentences.items():
        by_tokens: dict[tuple[object, ...], set[str]] = {}
        for form in forms:
            key = tuple(token if isinstance(token, str) else (token.letter, token.how) for token in form.tokens)
            by_tokens.setdefault(key, set()).add(form.kind)
        assert all(len(kinds) == 1 for kinds in by_tokens.values()), (shape, by_tokens)


def test_both_languages_know_every_event_and_say_it_in_more_than_one_way() -> None:
    english, chinese = grammar("en"), grammar("zh")
    assert set(english.forms) == set(chinese.forms) == set(signatures())
    for kind in signatures():
        for compiled in (english, chinese):
            assert compiled.forms[kind], kind
    for compiled in (english, chinese):
        several = [kind for kind, sources in compiled.forms.items() if sum(map(len, sources)) > 1]
        assert len(several) > 0.85 * len(compiled.forms)


@pytest.mark.parametrize("seed", range(3))
def test_both_languages_tell_the_same_story(seed: int) -> None:
    found = some_stories(100, seed)
    for story, other in zip(found, found[1:] + found[:1], strict=True):
        english, chinese = (check(tell(story, language, Random(seed)).text, language) for language in LANGUAGES)
        assert same_story(english, chinese)
        assert not same_story(english, check(tell(other, "zh", Random(seed)).text, "zh"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_first_person_is_read_back_too(language: Language) -> None:
    told = 0
    for seed, story in enumerate(some_stories(120, 8)):
        rng = Random(seed)
        viewed = story.seen_by(rng.choice(story.cast))
        text = tell(viewed, language, rng).text
        assert check(text, language).coherent, text
        told += " I " in text or "我" in text
    assert told == 120


def test_pronouns_are_used_and_resolved() -> None:
    """Not vacuous: many sentences begin with a pronoun, and each is read as the person meant."""
    pronouns = 0
    for seed, story in enumerate(some_stories(200, 4)):
        telling = tell(story, "en", Random(seed))
        for sentence, entries in zip(read(telling.text, "en"), telling.entries, strict=True):
            if sentence.text.startswith(("He ", "She ", "They ")):
                pronouns += 1
                assert [canonical(story.log[n].event) for n in entries] == [canonical(e) for e in sentence.events]
    assert pronouns > 400


def test_sentences_are_split_where_they_end() -> None:
    english = '"Have you seen my kite?" Lily asked. He said, "No!" She left. "Hi, Tom!" he said'
    assert sentences(english, "en") == [
        '"Have you seen my kite?" Lily asked.',
        'He said, "No!"',
        "She left.",
        '"Hi, Tom!" he said',
    ]
    chinese = "“你看见我的风筝了吗？”莉莉问。他说：“没有。”她走了。"
    assert sentences(chinese, "zh") == ["“你看见我的风筝了吗？”莉莉问。", "他说：“没有。”", "她走了。"]


def test_slots_name_the_right_roles() -> None:
    for compiled in map(grammar, LANGUAGES):
        for sources in compiled.forms.values():
            for form in (form for options in sources for form in options):
                slots = [token for token in form.tokens if isinstance(token, Slot)]
                roles = compiled.signatures[form.kind]
                assert all(slot.role < len(roles) for slot in slots)
                assert all(slot.letter == "g" or roles[slot.role] == slot.letter for slot in slots)
