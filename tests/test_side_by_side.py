"""Models side by side: planted writers give exact figures, what has no right answer is shown, mistakes are told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.cli.tables import HEADLINES, print_comparison
from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Autoregressive, Diffusion
from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import Tokenizer, train_characters
from nano_llada.evaluation.record import read_records
from nano_llada.evaluation.results import measure
from nano_llada.evaluation.side_by_side import chosen, free_questions, side_by_side
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites import metrics_of
from nano_llada.evaluation.suites.generation import world_questions
from nano_llada.report.tables import figure_rows, headline_rows, task_rows
from nano_llada.report.view import answers_of, references, verdict
from nano_llada.report.write import write_report
from planted import wrote

QUESTIONS = world_questions(("copy", "counting"), 5)
FREE = free_questions(["Hello & goodbye", "<b>再见"])
WRONG = "<b>no</b>"


class Oracle:
    """Writes the answers it is given by prompt, backwards in pairs of tokens, with an end; notes how many at once."""

    def __init__(self, tokenizer: Tokenizer, answers: dict[tuple[int, ...], str]) -> None:
        self.ends, self.sizes = tokenizer.vocab.ends, []
        self.answers = {p: [*tokenizer.encode(text), tokenizer.vocab.turn_end] for p, text in answers.items()}

    def stream(self, requests, stop=None):
        self.sizes.append(len(requests))
        left = [list(enumerate(self.answers[request.prompt])) for request in requests]
        for forwards in count(1):
            if not any(left):
                return
            writes = []
            for i, some in enumerate(left):
                left[i], now = some[:-2], some[-2:]
                if now:
                    places, tokens = zip(*now, strict=True)
                    writes.append(wrote(i, places, tokens, last=not left[i], forwards=forwards))
            yield writes


@dataclass(frozen=True)
class Planted(Subject):
    """A subject with a sampler of the test's own."""

    oracle: Oracle | None = None

    def sampler(self):
        return self.oracle


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_characters([*(q.text + "".join(q.references) for q in (*QUESTIONS, *FREE)), WRONG, "user assistant\n"])


@pytest.fixture
def subjects(tokenizer, table_model) -> list[Planted]:
    """One that knows all answers, and one that knows those in Chinese."""
    model = table_model(torch.zeros(1, tokenizer.vocab.size), max_length=512)
    found = []
    for name, track, knows in (("left | one", "ar", ("zh", "en")), ("right", "diffusion", ("zh",))):
        checkpoint = Checkpoint(model, tokenizer, ModelCard(track, "sft"), Path(name))
        decoding = Autoregressive() if track == "ar" else Diffusion()
        one = Planted(name, checkpoint, decoding, "default")
        answers = {q.prompt: q.references[0] if q.language in knows else WRONG for q in QUESTIONS}
        answers |= {q.prompt: f"{name} wrote\nthis" for q in FREE}
        known = {one.encode_prompt(prompt): text for prompt, text in answers.items()}
        found.append(replace(one, oracle=Oracle(tokenizer, known)))
    return found


@pytest.fixture
def records(subjects, tmp_path):
    return side_by_side(subjects, [*QUESTIONS, *FREE], tmp_path / "new" / "report", 4)


def test_all_are_asked_the_same_and_every_record_is_kept(records, tmp_path):
    assert list(read_records(tmp_path / "new" / "report")) == records
    assert all(record.protocol for record in records)
    asked = {(q.task, q.item, q.language) for q in (*QUESTIONS, *FREE)}
    for name, decoder in (("left | one", "default"), ("right", "default")):
        mine = [r for r in records if (r.model, r.decoder, r.suite) == (name, decoder, "generation")]
        assert {(r.task, r.item, r.language) for r in mine} == asked
        assert len(mine) == len(asked) == 22
        assert {r.task for r in mine if "right" not in r.values} == {"prompts"}


def test_figures_are_exact_and_count_only_what_has_a_right_answer(records):
    results = measure(records, metrics_of)
    rows = figure_rows(results, "generation")
    assert rows[0] == ["generation", "model", "zh", "en", "mean", "95 %", "n"]
    assert rows[1] == [
        "exact_match (%) ↑",
        "left | one · default",
        "100.0%",
        "100.0%",
        "100.0%",
        "[72.2%, 100.0%]",
        "10",
    ]
    assert rows[2][:5] == ["exact_match (%) ↑", "right · default", "100.0%", "0.0%", "50.0%"]
    written = [r for r in records if r.suite == "generation" and (r.model, r.language) == ("right", "en")]
    passes, tokens = (sum(r.values[name] for r in written) for name in ("forwards", "tokens"))
    assert tokens == 10 * len(WRONG) + len("right wrote\nthis")
    assert passes == 10 * (len(WRONG) + 1) // 2 + 9  # two a pass, the end besides
    (tpf,) = [row for row in rows if row[:2] == ["tpf (tokens/pass) ↑", "right · default"]]
    assert tpf[3] == f"{tokens / passes:.4g}"
    skills = task_rows(results, "generation", metrics_of("generation")[0])
    assert skills[0] == ["exact_match (%)", "language", "left | one · default", "right · default"]
    assert sorted(skills[1:]) == [
        [task, language, "100.0%", "100.0%" if language == "zh" else "0.0%"]
        for task in ("copy", "counting")
        for language in ("en", "zh")
    ]


def test_texts_are_timed_one_at_a_time_after_one_to_warm_up(subjects, records):
    for subject in subjects:
        timed = [r for r in records if (r.suite, r.model) == ("speed", subject.name)]
        assert Counter(r.language for r in timed) == {"zh": 2, "en": 2}
        assert {(r.task, r.values["texts"]) for r in timed} == {("batch 1", 1)}
        assert subject.oracle.sizes[1:] == [1] * (4 + 2)  # all questions together come first
        wrong = [r for r in timed if r.detail["texts"] == [WRONG]]
        assert all((r.values["tokens"], r.values["forwards"]) == (len(WRONG), 5) for r in wrong)
        assert len(wrong) == (2 if subject.name == "right" else 0)
        assert min(r.values["first_seconds"] for r in timed) > 0


@pytest.mark.parametrize(("count", "zh", "en"), [(1, 1, 0), (4, 2, 2), (5, 3, 2), (99, 11, 11)])
def test_what_is_timed_is_spread_over_all_questions(count, zh, en):
    found = chosen([*QUESTIONS, *FREE], count)
    assert Counter(passage.language for passage in found) == Counter(zh=zh, en=en)
    assert len({passage.text for passage in found}) == zh + en
    assert count < 4 or {"copy", "counting"} <= {passage.file for passage in found}


def passes(text: str) -> str:
    """Of the oracle's tokens: two a pass, the last one and the end in the first."""
    return ", ".join(str((len(text) - i) // 2 + 1) for i in range(len(text)))


def test_a_report_is_escaped_and_whole(records, tmp_path):
    page = write_report(records, tmp_path / "report", "A < B")
    text, markdown = (page.with_suffix(end).read_text(encoding="utf-8") for end in (".html", ".md"))
    assert "<title>A &lt; B</title>" in text
    assert "<b>no" not in text
    assert "Hello &amp; goodbye" in text
    assert "left \\| one" in markdown
    assert markdown.startswith("# A &lt; B\n")
    assert f"right · default, prompts, en: right wrote ⏎ this (passes {passes('right wrote/this')})\n" in markdown
    assert f"(wrong), copy, en: &lt;b>no&lt;/b> (passes {passes(WRONG)})\n" in markdown
    assert (page.parent / "skills.png").read_bytes().startswith(b"\x89PNG")


def test_one_question_a_task_and_every_prompt_is_shown(records):
    found = answers_of(records)
    assert [[record.model for record in answers] for answers in found] == [["left | one", "right"]] * 6
    assert [answers[0].task for answers in found] == ["copy"] * 2 + ["counting"] * 2 + ["prompts"] * 2
    english = [answers for answers in found[:4] if answers[0].language == "en"]
    assert [(verdict(r), r.detail["answer"]) for _, r in english] == [("wrong", WRONG)] * 2
    assert [(verdict(r), [r.detail["answer"]]) for r, _ in english] == [("right", references(r)) for r, _ in english]
    free = [
        [a[0].detail["prompt"], verdict(a[0]), references(a[0]), *(r.detail["answer"] for r in a)] for a in found[4:]
    ]
    assert free == [[q.prompt, "", [], "left | one wrote\nthis", "right wrote\nthis"] for q in FREE]


def test_the_terminal_shows_answers_first_then_few_figures_and_cuts_no_chinese(subjects, tmp_path, capsys, monkeypatch):
    long = "再见" * 60 + " :x: [red] \x1b[31m"
    monkeypatch.setenv("COLUMNS", "60")
    records = side_by_side(subjects, FREE, tmp_path)
    records = [replace(r, detail=r.detail | {"answer": long}) if r.suite == "generation" else r for r in records]
    print_comparison(records, measure(records, metrics_of))
    shown = capsys.readouterr().out
    assert max(cell_len(line) for line in shown.splitlines()) <= 60
    assert shown.count("再") == shown.count("见") >= 4 * 60
    assert ":x:" in shown
    assert "[red]" in shown
    assert "\x1b" not in shown
    assert shown.rindex("再") < shown.index("tokens")  # figures come behind all answers
    rows = headline_rows(measure(records, metrics_of), HEADLINES)
    heads = ["model", "tpf (tokens/pass)", "tokens per second (tokens/s)", "latency p50 (ms)"]
    assert rows[0] == heads  # without a reference there is no exact match
    assert [row[0] for row in rows[1:]] == ["left | one · default", "right · default"]


def test_prompts_alone_are_right_or_wrong_nowhere(subjects, tmp_path):
    some = free_questions(["Hello & goodbye", "<b>再见", "Hello & goodbye"])
    records = side_by_side(subjects, some, tmp_path)
    text = write_report(records, tmp_path, "Title").read_text(encoding="utf-8")
    assert "Speed" in text
    assert not {"✓ right", "✗ wrong", "by task"} & {word for word in ("✓ right", "✗ wrong", "by task") if word in text}
    assert sorted(path.name for path in tmp_path.glob("*.png")) == []
    assert len(task_rows(measure(records, metrics_of), "generation", metrics_of("generation")[0])) == 1
    prompts = [answers[0].detail["prompt"] for answers in answers_of(records)]
    assert prompts == ["Hello & goodbye"] * 2 + ["<b>再见"]


def test_a_comparison_takes_the_place_of_another_but_of_no_evaluation(subjects, records, tmp_path):
    folder = tmp_path / "new" / "report"
    again = side_by_side(subjects[:1], FREE, folder)
    assert list(read_records(folder)) == again != records
    (folder / "plan.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="holds an evaluation"):
        side_by_side(subjects, FREE, folder)
    assert list(read_records(folder)) == again


def test_a_question_that_fills_the_context_is_not_timed(subjects, tokenizer, table_model, tmp_path):
    length = len(subjects[0].encode_prompt(FREE[0].prompt))
    small = table_model(torch.zeros(1, tokenizer.vocab.size), max_length=length)
    subjects[1] = replace(subjects[1], checkpoint=replace(subjects[1].checkpoint, model=small))
    records = side_by_side(subjects, FREE, tmp_path / "out")
    assert {r.item for r in records if r.values.get("too_long")} == {"000"}
    assert {r.language for r in records if r.suite == "speed"} == {"zh"}
    with pytest.raises(UserError, match="every prompt fills the whole context"):
        side_by_side(subjects, FREE[:1], tmp_path / "out")
