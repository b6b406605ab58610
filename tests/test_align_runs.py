"""DPO and reinforcement learning from the command line: whole runs, what comes of them, and runs that go on."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from align import KINDS, Scene, make_scene, sums
from built import act
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.objectives import BoundScore, ExactScore, Policy, Preference
from nano_llada.config.record import from_plain
from nano_llada.config.run import RunConfig
from nano_llada.core.batch import StepContext
from nano_llada.core.errors import UserError
from nano_llada.session.data import load_data
from nano_llada.session.observer import RunObserver
from nano_llada.session.run import execute
from nano_llada.training.log import read_metrics
from nano_llada.training.plots import plot_losses
from tiny import losses, read_lines, run_cli, tiny_run

each_kind = pytest.mark.parametrize("kind", KINDS)
each_rl = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("rl")])
each_dpo = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("dpo")])


@pytest.fixture
def scene(tmp_path, tmp_path_factory) -> Scene:
    return make_scene(tmp_path_factory.getbasetemp(), tmp_path)


def config_of(run: Path) -> RunConfig:
    return from_plain(RunConfig, json.loads((run / "config.json").read_text(encoding="utf-8")))


def metrics(run: Path, name: str) -> list[float]:
    return [line[name] for line in read_lines(run / "metrics.jsonl") if name in line]


def weights(run: Path, step: int, file: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / f"step-{step:06d}" / f"{file}.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


@each_kind
def test_a_run_from_the_command_line_leaves_a_model_that_answers(scene, capsys, kind):
    stage, track, options = KINDS[kind]
    run = scene.train(kind, sample_prompts=("What has Tom?",))
    assert f"x: {stage} {track}, " in capsys.readouterr().out
    config = config_of(run)
    assert (config.stage, config.track, config.objective.block_size) == (stage, track, options.get("block_size"))
    assert isinstance(config.objective, Policy if stage == "rl" else Preference)
    assert isinstance(config.objective.score, ExactScore if track == "ar" else BoundScore)
    checkpoint = load_checkpoint(run)
    assert (checkpoint.card.track, checkpoint.card.stage, checkpoint.card.step) == (track, stage, 3)
    if track == "diffusion":
        assert checkpoint.card.block_size == options.get("block_size")
        assert checkpoint.card.answer_length == (8 if stage == "rl" else 16)
    assert not same(weights(run, 3), weights(scene.done.runs / f"{track}-sft", 3))
    assert [row["prompt"] for row in read_lines(run / "samples.jsonl")] == ["What has Tom?"]
    assert run_cli(["generate", "--checkpoint", run, "--prompt", "What has Tom?", "--max-new-tokens", 4]) == 0


@each_rl
def test_rewards_are_logged_and_answers_written_down(scene, capsys, kind):
    run = scene.train(kind)
    out = capsys.readouterr().out
    lines = read_lines(run / "rollouts.jsonl")
    assert [line["step"] for line in lines] == [1] * 8 + [2] * 8 + [3] * 8
    rewards = [[line["reward"] for line in lines if line["step"] == step] for step in (1, 2, 3)]
    assert metrics(run, "reward") == pytest.approx([sum(some) / 8 for some in rewards])
    assert len({line["reward"] for line in lines}) > 3
    (shown,) = re.findall(r"x: step 3/3  reward ([\d.]+)  ", out)
    assert float(shown) == pytest.approx(sum(rewards[2]) / 8, abs=0.0051)  # to two digits
    assert metrics(run, "ratio") == [1.0] * 3
    assert metrics(run, "clipped") == [0.0] * 3
    told = [sum(line["advantage"] != 0 for line in lines if line["step"] == step) / 8 for step in (1, 2, 3)]
    assert metrics(run, "informative") == pytest.approx(told)
    assert all(0 < length <= 8 for length in metrics(run, "answer_length"))
    asked = [row["prompt"] for row in sums(12)]
    assert [line["prompt"] for line in lines] == [asked[line["question"]] for line in lines]


@pytest.mark.usefixtures("drawn")
def test_the_rows_own_verifier_is_the_default_reward(scene):
    """Right answers are rare: with none, nothing is learnt but that is no failure."""
    run = scene.train("rl-ar", reward=None)
    assert set(metrics(run, "reward")) == {0.0}
    assert set(metrics(run, "informative")) == {0.0}
    assert [loss for _, loss in losses(run)] == [0.0] * 3
    plot_losses(read_metrics(run), run / "loss.png", "x")  # a flat one, without a validation loss
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.untraced
@pytest.mark.parametrize("kind", ["rl-ar", "rl-blocks"])
def test_what_is_rewarded_is_done_more_often(scene, kind):
    options = {"learning_rate": 0.01, "batch_size": 16, "steps": 16, "log_every": 4}
    run = scene.train(kind, reward=f"{scene.here / 'rewards.py'}:letters", **options)
    rewards = metrics(run, "reward")
    assert rewards[-1] > 1.5 * rewards[0] > 0


@pytest.mark.parametrize("reuse", [1, 3])
def test_answers_are_used_as_often_as_told(scene, reuse):
    run = scene.train("rl-ar", reuse=reuse, steps=6, learning_rate=0.01)
    steps = sorted({line["step"] for line in read_lines(run / "rollouts.jsonl")})
    assert steps == list(range(1, 7, reuse))
    ratios = metrics(run, "ratio")
    assert all((ratio == 1) == (i % reuse == 0) for i, ratio in enumerate(ratios))


@pytest.mark.parametrize("reuse", [1, 2])
def test_epochs_become_steps(scene, reuse):
    """12 questions of 4 answers each, 8 at a time, each set used so often; in an epoch each is asked once."""
    config = tiny_run(
        scene.done,
        *("rl", "ar"),
        runs=scene.runs,
        name="x",
        init_from=scene.done.runs / "ar-sft",
        data=(scene.here / "asked.jsonl",),
        objective={"rollouts": {"group_size": 4, "max_new_tokens": 4, "reuse": reuse}},
        batch_size=8,
        steps=None,
        epochs=1.0,
    )
    execute(config)
    assert losses(config.folder)[-1][0] == 6 * reuse
    asked = [line["question"] for line in read_lines(config.folder / "rollouts.jsonl")]
    assert sorted(asked) == [number for number in range(12) for _ in range(4)]


@each_rl
def test_a_run_is_kept_near_the_reference(scene, kind):
    """By default the model that it starts from, which it has not yet left at its first step."""
    near, far = (
        scene.train(kind, kl_weight=0.1),
        scene.train(kind, "far", kl_weight=0.1, reference=scene.done.runs / KINDS[kind][1]),
    )
    assert metrics(near, "kl")[0] == pytest.approx(0, abs=1e-9)
    assert metrics(near, "kl")[2] > 1e-9
    assert metrics(far, "kl")[0] > 1e-7
    assert not metrics(scene.train(kind, "free"), "kl")


@each_dpo
def test_preferences_are_learnt(scene, kind):
    run = scene.train(kind, learning_rate=0.01, steps=12, eval_every=12, batch_size=8)
    assert losses(run)[0][1] == pytest.approx(math.log(2), abs=1e-6)  # it starts as its reference
    assert metrics(run, "reward_accuracy")[0] == 0.5
    assert metrics(run, "reward_accuracy")[-1] == 1
    assert metrics(run, "validation_reward_accuracy") == [1]
    assert metrics(run, "reward_margin")[-1] > 0.5
    assert losses(run)[-1][1] < 0.5
    config, start = config_of(run), load_checkpoint(scene.done.runs / f"{KINDS[kind][1]}-sft")
    batch = load_data(config, start.tokenizer)[0].batch(0)
    ctx = StepContext(start.tokenizer.vocab, 0, 0, 1, len(batch.tokens))
    with torch.no_grad():
        after, before = (
            act(config.objective).score(m, batch, ctx, 7)[0] for m in (load_checkpoint(run).model, start.model)
        )
    assert ((after - before)[0::2] > (after - before)[1::2]).all()  # the chosen answer against the rejected one


@each_dpo
def test_another_reference_is_another_start(scene, kind):
    run = scene.train(kind, reference=scene.done.runs / KINDS[kind][1])
    assert abs(losses(run)[0][1] - math.log(2)) > 1e-4


@each_kind
def test_micro_batches_change_no_loss(scene, kind):
    runs = [scene.train(kind, f"run-{size}", micro_batch_size=size, ema_decay=0.9) for size in (None, 2)]
    one, other = (torch.tensor(losses(run)) for run in runs)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


STOPPED = [
    ("rl-ar", {}),
    ("rl-ar", {"reuse": 3, "dropout": 0.2, "ema_decay": 0.9}),
    ("rl-diffusion", {"reuse": 3, "micro_batch_size": 4}),
    ("rl-blocks", {}),
    ("rl-blocks", {"reuse": 3, "edit_threshold": 0.01, "kl_weight": 0.01}),
    ("dpo-ar", {"dropout": 0.2}),
    ("dpo-blocks", {"draws": 2}),
]
each_stopped = pytest.mark.parametrize(("kind", "options"), STOPPED, ids=str)


def check_equal(halved: Path, whole: Path, steps: int) -> None:
    """Weights, the optimizer's state, losses and drawn answers: nothing tells the two apart."""
    for file in ("model", "training"):
        assert same(weights(halved, steps, file), weights(whole, steps, file))
    assert losses(halved) == losses(whole)
    if (whole / "rollouts.jsonl").exists():
        assert (halved / "rollouts.jsonl").read_bytes() == (whole / "rollouts.jsonl").read_bytes()


@pytest.mark.untraced
@each_stopped
def test_interrupted_and_resumed_it_ends_with_the_same_weights_bit_for_bit(scene, monkeypatch, kind, options):
    """After step 4, with `reuse` 3 in the middle of a set."""
    options = options | {"steps": 7, "learning_rate": 1e-3}
    whole, halved = scene.train(kind, "whole", **options), scene.runs / "halved"
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.trainer.step == 4)
        assert run_cli(scene.words(kind, name="halved", **options)) == 130
    assert (halved / "step-000004").is_dir()
    assert run_cli([*scene.words(kind, name="halved", **options), "--resume"]) == 0
    check_equal(halved, whole, 7)


@pytest.mark.parametrize(("kind", "reuse"), [("rl-ar", 3), ("rl-blocks", 1)])
def test_answers_drawn_after_the_last_checkpoint_are_forgotten(scene, monkeypatch, kind, reuse):
    """The run dies at step 6 with a checkpoint of step 4; those of steps 5 and 6 are drawn again."""
    options = {"steps": 7, "reuse": reuse, "save_every": 4, "learning_rate": 1e-3}
    whole, killed = scene.train(kind, "whole", **options), scene.runs / "killed"
    watch = RunObserver.on_step

    def die(observer, report):
        watch(observer, report)
        if report.step == 6:
            raise RuntimeError("a power cut")

    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "on_step", die)
        with pytest.raises(RuntimeError, match="a power cut"):
            run_cli(scene.words(kind, name="killed", **options))
    with (killed / "rollouts.jsonl").open("a") as file:
        file.write('{"step": 7, "que')  # killed while it wrote
    assert len(read_lines(whole / "rollouts.jsonl")) == 8 * math.ceil(7 / reuse)
    assert run_cli([*scene.words(kind, name="killed", **options), "--resume"]) == 0
    check_equal(killed, whole, 7)


def rows_named(scene: Scene, monkeypatch, **options: Any) -> tuple[str, list[str]]:
    """What is said about a run whose loss is no number at step 2; FILE:LINE of the questions of that step."""
    step = RunObserver.on_step

    def poison(observer, report):
        step(observer, report)
        with torch.no_grad():
            observer.model.norm.weight.fill_(float("nan"))

    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "on_step", poison)
        stage, track, changes = scene.options("rl-ar", **options)
        with pytest.raises(UserError) as caught:
            execute(tiny_run(scene.done, stage, track, **_nested(changes)))
    (data,) = changes["data"]
    asked = {row["prompt"]: f"{data}:{i + 1}" for i, row in enumerate(read_lines(data))}
    drawn = [line for line in read_lines(scene.runs / "x" / "rollouts.jsonl") if line["step"] == 2]
    return str(caught.value), [asked[line["prompt"]] for line in drawn]


def _nested(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a command line as those of a config: the rollouts' have a table of their own."""
    inner = ("group_size", "max_new_tokens", "reward")
    rollouts = {name: str(value) if name == "reward" else value for name, value in options.items() if name in inner}
    rest = {name: value for name, value in options.items() if name not in inner}
    return rest | {"name": "x", "objective": {"rollouts": rollouts}}


def test_a_loss_that_is_no_number_names_the_questions(scene, monkeypatch):
    message, named = rows_named(scene, monkeypatch)
    assert "the loss is not a number at step 2 (loss nan, gradient norm nan)" in message
    assert f"documents of that batch: row 0: {named[0]}; " in message
    assert f"row 7: {named[7]}. " in message


LONG = {"prompt": "T" * 42, "response": "x"}  # 62 tokens


def test_questions_without_room_for_an_answer_are_never_asked(scene, capsys):
    data = scene.file("more.jsonl", [LONG, *sums(5)])
    options = {"data": (data,), "max_length": 72, "max_new_tokens": 16}  # it fits sequence_length 64
    run = scene.train("rl-ar", **options)
    assert "1 of 6 questions are longer than 56 tokens and are left out" in capsys.readouterr().out
    asked = [line["prompt"] for line in read_lines(run / "rollouts.jsonl")]
    assert set(asked) == {row["prompt"] for row in sums(5)}


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 72, "max_new_tokens": 16},  # a question without room
        {"reward": "verifier", "on_bad_row": "skip"},  # a question without a verifier
    ],
    ids=["no-room", "no-verifier"],
)
def test_a_loss_that_is_no_number_names_the_questions_also_where_some_were_left_out(scene, monkeypatch, options):
    data = scene.file("more.jsonl", [LONG, *read_lines(scene.here / "asked.jsonl")])
    message, named = rows_named(scene, monkeypatch, data=(data,), **options)
    assert f"documents of that batch: row 0: {named[0]}; " in message


def test_a_run_is_resumed_only_as_it_was(scene, capsys):
    run = scene.train("rl-ar")
    before = (run / "rollouts.jsonl").read_bytes()
    assert run_cli(scene.words("rl-ar")) == 2
    assert "runs/x exists; continue it with `nano-llada resume" in " ".join(capsys.readouterr().err.split())
    assert run_cli([*scene.words("rl-ar", group_size=2), "--resume"]) == 2
    assert "objective.rollouts.group_size was 4, is 2" in " ".join(capsys.readouterr().err.split())
    assert run_cli([*scene.words("rl-ar"), "--resume"]) == 0
    assert (run / "rollouts.jsonl").read_bytes() == before
