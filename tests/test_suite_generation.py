"""Generation: planted writers get exactly their score; no answer knows of batches, order or what follows its end."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Autoregressive, Block, Diffusion
from nano_llada.core.errors import UserError
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.data.tokenizer import Tokenizer, train_characters
from nano_llada.evaluation.figures import figures
from nano_llada.evaluation.questions import Question
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites.generation import Generation, encode_question, world_questions
from nano_llada.world import examples
from planted import wrote

SKILLS = ("copy", "counting")
WAYS = {
    "ar": Autoregressive(max_new_tokens=6, temperature=1.0),
    "diffusion": Diffusion(max_new_tokens=6, temperature=1.0, threshold=0.3),
    "block": Block(max_new_tokens=6, temperature=1.0, block_size=4, threshold=0.3, edit_threshold=0.2),
}


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return world_questions(SKILLS, 6)


@pytest.fixture(scope="module")
def tokenizer(questions) -> Tokenizer:
    return train_characters([*(question.text + question.references[0] for question in questions), "system user\n"])


@pytest.fixture(scope="module")
def subject(make_model, tokenizer) -> Subject:
    model = make_model(seed=3, peak=4.0, vocab_size=tokenizer.vocab.size, max_length=256)
    return Subject("m", Checkpoint(model, tokenizer, ModelCard("ar", "sft"), Path()), WAYS["ar"], "greedy", run=2)


class Planted:
    """A sampler that writes what `answer` says of a request, one token a pass or all at once."""

    def __init__(self, tokenizer, answer, *, at_once=False):
        self.ends, self.answer, self.at_once, self.sizes = tokenizer.vocab.ends, answer, at_once, []

    def stream(self, requests, stop=None):
        self.sizes.append(len(requests))
        answers = [self.answer(request) for request in requests]
        if self.at_once:
            yield [wrote(i, range(len(a)), a, last=True) for i, a in enumerate(answers)]
            return
        for place in range(max(map(len, answers))):
            live = [i for i, answer in enumerate(answers) if place < len(answer)]
            yield [
                wrote(i, (place,), (answers[i][place],), last=place + 1 == len(answers[i]), forwards=place + 1)
                for i in live
            ]


@pytest.fixture
def plant(monkeypatch, tokenizer):
    def put(answer, **options):
        sampler = Planted(tokenizer, answer, **options)
        monkeypatch.setattr("nano_llada.evaluation.suite.make_sampler", lambda *_: sampler)
        return sampler

    return put


def score(records):
    found = figures(records, lambda _: Generation.metrics)
    languages = {record.language for record in records}
    return {(f.task, f.metric): f.value for f in found if f.language == ("mean" if len(languages) > 1 else "zh")}


@pytest.mark.parametrize("at_once", [False, True])
def test_a_writer_that_knows_is_always_right(subject, questions, tokenizer, plant, at_once):
    known = {subject.encode_prompt(q.prompt): tokenizer.encode(q.references[0]) for q in questions}
    end = tokenizer.vocab.turn_end
    rest = [*tokenizer.encode("user"), end, tokenizer.vocab.eos] if at_once else []  # a canvas has more behind the end
    sampler = plant(lambda request: [*known[request.prompt], end, *rest], at_once=at_once)
    records = list(Generation(questions, batch_size=5).run(subject))
    assert sampler.sizes == [5, 5, 5, 5, 4]
    assert len(records) == len(questions) == 24
    for record in records:
        (question,) = [q for q in questions if (q.item, q.language) == (record.item, record.language)]
        length = len(tokenizer.encode(question.references[0]))
        forwards = 1 if at_once else length + 1
        written = {"right": 1, "tokens": length, "forwards": forwards, "ended": 1, "edits": 0, "too_long": 0}
        assert record.values == written
        assert record.detail["answer"] == question.references[0] == record.detail["references"][0]
        assert (record.model, record.decoder, record.run, record.task) == ("m", "greedy", 2, question.task)
    found = score(records)
    for task in ("all", *SKILLS):
        assert found[task, "exact_match"] == found[task, "ended"] == 1
        assert found[task, "forwards"] == pytest.approx(1 if at_once else found[task, "tokens"] + 1)
    assert (found["copy", "tpf"] > 5) if at_once else (found["copy", "tpf"] < 1)


def test_a_writer_that_always_says_the_same(subject, tokenizer, plant):
    questions = [replace(q, task="t") for q in world_questions(("comparison",), 12) if q.language == "zh"]
    said = questions[0].references[0]
    plant(lambda request: tokenizer.encode(said))
    found = score(list(Generation(questions).run(subject)))
    right = sum(question.references[0] == said for question in questions)
    assert 0 < right < len(questions)
    assert found["t", "exact_match"] == pytest.approx(right / len(questions))
    assert (found["t", "ended"], found["t", "tpf"]) == (0, 1)


def test_a_writer_that_guesses_does_so_by_the_question_alone(subject, tokenizer, plant):
    def judge_of(wanted):
        return lambda text: text == wanted

    questions = [Question(f"{i:03d}", "zh", "t", str(i), judge_of(str(i % 4))) for i in range(200)]
    plant(lambda request: tokenizer.encode(random.Random(request.seed).choice("0123")))
    records = {record.item: record for record in Generation(questions, batch_size=7).run(subject)}
    right = [records[str(i)].detail["answer"] == str(i % 4) for i in range(200)]
    assert [records[str(i)].values["right"] for i in range(200)] == right
    assert score(list(records.values()))["t", "exact_match"] == sum(right) / 200
    assert 30 <= sum(right) <= 70
    again = Generation(questions[100:][::-1]).run(subject)
    assert {record.item: record for record in again} == {str(i): records[str(i)] for i in range(100, 200)}
    other = {record.item: record.detail["answer"] for record in Generation(questions, seed=1).run(subject)}
    assert any(other[item] != record.detail["answer"] for item, record in records.items())


@pytest.mark.parametrize("way", WAYS)
def test_neither_batches_nor_order_change_an_answer(subject, questions, way):
    subject = replace(subject, decoding=WAYS[way])
    asked = questions[::2][:4] + questions[1::2][-4:]

    def answers(some, batch_size):
        return {(r.item, r.language): r for r in Generation(some, batch_size=batch_size).run(subject)}

    together = answers(asked, 64)
    assert len({record.detail["answer"] for record in together.values()}) > 4
    assert answers(asked, 1) == answers(asked[::-1], 3) == together
    alone = answers(asked[5:6], 1)
    assert alone == {key: together[key] for key in alone}


def test_what_is_encoded(subject, tokenizer):
    question = Question("copy", "en", "t", "0", bool, before=(Message("user", "a"), Message("assistant", "b")))
    turns = [*question.before, Message("user", "copy")]
    assert encode_question(subject, question) == tuple(encode_prompt(tokenizer, turns))
    short = replace(question, before=())
    assert encode_question(subject, short) == tuple(encode_prompt(tokenizer, turns[-1:]))
    base = replace(subject, checkpoint=replace(subject.checkpoint, card=ModelCard("ar")))
    assert encode_question(base, question) == (tokenizer.vocab.eos, *tokenizer.encode("a\nb\ncopy"))
    assert encode_question(base, short) == (tokenizer.vocab.eos, *tokenizer.encode("copy"))


def test_a_question_longer_than_the_context_is_wrong_and_not_asked(subject, tokenizer, plant):
    room = 256 - len(subject.encode_prompt(""))
    longest, too_long = (Question("a" * n, "en", "t", str(n), lambda text: True) for n in (room - 1, room))
    sampler = plant(lambda request: [tokenizer.vocab.turn_end])
    records = {record.item: record for record in Generation([longest, too_long]).run(subject)}
    assert sampler.sizes == [1]
    assert records[str(room - 1)].values["right"] == 1
    assert records[str(room)].values == {"right": 0, "too_long": 1}
    assert records[str(room)].detail["prompt_tokens"] == 256
    found = {(f.metric): (f.value, f.items) for f in figures(list(records.values()), lambda _: Generation.metrics)}
    assert found["exact_match"] == (0.5, 2)
    assert found["ended"] == (1, 1)


def test_both_wordings_of_held_out_questions_share_items(questions):
    wordings = {language: [(q.task, q.item) for q in questions if q.language == language] for language in ("zh", "en")}
    assert wordings["zh"] == wordings["en"]
    assert len(set(wordings["zh"])) == 12
    held_out = [example for skill in SKILLS for example in examples(skill, "test", 6, 0)]
    assert [(q.prompt, q.item, q.task) for q in questions] == [(e.prompt, e.pair, e.skill) for e in held_out]
    assert all(question.judge(question.references[0]) and not question.judge("nothing") for question in questions)
    assert [q.prompt for q in world_questions(SKILLS, 6, seed=1)] != [q.prompt for q in questions]


def test_mistakes_are_refused(questions):
    for skills, items in (((), 5), (SKILLS, 0)):
        with pytest.raises(UserError, match="must be at least 1"):
            world_questions(skills, items)
    with pytest.raises(UserError, match="juggling"):
        world_questions(("juggling",), 1)
    with pytest.raises(ValueError, match="questions must be at least one"):
        Generation(())
    with pytest.raises(ValueError, match="must differ"):
        Generation([questions[0], questions[0]])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Generation(questions, batch_size=0)
