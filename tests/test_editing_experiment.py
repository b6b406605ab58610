"""The experiments of LLaDA 2.1: editing and reinforcement, from the ablation's models to their READMEs."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.core.errors import UserError
from nano_llada.data.chat import encode_prompt
from nano_llada.data.config import DataConfig
from nano_llada.data.rows import Message
from nano_llada.data.world.files import write_world
from nano_llada.decode.config import Autoregressive, Block
from nano_llada.decode.types import Completion, Write
from nano_llada.demo import held_out_questions
from nano_llada.evaluate.answers import Answer
from nano_llada.experiments import editing, llada2_ablation, rl
from nano_llada.experiments.editing_report import Point, _search, fewer_passes, more_exact, pairs
from nano_llada.experiments.grid import Result
from nano_llada.experiments.llada2_ablation import SKILLS
from nano_llada.experiments.options import Editing, Llada2Ablation, Rl
from nano_llada.experiments.rl_report import verdict
from nano_llada.experiments.shared_questions import Shares, told
from nano_llada.model.config import ModelConfig
from nano_llada.recipe import read_recipe
from nano_llada.run_observer import RunObserver
from tiny import SHAPE, read_lines

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "llada21.toml"
NAMED = ["2.0", "2.1-off", "2.1-q", "2.1-s", "2.1-s-mbe", "2.1-s-reread"]
QUESTION = held_out_questions(("copy",), 1)[0]
EDITS = ("edits_per_100", "edits_fixed", "edits_broken")
STEPS = {"ar_steps": 1, "ar_sft_steps": 1, "pretrain_steps": 1, "sft_steps": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a small world, in which the ablation's models are made once, by the first test that needs them."""
    root = tmp_path_factory.mktemp("llada21")
    write_world(root / "models" / "world", documents_count=60, chats_count=60, skills=SKILLS, seed=0)
    return root


@pytest.fixture(autouse=True)
def tiny_models(root, monkeypatch):
    monkeypatch.setattr("nano_llada.core.hardware.matmul_rate", lambda machine: 1e11)
    monkeypatch.setattr(llada2_ablation, "ModelConfig", lambda **_: ModelConfig(**SHAPE))
    monkeypatch.setattr(llada2_ablation, "DataConfig", functools.partial(DataConfig, cache=root / "cache"))
    monkeypatch.setattr(editing, "Llada2Ablation", functools.partial(Llada2Ablation, **STEPS))


@pytest.fixture
def models(root) -> Path:
    assert editing.complete(editing.wsd_stages(root / "models", 0, 1))
    return root / "models"


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
    with pytest.raises(UserError, match="draft_rate is a share"):
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
        yield [Write(i, places[i], (*draft, *self.ends), False) for i, draft in enumerate(drafts)]
        pairs = {"fixed": lambda text: (self.other, text[0]), "broken": lambda text: (text[0], self.other)}
        edits = [((0, *pairs[f](text)),) if f in pairs else () for text, f in zip(right, fates, strict=True)]
        yield [Write(i, (), (), True, edited=edits[i]) for i in range(len(requests))]


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


# --- reinforcement ----------------------------------------------------------------------------------------------------


@pytest.fixture
def options(root, models, tmp_path) -> Rl:
    folders = {"models": models, "runs": root / "rl", "docs": tmp_path / "docs"}
    sizes = {"seeds": (0,), "steps": 2, "questions": 2, "group_size": 2, "items": 1, "threads": 1}
    return Rl(**folders, **sizes, learning_rate=1e-3)


def test_reinforcement_has_a_row_for_each_skill_track_and_seed(options, monkeypatch):
    def shares(checkpoint, items):
        """Half of everything before; after it, `ordering` is better, copy a little worse and reversal much."""
        after = checkpoint.info["stage"] == "rl"
        gained = {"ordering": 0.4, "copy": -0.1, "reversal": -0.3} if after else {}
        return {skill: 0.5 + gained.get(skill, 0.0) for skill in SKILLS}

    monkeypatch.setattr(rl, "QUESTIONS", 60)
    monkeypatch.setattr(rl, "by_skill", shares)
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.config.name == "grpo-ordering")
        assert rl.run(options) is False
    assert rl.run(options) is True
    folder = options.docs / "rl"
    rows = read_lines(folder / "results.jsonl")
    wanted = [(variant, skill) for skill in ("ordering", "reading") for variant in ("ebpo", "grpo")]
    assert [(row["variant"], row["metrics"]["skill"]) for row in rows] == wanted
    for row in rows:
        m = row["metrics"]
        assert f"experiment rl --skills {m['skill']} --steps 2 " in row["command"]
        assert (m["rollouts"], m["questions"], m["exact_match_before"]) == (8, 2, 0.5)
        assert m["exact_match_after"] == pytest.approx(0.9 if m["skill"] == "ordering" else 0.5)
        assert m["worst_other_skill_change"] == pytest.approx(-0.3)
        run = options.runs / "seed-0" / f"{row['variant']}-{m['skill']}"
        rewards = [line["reward"] for line in read_lines(run / "metrics.jsonl")]
        assert len(rewards) == 2
        assert (m["reward_first"], m["reward_last"]) == (rewards[0], rewards[1])
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        start = {"ebpo": editing.wsd_stages(options.models, 0, 1)[3].name, "grpo": "ar-sft"}[row["variant"]]
        assert Path(config["init_from"]) == options.models / "seed-0" / start
    drawn = [read_lines(options.runs / "seed-0" / f"{v}-ordering" / "rollouts.jsonl") for v in ("ebpo", "grpo")]
    assert [line["prompt"] for line in drawn[0]] == [line["prompt"] for line in drawn[1]]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"## {skill}\n\n`ebpo` " in text for skill in ("ordering", "reading"))
    assert "lost 30.0 points" in text
    assert (folder / "rewards.png").read_bytes().startswith(b"\x89PNG")
    assert "## Other settings" not in text
    monkeypatch.setattr(rl, "by_skill", None)  # nothing is measured again
    with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(rows[0] | {"command": "nano-llada experiment rl --skills ordering --steps 9"}) + "\n")
    assert rl.run(options) is True
    other = "| --skills ordering --steps 9 | ebpo | 0 | 50.0% to 90.0% | reversal -30.0 |"
    assert other in (folder / "README.md").read_text(encoding="utf-8")


def test_skills_can_be_reinforced_in_one_run(options, monkeypatch):
    monkeypatch.setattr(rl, "QUESTIONS", 60)
    monkeypatch.setattr(rl, "by_skill", lambda checkpoint, items: dict.fromkeys(SKILLS, 0.5))
    some = replace(options, skills=("copy", "format"), together=True, sft_steps=1, runs=options.runs / "together")
    assert rl.run(some) is True
    rows = read_lines(options.docs / "rl" / "results.jsonl")
    assert [row["metrics"]["skill"] for row in rows] == ["copy", "copy", "format", "format"]
    assert "--skills format --together copy format --sft-steps 1 --steps 2" in rows[2]["command"]
    runs = sorted(path.name for path in (some.runs / "seed-0").iterdir())
    assert runs == ["ebpo-copy-format", "ebpo-sft", "grpo-copy-format", "grpo-sft"]
    config = json.loads((some.runs / "seed-0" / "ebpo-copy-format" / "config.json").read_text(encoding="utf-8"))
    assert Path(config["init_from"]) == some.runs / "seed-0" / "ebpo-sft"
    assert {row["skill"] for row in read_lines(Path(config["data"]["data"][0]))} == {"copy", "format"}


def test_questions_are_of_the_training_split_and_not_those_of_the_conversations(tmp_path):
    path = rl.write_questions(tmp_path, "ordering")
    rows = read_lines(path)
    assert {(row["skill"], row["split"]) for row in rows} == {("ordering", "train")}
    write_world(tmp_path / "world", documents_count=10, chats_count=4_000, skills=("ordering",), seed=0)
    told = {row["messages"][0]["content"] for row in read_lines(tmp_path / "world" / "chat-train.jsonl")}
    asked = {row["messages"][0]["content"] for row in rows}
    assert len(asked) == 4_000
    assert len(asked & told) < 1_000  # the world is small: some coincide
    assert not asked & {question.prompt for question in held_out_questions(("ordering",), 200)}
    path.write_text("kept\n", encoding="utf-8")
    assert rl.write_questions(tmp_path, "ordering").read_text(encoding="utf-8") == "kept\n"


def test_each_track_is_measured_by_its_own_way_of_writing(models, monkeypatch):
    asked, make = [], rl.make_sampler
    monkeypatch.setattr(rl, "make_sampler", lambda *words: asked.append(words[-1]) or make(*words))
    for folder in (models / "seed-0" / "ar-sft", editing.wsd_stages(models, 0, 1)[3].folder):
        assert rl.by_skill(load_checkpoint(folder), 1).keys() == set(SKILLS)
    assert asked == [Autoregressive(16), Block(16, block_size=32, threshold=0.95)]


def test_skills_and_groups_that_cannot_be(options):
    with pytest.raises(UserError, match="skills sudoku: the models were taught reading, "):
        rl.run(replace(options, skills=("ordering", "sudoku")))
    with pytest.raises(UserError, match="group_size must be at least 2, got 1"):
        rl.run(replace(options, group_size=1))
    assert not options.docs.exists()


def test_a_change_is_called_clear_when_intervals_are_apart():
    def seed(before: float, after: float, worst: float) -> dict[str, float]:
        changes = {"exact_match_before": before, "exact_match_after": after, "worst_other_skill_change": worst}
        others = {"before_copy": 0.9, "after_copy": 0.9 + worst, "before_reading": 0.5, "after_reading": 0.7}
        itself = {"before_ordering": before, "after_ordering": after, "skill": "ordering"}
        return changes | others | itself | {"questions": 80}

    better = verdict("ebpo", [seed(0.5, 0.8, -0.02), seed(0.6, 0.9, 0.01)])
    assert "improved the skill: 55.0% before, 85.0% after" in better
    assert "do not overlap; better with 2 of 2 seeds" in better
    assert "over all seeds together, is copy, which lost 0.5 points" in better
    assert "made the skill worse" in verdict("grpo", [seed(0.8, 0.5, 0.0)])
    same = verdict("grpo", [seed(0.8, 0.82, 0.0)])
    assert "changed nothing clear" in same
    assert "intervals that overlap; better with 1 of 1 seeds" in same
    assert "lost nothing" in same


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
    assert runs[-1].block_size == runs[-2].block_size == 32
