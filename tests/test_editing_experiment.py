"""The experiments of LLaDA 2.1: editing and reinforcement, from the ablation's models to their READMEs."""

# ruff: noqa: F811 - fixtures come under their names
from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from experiments import editing
from experiments.editing_report import Point, _search, fewer_passes, more_exact, pairs
from experiments.grid import Result
from experiments.llada2_ablation import SKILLS
from experiments.options import Editing
from experiments.shared_questions import Shares, told

from llada21 import models, root, tiny_models  # noqa: F401 - fixtures
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.decoding import Block
from nano_llada.core.errors import UserError
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.decode.types import Completion, Edit, Event
from nano_llada.demo.run import held_out_questions
from nano_llada.evaluation.answers import Answer
from nano_llada.session.observer import RunObserver
from nano_llada.session.recipe import read_recipe
from planted import wrote
from tiny import read_lines

pytestmark = pytest.mark.untraced  # experiments/ is not in the package whose coverage is measured

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "llada21.toml"
NAMED = ["2.0", "2.1-off", "2.1-q", "2.1-s", "2.1-s-mbe", "2.1-s-reread"]
QUESTION = held_out_questions(("copy",), 1)[0]
EDITS = ("edits_per_100", "edits_fixed", "edits_broken")
STEPS = {"ar_steps": 1, "ar_sft_steps": 1, "pretrain_steps": 1, "sft_steps": 2}


# --- editing ----------------------------------------------------------------------------------------------------------


def test_ways_of_writing_have_the_names_and_thresholds_that_they_say():
    ways = editing.decodings()
    assert list(ways)[:6] == NAMED
    assert len(ways) == 6 + 6 * (1 + 4)
    thresholds = {
        name: (way.threshold, way.edit_threshold, way.edit_blocks, way.reread_threshold) for name, way in ways.items()
    }
    assert [thresholds[name] for name in NAMED] == [
        (0.95, None, 0, 1),
        (0.95, None, 0, 1),
        (0.7, 0.5, 0, 1),
        (0.5, 0.0, 0, 1),
        (0.5, 0.0, 1, 1),
        (0.5, 0.0, 0, 0.6),
    ]
    for name, way in list(ways.items())[6:]:
        pattern = r"(2\.[01])@([\d.]+)(?:/([\d.]+|never))?(?:/([\d.]+))?"
        model, threshold, edit, reread = re.fullmatch(pattern, name).groups()
        assert (model == "2.0") == (edit is None)
        edits = None if edit in (None, "never") else float(edit)
        assert thresholds[name] == (float(threshold), edits, 0, float(reread or 1))
        assert (way.block_size, way.max_new_tokens) == (32, 16)


def test_editing_from_the_ablations_models_to_a_readme(root, models, tmp_path, monkeypatch):
    monkeypatch.setattr(editing, "THRESHOLDS", (0.0, 0.9))
    folders = {"models": models, "runs": root / "editing", "docs": tmp_path / "docs"}
    options, folder = Editing(**folders, seeds=(0,), items=1, threads=1), tmp_path / "docs" / "editing"
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.config.name == "sft")
        assert editing.run(options) is False
    assert [row["variant"] for row in read_lines(folder / "results.jsonl")] == ["2.0"]
    assert editing.run(options) is True

    rows = read_lines(folder / "results.jsonl")
    assert [row["variant"] for row in rows] == list(editing.decodings())
    metrics = {row["variant"]: row["metrics"] for row in rows}
    assert len({json.dumps(sorted(m)) for m in metrics.values()}) == 1
    assert all(m["questions"] == 12 and m["tpf"] >= 0 for m in metrics.values())
    assert len({m["train_tokens"] for m in metrics.values()}) == 1
    for name, m in metrics.items():
        assert m["draft_passes"] == (1.5 if name.startswith("2.1") else 0)
        if m["edit_threshold"] is None:
            assert (m["edits_per_100"], m["edits_fixed"], m["edits_broken"]) == (0, 0, 0)
    assert metrics["2.1@0/0"]["edits_per_100"] > 0
    assert metrics["2.0@0"]["forwards"] < metrics["2.0@0.9"]["forwards"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "Both were trained on the same number of tokens" in text
    assert "as much as 2 forward passes over a whole batch" in text
    assert all(f"| {name} | " in text for name in metrics)
    assert (folder / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "## Other settings" not in text
    monkeypatch.setattr(editing, "measure", None)  # nothing is measured again
    assert editing.run(options) is True
    with monkeypatch.context() as patch:  # another setting of training, at the presets alone
        patch.setattr(editing, "measure", lambda *_: dict(metrics["2.1-off"]))
        patch.setattr(editing, "complete", lambda stages: True)
        patch.setattr(editing, "load_checkpoint", lambda *_, **__: None)
        patch.setattr(editing, "trained_tokens", lambda folder: 1)
        assert editing.run(replace(options, keep_weight=0.05, frontier=False)) is True
    assert [row["variant"] for row in read_lines(folder / "results.jsonl")] == [*editing.decodings(), *NAMED]
    assert "## Other settings" not in (folder / "README.md").read_text(encoding="utf-8")
    assert editing.run(options) is True
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "## Other settings of training" in text
    searched = [line for line in text.splitlines() if line.startswith("| --replace-rate") and "| 2.1-off |" in line]
    assert ["--keep-weight 1 " in line for line in searched] == [True, False]
    assert "--keep-weight 0.05 " in searched[1]


def test_the_model_that_edits_differs_in_nothing_but_what_it_learns(root, models):
    options = Editing(models=models, runs=root / "other", replace_rate=0.2, draft_rate=0.0)
    taught = editing.TokenEditing(0.2, 0.0, 1.0, 1.0)
    before = editing.wsd_stages(models, 3, None)
    after = editing.with_editing(options, taught, before, 3)
    assert after[:2] == before[:2]
    assert [stage.folder for stage in after[2:]] == [root / "other" / "seed-3" / name for name in ("pretrain", "sft")]
    assert [stage.init_from for stage in after[1:]] == [stage.folder for stage in after[:-1]]
    for old, new in zip(before[2:], after[2:], strict=True):
        assert new.objective == replace(old.objective, editing=taught)
        assert (new.data, new.train, new.model) == (old.data, old.train, old.model)


def test_editing_that_cannot_be_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(UserError, match="draft_rate must be in"):
        editing.run(Editing(models=tmp_path / "none", docs=tmp_path, draft_rate=1.5))
    assert list(tmp_path.iterdir()) == []


class Corrector:
    """Writes a text in one pass, with its first token wrong where it is to be fixed, and edits that token in a second.

    `fates` says of each prompt whether its answer is `fixed`, `broken`, or right from the start.
    """

    def __init__(self, answers, fates, other: int, end: int) -> None:
        self.answers, self.fates, self.other, self.ends = answers, fates, other, (end,)

    def stream(self, requests, stop=None):
        right = [self.answers[request.prompt] for request in requests]
        fates = [self.fates[request.prompt] for request in requests]
        drafts = [[self.other, *text[1:]] if f == "fixed" else text for text, f in zip(right, fates, strict=True)]
        places = [tuple(range(len(text) + 1)) for text in right]
        yield [wrote(i, places[i], (*draft, *self.ends), last=False) for i, draft in enumerate(drafts)]
        pairs = {"fixed": lambda text: (self.other, text[0]), "broken": lambda text: (text[0], self.other)}
        edits: list[tuple[Edit, ...]] = []
        for text, fate in zip(right, fates, strict=True):
            before, now = pairs[fate](text) if fate in pairs else (text[0], text[0])
            edits.append((Edit(0, (before,), (now,), final=True),))
        yield [Event(i, edits[i], 2, "stop") for i in range(len(requests))]


def test_edits_are_counted_by_what_they_did_to_the_answer(models, monkeypatch):
    checkpoint = load_checkpoint(models / "seed-0" / "ar-sft")
    tokenizer, questions = checkpoint.tokenizer, held_out_questions(SKILLS, 2)
    prompts = [tuple(encode_prompt(tokenizer, [Message("user", q.prompt)])) for q in questions]
    assert len(set(prompts)) == len(questions) == 24
    fates = ["fixed"] * 3 + ["broken"] * 6 + ["right"] * 15
    answers = [tokenizer.encode(q.answer) for q in questions]
    stub = Corrector(
        dict(zip(prompts, answers, strict=True)),
        dict(zip(prompts, fates, strict=True)),
        tokenizer.encode("!")[0],
        tokenizer.vocab.turn_end,
    )
    monkeypatch.setattr(editing, "make_sampler", lambda *_: stub)
    found = editing.measure(checkpoint, Block(threshold=0.7, edit_threshold=0.5, edit_blocks=1), 2)
    assert (found["edits_fixed"], found["edits_broken"]) == (pytest.approx(100 * 3 / 24), pytest.approx(100 * 6 / 24))
    assert found["exact_match"] == pytest.approx(18 / 24)
    assert found["exact_match_reading"] == pytest.approx(3 / 4 - 2 / 4 + 1 / 4 + 1 / 4)
    assert (found["forwards"], found["questions"]) == (48, 24)
    tokens = sum(map(len, answers))
    assert found["tpf"] == pytest.approx(tokens / 48)
    assert found["edits_per_100"] == pytest.approx(100 * 9 / tokens)
    assert (found["threshold"], found["edit_threshold"], found["edit_blocks"]) == (0.7, 0.5, 1)


def point(variant: str, exact: float, forwards: int, tpf: float, questions: int = 500) -> Point:
    """A way of writing, of two seeds alike."""
    both, one = divmod(round(exact * questions), 2)
    right = ("2" * both + "1" * one).ljust(questions // 2, "0")
    m = {"right": right, "forwards": forwards, "tpf": tpf, "questions": questions, "threshold": 0.95}
    return Point(variant, [m, m])


def points(*some: Point) -> dict[str, Point]:
    return {p.variant: p for p in some}


BASE = point("2.0", 0.9, 900, 3.0)


@pytest.mark.parametrize(
    ("exact", "forwards", "words"),
    [
        (0.9, 600, "**Fewer passes: holds.**"),
        (0.9, 601, "**Fewer passes: missed.** Of the ways"),
        (0.898, 300, "**Fewer passes: missed.** No way"),
    ],
)
def test_the_aim_of_fewer_passes_is_judged_by_the_figures(exact, forwards, words):
    text = fewer_passes(points(BASE, point("2.1-off", 0.95, 900, 3.0), point("2.1-s", exact, forwards, 4.0)))
    if exact < 0.9:  # the slower one is right as often, and is what counts
        assert text.startswith("**Fewer passes: missed.** Of the ways")
        assert "2.1-off (95.0%" in text
        text = fewer_passes(points(BASE, point("2.1-s", exact, forwards, 4.0)))
        assert "the nearest is 2.1-s" in text
    assert text.startswith(words)
    assert f"{forwards / 900:.0%} of" in text
    assert "nothing to hold" in fewer_passes(points(point("2.0", 0.0, 900, 3.0), point("2.1-s", 0.5, 1, 1.0)))


def test_the_aim_of_more_exactness_needs_speed_and_intervals_apart():
    slow, fast = point("2.0@0.95", 0.9, 900, 3.0), point("2.0@0.5", 0.6, 500, 5.0)
    better, equal = point("2.1@0.5/0", 0.8, 500, 5.0), point("2.1-q", 0.92, 890, 3.1)
    found = pairs(points(slow, fast, better, equal))
    assert [(base.variant, best.variant, word) for base, best, word in found] == [
        ("2.0@0.95", "2.1-q", "overlapping"),
        ("2.0@0.5", "2.1@0.5/0", "higher"),
    ]
    assert "holds in part.** At 1 of the 2.0 model's 2 thresholds" in more_exact(points(slow, fast, better, equal))
    assert "holds.** At 1 of the 2.0 model's 1" in more_exact(points(fast, better))
    assert "missed.** At 0 of" in more_exact(points(slow, equal))
    assert pairs(points(fast, equal))[0][1:] == (None, "never as fast")
    worse = pairs(points(slow, point("2.1-s", 0.5, 800, 3.5)))
    assert worse[0][2] == "lower"


def test_seeds_that_answer_the_same_questions_are_no_new_questions():
    half = Shares.of(["2" * 30 + "0" * 30])
    assert Shares.of(["2" * 30 + "0" * 30] * 3).interval == half.interval
    low, high = half.interval
    assert low < 0.5 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 60**0.5, rel=0.15)  # of questions, not of their wordings
    apart = Shares.of(["2" * 60, "1" * 60]).less(half)
    assert apart.values.tolist() == [-0.25] * 30 + [0.75] * 30
    assert apart.mean == pytest.approx(0.25)


def test_right_answers_are_told_by_question():
    def answer(pair: str, right: bool) -> Answer:
        return Answer(replace(QUESTION, pair=pair), "", right, Completion([], "end", 1, 0.0, 0.0))

    found = [answer("b", True), answer("a", False), answer("b", True), answer("a", True), answer("c", False)]
    assert told(found) == "120"


def test_other_settings_are_compared_on_the_seeds_that_all_have():
    def result(command: str, seed: int, right: str) -> Result:
        m = {"right": right, "forwards": 2, "questions": 2, "tpf": 1.0}
        return Result("editing", "2.0", seed, "", "", f"x editing {command}", m | dict.fromkeys(EDITS, 0.0))

    text = "\n".join(_search([result("one", 0, "2"), result("one", 1, "0")], [result("other", 0, "0")]))
    assert "Seeds 0 alone" in text
    assert re.search(r"\| one \| 2.0 \| 100.0%", text)
    assert re.search(r"\| other \| 2.0 \| 0.0%", text)
    assert _search([result("one", 0, "2")], []) == []


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_the_recipe_teaches_editing_throughout_and_its_commented_run_can_be_added(tmp_path):
    recipe = read_recipe(RECIPE, {})
    taught = [run.objective.editing for run in recipe.runs if run.track == "diffusion"]
    assert [run.stage for run in recipe.runs] == ["pretrain", "pretrain", "sft"]
    assert all(editing.replace_rate == 0.1 and editing.draft_rate == 0.5 for editing in taught)
    text, marker = RECIPE.read_text(encoding="utf-8"), "# [[run]]"
    assert text.count(marker) == 1
    start = text.index(marker)
    longer = text[:start] + re.sub(r"(?m)^# ?", "", text[start:])
    (tmp_path / "longer.toml").write_text(longer, encoding="utf-8")
    runs = read_recipe(tmp_path / "longer.toml", {}).runs
    assert (runs[-1].stage, runs[-1].track, len(runs)) == ("dpo", "diffusion", 4)
    assert runs[-1].objective.block_size == runs[-2].objective.block_size == 32
