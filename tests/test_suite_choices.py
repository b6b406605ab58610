"""Multiple choice: scores against sums and enumeration, oracles, ties, too long questions, and broken files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.evaluation.figures import figures
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.suites import metrics_of
from nano_llada.evaluation.suites.choices import ChoiceQuestion, Choices, encode_choices, judge, read_choices
from test_suite_likelihood import Letters, subject
from tiny import write_rows

GOOD = {"id": 7, "question": "red or", "choices": [" cat", " hat"], "answer": 1}


def asked(question: str, *choices: str, answer: int = 0, item: str = "0") -> ChoiceQuestion:
    return ChoiceQuestion(question, choices, answer, "en", "quiz", item)


QUESTIONS = (
    asked("a cat is", " red", " a pet you know", item="0"),
    asked("the", " b", " c", " d", " e", answer=2, item="1"),
    asked("a red ball on a mat by the door", " is", " was seen", " rolls to the cat", answer=1, item="2"),
)
KINDS = [
    ("ar", {}),
    ("ar", {"stage": "sft"}),
    ("diffusion", {}),
    ("diffusion", {"block_size": 4}),
    ("diffusion", {"stage": "sft", "answer_length": 10}),
]


def shares(records: Sequence[Record]) -> dict[str, float]:
    return {figure.metric: figure.value for figure in figures(records, metrics_of)}


@pytest.mark.parametrize(("track", "info"), KINDS)
def test_no_question_depends_on_batches_order_or_company(peaky, vocab, track, info):
    tested, suite = subject(peaky, vocab, track, **info), Choices(QUESTIONS, draws=4)
    whole = list(suite.run(tested))
    assert len({score for record in whole for score in record.detail["scores"]}) == 9
    alone = [record for q in QUESTIONS[::-1] for record in replace(suite, questions=(q,), batch_size=1).run(tested)]
    pairs = replace(suite, questions=QUESTIONS[::-1], batch_size=2).run(tested)
    for others in (alone, list(pairs)):
        for one, other in zip(whole, others[::-1], strict=True):
            assert other.values == pytest.approx(one.values, rel=1e-5, abs=1e-5)
            assert (one.item, one.detail["picked"]) == (other.item, other.detail["picked"])
            assert other.detail["scores"] == pytest.approx(one.detail["scores"], rel=1e-5, abs=1e-5)
    again = list(replace(suite, seed=1).run(tested))
    assert (again[0].detail["scores"] == whole[0].detail["scores"]) is (track == "ar")


@pytest.mark.parametrize("chat", [False, True])
def test_an_autoregressive_score_is_that_of_the_tokens_to_be_written(peaky, vocab, chat):
    tested = subject(peaky, vocab, "ar", stage="sft" if chat else "pretrain")
    (record,) = Choices((QUESTIONS[0],)).run(tested)
    encode = Letters(vocab).encode
    for choice, score in zip(QUESTIONS[0].choices, record.detail["scores"], strict=True):
        answer = [*encode(choice.strip()), vocab.turn_end] if chat else encode(choice)  # that has a space already
        prompt = tested.encode_prompt(QUESTIONS[0].question)
        tokens = torch.tensor([[*prompt, *answer]])
        with torch.no_grad():
            log_probs = peaky(tokens, AttentionPattern("causal"))[0].double().log_softmax(-1)
        found = sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))
        assert score == pytest.approx(found, rel=1e-5)
    assert (record.values["error"], record.detail["errors"]) == (0, [0, 0])


@pytest.mark.parametrize("info", [{}, {"block_size": 64}, {"stage": "sft", "answer_length": 6}])
def test_diffusion_scores_are_unbiased(peaky, vocab, enumerate_bound, info):
    tested = subject(peaky, vocab, "diffusion", **info)
    many = tuple(asked("he", "red", "cats", item=str(i)) for i in range(64))
    records = list(Choices(many, draws=8, batch_size=128).run(tested))
    rows, _ = encode_choices(tested, many[0])
    fill = [vocab.turn_end, vocab.eos, vocab.eos] if info.get("stage") else []
    said = ("red", "cats") if info.get("stage") else (" red", " cats")
    for which, (row, word) in enumerate(zip(rows, said, strict=True)):
        answer = (Letters(vocab).encode(word) + fill)[: info.get("answer_length", 9)]
        assert list(row.tokens) == [*tested.encode_prompt("he"), *answer]
        assert row.start == len(row.tokens) - len(answer)
        tokens = torch.tensor(row.tokens)
        exact = -enumerate_bound(peaky, tokens, torch.arange(len(tokens)) >= row.start)
        scores = np.array([record.detail["scores"][which] for record in records])
        error = scores.std(ddof=1) / 8
        assert 0 < error < -0.04 * exact
        assert scores.mean() == pytest.approx(exact, abs=4 * error)


def test_the_error_is_that_of_the_margin_and_shrinks_with_draws(peaky, vocab):
    tested = subject(peaky, vocab, "diffusion")
    many = tuple(asked("he is", "red cat", "old hat", item=str(i)) for i in range(64))
    found = {}
    for draws in (4, 32):
        records = list(Choices(many, draws=draws, batch_size=128).run(tested))
        leads = np.array([np.subtract(*record.detail["scores"]) for record in records])
        found[draws] = np.mean([record.values["error"] for record in records])
        assert leads.std(ddof=1) < 1.4 * found[draws]
    assert found[32] < found[4] / 2


def test_the_masks_of_a_questions_choices_are_the_same(table_model, vocab, watch):
    model = table_model(torch.zeros(64, vocab.size))
    seen = watch(model)
    same = (asked("he", "red", "cat"), asked("he", "red", "cat", item="1"))
    list(Choices(same, draws=16).run(subject(model, vocab, "diffusion")))
    masks = torch.stack(seen.tokens) == vocab.mask
    assert torch.equal(masks[:, 0], masks[:, 1])
    assert torch.equal(masks[:, 2], masks[:, 3])
    assert not torch.equal(masks[:, 0], masks[:, 2])


@pytest.mark.parametrize("info", [{}, {"block_size": 4}])
def test_choices_of_one_token_are_exact_in_one_pass(peaky, vocab, watch, info):
    tested, seen = subject(peaky, vocab, "diffusion", **info), watch(peaky)
    try:
        (record,) = Choices((QUESTIONS[1],), draws=8).run(tested)  # two tokens each: a space and a letter
        assert len(seen.tokens) == 8
        seen.tokens.clear()
        (record,) = Choices((asked("the ", "b", "c"),), draws=8).run(tested)
        assert len(seen.tokens) == 1
    finally:
        seen.stop()
    prompt = tested.encode_prompt("the ")
    blocks = None if not info else torch.arange(len(prompt) + 1)[None] // 4
    pattern = AttentionPattern("full") if blocks is None else AttentionPattern("block_causal", None, blocks)
    with torch.no_grad():
        last = peaky(torch.tensor([[*prompt, vocab.mask]]), pattern)[0, -1].double().log_softmax(-1)
    right = [float(last[Letters(vocab).encode(letter)[0]]) for letter in "bc"]
    assert record.detail["scores"] == pytest.approx(right, rel=1e-5)
    assert record.values["error"] == 0
    both = Choices((asked("the ", "b", "c"), QUESTIONS[0]), draws=8).run(tested)
    beside = next(iter(both))  # one that is not exact
    assert beside.values == pytest.approx(record.values, rel=1e-5)
    assert beside.detail["errors"] == [0, 0]


@pytest.mark.parametrize(("track", "info"), KINDS)
def test_oracles_get_what_they_should(table_model, vocab, track, info):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(40)]
    questions = tuple(
        asked(f"q{i}", *words[4 * i : 4 * i + 4], answer=int(rng.integers(4)), item=str(i)) for i in range(10)
    )
    tested = subject(table_model(torch.zeros(64, vocab.size)), vocab, track, **info)
    records = list(Choices(questions, draws=4).run(tested))
    assert {record.detail["picked"] for record in records} == {0}  # all are alike: the first
    first = sum(question.answer == 0 for question in questions) / 10
    assert shares(records) == {"accuracy_sum": first, "accuracy_norm": first, "chance": 0.25}
    for right in (True, False):
        records = []
        for question in questions:
            wanted = question.answer if right else (question.answer + 1) % 4
            rows, _ = encode_choices(tested, question)
            table = torch.zeros(64, vocab.size)
            places = torch.arange(rows[wanted].start, len(rows[wanted].tokens)) - int(track == "ar")
            table[places, torch.tensor(rows[wanted].tokens[rows[wanted].start :])] = 30.0
            knowing = subject(table_model(table), vocab, track, **info)
            records += list(Choices((question,), draws=4).run(knowing))
        assert shares(records)["accuracy_sum"] == shares(records)["accuracy_norm"] == float(right)
        assert all(record.values["margin"] > 5 for record in records)


def test_a_random_model_is_right_by_chance(table_model, vocab):
    table = torch.randn(64, vocab.size, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(2)
    words = ["".join(rng.choice(list("abcdefgh"), 6)) for _ in range(800)]
    answers = rng.integers(2, size=400).tolist()
    many = tuple(asked("q", *words[2 * i : 2 * i + 2], answer=answers[i], item=str(i)) for i in range(400))
    records = list(Choices(many, batch_size=256).run(subject(table_model(table), vocab, "ar")))
    assert shares(records)["accuracy_sum"] == pytest.approx(0.5, abs=0.1)
    assert len({record.detail["picked"] for record in records}) == 2


def test_a_sum_prefers_short_choices_and_bytes_make_up_for_it():
    question = asked("q", "ab", "abcdefgh", answer=1)
    scores = [torch.tensor([-4.0, -2.0]), torch.tensor([-5.0, -5.0])]
    values, detail = judge(question, scores)
    assert (values["right_sum"], values["right_norm"], values["chance"]) == (0, 1, 0.5)
    assert (detail["picked"], detail["picked_norm"], detail["scores"]) == (0, 1, [-3, -5])
    assert values["margin"] == 2
    assert values["error"] == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert detail["errors"] == [pytest.approx(1.0), 0]
    even, told = judge(asked("q", "ab", "cd", "ef", answer=1), [torch.tensor([-5.0]), *[torch.tensor([-3.0])] * 2])
    assert (even["right_sum"], even["margin"], even["error"], told["picked"]) == (1, 0, 0, 1)
    values, detail = judge(question, [torch.tensor([-4.0, -2.0]), torch.tensor([-5.0, -3.0])])  # they vary together
    assert (values["margin"], values["error"], detail["errors"]) == (1, 0, [pytest.approx(1.0)] * 2)
    nearly = [torch.tensor([score], dtype=torch.float64) for score in (-300.0001, -300.0, -299.99999)]  # by rounding
    assert judge(asked("q", "ab", "cd", "ef"), nearly)[1]["picked"] == 0
    assert judge(asked("q", "红", "abc"), [torch.tensor([-3.0])] * 2)[1]["picked_norm"] == 0  # three bytes each


@pytest.mark.parametrize("chat", [False, True])
def test_a_long_question_loses_its_beginning_for_all_its_choices(peaky, vocab, chat):
    tested = subject(peaky, vocab, "ar", stage="sft" if chat else "pretrain")
    question = asked("x" * 40 + "the end of a question", "yes", "a longer answer", item="9")
    rows, dropped = encode_choices(tested, question)
    full, frame = tested.encode_prompt(question.question), tested.encode_prompt("")
    begin = frame.index(vocab.turn_end) if chat else 1
    assert dropped == len(full) + len("a longer answer") + 1 - 64 > 0  # one more: the turn's end, or a space before it
    for row in rows:
        assert row.tokens[: row.start] == (*full[:begin], *full[begin + dropped :])
    assert [len(row.tokens) for row in rows] == [64 - 12, 64]
    (record,) = Choices((question,)).run(tested)
    assert record.detail["dropped_tokens"] == dropped
    assert encode_choices(tested, QUESTIONS[0])[1] == 0


def test_a_choice_that_does_not_fit_is_told(peaky, vocab):
    tested = subject(peaky, vocab, "ar")
    (row, _), dropped = encode_choices(tested, asked("red", "y" * 62, "n"))  # and a space before it
    assert (dropped, row.start, len(row.tokens)) == (3, 1, 64)
    with pytest.raises(UserError, match="quiz, question 5: a choice takes 64 tokens"):
        list(Choices((QUESTIONS[0], asked("red", "n", "y" * 63, item="5"))).run(tested))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    ("question", "choice", "apart"),
    [
        ("The sky is", "blue", " blue"),
        ("2 +", "2", " 2"),
        ("The sky is ", "blue", "blue"),
        ("The sky is\n", "blue", "blue"),
        ("The sky is", " blue", " blue"),
        ("The sky is", "\tblue", "\tblue"),
        ("天空是", "蓝色", "蓝色"),
        ("天空是", "blue", "blue"),
        ("The sky is", "蓝色", "蓝色"),
        ("颜色：", "blue", "blue"),  # full-width signs are Chinese, too
        ("", "blue", "blue"),
    ],
)
def test_words_of_a_question_and_a_choice_are_kept_apart(peaky, vocab, chat, question, choice, apart):
    tested = subject(peaky, vocab, "ar", stage="sft" if chat else "pretrain")
    (row, _), _ = encode_choices(tested, asked(question, choice, "z"))
    prompt = tested.encode_prompt(question.strip() if chat else question)
    encode = Letters(vocab).encode
    assert row.tokens[: row.start] == prompt
    assert list(row.tokens[row.start :]) == ([*encode(choice.strip()), vocab.turn_end] if chat else encode(apart))


def test_questions_are_read(tmp_path):
    rows = [
        GOOD,
        {"question": "哪个？", "choices": ["猫", "帽"], "answer": "A"},
        GOOD | {"language": "zh", "answer": "B"},
        {"question": "1+1=", "choices": ["2", "3", "4"], "answer": 0},
    ]
    path = str(write_rows(tmp_path / "quiz.test.jsonl", rows))
    found = read_choices([path])
    assert found[0] == ChoiceQuestion("red or", (" cat", " hat"), 1, "en", "quiz", "7")
    assert [(q.item, q.language, q.answer) for q in found] == [
        ("7", "en", 1),
        ("1", "zh", 0),
        ("7", "zh", 1),
        ("3", "en", 0),
    ]
    assert read_choices([path], limit=2) == found[:2]


def test_a_task_is_what_the_row_says_or_its_file(tmp_path, peaky, vocab):
    rows = [GOOD | {"task": "colours", "source": "web"}, GOOD | {"id": 8, "source": "arc"}, GOOD | {"id": 9}]
    path = str(write_rows(tmp_path / "quiz.jsonl", [*rows, GOOD | {"task": "hats"}]))  # one id in two tasks
    found = read_choices([path])
    assert [(q.task, q.item) for q in found] == [("colours", "7"), ("arc", "8"), ("quiz", "9"), ("hats", "7")]
    records = Choices(tuple(found)).run(subject(peaky, vocab, "ar"))
    assert [(record.task, record.item) for record in records] == [(q.task, q.item) for q in found]
    other = str(write_rows(tmp_path / "more.jsonl", [GOOD | {"id": 1}, GOOD | {"source": "arc", "id": 8}]))
    with pytest.raises(UserError, match=r"quiz\.jsonl:2: id 8 occurs twice in language en of task 'arc'"):
        read_choices([other, path])  # two files with one task: no example may be there twice


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"choices": None}, "choices is null, expected a list"),
        ({"choices": "ab"}, "choices is text, expected a list"),
        ({"choices": ["a"]}, "choices has 1 entries, expected at least 2"),
        ({"choices": ["a", " "]}, r"choices\[1\] is empty"),
        ({"choices": ["a", 3]}, r"choices\[1\] is a number, expected text"),
        ({"answer": 2}, "answer 2 is not one of the 2 choices"),
        ({"answer": -1}, "answer -1 is not one of the 2 choices"),
        ({"answer": "C"}, "answer 'C' is not one of the 2 choices"),
        ({"answer": "hat"}, "answer is 'hat', expected the number"),
        ({"answer": True}, "answer is True, expected the number"),
        ({"answer": None}, "answer is None, expected the number"),
        ({"question": ""}, "question is empty"),
        ({"question": 5}, "question is a number, expected text"),
        ({"language": "fr"}, "language 'fr' is not zh or en"),
        ({"id": 7}, "id 7 occurs twice in language en"),
        ({"id": [1]}, "id is a list, expected text or a number"),
        ({"task": 3}, "task is a number, expected text"),
        ({"source": None}, "task is null, expected text"),
        ({"task": ""}, "task is .*expected text"),
    ],
)
def test_malformed_questions_are_told_with_file_and_line(tmp_path, change, reason):
    path = write_rows(tmp_path / "quiz.jsonl", [GOOD, GOOD | {"id": 8} | change])
    with pytest.raises(UserError, match=f"quiz.jsonl:2: {reason}"):
        read_choices([str(path)])


def test_missing_fields_and_empty_files_are_told(tmp_path):
    for name in ("question", "choices", "answer"):
        path = write_rows(tmp_path / f"no-{name}.jsonl", [{key: value for key, value in GOOD.items() if key != name}])
        with pytest.raises(UserError, match=f"no-{name}.jsonl:1: .*{name}"):
            read_choices([str(path)])
    with pytest.raises(UserError, match="nothing to measure on"):
        read_choices([str(write_rows(tmp_path / "empty.jsonl", []))])
    for options in ({"draws": 1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="must be at least"):
            Choices(QUESTIONS, **options)
    with pytest.raises(ValueError, match="no questions"):
        Choices(())
