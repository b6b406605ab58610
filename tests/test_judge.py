"""Questions of a user's files: what is right by each verifier, and what is said about rows that are no questions."""

from __future__ import annotations

import pytest

from nano_llada.core.errors import UserError
from nano_llada.data.rows import Message
from nano_llada.evaluation.questions import read_questions
from nano_llada.verify.number import last_number
from nano_llada.verify.pattern import Matcher
from nano_llada.world import examples
from tiny import write_rows

NUMBERS = {
    "": None,
    "no number at all": None,
    "The answer is 18.": 18,
    "He had 3 apples, then 5": 5,
    "It costs $1,234,567.50 in all": 1234567.5,
    "1,2,3": 3,
    "12,34": 34,
    "-7": -7,
    "-$7": -7,
    "$-7": -7,
    "a loss of −3.5": -3.5,
    "10-4": 4,
    "10 - 4 = +6": 6,
    "COVID-19": 19,
    "答案是-5。": -5,
    "一共有１，２００．５元": 1200.5,
    "有３，４个": 4,
    "有3，400个": 400,
    "共＋１２个苹果": 12,
    "负数－８": -8,
    "about 1e3": 1000,
    "half is .5": 0.5,
    "1/2": 0.5,
    "1 1/2 cups": 1.5,
    "-3/4": -0.75,
    "on 3/4/2026 he had 7": 7,
    "5/0": None,
    r"so \boxed{\frac{3}{4}}": 0.75,
    r"so \boxed{-\dfrac{3}{4}}": -0.75,
    r"so \boxed{2\tfrac12}": 2.5,
    r"so \boxed{\frac{3}{5}} of 3": 0.6,
    r"so \boxed{3}": 3,
    r"so \boxed{\sqrt{2}}": None,
    r"so \boxed{\frac{\pi}{4}}": None,
    r"so \boxed{2^{10}}": None,
    r"so \boxed{1{,}000 \text{ in 2 bags}}": 1000,
    r"so \boxed{50\%}": 50,
    "答案是３／４。": 0.75,
    "50%": 50,
    "#### 42\nwhich took 3 steps": 42,
    "#### 42 apples in 2 bags": 42,
    "#### $1,000": 1000,
    "#### -3.5": -3.5,
    "#### 1. First\nso it is 18": 18,
    "#### Step 3\nso it is 18": 18,
    r"So \boxed{x = 7}, as 2 < 3": 7,
    r"#### 1" "\n" r"no: \boxed{2}" "\nof 9": 2,
    r"\boxed{unknown}, perhaps 4": 4,
}


@pytest.mark.parametrize("text", NUMBERS)
def test_the_number_that_a_text_arrives_at(text):
    assert last_number(text) == NUMBERS[text]


def read(tmp_path, *rows, limit=None):
    return read_questions([str(write_rows(tmp_path / "quiz.jsonl", rows))], limit)


def judged(tmp_path, row, *answers):
    (question,) = read(tmp_path, row)
    return [question.judge(answer) for answer in answers]


def test_verifiers(tmp_path):
    ask = {"prompt": "?"}
    row = ask | {"references": ["Red", "blue"]}
    assert judged(tmp_path, row, " Red. ", "blue", "red", "Red or blue", "") == [True, True, False, False, False]
    row |= {"verifier": "contains"}
    assert judged(tmp_path, row, "It is\nblue!", "It is red.", "") == [True, False, False]
    row = ask | {"reference": "^(yes|是)", "verifier": "regex"}
    assert judged(tmp_path, row, "yes!", "是的", "oh yes") == [True, True, False]
    row = ask | {"answer": 1000, "verifier": "numeric"}
    assert judged(tmp_path, row, "1,000.0005", "1,000.01", "none", "-1000") == [True, False, False, False]
    row = ask | {"answer": "0", "verifier": "numeric"}
    assert judged(tmp_path, row, "0.0", "1e-9") == [True, False]
    row = ask | {"verifier": {"kind": "words", "expected": ["red", "blue", "green"], "count": 2}}
    assert judged(tmp_path, row, "red and green", "red, red") == [True, False]
    assert read(tmp_path, row)[0].references == ("red", "blue", "green")


def test_fractions_are_compared_as_numbers(tmp_path):
    row = {"prompt": "?", "answer": r"So \boxed{\frac{3}{4}}.", "verifier": "numeric"}
    answers = ("0.75", "3/4", r"\boxed{\frac{3}{4}}", r"\boxed{\frac{6}{8}}", "3", r"\boxed{\frac{3}{5}}", "4")
    assert judged(tmp_path, row, *answers) == [True] * 4 + [False] * 3


def test_a_regular_expression_has_a_time_limit(tmp_path, monkeypatch):
    assert Matcher().seconds == 2
    monkeypatch.setattr("nano_llada.evaluation.questions.Matcher", lambda: Matcher(0.5))
    (question,) = read(tmp_path, {"prompt": "?", "reference": "^(a+)+$", "verifier": "regex"})
    assert question.judge("aaa")
    for _ in range(2):  # and the next text gets an answer again
        with pytest.raises(UserError, match=r"the regular expression '\^\(a\+\)\+\$' took more than 0.5 s in 'aaa"):
            question.judge("a" * 60 + "b")
        assert not question.judge("b")


def test_gsm8k_rows_are_numeric(tmp_path):
    row = {"id": 7, "question": "How many?", "answer": "16 - 3 = <<16-3=13>>13\n13 * 2 = 26\n#### 1,026"}
    assert judged(tmp_path, row, "3 steps: 1026", "#### 1026\nin 3 steps", "13") == [True, True, False]
    (question,) = read(tmp_path, row)
    assert (question.prompt, question.item, question.task, question.language) == ("How many?", "7", "quiz", "en")
    assert judged(tmp_path, row | {"verifier": "exact"}, "1026", row["answer"]) == [False, True]
    assert judged(tmp_path, {"prompt": "?", "answer": "see #### 5\nor not"}, "5") == [False]


def test_a_function_of_the_users_own(tmp_path):
    code, never = tmp_path / "mine.py", tmp_path / "never.txt"
    code.write_text(
        "def check(question, answer, row):\n"
        "    if answer == 'half':\n        return 0.5\n"
        "    return answer == question + row['wanted'] or 1 / len(answer) < 0\n"
    )
    row = {"prompt": "ab", "wanted": "c"}
    path = str(write_rows(tmp_path / "quiz.jsonl", [row]))
    (question,) = read_questions([path], verifier=f"{code}:check")
    assert [question.judge(answer) for answer in ("abc", "ab")] == [True, False]
    with pytest.raises(UserError, match=r"mine\.py:check' failed on '': ZeroDivisionError"):
        question.judge("")
    with pytest.raises(UserError, match=r"mine\.py:check' gave 0\.5 for 'half'"):
        question.judge("half")
    code.write_text(f"from pathlib import Path\nPath({str(never)!r}).write_text('run')\n")
    for spec in (f"{code}:check", f"{code}", f"{code}:"):  # data never runs code
        with pytest.raises(UserError, match=r"quiz\.jsonl:1: .*names a file with code, and data never runs code"):
            read(tmp_path, row | {"verifier": spec, "answer": "x"})
    assert not never.exists()


def test_which_judge_it_is_can_be_told(tmp_path):
    def told(row, verifier=None):
        path = write_rows(tmp_path / "quiz.jsonl", [{"prompt": "?", "answer": "1"} | row])
        return read_questions([str(path)], verifier=verifier)[0].verifier

    specs = [{}, *({"verifier": v} for v in ("exact", "numeric", {"kind": "words", "expected": ["a"], "count": 1}))]
    specs.append({"verifier": {"kind": "words", "expected": ["a"], "count": 2}})
    names = [told(spec) for spec in specs]
    assert len(set(names)) == len(names)
    assert names == [told(spec) for spec in specs]
    assert told({"verifier": {"count": 2, "expected": ["a"], "kind": "words"}}) == names[-1]  # in whatever order
    found = []
    for folder, code in (("one", "True"), ("two", "True"), ("three", "False")):
        path = tmp_path / folder / "mine.py"
        path.parent.mkdir()
        path.write_text(f"def check(question, answer, row):\n    return {code}\n", encoding="utf-8")
        found += [told({"wanted": wanted}, f"{path}:check") for wanted in (1, 2)]
    assert found[:2] == found[2:4]  # wherever the file lies
    assert len(set(found)) == 4  # its content counts, and the row that it is given
    assert not any(str(tmp_path) in one for one in found)


def test_conversations(tmp_path):
    turns = [{"role": r, "content": c} for r, c in (("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"))]
    last, said = {"role": "user", "content": "颜色是什么？"}, {"role": "assistant", "content": "红色"}
    answered, open_ended = read(
        tmp_path, {"messages": [*turns, last, said]}, {"messages": [*turns, last], "answer": "红色", "task": "own"}
    )
    before = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes?"))
    for question in (answered, open_ended):
        assert (question.prompt, question.before, question.references) == ("颜色是什么？", before, ("红色",))
        assert question.language == "zh"
        assert question.judge("红色。")
    assert (answered.task, answered.item, open_ended.task, open_ended.item) == ("quiz", "0", "own", "1")
    assert answered.text == "Be brief.\nHi\nYes?\n颜色是什么？"


def test_rows_of_the_small_world(tmp_path):
    for example in examples("counting", "test", 1, 0):
        assert judged(tmp_path, example.to_row(), example.answer, "nothing") == [True, False]


def test_both_wordings_of_a_question_share_an_item_and_no_more(tmp_path):
    row = {"prompt": "x", "answer": "y", "id": "a"}
    pair = read(tmp_path, row | {"language": "zh"}, row | {"language": "en"}, limit=2)
    assert [(question.item, question.language) for question in pair] == [("a", "zh"), ("a", "en")]
    with pytest.raises(UserError, match=r"quiz\.jsonl:2: task 'quiz' has an en question 'a' already"):
        read(tmp_path, row, row)
    assert len(read(tmp_path, row, row, limit=1)) == 1


GOOD = {"prompt": "?", "answer": "!"}
MISTAKES = [
    ({"answer": "!"}, r"no question \(messages, or one of prompt, .*; the fields are: answer"),
    ({"prompt": " ", "answer": "!"}, "prompt is empty"),
    ({"prompt": 3, "answer": "!"}, "prompt is a number, expected text"),
    ({"messages": "hi", "answer": "!"}, "messages is text, expected a list"),
    ({"messages": [], "answer": "!"}, "messages has no user turn"),
    ({"messages": [{"role": "system", "content": "x"}], "answer": "!"}, "messages has no user turn"),
    (
        {"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]},
        "the first turn and from",
    ),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}]}, "no user turn at its end"),
    (
        {"messages": [{"role": "user", "content": "x"}]},
        "no right answer: give it references, reference, ground_truth or answer",
    ),
    ({"prompt": "?"}, "no right answer"),
    ({"prompt": "?", "answer": " \n"}, "answer is empty"),
    ({"prompt": "?", "answer": True}, "answer is true or false, expected text or a number"),
    ({"prompt": "?", "references": []}, "references is a list, expected a list with at least one right answer"),
    ({"prompt": "?", "references": "x"}, "references is text"),
    ({"prompt": "?", "references": ["x", ""]}, "references is empty"),
    (GOOD | {"verifier": "fuzzy"}, "unknown verifier 'fuzzy': use exact, contains, regex, numeric"),
    (GOOD | {"verifier": 3}, "unknown verifier 3"),
    (GOOD | {"verifier": {"kind": "exact"}}, "verifier cannot be read"),
    (GOOD | {"verifier": {"kind": "exact", "expected": ["x"], "count": None}}, "`count` must be a whole number"),
    (GOOD | {"verifier": "regex", "answer": "("}, "'\\(' is not a regular expression"),
    (GOOD | {"verifier": "numeric"}, "'!' holds no number"),
    (GOOD | {"answer": "3 apples, 4 pears", "verifier": "numeric"}, "holds 2 numbers"),
    (GOOD | {"answer": "1\u2009234\u2009567", "verifier": "numeric"}, "holds 3 numbers"),
    (GOOD | {"verifier": "nowhere.py:f"}, "nowhere.py:f' names a file with code"),
    ({"prompt": "?", "answer": r"\boxed{\sqrt{2}}", "verifier": "numeric"}, "numeric cannot read"),
    ({"prompt": "?", "answer": r"2^10", "verifier": "numeric"}, "numeric cannot read"),
    (GOOD | {"language": "fr"}, "language 'fr' is not zh or en"),
    (GOOD | {"task": []}, "task is a list, expected text or a number"),
]


@pytest.mark.parametrize(("row", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_rows_that_are_no_questions_name_file_and_line(tmp_path, row, message):
    with pytest.raises(UserError, match=rf"quiz\.jsonl:2: .*({message})"):
        read(tmp_path, {"prompt": "good", "answer": "!"}, row)


def test_a_file_without_rows(tmp_path):
    with pytest.raises(UserError, match="nothing to measure on"):
        read(tmp_path)
