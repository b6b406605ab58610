"""The experiment of reinforcement learning, from the ablation's models to its README."""

# ruff: noqa: F811 - fixtures come under their names
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from experiments import editing, rl
from experiments.llada2_ablation import SKILLS
from experiments.options import Rl
from experiments.rl_report import verdict

from llada21 import models, root, tiny_models  # noqa: F401 - fixtures
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.decoding import Autoregressive, Block
from nano_llada.core.errors import UserError
from nano_llada.demo.run import held_out_questions
from nano_llada.session.observer import RunObserver
from nano_llada.world.files import write_world
from tiny import read_lines

pytestmark = pytest.mark.untraced  # experiments/ is not in the package whose coverage is measured


@pytest.fixture
def options(root, models, tmp_path) -> Rl:
    folders = {"models": models, "runs": root / "rl", "docs": tmp_path / "docs"}
    sizes = {"seeds": (0,), "steps": 2, "questions": 2, "group_size": 2, "items": 1, "threads": 1}
    return Rl(**folders, **sizes, learning_rate=1e-3)


def test_reinforcement_has_a_row_for_each_skill_track_and_seed(options, monkeypatch):
    def shares(checkpoint, items):
        """Half of everything before; after it, `ordering` is better, copy a little worse and reversal much."""
        after = checkpoint.card.stage == "rl"
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
        assert (m["rewards"], m["asked"]) == ([[1, rewards[0]], [2, rewards[1]]], m["skill"])
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
    other = "| --skills ordering --steps 9 | ebpo | 50.0% [9.5%, 90.5%] | 90.0% ["
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
