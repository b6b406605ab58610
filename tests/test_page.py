"""The evaluation report: its numbers against sums by hand, its page as something a browser can trust."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from markdown_it import MarkdownIt

from nano_llada.core.errors import UserError
from nano_llada.evaluation.figures import Difference, Figure, figures
from nano_llada.evaluation.metric import CalibrationError, Ratio, Share, separately
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.results import measure
from nano_llada.evaluation.statistics import sign_test, wilson
from nano_llada.evaluation.suites import SUITES, suite_named
from nano_llada.report.tables import figure_rows
from nano_llada.report.training_run import TrainingRun
from nano_llada.report.write import escape_markdown, write_report

METRICS = {
    "likelihood": (Ratio("bits_per_byte", "bits", "bytes", "low", unit="bits/byte"),),
    "generation": (Share("exact_match", "right"), Ratio("tpf", "tokens", "forwards")),
    "infilling": separately(Share("exact_match", "right"), Ratio("token_accuracy", "hits", "tokens")),
    "calibration": (CalibrationError("calibration_error", 2),),
    "own": (Ratio("length", "tokens", better="", unit="tokens"),),
}
VOID = {"meta", "input", "br", "img"}
EVIL = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("nano_llada.evaluation.statistics.RESAMPLES", 99)


def answers(model, rights, *, decoder="plain", language="en", task="copy", run=0, forwards=4, **detail):
    """Generation records of four tokens each, right where the text has a 1."""
    for i, mark in enumerate(rights):
        values = {"right": float(mark), "tokens": 4, "forwards": forwards}
        told = {"prompt": f"question {i}", "answer": f"answer {i}", "reference": "yes"} | detail
        yield Record(model, decoder, "generation", task, language, str(i), values, run, detail=told)


def texts(model, bits, language="en", file="news", **values):
    """Likelihood records of ten bytes each."""
    for i, each in enumerate(bits):
        yield Record(model, "", "likelihood", file, language, str(i), {"bits": each, "bytes": 10} | values)


class Page(HTMLParser):
    """What a browser would see: every tag, every attribute, and whether tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    def all(self, name):
        return [value for _, attribute, value in self.attributes if attribute == name]


def suite_of(name):
    """A suite with words of its own and the metrics above."""
    words = {"title": f"Title of {name}", "explanation": f"About {name}.", "meanings": {"tpf": "tokens per pass"}}
    return SimpleNamespace(name=name, metrics=METRICS[name], **words)


def report(records, folder, **options):
    """The three forms of a report: the page, the Markdown, and the JSON."""
    page = write_report(list(records), folder, "Title", suite_of, **options)
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    return page.read_text(encoding="utf-8"), markdown, json.loads((folder / "report.json").read_text(encoding="utf-8"))


def everything():
    """Two models and all suites, with text that would like to be markup."""
    traced = {"prompt": EVIL, "answer": EVIL, "order": [1, 0, 2], "pieces": [EVIL, "\n", "&"]}
    for language in ("zh", "en"):
        for task in ("copy", "count"):
            yield from answers(f"A{EVIL}", "1101", language=language, task=task, **traced)
            yield from answers("B", "1001", decoder="fast", language=language, task=task, forwards=2)
        for model in ("A" + EVIL, "B"):
            yield from texts(model, (12, 14), language, nats_p0=64.0, tokens_p0=32, nats_p1=32.0, tokens_p1=32)
            bins = {"count_0": 4, "right_0": 1, "confidence_0": 1, "count_1": 4, "right_1": 3, "confidence_1": 3.8}
            yield Record(model, "", "calibration", "news", language, "0", bins)
            for span in (1, 4):
                values = {"right": 1, "hits": span, "tokens": span}
                yield Record(model, "fast", "infilling", f"span {span}", language, "0", values)


def tables(markdown):
    """Tables by caption: rows of cells as a Markdown renderer shows them, headings first."""
    found, caption, inside = {}, "", 0
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        inside += {"table_open": 1, "table_close": -1}.get(token.type, 0)
        if token.type == "inline" and not inside:
            caption = shown(token)
        elif token.type == "tr_open":
            found.setdefault(caption, []).append([])
        elif token.type == "inline":
            found[caption][-1].append(shown(token))
    return found


def shown(token):
    """The text of an inline token without markup, entities decoded."""
    return "".join(child.content for child in token.children if child.type in ("text", "text_special"))


def words(markdown):
    """All text of a document as a Markdown renderer shows it, a block per line."""
    return "\n".join(shown(t) for t in MarkdownIt("commonmark").enable("table").parse(markdown) if t.type == "inline")


def row_of(markdown, caption, *labels):
    """Cells of the first row that begins like this, in the first table whose caption begins like that."""
    rows = next(rows for name, rows in tables(markdown).items() if name.startswith(caption))
    return next(cells for cells in rows if tuple(cells[: len(labels)]) == labels)


def test_figures_are_those_of_the_records(tmp_path):
    records = [*answers("A", "1100", language="zh"), *answers("A", "1110"), *answers("B", "0000", forwards=2)]
    page, markdown, plain = report(records, tmp_path)
    row = row_of(markdown, "exact_match (%)", "A", "plain")
    means = [0.5, 0.75, 0.625]
    ends = [wilson(mean, 4) for mean in means]
    expected = [f"{mean:.1%} [{low:.1%}, {high:.1%}] ★" for mean, (low, high) in zip(means, ends, strict=True)]
    assert row[2:] == [*expected, "4"]
    assert row_of(markdown, "exact_match (%)", "B", "plain")[2:] == ["–", "0.0% [0.0%, 49.0%]", "–", "4"]
    assert row_of(markdown, "tpf", "B", "plain")[3] == "2 [2, 2] ★"
    assert {"50.0% ★", "75.0% ★", f"[{ends[2][0]:.1%}, {ends[2][1]:.1%}]"} <= set(Page(page).words)
    found = {(f["model"], f["language"], f["metric"]): f for f in plain["figures"]}
    assert found["A", "mean", "exact_match"]["value"] == 0.625
    assert (found["A", "zh", "exact_match"]["low"], found["A", "zh", "exact_match"]["high"]) == wilson(0.5, 4)


def test_every_column_of_figures_has_a_unit(tmp_path):
    _, markdown, _ = report([*texts("A", [1.0, 2.0]), *answers("A", "10")], tmp_path)
    heads = {name.split(",")[0]: rows[0] for name, rows in tables(markdown).items()}
    assert heads["bits_per_byte (bits/byte)"] == ["model", "decoder", "en (bits/byte)", "examples"]
    assert heads["exact_match (%)"] == ["model", "decoder", "en (%)", "examples"]
    units = {metric.name: metric.unit for name in SUITES for metric in suite_named(name).metrics}
    assert units["latency_p50"] == "ms"
    assert [name for name, unit in units.items() if not unit] == []


def test_the_json_gives_every_figure_back(tmp_path):
    records = [record for record in everything() if record.suite in ("generation", "calibration")]
    _, _, plain = report(records, tmp_path)
    back = [Figure(**{k: _back(v) for k, v in row.items()}) for row in plain["figures"]]
    expected = figures(records, METRICS.__getitem__)
    assert repr(back) == repr(expected)  # nan is not equal to itself
    assert len(back) > 20
    pairs = [Difference(**{k: _back(v) for k, v in row.items()}) for row in plain["differences"]]
    assert plain["comparisons"] == sum(math.isfinite(pair.p) for pair in pairs) > 0
    assert {(pair.first, pair.second) for pair in pairs if pair.metric == "tpf"} == {
        (("B", "fast"), (f"A{EVIL}", "plain"))
    }


def _back(value):
    return float("nan") if value is None else tuple(value) if isinstance(value, list) else value


def test_a_page_needs_nothing_else_and_holds_no_foreign_markup(tmp_path):
    run = TrainingRun(EVIL, "pretrain ar", [{"step": 1, "loss": 2.0, "tokens": 9}, {"step": 1, "validation_loss": 2.0}])
    text, _, _ = report(everything(), tmp_path, training=[run])
    page = Page(text)
    assert "script" not in page.tags
    assert page.words.count(EVIL) > 5
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", text)
    assert all(value.startswith("data:") for value in page.all("src"))
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    targets = page.all("href")
    assert targets
    assert all(target.startswith("#") and target[1:] in ids for target in targets)
    assert all(found in ids for found in re.findall(r"url\(#([^)]+)\)", text))
    assert page.tags.count("svg") == 6
    assert page.tags.count("figcaption") == page.tags.count("figure") > 6
    assert all(len(alt) > 20 for tag, name, alt in page.attributes if (tag, name) == ("svg", "aria-label"))
    assert "#000000" not in text  # black lines would not be seen in the dark


def test_markdown_holds_no_raw_html_and_no_table_breaks(tmp_path):
    """Whatever models write: a Markdown renderer finds no HTML, no link, no image but ours, and whole tables."""
    nasty = [EVIL, "a | b", "<img src=x>\n\n<b>", "`code` **bold** _x_", "[link](http://x)", "![i](x)", "\\| |", "\\"]
    nasty += ["# h", "- - -", "1. one", "> q", "&lt;", "$x$", "~~x~~", "a\x0bb\x85c\u2028d", "", "---", "***", "==="]
    records = []
    for number, text in enumerate(nasty):
        detail = {"prompt": text, "answer": text, "references": [text], "order": [0, 1], "pieces": [text, text]}
        records += answers(f"m{number} {text}", "10", task=f"t{number} {text}", **detail)
        records += answers(f"m{number} {text}", "01", task="other", **detail)
    _, markdown, _ = report(records, tmp_path)
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    inline = [child for token in tokens if token.type == "inline" for child in token.children]
    assert {token.type for token in (*tokens, *inline)} == {
        *("heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "text", "image"),
        *("bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close", "strong_open", "strong_close"),
        *("table_open", "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close", "em_open", "em_close"),
        *("tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close"),
    }
    assert {child.attrs["src"] for child in inline if child.type == "image"} == {"frontier.png", "skills.png"}
    for rows in tables(markdown).values():
        assert {len(row) for row in rows} == {len(rows[0])}
    assert words(markdown).count(EVIL) > 5
    assert row_of(markdown, "exact_match (%) by task", "t1 a | b", "m1 a | b")
    assert {token.level for token in tokens if token.type == "bullet_list_open"} == {0}  # no list in a list


def test_what_markdown_would_read_is_escaped_and_nothing_else():
    same = ["exact_match", "2.1 · Q mode", "+6.9 points", "−1", "95 %", "a (b)", "C#", "x>y", "p = 0.05", "10-5"]
    assert [escape_markdown(text) for text in same] == same
    assert escape_markdown("\x1b[31mred\x07") == "\\\\x1b\\[31mred\\\\x07"
    changed = {"- x": "\\- x", "12. x": "12\\. x", "## x": "#\\# x", "> x": "\\> x", "__init__": "\\_\\_init\\_\\_"}
    assert {text: escape_markdown(text) for text in changed} == changed


@pytest.mark.usefixtures("drawn")
def test_every_plot_is_a_file_that_the_markdown_shows(tmp_path):
    _, markdown, _ = report(everything(), tmp_path)
    shown = re.findall(r"\]\((\w+\.png)\)", markdown)
    assert sorted(shown) == ["frontier.png", "positions.png", "reliability.png", "skills.png", "spans.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == sorted(shown)
    pictures = [(tmp_path / name).read_bytes() for name in shown]
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 5_000 for picture in pictures)


def test_what_plots_say_are_sums_over_the_records(tmp_path):
    text, _, _ = report([record for record in everything() if record.language == "zh"], tmp_path)
    alts = " ".join(Page(text).all("aria-label"))
    assert "B: 50.0% at 2.00 (fast)" in alts
    assert "B zh: 2 at the start, 1 at the end" in alts
    assert "B: accuracy 75% at confidence 95%" in alts
    assert "B · fast, token_accuracy: 100.0%, 100.0%" in alts


@pytest.mark.parametrize("suite", ["likelihood", "infilling", "own"])
def test_missing_suites_are_left_out(tmp_path, suite):
    own = [Record("A", "", "own", "task", "en", str(i), {"tokens": i}) for i in range(2)]
    text, markdown, _ = report([r for r in [*everything(), *own] if r.suite == suite], tmp_path)
    titles = [f"Title of {name}" for name in ("likelihood", "infilling", "own")]
    assert [title for title in titles if f"\n## {title}\n" in markdown] == [f"Title of {suite}"]
    assert f"About {suite}." in Page(text).words
    plots = {"likelihood": ["positions.png"], "infilling": ["spans.png"], "own": []}
    assert [path.name for path in tmp_path.glob("*.png")] == plots[suite]
    assert Page(text).all("id")[0] == "main"


def test_a_single_model_is_measured_not_ranked(tmp_path):
    text, markdown, plain = report(answers("A", "1101"), tmp_path)
    assert (plain["differences"], plain["comparisons"]) == ([], 0)
    assert "Title of generation: A · plain has exact_match 75.0% [30.1%, 95.4%] over 4 examples." in words(markdown)
    assert "★ |" not in markdown
    assert "comparisons" not in text
    assert "The best model against" not in text


def test_who_is_best_is_said_with_interval_and_p(tmp_path):
    good, bad = "1" * 20, "0" * 20
    records = [*answers("A", bad), *answers("B", good), *answers("C", "0" + good[1:])]
    _, markdown, plain = report(records, tmp_path)
    p = sign_test([1] * 20, [0] * 20)
    assert p < 0.001
    best = "B · plain has the best value, exact_match 100.0% [83.9%, 100.0%]"
    ahead = "better than A · plain (+100.0 points [+100.0, +100.0], p < 0.001)"
    assert f"{best}, {ahead}; no significant difference from C · plain (p = 1.00)." in words(markdown)
    rows = [row_of(markdown, "The best model", "exact_match (%)", "★ B · plain", f"{n} · plain")[3] for n in "AC"]
    assert rows[0] == "+100.0 points [+100.0, +100.0] p < 0.001 better"
    assert rows[1].startswith("+5.0 points")
    assert rows[1].endswith("p = 1.00 no significant difference")
    assert plain["comparisons"] == 4  # two metrics, two others, one language and task
    assert "There are 4 comparisons" in markdown
    assert "not corrected" in markdown


def test_nobody_is_best_where_all_have_the_same(tmp_path):
    _, markdown, _ = report([*answers("A", "0000"), *answers("B", "0000")], tmp_path)
    assert "Title of generation: all models have exact_match 0.0% [0.0%, 49.0%]." in words(markdown)
    assert "is best" not in markdown


def test_lower_is_better_where_it_is(tmp_path):
    records = [*texts("A", [20.0] * 12), *texts("B", [10.0] * 12)]
    _, markdown, _ = report(records, tmp_path)
    best = "B is best with bits_per_byte 1 bits/byte [1, 1]"
    assert f"{best}, better than A (−1 bits/byte [−1, −1], p = 0.010)" in words(markdown)
    assert row_of(markdown, "The best model", "bits_per_byte (bits/byte)", "★ B", "A")[3].endswith("better")


def test_another_winner_in_one_language_is_mentioned(tmp_path):
    records = [*answers("A", "1111"), *answers("A", "0000", language="zh")]
    records += [*answers("B", "0111"), *answers("B", "1110", language="zh")]
    _, markdown, _ = report(records, tmp_path)
    assert "in en alone A · plain has the best value, 100.0%" in words(markdown)
    assert "in zh alone" not in markdown


def test_seeds_are_shown_one_by_one(tmp_path):
    _, markdown, plain = report([*answers("A", "1111"), *answers("A", "0010", run=1), *answers("B", "0000")], tmp_path)
    row = row_of(markdown, "exact_match", "A", "plain")
    assert (row[2].split()[0], row[-1]) == ("62.5%", "100.0%, 25.0%")
    assert row_of(markdown, "exact_match", "B", "plain")[-1] == "–"
    assert plain["figures"][0]["runs"] == [1.0, 0.25]
    assert "Several runs (seeds)" in markdown


def test_tasks_have_tables_of_their_own(tmp_path):
    records = [
        *answers("A", "11"),
        *answers("A", "01", task="count"),
        *answers("B", "00"),
        *answers("B", "11", task="count"),
    ]
    text, markdown, _ = report(records, tmp_path)
    by_task = "exact_match (%) by task"
    found = [row_of(markdown, by_task, task, name, "plain")[3] for task in ("copy", "count") for name in "AB"]
    assert [cell.split()[0] for cell in found] == ["100.0%", "0.0%", "50.0%", "100.0%"]
    assert row_of(markdown, f"{by_task}: the best", "copy", "★ A · plain", "B · plain")
    assert row_of(markdown, f"{by_task}: the best", "count", "★ B · plain", "A · plain")
    assert Page(text).tags.count("details") >= 4


def test_models_with_different_examples_are_compared_on_the_common_ones(tmp_path):
    _, markdown, plain = report([*answers("A", "11"), *answers("B", "1000")], tmp_path)
    assert "The models did not all get the same examples" in markdown
    assert [(d["value"], d["items"]) for d in plain["differences"] if d["metric"] == "exact_match"] == [(0.5, 2)]
    assert "did not all get" not in report([*answers("A", "11"), *answers("B", "10")], tmp_path)[1]


def test_models_are_ranked_by_a_language_that_all_have(tmp_path):
    records = [*answers("A", "1100", language="zh"), *answers("A", "1000"), *answers("B", "1111")]
    _, markdown, _ = report(records, tmp_path)
    assert "B · plain has the best value, exact_match 100.0% [51.0%, 100.0%] in en; no significant" in words(markdown)
    found = row_of(markdown, "The best model", "exact_match (%)", "★ B · plain", "A · plain")
    assert found[4].startswith("+75.0 points")


def test_languages_are_compared_with_themselves_in_whatever_order_they_come(tmp_path):
    def both(model, chinese, languages):
        bits = {"zh": [chinese] * 2, "en": [900.0] * 30}
        return [record for lang in languages for record in texts(model, bits[lang], lang, file=lang)]

    for languages in (("zh", "en"), ("en", "zh")):
        _, _, plain = report([*both("A", 10.0, ("zh", "en")), *both("B", 60.0, languages)], tmp_path)
        (found,) = [d for d in plain["differences"] if d["language"] == "mean"]
        assert (found["first"], found["value"], found["items"]) == (["A", ""], -2.5, 32)
        assert 0.3 < found["p"] < 0.7  # all rests on two texts, which would go the same way every other time


def test_conditions_are_not_put_together(tmp_path):
    def filled(model, rights, span):
        for i, mark in enumerate(rights):
            values = {"right": float(mark), "hits": span * int(mark), "tokens": span}
            yield Record(model, "plain", "infilling", f"span {span}", "en", str(i), values)

    records = [record for span, some in ((1, "1110"), (4, "1000")) for record in filled("A", some, span)]
    records += [record for span, some in ((1, "1111"), (4, "0000")) for record in filled("B", some, span)]
    _, markdown, plain = report(records, tmp_path)
    assert {f["task"] for f in plain["figures"]} == {d["task"] for d in plain["differences"]} == {"span 1", "span 4"}
    assert "B · plain has the best value, exact_match 100.0%" in words(markdown)  # of the first; of the second A is
    assert "all tasks" not in markdown
    rows = figure_rows(measure(records, METRICS.__getitem__), "infilling")
    assert [(row[1], row[2], row[4]) for row in rows[1:3]] == [
        ("A · plain", "75.0%", "4"),
        ("B · plain", "100.0%", "4"),
    ]


def test_what_cannot_be_computed_is_a_dash(tmp_path):
    records = [Record("A", "", "likelihood", "news", "en", "0", {"bits": 0, "bytes": 0}), *texts("A", [5.0], "zh")]
    _, markdown, plain = report(records, tmp_path)
    assert row_of(markdown, "bits_per_byte", "A", "–")[2:] == ["0.5", "–", "–", "1"]
    assert [f["value"] for f in plain["figures"]] == [None, 0.5, None]


def test_traces_are_darker_the_later(tmp_path):
    traced = {"order": [2, 0, 1], "pieces": ["a", "b", "c"], "prompt": "why"}
    records = [*answers("A", "1", **traced), *answers("B", "0", **traced | {"order": [0, 0, 0]})]
    records += answers("C", "1", **traced | {"order": [0, 1]})  # of another length: not shown
    text, markdown, _ = report(records, tmp_path)
    styles = [style.removeprefix("--late:") for style in Page(text).all("style") if style.startswith("--late:")]
    assert styles == ["100%;--pass:2", "0%;--pass:0", "50%;--pass:1", *["0%;--pass:0"] * 3]
    assert [title for title in Page(text).all("title") if title][:3] == ["pass 3", "pass 1", "pass 2"]
    assert Page(text).all("class").count("late") == 2  # in white on dark
    assert "A · plain (right), copy, en: abc (passes 3, 1, 2)" in words(markdown)
    assert "C · plain (right), copy" not in words(markdown)


def test_answers_are_shown_with_a_verdict(tmp_path):
    text, markdown, _ = report([*answers("A", "10"), *answers("B", "01")], tmp_path)
    shown = words(markdown).partition("Answers\n")[2]
    lines = ["copy: question 0", "reference: yes", "A · plain (right): answer 0", "B · plain (wrong): answer 0"]
    assert "\n".join(lines) in shown
    assert "question 1" not in markdown
    assert {"right", "wrong"} <= set(Page(text).all("class"))


def test_the_terminal_shows_the_same_figures():
    records = [*answers("A", "1100"), *answers("A", "11", task="count"), *texts("A", [10.0])]
    rows = figure_rows(measure(records, METRICS.__getitem__), "generation")
    assert rows[0] == ["generation", "model", "en", "95 %", "n"]
    low, high = wilson(4 / 6, 6)
    assert rows[1] == ["exact_match (%) ↑", "A · plain", "66.7%", f"[{low:.1%}, {high:.1%}]", "6"]
    assert len(rows) == 3
    both = figure_rows(measure([*records, *answers("A", "1000", language="zh")], METRICS.__getitem__), "generation")
    assert both[0][2:5] == ["zh", "en", "mean"]
    assert both[1][2:5] == ["25.0%", "66.7%", "45.8%"]


def test_the_same_records_give_the_same_files(tmp_path):
    records = list(everything())
    for name in ("one", "two"):
        report(records, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_what_cannot_be_reported_is_said(tmp_path):
    with pytest.raises(UserError, match="nothing to report"):
        write_report([], tmp_path, "Title")
    with pytest.raises(UserError, match="unknown suite 'own'"):
        write_report([Record("A", "", "own", "task", "en", "0", {})], tmp_path, "Title")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write the report to"):
        report(answers("A", "1"), tmp_path / "file" / "under")


def test_training_is_compared_by_tokens(tmp_path):
    lines = [{"step": 10, "loss": 4.0, "tokens": 1000, "tokens_per_second": 50.0}, {"step": 15, "validation_loss": 3.5}]
    lines += [
        {"step": 20, "loss": 3.0, "tokens": 3000, "tokens_per_second": 20.0},
        {"step": 20, "validation_loss": 3.25},
    ]
    first = TrainingRun("first", "sft ar", lines, 1234567)
    assert first.curve("validation_loss") == ([2000.0, 3000.0], [3.5, 3.25])
    assert (first.tokens, first.seconds) == (3000, 1000 / 50 + 2000 / 20)
    second = TrainingRun("second", "sft ar", [*lines[:3], {"step": 20, "validation_loss": 3.125}])
    rewarded = TrainingRun("third", "rl ar", [{"step": 1, "loss": 0.0, "reward": 0.5, "tokens": 10}])
    _, markdown, plain = report([], tmp_path, training=[first, second, rewarded])
    assert "sft ar: second ends with the lowest validation loss, 3.1250 (others: first 3.2500)." in words(markdown)
    numbers = ["3.2500", "3.2500", "3.0000", "3,000", "1,234,567", "2.0"]
    assert row_of(markdown, "Runs", "first", "sft ar") == ["first", "sft ar", *numbers]
    assert row_of(markdown, "Runs", "second", "sft ar")[2] == "3.1250 ★"
    assert row_of(markdown, "Runs", "third", "rl ar")[2:] == ["–", "–", "0.0000", "10", "–", "–"]
    assert sorted(path.name for path in Path(tmp_path).glob("*.png")) == ["training-loss.png", "training-reward.png"]
    assert (
        "first ends at 3; second ends at 3." in words(markdown) + markdown
    )  # what is rewarded has no likelihood to show
    assert plain["training"][1]["final_validation_loss"] == 3.125
