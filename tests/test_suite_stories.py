"""The suite of stories: a writer that knows scores 1, what is no story of this world scores 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Autoregressive
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.data.tokenizer import Tokenizer, train_characters
from nano_llada.evaluation.figures import figures
from nano_llada.evaluation.questions import read_questions
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites.stories import Stories, questions
from nano_llada.verify.reward import load_reward
from nano_llada.world.stories.answers import KINDS
from nano_llada.world.stories.tasks import conversations
from planted import wrote
from tiny import write_rows

STORY = {"story", "retelling"}


@pytest.fixture(scope="module")
def talks():
    return list(conversations("test", 60, 0))


@pytest.fixture(scope="module")
def suite(talks) -> Stories:
    return Stories(tuple(question for n, talk in enumerate(talks) for question in questions(talk, n)))


@pytest.fixture(scope="module")
def tokenizer(suite) -> Tokenizer:
    texts = [text for question in suite.questions for text in (question.text, *question.references)]
    return train_characters([*texts, "assistant user\n"])


@pytest.fixture
def score(suite, tokenizer, make_model, monkeypatch):
    """Figures of a writer that answers what `answer` says of a question."""
    model = make_model(seed=0, vocab_size=tokenizer.vocab.size, max_length=8192)
    subject = Subject("m", Checkpoint(model, tokenizer, ModelCard("ar", "sft"), Path()), Autoregressive(), "greedy")

    def of(answer):
        known = {}
        for question in suite.questions:
            prompt = tuple(encode_prompt(tokenizer, [*question.before, Message("user", question.prompt)]))
            known[prompt] = [*tokenizer.encode(answer(question)), tokenizer.vocab.turn_end]

        class Writer:
            ends = tokenizer.vocab.ends

            def stream(self, requests, stop=None):
                texts = [known[request.prompt] for request in requests]
                yield [wrote(i, range(len(text)), text, last=True) for i, text in enumerate(texts)]

        monkeypatch.setattr("nano_llada.evaluation.suite.make_sampler", lambda *_: Writer())
        records = list(suite.run(subject))
        found = figures(records, lambda _: Stories.metrics)
        return {f.metric: f.value for f in found if (f.task, f.language) == ("all", "mean")}, records

    return of


def test_a_writer_that_knows_is_right_and_coherent(score, suite):
    found, records = score(lambda question: question.references[0])
    assert (found["exact_match"], found["coherence"], found["contradictions"], found["not_understood"]) == (1, 1, 0, 0)
    told = [record for record in records if "coherent" in record.values]
    assert 20 < len(told) < len(records) == len(suite.questions)


def test_a_person_in_two_places_and_another_language_are_seen(score, suite):
    away = {"zh": "汤姆去了海滩。汤姆在学校里。", "en": "Tom is a boy. Tom went to the beach. Zzz qqq."}
    found, records = score(lambda question: away[question.language])
    assert found["coherence"] < 0.2
    assert found["contradictions"] + found["not_understood"] + found["coherence"] == pytest.approx(1)
    assert found["exact_match"] < 0.05
    readings = [record.detail["reading"] for record in records if "reading" in record.detail]
    assert any("not understood at sentence" in reading for reading in readings)


def test_the_same_checks_judge_questions_from_files_and_rewards(talks, tmp_path):
    rows = [talk.to_row() for talk in talks]
    path = write_rows(tmp_path / "chat.jsonl", rows)
    found = read_questions([str(path)])
    kinds = {row["verifier"]["kind"] for row in rows}
    assert kinds & STORY
    assert kinds & KINDS - STORY
    for row, question in zip(rows, found, strict=True):
        answer = row["conversations"][-1]["content"]
        assert question.judge(answer)
        assert load_reward("verifier")(question.prompt, answer, row) == 1
        assert load_reward("verifier")(question.prompt, "no", row) == 0


WRONG = {
    "kind": {"kind": "tale"},
    "language": {"kind": "story", "language": "fr"},
    "words": {"kind": "story", "language": "en", "words": "cat"},
    "sentences": {"kind": "story", "language": "en", "sentences": -1},
    "field": {"kind": "story", "language": "en", "colour": "red"},
    "source": {"kind": "summary", "language": "en", "source": 7},
    "source_language": {"kind": "retelling", "language": "en", "source": "x", "source_language": None},
    "events": {"kind": "story", "language": "en", "events": [1, 2]},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_check_that_cannot_be_read_is_refused_with_its_row(name, tmp_path):
    row = {"prompt": "Tell me a story.", "answer": "x", "verifier": WRONG[name]}
    path = write_rows(tmp_path / "asked.jsonl", [row])
    with pytest.raises(Exception, match=r"asked\.jsonl") as error:
        read_questions([str(path)])
    assert name in str(error.value) or "tale" in str(error.value)


def test_conversations_are_the_same_for_the_same_seed(talks):
    again = [talk.to_row() for talk in conversations("test", 60, 0)]
    assert again == [talk.to_row() for talk in talks]
