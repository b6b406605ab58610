"""Parts of one's own in one file outside the package: they train, decode and report under their own names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.objectives import Denoising, ObjectiveConfig
from nano_llada.core.own import load_own
from nano_llada.diffusion.noise import make_noise
from nano_llada.objectives import make_objective
from tiny import Place, losses, make_place, read_lines, run_cli, tiny_arguments

EXAMPLES = Path(__file__).parents[1] / "examples"
REWARD = """
from helper import SHORTEST

def short(question: str, answer: str, row: dict) -> float:
    return -abs(len(answer) - SHORTEST)
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Place:
    """The working folder, with the examples in it."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    return make_place(tmp_path)


OBJECTIVE = "examples/own_objective.py:FocalDenoising"
NOISE = "examples/own_noise.py:Quadratic"


def test_the_objective_of_the_example_with_gamma_0_is_the_librarys(make_batch, context, model):
    batch, ctx = make_batch([[12, 9], [20]], scored=0.8), context(2)
    own = load_own(f"{EXAMPLES / 'own_objective.py'}:FocalDenoising", ObjectiveConfig, what="objective")
    plain, focal, steep = (
        make_objective(record).loss(model, batch, ctx) for record in (Denoising(), own(gamma=0.0), own(gamma=4.0))
    )
    assert torch.allclose(focal.total, plain.total, rtol=1e-5)
    assert int(focal.count) == int(plain.count)
    assert 0 < steep.total.item() < 0.9 * plain.total.item()
    with torch.enable_grad():
        steep.total.backward()
    assert model.head.weight.grad.abs().sum() > 0
    model.zero_grad(set_to_none=True)


def test_the_schedule_of_the_example_is_one():
    noise = make_noise(f"{EXAMPLES / 'own_noise.py'}:Quadratic")
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert float((noise.rate(t) * noise.weight(t)).mean()) == pytest.approx(1.0, rel=1e-6)  # E[weight of a token] = 1
    assert all(noise.time(float(noise.rate(torch.tensor(x)))) == pytest.approx(x, rel=1e-6) for x in (0.1, 0.5, 1.0))
    slope = (noise.rate(t + 1e-6) - noise.rate(t - 1e-6)) / 2e-6
    assert torch.allclose(noise.weight(t), slope / noise.rate(t), rtol=1e-4)


def test_an_own_objective_trains_decodes_and_reports_under_its_name(place, capsys):
    words = tiny_arguments(place, "pretrain", "diffusion", name="own", steps=4, save_every=2)
    assert run_cli([*words, "--objective", OBJECTIVE, "--gamma", "1.5", "--mask-rate-min", "0.1"]) == 0
    run = place.runs / "own"
    saved = json.loads((run / "config.json").read_text(encoding="utf-8"))["objective"]
    assert (saved["type"], saved["gamma"], saved["corruption"]["mask_rate_min"]) == (OBJECTIVE, 1.5, 0.1)
    card = load_checkpoint(run).card
    assert (card.objective, card.track, card.stage) == (OBJECTIVE, "diffusion", "pretrain")
    assert all("focus" in line for line in read_lines(run / "metrics.jsonl") if "loss" in line)
    assert run_cli(["generate", run, "Tom", "--max-new-tokens", "6", "--min-new-tokens", "6"]) == 0
    capsys.readouterr()
    assert run_cli(["report", run, "--out", "report"]) == 0
    assert OBJECTIVE in (place.root / "report" / "report.html").read_text(encoding="utf-8")
    assert run_cli(["resume", run, "--steps", "6"]) == 0
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4, 5, 6]


def test_a_config_file_and_a_recipe_name_own_parts(place):
    recipe = place.root / "recipe.toml"
    recipe.write_text(
        f"""
runs = "made"
[common]
tokenizer = "{place.tokenizer.as_posix()}"
model = {{ hidden_size = 32, num_layers = 1, num_heads = 2, max_length = 64 }}
data = {{ data = ["{place.text.as_posix()}"], sequence_length = 32, cache = "{place.cache.as_posix()}" }}
train = {{ steps = 2, batch_size = 2, device = "cpu", log_every = 1 }}
[[run]]
kind = "pretrain diffusion"
name = "objective"
objective = {{ type = "./{OBJECTIVE}", gamma = 3 }}
[[run]]
kind = "pretrain diffusion"
name = "noise"
objective = {{ type = "Denoising", corruption = {{ noise = "{NOISE}", mask_count = "bernoulli" }} }}
""",
        encoding="utf-8",
    )
    assert run_cli(["recipe", recipe, "--check"]) == 0
    assert run_cli(["recipe", recipe]) == 0
    saved = {
        name: json.loads((place.root / "made" / name / "config.json").read_text(encoding="utf-8"))["objective"]
        for name in ("objective", "noise")
    }
    assert (saved["objective"]["type"], saved["objective"]["gamma"]) == (OBJECTIVE, 3.0)
    assert saved["noise"]["corruption"]["noise"] == NOISE
    again = place.root / "made" / "objective" / "config.json"
    assert run_cli(["pretrain", "diffusion", "--config", again, "--name", "again"]) == 0
    assert losses(place.root / "made" / "again") == losses(place.root / "made" / "objective")


def test_an_own_noise_trains_by_its_name(place):
    words = tiny_arguments(place, "pretrain", "diffusion", name="noisy", steps=2)
    assert run_cli([*words, "--noise", NOISE, "--mask-count", "bernoulli"]) == 0
    linear = tiny_arguments(place, "pretrain", "diffusion", name="linear", steps=2)
    assert run_cli([*linear, "--mask-count", "bernoulli"]) == 0
    assert losses(place.runs / "noisy") != losses(place.runs / "linear")  # the schedule is used


def test_an_own_reward_may_import_its_neighbour(place):
    (place.root / "rewards.py").write_text(REWARD, encoding="utf-8")
    (place.root / "helper.py").write_text("SHORTEST = 3\n", encoding="utf-8")
    assert run_cli(tiny_arguments(place, name="base", steps=1)) == 0
    assert run_cli(tiny_arguments(place, "sft", "ar", name="sft", init_from=place.runs / "base", steps=1)) == 0
    words = ["rl", "ar", place.chat, "--init-from", place.runs / "sft", "--runs", place.runs, "--name", "rl"]
    words += ["--steps", 1, "--batch-size", 4, "--group-size", 2, "--max-new-tokens", 4, "--device", "cpu"]
    assert run_cli([*words, "--sequence-length", 64, "--reward", "rewards.py:short"]) == 0
    assert all(line["reward"] <= 0 for line in read_lines(place.runs / "rl" / "rollouts.jsonl"))


MISSING = [
    (["--objective", "nowhere.py:Focal"], "expected FILE.py:NAME with a file that exists"),
    (["--objective", "examples/own_objective.py:Fokal"], "does not define Fokal"),
    (["--objective", "examples/own_objective.py:Masking"], "it must be a class that derives from"),
    (["--objective", "Denoising"], "expected FILE.py:NAME"),
    (["--objective", OBJECTIVE, "--gamma", "nan"], "gamma must be a finite number, got nan"),
    (["--objective", OBJECTIVE, "--gama", "1"], "did you mean --gamma?"),
    (["--noise", "nowhere.py:X", "--mask-count", "bernoulli"], "nowhere.py cannot be read"),
    (["--noise", "examples/own_objective.py:FocalDenoising", "--mask-count", "bernoulli"], "it must be a class that"),
    (["--noise", "linar"], "did you mean 'linear'?"),
]


@pytest.mark.parametrize(("words", "message"), MISSING)
def test_a_part_that_is_not_there_is_named(place, capsys, words, message):
    assert run_cli([*tiny_arguments(place, "pretrain", "diffusion", name="x"), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_run_whose_file_is_gone_says_so_at_resume(place, capsys):
    words = [*tiny_arguments(place, "pretrain", "diffusion", name="own", steps=2), "--objective", OBJECTIVE]
    assert run_cli(words) == 0
    (place.root / "examples" / "own_objective.py").unlink()
    capsys.readouterr()
    assert run_cli(["resume", place.runs / "own", "--steps", "4"]) == 2
    assert "FocalDenoising': expected FILE.py:NAME with a file that exists" in capsys.readouterr().err
    assert run_cli(["report", place.runs / "own"]) == 0  # a report reads the name alone and runs nothing
    assert (
        run_cli(["generate", place.runs / "own", "Tom", "--max-new-tokens", "3"]) == 0
    )  # the model needs no objective


def test_the_help_of_an_own_objective_lists_its_options(place, capsys):
    assert run_cli(["pretrain", "diffusion", "--objective", OBJECTIVE, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--gamma X" in shown
    assert "Exponent of the focal factor" in shown
    assert "--block-warmup" not in shown
