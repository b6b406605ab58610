"""Rewards: a row's own verifier, a user's function, and what is said when either is no good."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from nano_llada.core.errors import UserError
from nano_llada.core.own import PREFIX
from nano_llada.verify.pattern import Matcher
from nano_llada.verify.reward import load_reward, verifier_of

SEVEN = {"verifier": {"kind": "exact", "expected": ["7", "seven"], "count": 0}}
OURS = """
from __future__ import annotations

from dataclasses import dataclass

CALLS = []
NUMBER = 3


@dataclass
class Told:
    question: str
    answer: str
    row: dict[str, str]


def score(question, answer, row):
    told = Told(question, answer, row)
    return len(told.question) + 10 * len(told.answer) + 100 * len(told.row["name"])


def right(question, answer, row):
    return answer in row["accepted"]


def raising(question, answer, row):
    return row["missing"]


def nan(question, answer, row):
    return float("nan")


def endless(question, answer, row):
    return float("-inf")


def nothing(question, answer, row):
    pass


def two(question, answer):
    return 1.0
"""


@pytest.fixture
def ours(tmp_path) -> Path:
    path = tmp_path / "ours.py"
    path.write_text(OURS, encoding="utf-8")
    return path


@pytest.mark.parametrize(("answer", "expected"), [("7", 1.0), (" seven. ", 1.0), ("8", 0.0), ("", 0.0)])
def test_the_rows_own_verifier_decides(answer, expected):
    found = load_reward("verifier")("3 + 4?", answer, SEVEN)
    assert found == expected
    assert type(found) is float


def test_a_function_is_called_with_question_answer_and_row(ours):
    """It stands in a file with a dataclass, which looks up its module."""
    assert load_reward(f"{ours}:score")("ab", "cde", {"name": "four"}) == 2 + 30 + 400


def test_a_function_may_say_true_or_false(ours):
    right = load_reward(f"{ours}:right")
    found = [right("?", answer, {"accepted": ["x"]}) for answer in ("x", "y")]
    assert found == [1.0, 0.0]
    assert all(type(value) is float for value in found)


def test_files_of_one_name_do_not_meet(ours, tmp_path):
    other = tmp_path / "elsewhere" / "ours.py"
    other.parent.mkdir()
    other.write_text("def score(question, answer, row):\n    return -1\n")
    both = [load_reward(f"{path}:score") for path in (ours, other)]
    assert [reward("", "", {"name": ""}) for reward in both] == [0, -1]


FAILING = [
    ("raising", "failed on 'an answer': KeyError: 'missing'"),
    ("nan", "gave nan for 'an answer': rewards are numbers of at most 1e+12"),
    ("endless", "gave -inf for 'an answer': rewards are numbers of at most 1e+12"),
    ("nothing", "failed on 'an answer': TypeError: float() argument must be a string or a real number, not 'NoneType'"),
    ("two", "failed on 'an answer': TypeError: two() takes 2 positional arguments but 3 were given"),
]


@pytest.mark.parametrize(("name", "message"), FAILING)
def test_a_function_that_fails_is_told_with_the_answer(ours, name, message):
    reward = load_reward(f"{ours}:{name}")
    with pytest.raises(UserError) as caught:
        reward("a question", "an answer", {})
    assert str(caught.value) == f"reward '{ours}:{name}' {message}"


SPECS = [
    "verify",
    "nowhere.py:score",
    "{folder}/ours.py",
    "{folder}/ours.py:",
    "{folder}/ours.txt:score",
    "{folder}:score",
    "",
]


@pytest.mark.parametrize("spec", SPECS)
def test_a_reward_that_is_not_there_is_refused(ours, tmp_path, spec):
    (tmp_path / "ours.txt").write_text(OURS)
    spec = spec.format(folder=tmp_path)
    with pytest.raises(UserError) as caught:
        load_reward(spec)
    assert str(caught.value) == (f"reward {spec!r}: expected verifier, or FILE.py:NAME with a file that exists")


@pytest.mark.parametrize(("name", "why"), [("scores", "does not define scores"), ("NUMBER", "is not a function")])
def test_a_function_that_is_not_in_the_file_is_refused(ours, name, why):
    with pytest.raises(UserError) as caught:
        load_reward(f"{ours}:{name}")
    assert str(caught.value).startswith(f"reward '{ours}:{name}': ")
    assert str(caught.value).endswith(why)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def score(:", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused(ours, code, message):
    ours.write_text(code)
    with pytest.raises(UserError, match=re.escape(f"reward '{ours}:score': running {ours} failed: {message}")):
        load_reward(f"{ours}:score")


GIVE = "; or give a reward function with --reward FILE.py:FUNCTION"
ASK = {"prompt": "?"}
NO_VERIFIER = [
    ({}, "no question (messages, or one of prompt, "),
    (
        ASK,
        "no right answer: give it references, reference, ground_truth or answer, or an answer as the last message"
        + GIVE,
    ),
    (ASK | {"verifier": "7"}, "unknown verifier '7': use exact, contains, regex, numeric, or an object"),
    (
        ASK | {"answer": "7", "verifier": "mine.py:f"},
        "the row's verifier 'mine.py:f' names a file with code, and data ",
    ),
    ({"verifier": {"kind": "exact"}}, "This verifier cannot be read: {'kind': 'exact'}. Give it `kind`, "),
    ({"verifier": SEVEN["verifier"] | {"kind": "guess"}}, "Unknown kind of verifier 'guess'. Use one of: exact, "),
    ({"verifier": SEVEN["verifier"] | {"expected": []}}, "This verifier expects nothing: "),
    ({"verifier": SEVEN["verifier"] | {"count": "some"}}, "This verifier's `count` must be a whole number"),
    ({"verifier": SEVEN["verifier"] | {"count": None}}, "This verifier's `count` must be a whole number"),
]


@pytest.mark.parametrize(("row", "message"), NO_VERIFIER, ids=lambda value: str(value)[:50])
def test_a_row_without_a_verifier_that_can_be_read_is_refused(row, message):
    for refuse in (lambda: load_reward("verifier")("?", "7", row), lambda: verifier_of(row, Matcher())):
        with pytest.raises(UserError, match=f"^{re.escape(message)}"):
            refuse()


RIGHT = [
    {"prompt": "2+3=?", "ground_truth": "5"},
    {"prompt": [{"role": "user", "content": "2+3=?"}], "ground_truth": 5},
    {"prompt": "2+3=?", "response": "5"},
    {"messages": [{"role": "user", "content": "2+3=?"}, {"role": "assistant", "content": "5"}]},
    {"question": "2+3=?", "answer": "2+3=5\n#### 5"},
    {"question": "2+3=?", "answer": "5.0", "verifier": "numeric"},
    {"question": "2+3=?", "references": ["five", "^5$"], "verifier": "regex"},
]


@pytest.mark.parametrize("row", RIGHT)
def test_without_a_verifier_an_answer_is_compared_with_the_right_one_as_in_evaluation(row):
    reward = load_reward("verifier")
    assert [reward("2+3=?", answer, row) for answer in ("5", "6")] == [1.0, 0.0]


def test_a_file_may_import_files_beside_it(tmp_path):
    for folder, value in (("one", 1), ("two", 2)):
        place = tmp_path / folder
        place.mkdir()
        (place / "beside.py").write_text(f"VALUE = {value}\n")
        (place / "later.py").write_text(f"MORE = {value * 10}\n")
        (place / "mine.py").write_text(
            "import beside\n\n\ndef score(question, answer, row):\n"
            "    import later\n\n    return beside.VALUE + later.MORE\n"
        )
    before = set(sys.modules), list(sys.path)
    one, two = (load_reward(f"{tmp_path / name}/mine.py:score") for name in ("one", "two"))
    assert [reward("", "", {}) for reward in (one, two, one)] == [11, 22, 11]
    assert {name for name in set(sys.modules) - before[0] if not name.startswith(PREFIX)} == set()
    assert sys.path == before[1]
